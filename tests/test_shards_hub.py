"""Shards of a dataset on the hub, `hf://datasets/OWNER/NAME`, from a local server that answers as the hub does."""

import hashlib
import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from conftest import hub_environment

from hubert_fast import demo

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow reads Parquet: pip install 'hubert_fast[parquet]'")
parquet = pytest.importorskip("pyarrow.parquet")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/speech"


class _Hub(http.server.BaseHTTPRequestHandler):
    """Answer what is asked about a dataset: whether it exists, its tree, its paths, and its files or ranges of them."""

    protocol_version = "HTTP/1.1"
    folder: Path
    failures: list[int]  # statuses of the next answers to requests for files

    def do_GET(self):
        path = unquote(urlsplit(self.path).path).strip("/")
        if path in (f"api/datasets/{NAME}", f"api/datasets/{NAME}/revision/main"):
            self._send_json({"id": NAME, "sha": COMMIT, "siblings": [], "tags": [], "private": False, "disabled": False})
        elif path.startswith(f"api/datasets/{NAME}/tree/main"):
            self._send_tree(path.removeprefix(f"api/datasets/{NAME}/tree/main").strip("/"))
        elif path.startswith(f"datasets/{NAME}/resolve/main/"):
            self._send_file(self.folder / path.removeprefix(f"datasets/{NAME}/resolve/main/"))
        else:
            self._send(404 if path.startswith(f"api/datasets/{NAME}") else 401, b"", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        is_json = "json" in self.headers["Content-Type"]
        paths = json.loads(body)["paths"] if is_json else parse_qs(body)["paths"]
        self._send_json([self._entry(self.folder / path) for path in paths if (self.folder / path).exists()])

    def _send_tree(self, name: str):
        place = self.folder / name
        if not place.is_dir():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        is_recursive = "recursive=true" in self.path.lower()
        self._send_json([self._entry(path) for path in sorted(place.rglob("*") if is_recursive else place.iterdir())])

    def _entry(self, path: Path) -> dict:
        name = path.relative_to(self.folder).as_posix()
        oid = hashlib.sha1(name.encode()).hexdigest()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": oid, "size": 0}
        return {"type": "file", "path": name, "oid": oid, "size": path.stat().st_size}

    def _send_file(self, path: Path):
        if self.failures:
            self._send(self.failures.pop(), b"")
            return
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data, status, headers = path.read_bytes(), 200, {}
        if (asked := self.headers.get("Range")) is not None:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            data, status = data[start : end + 1], 206
        self._send(status, data, headers | {"ETag": f'"{path.name}"', "X-Repo-Commit": COMMIT})

    def _send_json(self, value):
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Start a hub with a dataset of two shards in Parquet, as `datasets` uploads them. Yield its URL and its handler."""
    folder = tmp_path_factory.mktemp("speech")
    (folder / "README.md").write_text("not a shard")
    (folder / "data").mkdir()
    every = demo.recordings()
    for number in range(2):
        rows = [
            {"audio": {"bytes": each.path.read_bytes(), "path": each.path.name}, "text": each.reference}
            for each in every[3 * number : 3 * number + 3]
        ]
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data" / f"train-{number:05}-of-00002.parquet")
    handler = type("Hub", (_Hub,), {"folder": folder, "failures": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()


def transcribe(hub: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hubert_fast", "transcribe", *arguments, "--device", "cpu", "--dtype", "float32"]
    return subprocess.run(
        command, cwd=folder, env=hub_environment(folder / "home", HF_ENDPOINT=hub), capture_output=True, text=True, timeout=300
    )


def rows(path: Path) -> list[tuple[str, str]]:
    """Return text and reference of each row, sorted."""
    return sorted((row["text"], row["reference"]) for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()))


def test_a_dataset_on_the_hub_is_read_like_its_files(hub, tmp_path):
    url, handler = hub
    run = transcribe(url, tmp_path, f"hf://datasets/{NAME}", "-o", "hub.jsonl")
    assert run.returncode == 0, run.stderr
    run = transcribe(url, tmp_path, str(handler.folder / "data"), "-o", "files.jsonl")
    assert run.returncode == 0, run.stderr
    assert rows(tmp_path / "hub.jsonl") == rows(tmp_path / "files.jsonl") and len(rows(tmp_path / "hub.jsonl")) == 6


def test_each_shard_of_a_dataset_gets_its_output(hub, tmp_path):
    url, handler = hub
    handler.failures.append(503)
    run = transcribe(url, tmp_path, f"hf://datasets/{NAME}/data/*.parquet", "-o", "out", "--per-shard", "--format", "parquet")
    assert run.returncode == 0 and not handler.failures, run.stderr
    assert [path.name for path in sorted((tmp_path / "out").glob("*.parquet"))] == [
        f"train-{number:05}-of-00002.parquet" for number in range(2)
    ]
    texts = [parquet.read_table(path)["reference"].to_pylist() for path in sorted((tmp_path / "out").glob("*.parquet"))]
    assert texts == [[each.reference for each in demo.recordings()[first : first + 3]] for first in (0, 3)]


def test_a_dataset_that_does_not_exist_is_named(hub, tmp_path):
    run = transcribe(hub[0], tmp_path, "hf://datasets/someone/other", "-o", "out.jsonl")
    assert run.returncode != 0
    assert "hf://datasets/someone/other" in run.stderr and "Traceback" not in run.stderr

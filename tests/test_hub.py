"""Test loading by hub name through huggingface_hub, from a local server that answers as the hub does."""

import hashlib
import http.server
import json
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest
import torch
from conftest import hub_environment, small_config

from hubert_fast import HubertForCTC, HubertProcessor
from hubert_fast.hub import CheckpointError, resolve_file

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]


class _Hub(http.server.BaseHTTPRequestHandler):
    """Answer `GET` and `HEAD` of `/OWNER/NAME/resolve/REVISION/FILE` with the hub's headers."""

    folder: Path
    requested: list[str]
    broken: set[str]  # answered with an error
    dropped: set[str]  # not answered
    override: tuple[int, dict[str, str], bytes] | None  # status, headers and body of every answer

    def do_GET(self):
        repository, _, rest = self.path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        file = self.folder / name
        problem = None
        if self.override:
            status, headers, body = self.override
            self.send_response(status)
            for header, value in headers.items():
                self.send_header(header, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)
            return
        if name in self.broken:
            self.send_error(500)
            return
        if name in self.dropped and self.command == "GET":
            self.connection.close()
            return
        if repository != "someone/hubert":
            problem = "RepoNotFound"
        elif revision not in ("main", COMMIT):
            problem = "RevisionNotFound"
        elif not file.is_file():
            problem = "EntryNotFound"
        if self.command == "GET":
            self.requested.append(name)
        if problem:
            self.send_response(401 if problem == "RepoNotFound" else 404)
            self.send_header("X-Error-Code", problem)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = file.read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    torch.manual_seed(0)
    model = HubertForCTC(small_config())
    model.save_pretrained(folder)
    HubertProcessor.from_tokens(TOKENS).save_pretrained(folder)
    (folder / "README.md").write_text("not needed")
    handler = type("Hub", (_Hub,), {"folder": folder, "requested": [], "broken": set(), "dropped": set(), "override": None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler, model
    server.shutdown()


LOAD = """
from hubert_fast import HubertForCTC, HubertProcessor
for _ in range({times}):
    model = HubertForCTC.from_pretrained("someone/hubert")
    processor = HubertProcessor.from_pretrained("someone/hubert")
    print(sum(parameter.double().sum().item() for parameter in model.parameters()), len(processor.tokenizer.vocabulary))
"""


def _loaded(times: int, home: Path, **environment: str) -> list[str]:
    command = [sys.executable, "-c", LOAD.format(times=times)]
    run = subprocess.run(command, capture_output=True, text=True, env=hub_environment(home, **environment))
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


FAIL = """
import json, sys, time
time.sleep = lambda seconds: None  # do not wait between the retries of huggingface_hub
import hubert_fast
for line in sys.stdin:
    class_name, name, options = json.loads(line)
    try:
        getattr(hubert_fast, class_name).from_pretrained(name, **options)
        print(json.dumps("no error"), flush=True)
    except OSError as error:
        print(json.dumps(str(error)), flush=True)
"""


class _Failing:
    """A child process that reports why loading fails."""

    def __init__(self, home: Path, endpoint: str):
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        environment = hub_environment(home, HF_ENDPOINT=endpoint)
        self.process = subprocess.Popen([sys.executable, "-c", FAIL], env=environment, **pipes)

    def error(self, name: str, class_name: str = "HubertForCTC", **options) -> str:
        self.process.stdin.write(json.dumps([class_name, name, options]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(60) == 0


@pytest.fixture(scope="module")
def failing(hub, tmp_path_factory):
    process = _Failing(tmp_path_factory.mktemp("home"), hub[0])
    yield process
    process.close()


def test_files_are_fetched_once_and_then_load_offline(hub, tmp_path):
    endpoint, handler, model = hub
    total = sum(parameter.double().sum().item() for parameter in model.parameters())
    handler.requested.clear()
    first, second = _loaded(2, tmp_path, HF_ENDPOINT=endpoint)
    assert float(first.split()[0]) == pytest.approx(total, rel=1e-12) and int(first.split()[1]) == len(TOKENS)
    needed = ["config.json", "model.safetensors", "preprocessor_config.json", "vocab.json"]
    needed += ["tokenizer_config.json", "special_tokens_map.json"]
    assert sorted(handler.requested) == sorted(needed), "each needed file must be fetched once, and no other"
    handler.requested.clear()
    assert _loaded(1, tmp_path, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="1") == [first] == [second]
    assert handler.requested == []


@pytest.mark.parametrize(
    "name, revision, message",
    [
        ("someone/else", None, "someone/else is neither a folder nor on the Hugging Face hub (or it is private)"),
        ("someone/hubert", "v9", "someone/hubert on the Hugging Face hub has no revision v9"),
    ],
)
def test_missing_repositories_and_revisions_are_reported(failing, tmp_path, name, revision, message):
    assert failing.error(name, revision=revision, cache_dir=str(tmp_path)) == message


def test_a_repository_without_weights_is_reported(hub, failing, tmp_path):
    weights = hub[1].folder / "model.safetensors"
    weights.rename(hub[1].folder / "elsewhere")
    try:
        error = failing.error("someone/hubert", cache_dir=str(tmp_path))
    finally:
        (hub[1].folder / "elsewhere").rename(weights)
    assert "someone/hubert has no weights: none of model.safetensors" in error


@pytest.mark.parametrize("kind", ["broken", "dropped"])
@pytest.mark.parametrize(
    "name, class_name", [("model.safetensors", "HubertForCTC"), ("preprocessor_config.json", "HubertProcessor")]
)
def test_server_failures_raise_instead_of_using_defaults(hub, failing, tmp_path, kind, name, class_name):
    getattr(hub[1], kind).add(name)
    try:
        error = failing.error("someone/hubert", class_name, cache_dir=str(tmp_path))
    finally:
        getattr(hub[1], kind).clear()
    assert name in error and "\n" not in error, error


def test_no_network(tmp_path):
    """No server listens on the port."""
    process = _Failing(tmp_path, "http://127.0.0.1:9")
    error = process.error("someone/hubert")
    process.close()
    assert "not in the Hugging Face cache, and the hub is out of reach" in error


@pytest.mark.parametrize(
    "status, headers, reason",
    [
        (
            401,
            {"X-Error-Code": "GatedRepo"},
            "on the Hugging Face hub is gated: request access there, then log in",
        ),
        (
            403,
            {"X-Error-Code": "GatedRepo"},
            "on the Hugging Face hub is gated: request access there, then log in",
        ),
        (403, {}, "the hub answered 403 Forbidden: log in (`hf auth login`) or set HF_TOKEN to a token with read access"),
        (503, {}, "the hub answered 503 Service Unavailable: try again later"),
        (404, {}, "the hub answered 404 Not Found"),
        (418, {}, "the hub answered 418 I'm a Teapot"),
        (200, {"Content-Type": "text/html"}, "the answer did not come from the hub: a proxy or a log-in page"),
    ],
    ids=["401 gated", "403 gated", "403", "503", "404", "418", "page"],
)
def test_errors_quote_the_hubs_answer(hub, failing, tmp_path, status, headers, reason):
    hub[1].override = (status, headers, b"<html><body>No</body></html>")
    try:
        error = failing.error("someone/hubert", cache_dir=str(tmp_path))
    finally:
        hub[1].override = None
    assert reason in error and "\n" not in error and len(error) < 330, error


def test_errors_say_why_an_uncached_file_was_not_fetched(monkeypatch):
    """huggingface_hub retries for minutes before it raises, so this test raises its errors directly."""
    import huggingface_hub
    from huggingface_hub.utils import LocalEntryNotFoundError

    class ReadTimeout(Exception):
        pass

    class StatusError(Exception):
        response = types.SimpleNamespace(status_code=429)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for cause, reason in (
        (ReadTimeout(), "the hub is out of reach: it did not answer in time"),
        (StatusError(), "the hub answered 429 Too Many Requests: try again later"),
        (OSError("no route"), "the hub is out of reach"),
    ):

        def fail(*arguments, cause=cause, **options):
            raise LocalEntryNotFoundError("An error happened. Please check your connection.") from cause

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
        with pytest.raises(CheckpointError) as error:
            resolve_file("someone/hubert", "config.json")
        expected = "someone/hubert is not a folder, its config.json is not in the Hugging Face cache, and "
        assert str(error.value) == expected + reason

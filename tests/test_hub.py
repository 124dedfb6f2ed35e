"""Hub names, through huggingface_hub, against a server on this machine that answers as the hub does."""

import hashlib
import http.server
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest
import torch
from conftest import small_config

from hubert_fast import HubertForCTC, HubertProcessor
from hubert_fast.hub import CheckpointError, resolve_file

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]


class _Hub(http.server.BaseHTTPRequestHandler):
    """``GET`` and ``HEAD`` of ``/OWNER/NAME/resolve/REVISION/FILE``, with the hub's headers."""

    folder: Path
    asked: list[str]
    broken: set[str]  # answered with an error
    dropped: set[str]  # not answered
    instead: tuple[int, dict[str, str], bytes] | None  # status, headers and body of every answer

    def do_GET(self):
        repository, _, rest = self.path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        file = self.folder / name
        problem = None
        if self.instead:
            status, headers, body = self.instead
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
            self.asked.append(name)
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
    handler = type("Hub", (_Hub,), {"folder": folder, "asked": [], "broken": set(), "dropped": set(), "instead": None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler, model
    server.shutdown()


def _python(code: str, home: Path, **environment) -> str:
    """huggingface_hub reads its environment at import: hence a process of its own."""
    values = {name: value for name, value in os.environ.items() if not name.startswith("HF_") and "proxy" not in name.lower()}
    values |= {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"} | environment
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=values)
    assert run.returncode == 0, run.stderr
    return run.stdout


LOAD = """
from hubert_fast import HubertForCTC, HubertProcessor
model = HubertForCTC.from_pretrained("someone/hubert")
processor = HubertProcessor.from_pretrained("someone/hubert")
print(sum(parameter.double().sum().item() for parameter in model.parameters()), len(processor.tokenizer.vocabulary))
"""

FAIL = """
from hubert_fast import HubertForCTC
try:
    HubertForCTC.from_pretrained({name!r}, revision={revision!r})
except OSError as error:
    print(error)
"""


def test_a_name_is_fetched_once_and_then_works_offline(hub, tmp_path):
    endpoint, handler, model = hub
    total = sum(parameter.double().sum().item() for parameter in model.parameters())
    handler.asked.clear()
    found = _python(LOAD, tmp_path, HF_ENDPOINT=endpoint).split()
    assert float(found[0]) == pytest.approx(total, rel=1e-12) and int(found[1]) == len(TOKENS)
    needed = {"config.json", "model.safetensors", "preprocessor_config.json", "vocab.json"}
    needed |= {"tokenizer_config.json", "special_tokens_map.json"}
    assert set(handler.asked) == needed, "fetched more or less than the files that are needed"
    handler.asked.clear()
    assert _python(LOAD, tmp_path, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="1").split() == found
    assert _python(LOAD, tmp_path, HF_ENDPOINT=endpoint).split() == found
    assert handler.asked == []


@pytest.mark.parametrize(
    "name, revision, message",
    [
        ("someone/else", None, "someone/else is not a folder here, and not on the Hugging Face hub (or private)"),
        ("someone/hubert", "v9", "someone/hubert on the Hugging Face hub has no revision v9"),
    ],
)
def test_what_the_hub_does_not_have(hub, tmp_path, name, revision, message):
    assert _python(FAIL.format(name=name, revision=revision), tmp_path, HF_ENDPOINT=hub[0]).strip() == message


def test_a_repository_without_weights(hub, tmp_path):
    endpoint, handler, _ = hub
    weights = handler.folder / "model.safetensors"
    weights.rename(handler.folder / "elsewhere")
    try:
        found = _python(FAIL.format(name="someone/hubert", revision=None), tmp_path, HF_ENDPOINT=endpoint)
    finally:
        (handler.folder / "elsewhere").rename(weights)
    assert "someone/hubert has no weights: none of model.safetensors" in found


OPTIONAL = """
from hubert_fast import HubertProcessor
try:
    HubertProcessor.from_pretrained("someone/hubert")
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["broken", "dropped"])
@pytest.mark.parametrize("name, code", [("model.safetensors", FAIL.format(name="someone/hubert", revision=None)),
                                        ("preprocessor_config.json", OPTIONAL)])  # fmt: skip
def test_a_hub_in_trouble_is_an_error_and_never_a_default(hub, tmp_path, kind, name, code):
    endpoint, handler, _ = hub
    getattr(handler, kind).add(name)
    try:
        found = _python(code, tmp_path, HF_ENDPOINT=endpoint)
    finally:
        getattr(handler, kind).clear()
    assert f"{name} of " in found and found.count("\n") == 1, found


def test_no_network(tmp_path):
    """A port where nobody listens."""
    found = _python(FAIL.format(name="someone/hubert", revision=None), tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert "not in the Hugging Face cache, and the hub is out of reach" in found


@pytest.mark.parametrize(
    "status, headers, reason",
    [
        (
            401,
            {"X-Error-Code": "GatedRepo"},
            "on the Hugging Face hub is gated: ask for access there, then log in",
        ),
        (
            403,
            {"X-Error-Code": "GatedRepo"},
            "on the Hugging Face hub is gated: ask for access there, then log in",
        ),
        (403, {}, "the hub answered 403 Forbidden: log in (`hf auth login`) or set HF_TOKEN to a token that may read it"),
        (503, {}, "the hub answered 503 Service Unavailable: try again later"),
        (404, {}, "the hub answered 404 Not Found"),
        (418, {}, "the hub answered 418 I'm a Teapot"),
        (200, {"Content-Type": "text/html"}, "what answered is not the hub: a proxy or a log-in page may stand between"),
    ],
    ids=["401 gated", "403 gated", "403", "503", "404", "418", "page"],
)
def test_what_the_hub_answers_is_said(hub, tmp_path, status, headers, reason):
    endpoint, handler, _ = hub
    handler.instead = (status, headers, b"<html><body>No</body></html>")
    try:
        found = _python(FAIL.format(name="someone/hubert", revision=None), tmp_path, HF_ENDPOINT=endpoint)
    finally:
        handler.instead = None
    assert reason in found and found.count("\n") == 1 and len(found) < 330, found


def test_what_stands_behind_a_file_that_is_not_in_the_cache(monkeypatch):
    """huggingface_hub tries for minutes before it gives up, so what it then raises is made here."""
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
        expected = "someone/hubert is not a folder here, config.json of it is not in the Hugging Face cache, and "
        assert str(error.value) == expected + reason

"""Shards in S3, and results there: a store that fails now and then loses nothing, and one that stays down ends the run."""

import contextlib
import http.server
import io
import itertools
import json
import logging
import tarfile
import threading

import pytest

from hubert_fast import demo
from hubert_fast.cli import main
from hubert_fast.jobs.shards import retries, streams
from hubert_fast.jobs.shards.retries import StorageError, is_final, repeated

pytest.importorskip("moto.server", reason="moto is the fake S3: pip install 'hubert_fast[test]'")
s3fs = pytest.importorskip("s3fs", reason="s3fs reads S3: pip install 'hubert_fast[s3]'")

from faulty_s3 import FaultyS3  # noqa: E402

SHARDS, CLIPS = 8, 3
NAMES = [f"{number:03d}.jsonl" for number in range(SHARDS)]
FLOAT32 = ["--device", "cpu", "--dtype", "float32", "--quiet"]
pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.fixture
def s3(monkeypatch):
    """Start a fake S3 with a bucket `archive`."""
    import fsspec

    with FaultyS3() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setitem(fsspec.config.conf, "s3", json.loads(server.environment()["FSSPEC_S3"]))
        s3fs.S3FileSystem.clear_instance_cache()
        fsspec.filesystem("s3").mkdir("archive")
        monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.01)
        yield server
    s3fs.S3FileSystem.clear_instance_cache()


def archive_of(first: int) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for index in range(first, first + CLIPS):
            recording = demo.recordings()[index % len(demo.recordings())].path
            archive.add(recording, f"{index:04d}{recording.suffix}")
    return content.getvalue()


def upload(share: float, server: FaultyS3) -> None:
    system = s3fs.S3FileSystem()
    for number in range(SHARDS):
        system.pipe_file(f"archive/in/{number:03d}.tar", archive_of(number * CLIPS))
    server.share = share
    server.counts.clear()


def results(system, folder: str) -> dict[str, bytes]:
    system.invalidate_cache()
    return {path.rpartition("/")[2]: system.cat_file(path) for path in system.ls(folder) if "/_" not in path}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_store_that_fails_now_and_then_loses_nothing(s3, tmp_path, monkeypatch, seed):
    upload(0.0, s3)
    for number in range(SHARDS):
        (tmp_path / f"{number:03d}.tar").write_bytes(archive_of(number * CLIPS))
    monkeypatch.chdir(tmp_path)
    assert main(["transcribe", f"{{000..{SHARDS - 1:03d}}}.tar", "-o", "out", "--per-shard", *FLOAT32]) == 0
    s3._random.seed(seed)
    s3.share = 0.25
    monkeypatch.setattr(streams, "BLOCK_BYTES", 1 << 18)  # more requests
    assert main(["transcribe", f"s3://archive/in/{{000..{SHARDS - 1:03d}}}.tar", "-o", "s3://archive/out", *FLOAT32]) == 0
    s3.share = 0.0
    found = results(s3fs.S3FileSystem(), "archive/out")
    expected = {f"{number:03d}.jsonl": (tmp_path / "out" / f"{number:03d}.jsonl").read_bytes() for number in range(SHARDS)}
    assert {name: data.replace(b"s3://archive/in/", b"") for name, data in found.items()} == expected
    assert len([fault for fault in s3.counts if fault != "none"]) >= 4, f"too few faults to show anything: {s3.counts}"


def test_a_store_that_stays_down_ends_the_run_and_the_same_command_continues(s3, capsys, monkeypatch):
    upload(0.0, s3)
    command = ["transcribe", "s3://archive/in/", "-o", "s3://archive/out", "--readers", "1", *FLOAT32]
    from hubert_fast.jobs.shards.storage import Remote

    put, count = Remote.put, itertools.count()

    def put_until(self, name, file):
        s3.is_down |= next(count) == 5  # settings, then two files for each shard
        return put(self, name, file)

    monkeypatch.setattr(Remote, "put", put_until)
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "cannot be written, after 6 attempts" in message and "the same command continues from there" in message
    monkeypatch.undo()
    s3.is_down = False
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    system = s3fs.S3FileSystem()
    system.invalidate_cache()
    before = {path: system.info(path)["LastModified"] for path in system.ls("archive/out") if "/_" not in path}
    assert len(before) in (2, 3)
    assert main(command) == 0
    found = results(system, "archive/out")
    assert {name: data.count(b"\n") for name, data in found.items()} == {
        f"{number:03d}.jsonl": CLIPS for number in range(SHARDS)
    }
    summary = json.loads(system.cat_file("archive/out/_summary.json"))
    assert summary["transcribed"] == SHARDS * CLIPS and summary["shards"]["already_done"] == 2


def test_a_shard_that_is_not_there_is_reported_at_once(s3, capsys):
    upload(0.0, s3)
    assert main(["transcribe", "s3://archive/in/{007..008}.tar", "-o", "s3://archive/out", *FLOAT32]) == 1
    assert "s3://archive/in/008.tar cannot be opened: No such file or directory" in capsys.readouterr().err
    assert [*results(s3fs.S3FileSystem(), "archive/out")] == ["007.jsonl"]
    assert main(["transcribe", "s3://nowhere/in/007.tar", "-o", "s3://archive/out2", *FLOAT32]) == 1


def test_a_stream_reads_on_where_a_request_failed(s3, monkeypatch):
    upload(0.0, s3)
    monkeypatch.setattr(streams, "BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(streams, "BUFFER_BYTES", 1 << 14)
    s3.share = 0.3
    with streams.opened("s3://archive/in/000.tar") as file:
        data = b"".join(iter(lambda: file.read(10_000), b""))
    assert data == archive_of(0) and s3.counts.total() - s3.counts["none"] >= 2
    s3.share = 0.0
    with streams.opened("s3://archive/in/000.tar") as file:
        file.seek(-512, io.SEEK_END)
        assert file.read() == archive_of(0)[-512:]


@pytest.mark.parametrize(
    "error, expected",
    [
        (FileNotFoundError("a"), True),
        (PermissionError("a"), True),
        (ConnectionResetError("a"), False),
        (TimeoutError("a"), False),
        (OSError(5, "Input/output error"), False),
        (ValueError("no such option"), True),
        (type("Answer", (Exception,), {"status": 403})(), True),
        (type("Answer", (Exception,), {"status": 404})(), True),
        (type("Answer", (Exception,), {"status": 429})(), False),
        (type("Answer", (Exception,), {"status": 503})(), False),
    ],
)
def test_which_failures_pass(error, expected, monkeypatch):
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.001)
    attempts = itertools.count(1)

    def request():
        next(attempts)
        raise error

    assert is_final(error) is expected
    with pytest.raises(StorageError, match="x cannot be read"):
        repeated("x cannot be read", request)
    assert next(attempts) == (2 if expected else 1 + retries.MOST_ATTEMPTS)


def test_a_success_is_returned_after_failures(monkeypatch, caplog):
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.001)
    failures = iter([TimeoutError("slow"), ConnectionResetError("reset")])

    def request():
        with contextlib.suppress(StopIteration):
            raise next(failures)
        return 7

    with caplog.at_level(logging.WARNING):
        assert repeated("x cannot be read", request) == 7
    assert [record.getMessage() for record in caplog.records] == [
        "x cannot be read: slow; trying again (1 of 5)",
        "x cannot be read: reset; trying again (2 of 5)",
    ]


def test_a_server_that_sends_only_whole_files_is_read_as_a_stream(monkeypatch):
    """It breaks off once in the middle of the file."""
    data = archive_of(0)
    sent = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            sent.append(self.command)
            if self.command == "GET":
                self.wfile.write(data if len(sent) != 4 else data[: len(data) // 2])

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(streams, "BLOCK_BYTES", 1 << 17)
    monkeypatch.setattr(streams, "BUFFER_BYTES", 1 << 14)
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.01)
    with streams.opened(f"http://127.0.0.1:{server.server_port}/a.tar") as file:
        assert b"".join(iter(lambda: file.read(10_000), b"")) == data
        assert not file.raw.seekable()
    assert len(sent) >= 4, sent
    server.shutdown()
    server.server_close()

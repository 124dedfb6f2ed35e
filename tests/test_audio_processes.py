"""Test FFmpeg's child process when it crashes, hangs or takes too much memory, and with hundreds of damaged files."""

import importlib
import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from encoded_audio import encode

from hubert_fast import demo
from hubert_fast.audio import AudioError, decoder_process, load, read_blocks

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def recording(tmp_path) -> Path:
    (tmp_path / "a.m4a").write_bytes(encode(np.tile(load(demo.RECORDINGS / "steps.wav"), 20), "m4a"))
    return tmp_path / "a.m4a"


@pytest.fixture
def no_idle_children():
    """End idle child processes, so that the next one belongs to the test."""
    while decoder_process._pool.idle:
        decoder_process._pool.idle.pop().end()


def test_one_process_serves_several_files_in_turn(recording, no_idle_children):
    first = load(recording)
    (child,) = decoder_process._pool.idle
    assert np.array_equal(load(recording), first) and decoder_process._pool.idle == [child]
    with pytest.raises(AudioError, match="cannot be decoded as matroska"):
        recording.with_name("b.webm").write_bytes(b"\x1a\x45\xdf\xa3" + bytes(500))
        load(recording.with_name("b.webm"))
    assert np.array_equal(load(recording), first) and decoder_process._pool.idle == [child]


def test_a_crash_only_affects_its_own_file(recording, no_idle_children):
    load(recording)
    (child,) = decoder_process._pool.idle
    blocks = read_blocks(recording)
    next(blocks)
    os.kill(child._process.pid, signal.SIGSEGV)
    with pytest.raises(AudioError, match=r"a.m4a: the decoder crashed on this file \(SIGSEGV\); other files are not affected"):
        list(blocks)
    assert not decoder_process._pool.idle and len(load(recording)) > 40 * 16000


def test_a_hanging_decoder_is_stopped(recording, no_idle_children, monkeypatch):
    load(recording)
    (child,) = decoder_process._pool.idle
    os.kill(child._process.pid, signal.SIGSTOP)
    monkeypatch.setattr(decoder_process, "SILENT_SECONDS", 0.2)
    start = time.monotonic()
    with pytest.raises(AudioError, match="the decoder produced no audio for 0 s and was stopped"):
        load(recording)
    assert time.monotonic() - start < 5 and child._process.poll() is not None


def test_the_memory_of_the_decoder_is_limited(recording, no_idle_children, monkeypatch):
    monkeypatch.setattr(decoder_process, "MAX_BYTES", 100_000)  # a block of samples is larger
    message = r"a\.m4a: (decoding it needs more|cannot be (decoded as mp4|read)|the decoder crashed on this file)"
    with pytest.raises(AudioError, match=message):
        load(recording)
    while decoder_process._pool.idle:  # end the children that have this limit
        decoder_process._pool.idle.pop().end()


def test_a_child_that_died_while_idle_is_replaced(recording, no_idle_children):
    load(recording)
    (child,) = decoder_process._pool.idle
    os.kill(child._process.pid, signal.SIGKILL)
    child._process.wait()
    assert len(load(recording)) > 40 * 16000


def test_parts_of_one_file_are_served_by_one_process(recording, no_idle_children):
    whole = load(recording)
    (child,) = decoder_process._pool.idle
    for start in (0, 10, 20, 45):
        part = np.concatenate([block[0] for block in read_blocks(recording, offset_seconds=start, duration_seconds=1)])
        error = np.sqrt(np.mean((part[800:15200] - whole[start * 16000 :][800:15200]) ** 2))
        assert error < 0.02 * whole.std(), f"{start} s: {error / whole.std():.3f} of the sound"
    assert decoder_process._pool.idle == [child]


def test_nothing_is_imported_from_the_working_folder(recording, no_idle_children, monkeypatch):
    (recording.parent / "resource.py").write_text("open('imported', 'w').close()")
    (recording.parent / "av.py").write_text("open('imported', 'w').close()")
    monkeypatch.chdir(recording.parent)
    assert len(load("a.m4a")) > 40 * 16000 and not os.path.exists("imported")


def test_decoding_works_with_many_open_files(recording, no_idle_children):
    """`select` only takes descriptors below 1,024."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    files = [open(os.devnull) for _ in range(1100)]  # noqa: SIM115
    try:
        assert len(load(recording)) > 40 * 16000
    finally:
        for file in files:
            file.close()
        decoder_process._pool.idle.pop().end()


def test_a_note_reports_the_audio_kept_if_the_decoder_dies(tmp_path, no_idle_children):
    path = tmp_path / "a.aac"
    path.write_bytes(encode(np.tile(load(demo.RECORDINGS / "steps.wav"), 40), "aac"))
    load(path)
    (child,) = decoder_process._pool.idle
    notes = []
    blocks = read_blocks(path, keep_truncated=True, note=notes.append)
    next(blocks)
    os.kill(child._process.pid, signal.SIGKILL)
    kept = sum(block.shape[1] for block in blocks)
    assert kept < 90 * 16000 and len(notes) == 1 and "the decoder crashed" in notes[0] and "before that are kept" in notes[0]


def test_a_reader_that_stops_early_leaves_no_idle_child(recording, no_idle_children):
    blocks = read_blocks(recording)
    next(blocks)
    blocks.close()
    assert not decoder_process._pool.idle and len(load(recording)) > 40 * 16000


def test_damaged_files_give_samples_or_an_audio_error(monkeypatch):
    """Try 300 of the 10,000 mutations of `bench/audio_mutations.py`: no crash, no hang, no exception but `AudioError`."""
    monkeypatch.syspath_prepend(str(BENCH))
    mutations = importlib.import_module("audio_mutations")
    rows = mutations.run(300, 0, say=lambda line: None)
    assert sum(row["mutations"] for row in rows) == 300
    for row in rows:
        kinds = row["kinds"]
        assert not kinds["crash"] and not kinds["hang"] and not kinds["exception"], row
        assert row["peak_bytes"] < 1 << 30
    reasons = sum(row["kinds"]["reason"] for row in rows)
    assert 100 < reasons < 280, "nothing was damaged, or nothing could be decoded"

"""FFmpeg's process: what happens when it crashes, hangs or takes too much memory, and damaged files by the hundred."""

import importlib
import os
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
    """Begin with no child, so that a test knows its own."""
    while decoder_process._idle:
        decoder_process._idle.pop().end()


def test_one_process_serves_one_file_after_the_other(recording, no_idle_children):
    first = load(recording)
    (child,) = decoder_process._idle
    assert np.array_equal(load(recording), first) and decoder_process._idle == [child]
    with pytest.raises(AudioError, match="cannot be decoded as matroska"):
        recording.with_name("b.webm").write_bytes(b"\x1a\x45\xdf\xa3" + bytes(500))
        load(recording.with_name("b.webm"))
    assert np.array_equal(load(recording), first) and decoder_process._idle == [child]


def test_a_crash_is_the_reason_of_its_own_file(recording, no_idle_children):
    load(recording)
    (child,) = decoder_process._idle
    blocks = read_blocks(recording)
    next(blocks)
    os.kill(child._process.pid, signal.SIGSEGV)
    with pytest.raises(AudioError, match=r"a.m4a: its decoder crashed on it \(SIGSEGV\), in a process of its own"):
        list(blocks)
    assert not decoder_process._idle and len(load(recording)) > 40 * 16000


def test_a_hang_ends(recording, no_idle_children, monkeypatch):
    load(recording)
    (child,) = decoder_process._idle
    os.kill(child._process.pid, signal.SIGSTOP)
    monkeypatch.setattr(decoder_process, "SILENT_SECONDS", 0.2)
    start = time.monotonic()
    with pytest.raises(AudioError, match="its decoder said nothing for 0 s, and was stopped"):
        load(recording)
    assert time.monotonic() - start < 5 and child._process.poll() is not None


def test_memory_has_a_limit(recording, no_idle_children, monkeypatch):
    monkeypatch.setattr(decoder_process, "MOST_BYTES", 100_000)  # a block of samples is larger
    said = r"a\.m4a: (it would take too much memory|cannot be decoded as mp4: Cannot allocate|its decoder crashed on it \(exit)"
    with pytest.raises(AudioError, match=said):
        load(recording)
    while decoder_process._idle:  # with that limit
        decoder_process._idle.pop().end()


def test_a_reader_that_stops_early_leaves_nothing_behind(recording, no_idle_children):
    blocks = read_blocks(recording)
    next(blocks)
    blocks.close()
    assert not decoder_process._idle and len(load(recording)) > 40 * 16000


def test_damaged_files_give_samples_or_a_reason(monkeypatch):
    """A sample of the 10,000 of ``bench/audio_mutations.py``: no crash here, no hang, no error but ``AudioError``."""
    monkeypatch.syspath_prepend(str(BENCH))
    mutations = importlib.import_module("audio_mutations")
    rows = mutations.run(300, 0, say=lambda line: None)
    assert sum(row["mutations"] for row in rows) == 300
    for row in rows:
        kinds = row["kinds"]
        assert not kinds["crash"] and not kinds["hang"] and not kinds["exception"], row
        assert kinds["reason"] and kinds["reason"] < row["mutations"], f"nothing was damaged, or everything beyond use: {row}"
        assert row["peak_bytes"] < 1 << 30

"""The stages of transcription, each by itself and all together, on the bundled recordings and the demo model."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from sizes import TINY

from hubert_fast import PackedAudio, audio, demo
from hubert_fast.transcribe import Transcriber
from hubert_fast.transcribe.chunks import Cutter, Frames, stitch

REPEATS, ROUNDS = (1, 2) if TINY else (10, 15)
RECORDINGS = demo.recordings()[: 2 if TINY else None]
FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "mp3": "MPEG_LAYER_III", "ogg": "VORBIS"}


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    return Transcriber.from_pretrained(demo.MODEL, dtype="float32")


@pytest.mark.parametrize("rate_hz", [16000, 44100])
@pytest.mark.parametrize("name", FORMATS)
def test_decode(benchmark, tmp_path, name, rate_hz):
    benchmark.group = f"decode, {rate_hz} Hz to 16 kHz"
    speech = np.concatenate([audio.load(recording.path) for recording in RECORDINGS])
    path = tmp_path / f"speech.{name}"
    soundfile.write(path, speech, rate_hz, subtype=FORMATS[name])
    samples = benchmark.pedantic(audio.load, (path,), rounds=ROUNDS, warmup_rounds=1)
    assert len(samples) == pytest.approx(len(speech) * 16000 / rate_hz, abs=2000)


def test_pack(benchmark):
    waveforms = [audio.load(recording.path) for recording in RECORDINGS] * REPEATS
    packed = benchmark.pedantic(PackedAudio.from_waveforms, (waveforms,), {"normalize": True}, rounds=ROUNDS)
    assert len(packed) == len(waveforms)


def test_cut_and_stitch(benchmark):
    cutter = Cutter.of_seconds(40.0, 4.0, 16000, 320, 400)
    samples = np.zeros((1, 16000 * (60 if TINY else 3600)), np.int16)
    ids = np.random.default_rng(0).integers(0, 5, samples.shape[1] // 320 + 1).astype(np.int32)

    def run() -> np.ndarray:
        pieces = []
        for start, waveform in cutter.cut([samples]):
            frames = (waveform.shape[1] - 400) // 320 + 1
            pieces.append(Frames(start, ids[start : start + frames], np.zeros(frames, np.float32)))
        return stitch(pieces, 0)[0]

    found = benchmark.pedantic(run, rounds=ROUNDS)
    assert np.array_equal(found, ids[: len(found)]) and len(found) == (samples.shape[1] - 400) // 320 + 1


def test_files_to_text(benchmark, transcriber):
    paths = [str(recording.path) for recording in RECORDINGS]
    run = lambda: list(transcriber.transcribe_many(paths * REPEATS))  # noqa: E731
    results = benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=1)
    assert len(results) == len(paths) * REPEATS and all(result.error is None for result in results)
    seconds = sum(result.transcripts[0].duration_seconds for result in results)
    benchmark.extra_info["times_real_time"] = seconds / benchmark.stats.stats.median


def test_one_short_file(benchmark, transcriber):
    """As a service would: latency."""
    found = benchmark.pedantic(transcriber.transcribe_file, (RECORDINGS[0].path,), rounds=ROUNDS, warmup_rounds=2)
    assert found.text

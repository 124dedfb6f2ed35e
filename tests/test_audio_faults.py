"""Test every format with every fault: either all audio is decoded, or an error says why.

Each cell of the table states the expected result. `ok`: all audio is decoded without a note. `note`: all audio is decoded, and
a note says what was wrong. `cut`: an error says how much is missing, and `keep_truncated` decodes the rest. Word times follow
the samples, so the samples are compared with the WAV's: they may be at most 0.03 s off at the beginning and at the end.
"""

import numpy as np
import pytest
from encoded_audio import BY_FFMPEG, BY_LIBSNDFILE, decoded_file, encode, lag_seconds, with_claimed_size

from hubert_fast import demo
from hubert_fast.audio import AudioError, load

FAULTS = ("well-formed", "cut off", "header short", "header long", "no length", "joined", "wrong name")
SHORT, JOINED = "note: its header", "note: this file holds 2 recordings joined"
CUT = "cut: cut off"
DAMAGED = "note: damaged"  # the last frame is incomplete, and the file does not state how many it should have
TABLE = {  # "-": the format has no such header
    #                 well-formed, cut off,    short, long, no length, joined, wrong name
    "wav":            ("ok", CUT,              SHORT, CUT,  "ok",      JOINED, "ok"),
    "wav 24 bit":     ("ok", CUT,              SHORT, CUT,  "ok",      JOINED, "ok"),
    "wav float":      ("ok", CUT,              SHORT, CUT,  "ok",      JOINED, "ok"),
    "wav mu-law":     ("ok", CUT,              SHORT, CUT,  "ok",      JOINED, "ok"),
    "wav adpcm":      ("ok", CUT,              SHORT, CUT,  "ok",      JOINED, "ok"),
    "wav gsm":        ("ok", CUT,              SHORT, CUT,  "ok",      JOINED, "ok"),
    "rf64":           ("ok", CUT,              SHORT, CUT,  "ok",      JOINED, "ok"),
    "w64":            ("ok", CUT,              SHORT, CUT,  "ok",      JOINED, "ok"),
    "aiff":           ("ok", CUT,              SHORT, CUT,  "ok",      JOINED, "ok"),
    "au":             ("ok", CUT,              SHORT, CUT,  "ok",      JOINED, "ok"),
    "caf":            ("ok", CUT,              SHORT, CUT,  "ok",      JOINED, "ok"),
    "sphere":         ("ok", CUT,              SHORT, CUT,  "-",       JOINED, "ok"),
    "flac":           ("ok", CUT,              SHORT, CUT,  "ok",      JOINED, "ok"),
    "mp3":            ("ok", CUT,              SHORT, CUT,  "ok",      JOINED, "ok"),
    "mp3 44.1 kHz":   ("ok", CUT,              SHORT, CUT,  "ok",      JOINED, "ok"),
    "mp2":            ("ok", "ok",             "-",   "-",  "-",       "ok",   "ok"),
    "ogg vorbis":     ("ok", CUT,              "-",   "-",  "-",       JOINED, "ok"),
    "ogg opus":       ("ok", CUT,              "-",   "-",  "-",       JOINED, "ok"),
    "m4a":            ("ok", "cut: cut off",   "-",   "-",  "-",       JOINED, "ok"),
    "m4a fragmented": ("ok", "cut: cut off",   "-",   "-",  "-",       JOINED, "ok"),
    "alac":           ("ok", "cut: cut off",   "-",   "-",  "-",       JOINED, "ok"),
    "mov":            ("ok", "cut: cut off",   "-",   "-",  "-",       JOINED, "ok"),
    "aac":            ("ok", DAMAGED,          "-",   "-",  "-",       "ok",   "ok"),
    "webm":           ("ok", CUT,              "-",   "-",  "-",       JOINED, "ok"),
    "mkv":            ("ok", CUT,              "-",   "-",  "-",       JOINED, "ok"),
    "wma":            ("ok", CUT,              "-",   "-",  "-",       JOINED, "ok"),
    "avi":            ("ok", CUT,              "-",   "-",  "-",       JOINED, "ok"),
    "flv":            ("ok", CUT,              "-",   "-",  "-",       JOINED, "ok"),
    "mpeg-ts":        ("ok", DAMAGED,          "-",   "-",  "-",       "note: its clock jumps", "ok"),
    "ac3":            ("ok", "ok",             "-",   "-",  "-",       "ok",   "ok"),
    "wavpack":        ("ok", CUT,              "-",   "-",  "-",       JOINED, "ok"),
    "tta":            ("ok", CUT,              "-",   "-",  "-",       JOINED, "ok"),
}  # fmt: skip
SHARE = 0.6  # the part of a file that is kept, or the part of its size that the header claims


@pytest.fixture(scope="module")
def speech_samples() -> np.ndarray:
    return np.concatenate([load(demo.RECORDINGS / name) for name in ("steps.wav", "window.wav")])


@pytest.fixture(scope="module")
def encoded(speech_samples):
    cache: dict[str, bytes] = {}

    def get(format: str) -> bytes:
        if format not in cache:
            cache[format] = encode(speech_samples, format)
        return cache[format]

    return get


def _check_samples(samples: np.ndarray, expected: np.ndarray, share: float = 1.0) -> None:
    """Compare duration and timing with those of the WAV, of which roughly `share` must be present."""
    window = 32000
    if share == 1.0:
        assert abs(len(samples) - len(expected)) / 16000 <= 0.1, f"{len(samples) / 16000:.2f} of {len(expected) / 16000:.2f} s"
        end = lag_seconds(samples[len(expected) - window : len(expected)], expected[-window:])
        assert abs(end) <= 0.03, f"{1000 * end:.0f} ms off at the end"
    else:
        assert 0.6 * share <= len(samples) / len(expected) <= 1.1 * share, f"{len(samples) / len(expected):.2f} of the samples"
    start = lag_seconds(samples[:window], expected[:window])
    assert abs(start) <= 0.03, f"{1000 * start:.0f} ms off at the beginning"


CELLS = [(format, fault) for format, row in TABLE.items() for fault, cell in zip(FAULTS, row) if cell != "-"]


@pytest.mark.parametrize("format, fault", CELLS, ids=[f"{format}, {fault}" for format, fault in CELLS])
def test_all_audio_is_decoded_or_an_error_says_why(format, fault, encoded, speech_samples, tmp_path):
    kind, _, message = TABLE[format][FAULTS.index(fault)].partition(": ")
    data, expected, path = encoded(format), speech_samples, tmp_path / "file"
    if fault == "cut off":
        data = data[: int(len(data) * SHARE)]
    elif fault in ("header short", "header long"):
        data = with_claimed_size(format, data, SHARE if fault == "header short" else 1 / SHARE)
    elif fault == "no length":
        data = with_claimed_size(format, data, None)
    elif fault == "joined":
        data, expected = data + data, np.concatenate([expected, expected])
    elif fault == "wrong name":
        path = tmp_path / ("file.mp3" if format.startswith("wav") else "file.wav")
    path.write_bytes(data)
    if kind == "cut":
        with pytest.raises(AudioError, match=message) as error:
            load(path)
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
        if format in ("m4a", "alac", "mov", "wavpack"):  # nothing can be kept: the index is at the end, or no block is complete
            return
        samples, _ = decoded_file(path, keep_truncated=True)
        _check_samples(samples, expected, SHARE if fault == "cut off" else 1.0)
        return
    samples, notes = decoded_file(path)
    if fault == "cut off":  # a plain sequence of frames, whose number is not stated
        _check_samples(samples, expected, SHARE)
    elif fault == "joined":
        half = len(expected) // 2
        _check_samples(samples[:half], expected[:half])
        # if the seam is not marked, the encoder's delay and padding stay in the middle
        assert abs(len(samples) - len(expected)) / 16000 <= (0.1 if "joined" in message else 0.2)
        assert abs(lag_seconds(samples[half:], expected[half:])) <= (0.03 if "joined" in message else 0.15)
    else:
        _check_samples(samples, expected)
    assert [note.startswith(f"{path}: ") for note in notes] == ([True] if kind == "note" else []), notes
    assert all(message in note for note in notes)


def test_every_format_is_in_the_table():
    assert set(TABLE) == set(BY_LIBSNDFILE) | set(BY_FFMPEG)

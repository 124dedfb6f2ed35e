"""Transcribe odd files of every kind and compare each with the expected result.

`odd_files/make.py` generates the files (`odd_files/files`) and the expected results (`odd_files/expected.csv`).
"""

import csv
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hubert_fast import demo
from hubert_fast.jobs.inputs import Utterance
from hubert_fast.transcribe import Transcriber

ODD_FILES = Path(__file__).parent / "odd_files"
FILES = ODD_FILES / "files"
sys.path.append(str(ODD_FILES))
import odd_sounds  # noqa: E402

with open(ODD_FILES / "expected.csv", newline="", encoding="utf-8") as _file:
    ROWS = list(csv.DictReader(_file))
NAMES = [row["name"] for row in ROWS]
CUT = [row for row in ROWS if row["error"].startswith("cut") and row["sounds"]]
# Encoders pad their last frame, which is 72 ms at most. Anything lost or heard twice is longer.
SECONDS = 0.1
# One frame of the model is 20 ms, and a sound at its border may fall on either side. Two frames would be 0.04 s.
WORD_SECONDS = 0.03
# Where recordings are joined, how much padding of the first one remains depends on the version of FFmpeg.
JOINED_WORD_SECONDS = 0.05
# These have no audio left when cut off: their only page or block is incomplete, or their index was at the end.
NO_AUDIO_LEFT = {
    "wav-44-bytes.wav", "header-only.flac", "header-only.ogg", "cut-flac-ogg.oga", "cut-vorbis.ogg", "cut-opus.opus",
    "cut-speex.spx", "cut-aac.m4a", "cut-alac.m4a", "cut-phone.3gp", "cut-caf-alac.caf", "cut-flac.flac", "cut-musepack.mpc",
    "cut-mp3.avi", "cut-caf.caf", "cut-wavpack.wv", "cut-tta.tta",
}  # fmt: skip


@pytest.fixture(scope="module")
def transcriber():
    return Transcriber.from_pretrained(demo.MODEL, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def results(transcriber):
    return dict(zip(NAMES, transcriber.transcribe_many([FILES / name for name in NAMES], ordered=True), strict=True))


@pytest.fixture(scope="module")
def truncated_results(transcriber):
    """Transcribe the remaining part of files that are cut off."""
    names = [row["name"] for row in CUT]
    results = transcriber.transcribe_many([FILES / name for name in names], ordered=True, keep_truncated=True)
    return dict(zip(names, results, strict=True))


@pytest.fixture(scope="module")
def references(transcriber, tmp_path_factory):
    """Transcribe a 16 kHz WAV of each formula, written without the package's own decoder."""
    folder = tmp_path_factory.mktemp("references")
    formulas = sorted({row["sounds"] for row in ROWS if row["sounds"] and not row["error"]})
    paths = [folder / f"{number}.wav" for number in range(len(formulas))]
    for path, formula in zip(paths, formulas):
        soundfile.write(path, odd_sounds.at_16_khz(formula), 16000)
    results = transcriber.transcribe_many(paths, ordered=True)
    return {formula: result.transcripts[0] for formula, result in zip(formulas, results, strict=True)}


def test_each_file_has_a_row_and_each_row_a_file():
    assert len(NAMES) == len(set(NAMES)) >= 60
    assert sorted(NAMES) == sorted(file.name for file in FILES.iterdir())
    assert all(row["what"] and (row["error"] or row["seconds"]) for row in ROWS)


def test_the_files_are_small():
    assert sum(file.stat().st_size for file in FILES.iterdir()) < 1.5e6


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_each_file_gives_the_expected_result(row, results, references):
    result = results[row["name"]]
    if row["error"]:
        assert result.error is not None, f"heard {result.transcripts[0].text!r}, notes {result.notes}"
        assert row["error"] in result.error.removeprefix(f"{FILES / row['name']}: ")
        return
    assert result.error is None, result.error
    (transcript,) = result.transcripts
    assert transcript.duration_seconds == pytest.approx(float(row["seconds"]), abs=SECONDS)
    assert transcript.text == row["text"]
    notes = " ".join(note.removeprefix(f"{FILES / row['name']}: ") for note in result.notes)
    assert row["note"] in notes if row["note"] else not notes
    reference, limit = references[row["sounds"]], JOINED_WORD_SECONDS if row["note"] == "joined" else WORD_SECONDS
    assert reference.text == row["text"]
    for word, expected in zip(transcript.words, reference.words, strict=True):
        assert word.start_seconds == pytest.approx(expected.start_seconds, abs=limit), word.word
        assert word.end_seconds == pytest.approx(expected.end_seconds, abs=limit), word.word


@pytest.mark.parametrize("row", CUT, ids=[row["name"] for row in CUT])
def test_truncated_files_give_the_beginning_of_the_speech(row, truncated_results):
    """The transcript is the beginning of the speech, with the last word perhaps cut in two, unless only a header remains."""
    result = truncated_results[row["name"]]
    if result.error is not None:
        assert row["name"] in NO_AUDIO_LEFT, result.error
        return
    (transcript,) = result.transcripts
    assert transcript.duration_seconds < odd_sounds.seconds(row["sounds"]) + SECONDS
    whole, words = odd_sounds.text(row["sounds"]).split(), transcript.text.split()
    if len(whole) > 1:  # part of a single word may be transcribed as any word
        assert words[:-1] == whole[: max(len(words) - 1, 0)]


def _header(kind: str, data_bytes: int) -> bytes:
    """Return a header of 16-bit samples at 16 kHz."""
    layout = struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16)
    if kind == "w64":
        tail = bytes.fromhex("f3acd3118cd100c04f8edb8a")
        riff = bytes.fromhex("726966662e91cf11a5d628db04c10000") + struct.pack("<Q", data_bytes + 104)
        wave = b"wave" + tail + b"fmt " + tail + struct.pack("<Q", 40) + layout
        return riff + wave + b"data" + tail + struct.pack("<Q", data_bytes + 24)
    body = b"fmt " + struct.pack("<I", 16) + layout
    if kind == "rf64":
        sizes = b"ds64" + struct.pack("<IQQQI", 28, data_bytes + 72, data_bytes, data_bytes // 2, 0)
        return b"RF64" + b"\xff" * 4 + b"WAVE" + sizes + body + b"data" + b"\xff" * 4
    wrapped = struct.pack("<I", data_bytes % 2**32)
    return b"RIFF" + struct.pack("<I", (data_bytes + 36) % 2**32) + b"WAVE" + body + b"data" + wrapped


@pytest.mark.parametrize("kind", ["wrapped", "rf64", "w64"])
def test_speech_after_4_gib_is_transcribed(kind, transcriber, tmp_path):
    """Speech after 37 hours of silence, which take no disk space. "wrapped": the sizes are truncated to 32 bits."""
    speech = odd_sounds.at_16_khz("garden@16000")
    silent_bytes = (1 << 32) + 64000
    header = _header(kind, silent_bytes + 2 * len(speech))
    path = tmp_path / f"long.{'w64' if kind == 'w64' else 'wav'}"
    with open(path, "wb") as file:
        file.write(header)
        file.seek(len(header) + silent_bytes)
        file.write(speech.astype("<i2").tobytes())
    start = silent_bytes / 32000
    (result,) = transcriber.transcribe_many([Utterance("end", str(path), offset_seconds=start)])
    assert result.error is None, result.error
    (transcript,) = result.transcripts
    assert transcript.text == "TURN THE GARDEN"
    assert transcript.duration_seconds == pytest.approx(len(speech) / 16000, abs=1e-3)
    assert np.all([word.start_seconds > start for word in transcript.words])
    assert ("but the file has" in " ".join(result.notes)) == (kind == "wrapped")

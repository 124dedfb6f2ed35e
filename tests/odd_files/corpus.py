"""Collect the odd files with the result expected for each, and write both."""

from __future__ import annotations

import csv
import io
import shlex
import subprocess
import tempfile
import wave
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import odd_sounds

FOLDER = Path(__file__).parent / "files"
EXPECTED = Path(__file__).parent / "expected.csv"


@dataclass(frozen=True)
class Row:
    """The expected result for a file.

    Attributes:
        what: A description of the file in a few words.
        sounds: A formula of `odd_sounds` for the sound to be transcribed or, in a file that is refused, for the original.
        seconds: Duration of the transcript.
        text: Text of the transcript.
        error: Part of the error for a file that is refused.
        note: Part of the note for a file that is transcribed despite a fault. If empty, there must be no note.
    """

    name: str
    what: str
    sounds: str = ""
    seconds: str = ""
    text: str = ""
    error: str = ""
    note: str = ""


class Corpus:
    """The files by name, and a row for each."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.rows: dict[str, Row] = {}

    def add(
        self, name: str, data: bytes, what: str, sounds: str = "", *, text: str | None = None, error: str = "", note: str = ""
    ) -> None:
        """Add a file that must be transcribed, or refused with `error`.

        text: the expected text; by default, the text of the recordings that `sounds` names.
        """
        assert name not in self.files and data, name
        seconds = f"{odd_sounds.seconds(sounds):.2f}" if not error else ""
        text = odd_sounds.text(sounds) if text is None and not error else text or ""
        self.files[name], self.rows[name] = data, Row(name, what, sounds, seconds, text, error, note)

    def write(self) -> None:
        FOLDER.mkdir(exist_ok=True)
        for old in FOLDER.iterdir():
            old.unlink()
        for name, data in self.files.items():
            (FOLDER / name).write_bytes(data)
        with open(EXPECTED, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in self.rows.values())


def read_rows() -> list[Row]:
    """Read the expected results."""
    with open(EXPECTED, newline="", encoding="utf-8") as file:
        return [Row(**row) for row in csv.DictReader(file)]


def wav(sounds: str | np.ndarray, rate_hz: int = 16000) -> bytes:
    """Return a 16-bit WAV of a formula whose terms have one rate, or of int16 samples `[S]` or `[S, channels]`."""
    if isinstance(sounds, str):
        terms = odd_sounds.samples(sounds)
        values, rate_hz = np.concatenate([term for term, _ in terms]), terms[0][1]
    else:
        values = sounds
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1 if values.ndim == 1 else values.shape[1])
        writer.setsampwidth(2)
        writer.setframerate(rate_hz)
        writer.writeframes(values.astype("<i2").tobytes())
    return file.getvalue()


def tool(command: str, suffix: str, source: str | bytes, source_suffix: str = "wav") -> bytes:
    """Run a command that reads the file `IN` and writes the file `OUT`; return the bytes written.

    source: the bytes of `IN`, or a formula, which stands for its WAV.
    """
    with tempfile.TemporaryDirectory() as folder:
        in_path, out_path = Path(folder) / f"in.{source_suffix}", Path(folder) / f"out.{suffix}"
        in_path.write_bytes(wav(source) if isinstance(source, str) else source)
        words = [word.replace("IN", str(in_path)).replace("OUT", str(out_path)) for word in shlex.split(command)]
        process = subprocess.run(words, capture_output=True)
        if process.returncode:
            raise RuntimeError(f"{shlex.join(words)}: {process.stderr.decode(errors='replace').strip()}")
        return out_path.read_bytes()


def ffmpeg(options: str, suffix: str, source: str | bytes, before: str = "", source_suffix: str = "wav") -> bytes:
    """Run FFmpeg without dates and versions in its output. before: options to put before the input."""
    exact = "-fflags +bitexact -flags:a +bitexact -flags:v +bitexact -map_metadata -1"
    return tool(f"ffmpeg -v error -y {before} -i IN {exact} {options} OUT", suffix, source, source_suffix)


def sox(options: str, suffix: str, source: str | bytes, effects: str = "") -> bytes:
    """Run SoX without dither, which would be random."""
    return tool(f"sox -R -D IN {options} OUT {effects}", suffix, source)


def lame(options: str, source: str | bytes) -> bytes:
    return tool(f"lame --quiet {options} IN OUT", "mp3", source)

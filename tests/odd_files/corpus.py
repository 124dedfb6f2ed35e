"""Collect the odd files and what is expected of each, and write both."""

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
    """What is expected of a file.

    what: the file, in a few words. sounds: a formula of ``odd_sounds``, of what is to be transcribed or, in a file that is
    refused, of what was there once. seconds, text: of the transcript. error: a part of the reason why there is none. note: a
    part of what is said about a file that is transcribed all the same, empty where nothing may be said.
    """

    name: str
    what: str
    sounds: str = ""
    seconds: str = ""
    text: str = ""
    error: str = ""
    note: str = ""


class Corpus:
    """Files by name, and a row for each."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.rows: dict[str, Row] = {}

    def add(
        self, name: str, data: bytes, what: str, sounds: str = "", *, text: str | None = None, error: str = "", note: str = ""
    ) -> None:
        """Add a file that is to be transcribed, or refused with ``error``.

        text: what is to be heard, if not what is said in the recordings that ``sounds`` names.
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
    """Read what is expected."""
    with open(EXPECTED, newline="", encoding="utf-8") as file:
        return [Row(**row) for row in csv.DictReader(file)]


def wav(sounds: str | np.ndarray, rate_hz: int = 16000) -> bytes:
    """Return a 16-bit WAV of a formula whose terms have one rate, or of int16 samples ``[S]`` or ``[S, channels]``."""
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


def tool(command: str, suffix: str, given: str | bytes, given_suffix: str = "wav") -> bytes:
    """Run a command that makes the file ``OUT`` of the file ``IN``; return what it made.

    given: bytes, or a formula whose WAV is meant.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / f"in.{given_suffix}", Path(folder) / f"out.{suffix}"
        source.write_bytes(wav(given) if isinstance(given, str) else given)
        words = [word.replace("IN", str(source)).replace("OUT", str(made)) for word in shlex.split(command)]
        ended = subprocess.run(words, capture_output=True)
        if ended.returncode:
            raise RuntimeError(f"{shlex.join(words)}: {ended.stderr.decode(errors='replace').strip()}")
        return made.read_bytes()


def ffmpeg(options: str, suffix: str, given: str | bytes, before: str = "", given_suffix: str = "wav") -> bytes:
    """Run FFmpeg, without dates and versions in what it writes. before: options that stand before the input."""
    exact = "-fflags +bitexact -flags:a +bitexact -flags:v +bitexact -map_metadata -1"
    return tool(f"ffmpeg -v error -y {before} -i IN {exact} {options} OUT", suffix, given, given_suffix)


def sox(options: str, suffix: str, given: str | bytes, effects: str = "") -> bytes:
    """Run SoX, without dither, which is random."""
    return tool(f"sox -R -D IN {options} OUT {effects}", suffix, given)


def lame(options: str, given: str | bytes) -> bytes:
    return tool(f"lame --quiet {options} IN OUT", "mp3", given)

"""Create the utterances to time: with given lengths, from the bundled recordings, or from the files of a manifest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import demo

# modules that read audio are imported late: their libraries may be missing where only models are timed

SAMPLE_RATE_HZ = 16000
# LibriSpeech's test sets: log-normal
MEDIAN_SECONDS, SIGMA, SHORTEST_SECONDS, LONGEST_SECONDS = 5.9, 0.66, 1.3, 35.0


@dataclass(frozen=True, eq=False)
class Work:
    """Utterances to time.

    Attributes:
        name: The name for rows.
        waveforms: float32 `[S_i]` at 16 kHz, not normalised.
        references: The transcript of each, if known.
        paths: The file of each, if they come from files.
    """

    name: str
    waveforms: tuple[np.ndarray, ...]
    references: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None

    @property
    def audio_seconds(self) -> float:
        return sum(map(len, self.waveforms)) / SAMPLE_RATE_HZ

    @classmethod
    def of(cls, lengths: str, audio_seconds: float) -> Work:
        """Create the utterances that `--lengths` describes.

        Args:
            lengths: `"librispeech"` (log-normal, median 5.9 s, sigma 0.66, 1.3 to 35 s, seed 0); `"fixed:10"`; `"demo"` (the
                bundled recordings, whole, with their transcripts); a text file with a number of seconds on each line; or a
                manifest or folder of audio that `hubert_fast.transcribe.Inputs` can read.
            audio_seconds: Draw lengths, or read files, until the audio is this long.

        Raises:
            ValueError: `lengths` is none of these, or a file cannot be read.
        """
        if lengths == "demo":
            files = [(str(recording.path), recording.reference) for recording in demo.recordings()]
            return cls._of_files(lengths, files, math.inf)
        if lengths == "librispeech":
            return cls.of_seconds(lengths, until(librispeech_seconds(), audio_seconds))
        if lengths.startswith("fixed:"):
            seconds = _seconds(lengths.removeprefix("fixed:"), "fixed:SECONDS")
            return cls.of_seconds(lengths, [seconds] * max(round(audio_seconds / seconds), 1))
        path = Path(lengths)
        if not path.exists():
            raise ValueError(f"lengths must be librispeech, fixed:SECONDS, demo or a file that exists, but are {lengths!r}")
        if path.is_file() and path.suffix.lower() == ".txt" and (listed := _listed_seconds(path)):
            return cls.of_seconds(path.name, listed)
        from ..jobs import manifests
        from ..jobs.inputs import Inputs

        try:
            utterances = list(Inputs([lengths]))
        except manifests.ManifestError as error:
            raise ValueError(str(error)) from None
        if any(utterance.offset_seconds for utterance in utterances):
            raise ValueError(f"{lengths} names parts of files, but a benchmark takes only whole files")
        problem = next((utterance.error for utterance in utterances if utterance.error), None)
        if problem:
            raise ValueError(problem)
        return cls._of_files(path.name, [(utterance.audio, utterance.reference) for utterance in utterances], audio_seconds)

    @classmethod
    def of_seconds(cls, name: str, seconds: Sequence[float]) -> Work:
        """Cut utterances of these lengths from the bundled recordings, repeated; from noise if audio cannot be read."""
        try:
            from .. import audio
        except ImportError:  # good enough: the time does not depend on the samples
            recordings = np.random.default_rng(0).standard_normal(16000 * 60).astype(np.float32)
            name = f"{name}, noise"
        else:
            recordings = np.concatenate([audio.load(recording.path) for recording in demo.recordings()])
        waveforms, start = [], 0
        for length in (round(SAMPLE_RATE_HZ * entry) for entry in seconds):
            repeated = np.tile(recordings, -(-(start + length) // len(recordings)))
            waveforms.append(repeated[start : start + length].copy())
            start = (start + length) % len(recordings)
        return cls(name, tuple(waveforms))

    @classmethod
    def _of_files(cls, name: str, files: Sequence[tuple[str, str | None]], audio_seconds: float) -> Work:
        from .. import audio

        waveforms: list[np.ndarray] = []
        remaining = audio_seconds * SAMPLE_RATE_HZ
        for path, _ in files:
            try:
                waveforms.append(audio.load(path))
            except audio.AudioError as error:
                raise ValueError(str(error)) from None
            remaining -= len(waveforms[-1])
            if remaining <= 0:
                break
        chosen = files[: len(waveforms)]
        references = tuple(reference for _, reference in chosen if reference is not None)
        are_known = chosen and len(references) == len(chosen)
        return cls(name, tuple(waveforms), references if are_known else None, tuple(path for path, _ in chosen))

    def saved(self, folder: Path) -> Work:
        """Return these utterances with files: their own, or 16-bit WAV files in `folder`, from which they are read again."""
        if self.paths is not None:
            return self
        import soundfile

        from .. import audio

        paths, waveforms = [], []
        for index, waveform in enumerate(self.waveforms):
            paths.append(str(folder / f"{index:05d}.wav"))
            soundfile.write(paths[-1], waveform, SAMPLE_RATE_HZ, subtype="PCM_16")
            waveforms.append(audio.load(paths[-1]))
        return Work(self.name, tuple(waveforms), self.references, tuple(paths))


def batches(lengths: Sequence[int], *, samples: float = math.inf, utterances: int | None = None) -> list[list[int]]:
    """Divide utterances, in order, into batches of at most `samples` (or one utterance) and at most `utterances`."""
    result: list[list[int]] = []
    room = 0.0
    for index, length in enumerate(lengths):
        if not result or length > room or len(result[-1]) == utterances:
            result.append([])
            room = samples
        result[-1].append(index)
        room -= length
    return result


def librispeech_seconds() -> Iterator[float]:
    """Draw lengths like those of LibriSpeech's test sets: an endless sequence, which is always the same."""
    rng = np.random.default_rng(0)
    while True:
        yield float(np.clip(rng.lognormal(np.log(MEDIAN_SECONDS), SIGMA), SHORTEST_SECONDS, LONGEST_SECONDS))


def until(seconds: Iterator[float], total: float) -> list[float]:
    """Take lengths until they add up to `total`. The last one is cut to fit, unless that would make it too short."""
    chosen: list[float] = []
    remaining = total
    while remaining > 0:
        chosen.append(min(next(seconds), remaining) if remaining >= SHORTEST_SECONDS or not chosen else next(seconds))
        remaining -= chosen[-1]
    return chosen


def _seconds(text: str, expected: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.025 <= seconds < math.inf:
        raise ValueError(f"expected {expected}, at least 0.025 (one frame), but got {text!r}")
    return seconds


def _listed_seconds(path: Path) -> list[float] | None:
    """Return the numbers in a file that has one on each line; `None` if its first line is not a number."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    try:
        float(lines[0])
    except (ValueError, IndexError):
        return None
    return [_seconds(line, f"seconds on each line of {path}") for line in lines]

"""What is run: utterances of given lengths, of the bundled recordings or of a manifest's files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import demo

# what reads audio is imported on demand: it may be missing where models alone are timed

SAMPLE_RATE_HZ = 16000
# LibriSpeech's test sets: log-normal
MEDIAN_SECONDS, SIGMA, SHORTEST_SECONDS, LONGEST_SECONDS = 5.9, 0.66, 1.3, 35.0


@dataclass(frozen=True, eq=False)
class Work:
    """Utterances to time.

    name: how they were asked for. waveforms: float32 ``[S_i]`` at 16 kHz, as recorded. references: what is said in each, if
    known. paths: their files, if they came from some.
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
        """Understand ``--lengths``.

        lengths: ``"librispeech"`` (log-normal, median 5.9 s, sigma 0.66, 1.3 to 35 s, seed 0), ``"fixed:10"``, ``"demo"`` (the
            bundled recordings, whole, with what is said in them), a text file with seconds a line, or a manifest or folder of
            audio that :class:`~hubert_fast.transcribe.Inputs` knows. audio_seconds: draw until there is so much; of files,
            stop there.

        Raises ``ValueError`` for what is none of these.
        """
        if lengths == "demo":
            found = demo.recordings()
            return cls._of_files(lengths, [(str(one.path), one.reference) for one in found], math.inf)
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
        from ..transcribe import Inputs, manifests

        try:
            utterances = list(Inputs([lengths]))
        except manifests.ManifestError as error:
            raise ValueError(str(error)) from None
        if any(one.offset_seconds for one in utterances):
            raise ValueError(f"{lengths} names parts of files: a benchmark takes whole ones")
        refused = next((one.error for one in utterances if one.error), None)
        if refused:
            raise ValueError(refused)
        return cls._of_files(path.name, [(one.audio, one.reference) for one in utterances], audio_seconds)

    @classmethod
    def of_seconds(cls, name: str, seconds: Sequence[float]) -> Work:
        """Cut such lengths from the bundled recordings, over and over again; noise where audio cannot be read."""
        try:
            from .. import audio
        except ImportError:  # random weights do not mind what they hear
            recordings = np.random.default_rng(0).standard_normal(16000 * 60).astype(np.float32)
            name = f"{name}, noise"
        else:
            recordings = np.concatenate([audio.load(recording.path) for recording in demo.recordings()])
        waveforms, start = [], 0
        for length in (round(SAMPLE_RATE_HZ * one) for one in seconds):
            repeated = np.tile(recordings, -(-(start + length) // len(recordings)))
            waveforms.append(repeated[start : start + length].copy())
            start = (start + length) % len(recordings)
        return cls(name, tuple(waveforms))

    @classmethod
    def _of_files(cls, name: str, files: list[tuple[str, str | None]], audio_seconds: float) -> Work:
        from .. import audio

        waveforms, left = [], audio_seconds * SAMPLE_RATE_HZ
        for path, _ in files:
            try:
                waveforms.append(audio.load(path))
            except audio.AudioError as error:
                raise ValueError(str(error)) from None
            left -= len(waveforms[-1])
            if left <= 0:
                break
        taken = files[: len(waveforms)]
        references = [reference for _, reference in taken]
        known = tuple(references) if references and None not in references else None
        return cls(name, tuple(waveforms), known, tuple(path for path, _ in taken))

    def saved(self, folder: Path) -> Work:
        """Return it with files: its own, or WAV files of 16 bits in ``folder``, whose rounding its waveforms take too."""
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
    """Divide utterances, in order, into batches of at most so many samples (or one utterance) and so many utterances."""
    made: list[list[int]] = []
    room = 0.0
    for index, length in enumerate(lengths):
        if not made or length > room or len(made[-1]) == utterances:
            made.append([])
            room = samples
        made[-1].append(index)
        room -= length
    return made


def librispeech_seconds() -> Iterator[float]:
    """Draw lengths as in LibriSpeech's test sets, without end and always the same."""
    rng = np.random.default_rng(0)
    while True:
        yield float(np.clip(rng.lognormal(np.log(MEDIAN_SECONDS), SIGMA), SHORTEST_SECONDS, LONGEST_SECONDS))


def until(seconds: Iterator[float], total: float) -> list[float]:
    """Take from ``seconds`` until they add up to ``total``; the last one is cut to that, if that leaves enough of it."""
    taken: list[float] = []
    left = total
    while left > 0:
        taken.append(min(next(seconds), left) if left >= SHORTEST_SECONDS or not taken else next(seconds))
        left -= taken[-1]
    return taken


def _seconds(text: str, expected: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.025 <= seconds < math.inf:
        raise ValueError(f"expected {expected} with 0.025 (one frame) or more, but got {text!r}")
    return seconds


def _listed_seconds(path: Path) -> list[float] | None:
    """Return the numbers in a file of one a line; ``None`` when its first line is not one."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    try:
        float(lines[0])
    except (ValueError, IndexError):
        return None
    return [_seconds(line, f"seconds a line in {path}") for line in lines]

"""From an audio file to the samples a model takes: decode, downmix, resample."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

# What libsndfile reads and people keep speech in; folders are searched for these.
AUDIO_SUFFIXES = frozenset({".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".w64", ".wav"})

BLOCK_FRAMES = 1 << 20


class AudioError(ValueError):
    """A file gives no usable audio; the message says which and why."""


def load(path: str | Path, sample_rate_hz: int = 16000) -> np.ndarray:
    """Decode a file into mono float32 samples ``[S]`` in [-1, 1] at ``sample_rate_hz``.

    Reads what libsndfile reads (WAV, FLAC, OGG, MP3, ...). Channels are averaged; soxr resamples.
    Raises :class:`AudioError` for a path that is missing, a folder, unreadable, empty, not audio, without samples, or with
    NaN or infinite samples.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise AudioError(f"{path}: no such file")
        if not path.is_file():
            raise AudioError(f"{path}: expected an audio file, but this is not a regular file")
        if path.stat().st_size == 0:
            raise AudioError(f"{path}: the file is empty (0 bytes)")
        open(path, "rb").close()  # the system's reason, when it may not be read; libsndfile does not tell
        with soundfile.SoundFile(os.fsencode(path)) as sound:  # bytes: names need not be UTF-8
            source_rate_hz = sound.samplerate
            mono = _read_mono(sound)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path}: not audio that libsndfile can decode: {error.error_string}") from None
    except TypeError:  # soundfile's answer to headerless formats
        raise AudioError(f"{path}: not audio that libsndfile can decode: the file does not say its format") from None
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise AudioError(f"{path}: too long to be held in memory") from None
    if not len(mono):
        raise AudioError(f"{path}: the file has no samples")
    if not np.isfinite(mono).all():
        bad = len(mono) - int(np.isfinite(mono).sum())
        raise AudioError(f"{path}: {bad} of {len(mono)} samples are NaN or infinite")
    if source_rate_hz != sample_rate_hz:
        mono = soxr.resample(mono, source_rate_hz, sample_rate_hz)
    return mono


def _read_mono(sound: soundfile.SoundFile) -> np.ndarray:
    """Average the channels block by block, so that a header that claims years of audio costs nothing."""
    blocks = []
    while len(block := sound.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
        blocks.append(block.mean(axis=1))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def find(paths: list[str | Path]) -> tuple[list[Path], list[AudioError]]:
    """Expand folders, recursively and sorted, into the audio files below them; files stay as they are named.

    Returns the files, and an error for each folder without any and each path that does not exist. A file that is named
    twice comes once.
    """
    found: dict[Path, None] = {}
    errors = []
    for path in map(Path, paths):
        try:
            is_folder, exists = path.is_dir(), path.exists()
        except OSError as error:  # a name that is too long, a folder that may not be entered
            errors.append(AudioError(f"{path}: cannot be looked at: {error.strerror}"))
            continue
        if is_folder:
            below = sorted(file for file in path.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES and file.is_file())
            if not below:
                errors.append(AudioError(f"{path}: no audio files in this folder ({', '.join(sorted(AUDIO_SUFFIXES))})"))
            found |= dict.fromkeys(below)
        elif exists:
            found[path] = None
        else:
            errors.append(AudioError(f"{path}: no such file or folder"))
    return list(found), errors

"""From decoded channels to what a model takes: finite, one channel or each, at the model's rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import soxr

from .errors import AudioError

CANCELLED = 0.1  # a mean with less than this share of the energy that unrelated channels would leave it has cancelled
WINDOW_SECONDS = 0.1  # in which it is judged
LEAST_WINDOWS = 3  # beside each other: fewer are chance
QUIET = 0.02  # of the energy of the loud windows of a block: pauses, which tell nothing
MUCH_LOUDER = 4.0


class Mixer:
    """Mixes and resamples blocks of one recording, whose rate may change where recordings were joined.

    each_channel: keep channels apart instead of taking their mean. note: is told what a listener would want to know.
    """

    def __init__(self, sample_rate_hz: int, each_channel: bool, note: Callable[[str], None]):
        self.sample_rate_hz, self.each_channel, self._note = sample_rate_hz, each_channel, note
        self.seconds = 0.0
        self._rate_hz, self._channels = 0, 0
        self._resampler: soxr.ResampleStream | None = None
        self._taken: int | None = None  # the channel instead of a mean that cancels, at the end of the last block
        self._was_noted = False

    def blocks(self, samples: np.ndarray, rate_hz: int) -> Iterator[np.ndarray]:
        """Take a block ``[S, channels]``, int16 or float32; give blocks ``[1, S']``, or ``[channels, S']``.

        Raises :class:`AudioError` for NaN and infinite samples, and where channels that are kept apart change their number.
        """
        if samples.dtype != np.int16:
            _check_finite(samples, self.seconds)
        if (rate_hz, samples.shape[1]) != (self._rate_hz, self._channels):
            yield from self._begin(rate_hz, samples.shape[1])
        if samples.shape[1] > 1 and not self.each_channel:
            samples = self._mixed(as_float(samples), rate_hz)
        self.seconds += len(samples) / rate_hz
        if self._resampler is not None:
            samples = self._resampled(as_float(samples))
        if len(samples):
            yield np.ascontiguousarray(samples.T)

    def end(self) -> Iterator[np.ndarray]:
        """Give what the resampler still holds."""
        if self._resampler is not None:
            channels = self._channels if self.each_channel else 1
            rest = self._resampled(np.zeros((0, channels), np.float32), is_last=True)
            self._resampler = None
            if len(rest):
                yield np.ascontiguousarray(rest.T)

    def _begin(self, rate_hz: int, channels: int) -> Iterator[np.ndarray]:
        if self._channels and channels != self._channels and self.each_channel:
            raise AudioError(
                f"channels cannot be kept apart: there are {self._channels} up to {self.seconds:.1f} s, and {channels} after it"
            )
        yield from self.end()
        self._rate_hz, self._channels, self._taken = rate_hz, channels, None
        if rate_hz != self.sample_rate_hz:
            self._resampler = soxr.ResampleStream(
                rate_hz, self.sample_rate_hz, channels if self.each_channel else 1, dtype="float32"
            )

    def _resampled(self, samples: np.ndarray, is_last: bool = False) -> np.ndarray:
        """Return ``[S', channels]`` of ``[S, channels]``; soxr takes a single channel as ``[S]``."""
        given = samples[:, 0] if samples.shape[1] == 1 else samples
        return self._resampler.resample_chunk(given, last=is_last).reshape(-1, samples.shape[1])

    def _mixed(self, samples: np.ndarray, rate_hz: int) -> np.ndarray:
        """Return the mean of the channels ``[S, 1]``, and where it cancels the loudest channel of those."""
        channels = np.ascontiguousarray(samples.T)
        mean = _mean(channels)
        size = max(round(WINDOW_SECONDS * rate_hz), 2)
        energies, cancels, is_quiet = _judged(channels, size)
        taken, self._taken = self._taken, None
        for first, last in _runs(cancels, is_quiet, taken is not None):
            channel = taken if taken is not None and not first else int(energies[:, first:last].sum(1).argmax())
            for window in range(first, last):
                if energies[channel, window] * MUCH_LOUDER >= energies[:, window].max():  # else it is another's turn
                    end = (window + 1) * size if window + 1 < len(cancels) else len(mean)
                    mean[window * size : end] = channels[channel, window * size : end]
            if last == len(cancels):
                self._taken = channel
            if not self._was_noted:
                self._was_noted = True
                self._note(
                    f"the channels cancel when averaged (one is phase-inverted): where they do, from "
                    f"{self.seconds + first * size / rate_hz:.1f} s on, only the loudest, channel {channel + 1}, is transcribed"
                )
        return mean[:, None]


def _judged(channels: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Judge windows of ``size`` samples: each channel's energy, whether the mean cancels, whether it is too quiet to tell.

    The energy is that of the differences between samples, in which an offset does not count, and hum hardly.
    """
    count = max(channels.shape[1] // size, 1)
    steps = np.diff(channels[:, : count * size], prepend=channels[:, :1])
    windows = steps.reshape(len(channels), count, -1)
    energies = np.einsum("cws,cws->cw", windows, windows)
    mean = windows.mean(0)
    left, total = np.einsum("ws,ws->w", mean, mean), energies.sum(0)
    is_quiet = total <= QUIET * np.percentile(total, 90)
    return energies, (left < CANCELLED * total / len(channels) ** 2) & ~is_quiet, is_quiet


def _runs(cancels: np.ndarray, is_quiet: np.ndarray, goes_on: bool) -> list[tuple[int, int]]:
    """Return where runs of windows begin and end in which the mean cancels, with the quiet ones between and beside them.

    goes_on: the first window goes on with a run of the block before. Runs that are too short for more than chance are none.
    """
    edges = np.flatnonzero(np.diff(np.concatenate(([False], cancels | is_quiet, [False])).astype(np.int8)))
    least = min(LEAST_WINDOWS, len(cancels))
    runs = zip(edges[::2].tolist(), edges[1::2].tolist())
    return [(first, last) for first, last in runs if cancels[first:last].sum() >= least or (goes_on and not first)]


def as_float(samples: np.ndarray) -> np.ndarray:
    """Return float32 in [-1, 1] of int16, and float32 as it is."""
    return samples if samples.dtype == np.float32 else samples.astype(np.float32) / np.float32(32768)


def _mean(channels: np.ndarray) -> np.ndarray:
    """Return ``[S]`` of ``[channels, S]``."""
    total = channels[0].copy()
    for channel in channels[1:]:
        total += channel
    total *= np.float32(1 / len(channels))
    return total


def _check_finite(samples: np.ndarray, start_seconds: float) -> None:
    finite = np.isfinite(samples)
    if not finite.all():
        bad = len(samples) - int(finite.all(1).sum())
        raise AudioError(f"{bad} of {len(samples)} samples are NaN or infinite (from {start_seconds:.1f} s on)")

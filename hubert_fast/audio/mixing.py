"""Mix decoded channels into the input of a model: finite samples at its rate, with channels averaged or kept apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import soxr

from .errors import AudioError

# A mean has cancelled if its energy is below this share of what unrelated channels would leave.
CANCELLED_SHARE = 0.1
WINDOW_SECONDS = 0.1  # length of the windows in which cancellation is judged
MIN_WINDOWS = 3  # windows in a row that must cancel; fewer may cancel by chance
QUIET_SHARE = 0.02  # of the energy of a block's loud windows; quieter windows are pauses, in which nothing can be judged
MUCH_LOUDER = 4.0  # ratio of energies from which another channel, not the chosen one, holds the sound of a window


class Mixer:
    """Mixes and resamples the blocks of one file, whose rate may change where recordings were joined.

    Args:
        sample_rate_hz: Rate of the mixed blocks.
        each_channel: Keep the channels apart instead of averaging them.
        note: Function called with each note for the user.
    """

    def __init__(self, sample_rate_hz: int, each_channel: bool, note: Callable[[str], None]):
        self.sample_rate_hz, self.each_channel, self._note = sample_rate_hz, each_channel, note
        self.seconds = 0.0
        self._rate_hz, self._channels = 0, 0
        self._resampler: soxr.ResampleStream | None = None
        self._chosen: int | None = None  # the channel used instead of a cancelling mean at the end of the last block
        self._was_noted = False

    def blocks(self, samples: np.ndarray, rate_hz: int) -> Iterator[np.ndarray]:
        """Take a block `[S, channels]` of int16 or float32 at `rate_hz`, and yield blocks `[1, S']` or `[channels, S']`.

        Raises:
            AudioError: If samples are NaN or infinite, or if the number of channels changes while they are kept apart.
        """
        if samples.dtype != np.int16:
            _check_finite(samples, self.seconds)
        if (rate_hz, samples.shape[1]) != (self._rate_hz, self._channels):
            yield from self._begin(rate_hz, samples.shape[1])
        if samples.shape[1] > 1 and not self.each_channel:
            samples = self._mix(as_float(samples), rate_hz)
        self.seconds += len(samples) / rate_hz
        if self._resampler is not None:
            samples = _resample(self._resampler, as_float(samples))
        if len(samples):
            yield np.ascontiguousarray(samples.T)

    def end(self) -> Iterator[np.ndarray]:
        """Yield the samples that the resampler still holds."""
        if self._resampler is not None:
            channels = self._channels if self.each_channel else 1
            rest = _resample(self._resampler, np.zeros((0, channels), np.float32), is_last=True)
            self._resampler = None
            if len(rest):
                yield np.ascontiguousarray(rest.T)

    def _begin(self, rate_hz: int, channels: int) -> Iterator[np.ndarray]:
        """Yield the rest of the previous blocks, then prepare for blocks of another rate or number of channels."""
        if self._channels and channels != self._channels and self.each_channel:
            raise AudioError(
                f"channels cannot be kept apart: from {self._channels}, their number changes to {channels} at "
                f"{self.seconds:.1f} s"
            )
        yield from self.end()
        self._rate_hz, self._channels, self._chosen = rate_hz, channels, None
        if rate_hz != self.sample_rate_hz:
            self._resampler = soxr.ResampleStream(
                rate_hz, self.sample_rate_hz, channels if self.each_channel else 1, dtype="float32"
            )

    def _mix(self, samples: np.ndarray, rate_hz: int) -> np.ndarray:
        """Return the mean of the channels `[S, 1]`, replaced by the loudest channel where the mean cancels."""
        channels = np.ascontiguousarray(samples.T)
        mean = _mean(channels)
        size = max(round(WINDOW_SECONDS * rate_hz), 2)
        energies, cancels, is_quiet = _judge_windows(channels, size)
        previous, self._chosen = self._chosen, None
        for first, last in _cancelling_runs(cancels, is_quiet, previous is not None):
            channel = previous if previous is not None and not first else int(energies[:, first:last].sum(1).argmax())
            for window in range(first, last):
                if energies[channel, window] * MUCH_LOUDER >= energies[:, window].max():  # else another has the sound
                    end = (window + 1) * size if window + 1 < len(cancels) else len(mean)
                    mean[window * size : end] = channels[channel, window * size : end]
            if last == len(cancels):
                self._chosen = channel
            if not self._was_noted:
                self._was_noted = True
                self._note(
                    f"the channels cancel when averaged (one is phase-inverted): where they do, from "
                    f"{self.seconds + first * size / rate_hz:.1f} s on, only the loudest, channel {channel + 1}, is transcribed"
                )
        return mean[:, None]


def _resample(resampler: soxr.ResampleStream, samples: np.ndarray, is_last: bool = False) -> np.ndarray:
    """Resample `[S, channels]` to `[S', channels]`. soxr takes a single channel as `[S]`."""
    data = samples[:, 0] if samples.shape[1] == 1 else samples
    return resampler.resample_chunk(data, last=is_last).reshape(-1, samples.shape[1])


def _judge_windows(channels: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Judge windows of `size` samples: each channel's energy, whether the mean cancels, and whether it is too quiet to tell.

    The energy is that of the differences between consecutive samples, which removes an offset and weakens hum.
    """
    count = max(channels.shape[1] // size, 1)
    steps = np.diff(channels[:, : count * size], prepend=channels[:, :1])
    windows = steps.reshape(len(channels), count, -1)
    energies = np.einsum("cws,cws->cw", windows, windows)
    mean = windows.mean(0)
    left, total = np.einsum("ws,ws->w", mean, mean), energies.sum(0)
    is_quiet = total <= QUIET_SHARE * np.percentile(total, 90)
    return energies, (left < CANCELLED_SHARE * total / len(channels) ** 2) & ~is_quiet, is_quiet


def _cancelling_runs(cancels: np.ndarray, is_quiet: np.ndarray, continues: bool) -> list[tuple[int, int]]:
    """Return the first and last (exclusive) window of each run that cancels, with the quiet windows within and around it.

    Runs of fewer than `MIN_WINDOWS` are left out, unless one continues a run of the previous block (`continues`).
    """
    edges = np.flatnonzero(np.diff(np.concatenate(([False], cancels | is_quiet, [False])).astype(np.int8)))
    least = min(MIN_WINDOWS, len(cancels))
    runs = zip(edges[::2].tolist(), edges[1::2].tolist())
    return [(first, last) for first, last in runs if cancels[first:last].sum() >= least or (continues and not first)]


def as_float(samples: np.ndarray) -> np.ndarray:
    """Convert int16 to float32 in [-1, 1]; return float32 unchanged."""
    return samples if samples.dtype == np.float32 else samples.astype(np.float32) / np.float32(32768)


def _mean(channels: np.ndarray) -> np.ndarray:
    """Average `[channels, S]` to `[S]`."""
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

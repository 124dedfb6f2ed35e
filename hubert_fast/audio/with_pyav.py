"""Decode with FFmpeg (PyAV): formats that libsndfile cannot read, and files whose wrong headers it would trust.

FFmpeg decodes to the last byte. The container is passed to it, so that it does not take a playlist or script for audio, and it
may not open other files or URLs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from ..hub import first_line
from .errors import AudioError

if TYPE_CHECKING:
    from av import AudioFrame

BLOCK_SAMPLES = 1 << 18  # in a block, over all channels
# FFmpeg's demuxers by the container names of `probing`
FORMATS = {
    name: name
    for name in "aac ac3 aiff amr ape asf au avi caf dsf dts flac flv gsm loas matroska mxf ogg paf qcp tta voc w64".split()
} | {
    "m2ts": "mpegts", "mp4": "mov", "mpeg": "mp3", "mpeg-ps": "mpeg", "mpeg-ts": "mpegts", "musepack": "mpc8", "real": "rm",
    "shorten": "shn", "sphere": "nistsphere", "svx": "iff", "wav": "wav", "wavpack": "wv",
}  # fmt: skip
# Samples that encoders insert before the sound, for files that do not state the number. MP3: LAME's 576 plus 529 of every
# decoder. MP2: from the filter bank. AAC: one frame.
USUAL_DELAY = {
    "mp3": 1105, "mp3float": 1105, "mp2": 481, "mp2float": 481, "aac": 1024, "aac_latm": 1024, "ac3": 256, "eac3": 256,
    "dca": 512,
}  # fmt: skip
# Containers whose time stamps are meant for a player, so that missing packets must be replaced by silence
TIMED = frozenset({"mp4", "matroska", "flv", "asf", "mpeg-ts", "mpeg-ps", "m2ts", "avi"})
SEEKABLE = frozenset({"mp4", "matroska"})  # here a seek ends at or before the requested time, with right time stamps
# A time stamp later than the decoded time by more than GAP_SECONDS marks missing packets; one earlier by BACK_SECONDS marks a
# reset of the clock. Where the duration is unreliable or unknown, a gap of more than MAX_GAP_SECONDS is a jump of the clock.
GAP_SECONDS, BACK_SECONDS, MAX_GAP_SECONDS = 0.03, 1.0, 60.0
LATE_SECONDS = 0.1  # sound that begins later than this after the picture is preceded by silence
PREROLL_SECONDS = 0.5  # a seek aims this long before the requested time


class Decoded(NamedTuple):
    """A block of samples `[S, channels]` at one rate: int16, or float32 in [-1, 1]."""

    samples: np.ndarray
    rate_hz: int


class Decoder:
    """Decodes one audio track of a file, the one that FFmpeg considers best.

    Attributes:
        container: A key of `FORMATS`.
        seconds: Duration of the track by the header, `None` if unreliable.
        tracks: Number of audio tracks.
        track: Number of the decoded track, counted from 1.
        lost_seconds: Duration of the packets so far that could not be decoded.
        filled_seconds: Duration of the silence so far that replaces missing packets.
        jumps: Number of jumps of the file's clock so far.

    Raises:
        AudioError: If FFmpeg cannot open the file, or the file has no audio track that it can decode.
    """

    def __init__(self, file: BinaryIO, container: str, **options: str):
        import av

        self._av, self.container, self.lost_seconds, self._delay = av, container, 0.0, 0
        self.filled_seconds, self.jumps = 0.0, 0
        av.logging.set_level(None)  # FFmpeg's log lines do not name the file
        # up to PyAV 18, metadata that is not UTF-8 raises an error
        arguments: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
        arguments["options"] = {"protocol_whitelist": "", **options}
        try:
            self._file = av.open(file, "r", format=FORMATS[container], **arguments)
        except av.error.FFmpegError as error:
            raise AudioError(f"cannot be decoded as {container}: {_reason(error)}") from None
        streams = self._file.streams.audio
        self.tracks = len(streams)
        if not streams:
            self._file.close()
            others = ", ".join(sorted({stream.type for stream in self._file.streams})) or "nothing"
            raise AudioError(f"the file has no audio track, only {others}")
        self._stream: Any = self._file.streams.best("audio") or streams[0]  # Any: PyAV's stubs lack what Stream delegates
        self.track = 1 + next(number for number, stream in enumerate(streams) if stream.index == self._stream.index)
        self.seconds = self._seconds()
        if self._stream.codec_context is not None and self._stream.codec_context.name in ("ac3", "eac3"):
            self._stream.codec_context.options = {"err_detect": "crccheck+explode"}  # by default it conceals damage
        if self._stream.codec_context is None:
            self._file.close()
            raise AudioError("its audio is encrypted or in an encoding that FFmpeg cannot decode")

    def close(self) -> None:
        self._file.close()

    def _seconds(self) -> float | None:
        stream = self._stream
        if self.container in ("mp4", "wavpack", "tta", "ape") and stream.duration is not None:
            start = max(stream.start_time or 0, 0) if self.container == "mp4" else 0
            return float((stream.duration - start) * stream.time_base)
        # For AVI and ASF written to a pipe, FFmpeg guesses the duration. `container_ends` detects whether they are cut off.
        if self.container in ("matroska", "flv") and len(self._file.streams) == 1 and self._file.duration is not None:
            return self._file.duration / 1e6 - self._base_seconds()
        return None

    def blocks(self, start_seconds: float = 0.0) -> Iterator[Decoded]:
        """Decode from `start_seconds` to the end. Damage is left out and counted in `lost_seconds`.

        Args:
            start_seconds: Where to begin, which may differ from 0 only if `can_seek` allows it.

        Raises:
            AudioError: If FFmpeg cannot read on before the end.
        """
        sought = start_seconds > 0 and self._seek(start_seconds)
        delay_seconds = self._delay / self._stream.sample_rate if sought and self._stream.sample_rate else 0.0
        held: list[np.ndarray] = []
        count, rate_hz, ahead = 0, 0, None
        for samples, rate, time in self._timed_samples(not sought):
            if ahead is None:  # the number of samples before the start
                ahead = round((start_seconds - (time - delay_seconds if sought and time is not None else 0.0)) * rate)
            if ahead < 0:  # the sound begins only after the start
                for silence, _, _ in _silence(-ahead / rate, rate, samples):
                    yield Decoded(silence, rate)
                ahead = 0
            if ahead > 0:
                cut = min(ahead, len(samples))
                samples, ahead = samples[cut:], ahead - cut
            if not len(samples):
                continue
            if held and (rate != rate_hz or samples.shape[1] != held[0].shape[1] or samples.dtype != held[0].dtype):
                yield Decoded(np.concatenate(held), rate_hz)
                held, count = [], 0
            held.append(samples)
            count, rate_hz = count + samples.size, rate
            if count >= BLOCK_SAMPLES:
                yield Decoded(np.concatenate(held), rate_hz)
                held, count = [], 0
        if held:
            yield Decoded(np.concatenate(held), rate_hz)

    def _base_seconds(self) -> float:
        """Return the time stamp at which the recording begins. Times below 0 belong to an encoder's delay, which is cut."""
        return max(self._file.start_time or 0, 0) / 1e6

    def can_seek(self, seconds: float) -> bool:
        """Return whether `blocks` can begin at `seconds` without decoding the audio before."""
        return seconds > 2 * PREROLL_SECONDS and self.container in SEEKABLE

    def _seek(self, seconds: float) -> bool:
        base = self._base_seconds()
        with contextlib.suppress(self._av.error.FFmpegError):
            packet = next(self._file.demux(self._stream), None)
            time = None if packet is None or packet.pts is None else float(packet.pts * packet.time_base)
            start = base if self._stream.start_time is None else float(self._stream.start_time * self._stream.time_base)
            if time is not None and time >= max(start, 0.0):  # otherwise FFmpeg knows the delay and cuts it
                self._delay = USUAL_DELAY.get(self._stream.codec_context.name, 0)
            self._file.seek(int((base + seconds - PREROLL_SECONDS) * 1e6))
            return True
        return False

    def _timed_samples(self, from_start: bool) -> Iterator[tuple[np.ndarray, int, float | None]]:
        """Yield samples, their rate and the time of the first one in seconds, `None` if unknown.

        The encoder's delay is cut, and gaps are filled with silence.
        """
        base, drop, rate = self._base_seconds(), 0, 0
        previous: np.ndarray | None = None
        first_time, yielded = None, 0.0  # time of the first frame, and seconds since then
        for frame, first_pts in self._frames():
            if isinstance(frame, float):  # the seconds of a packet that cannot be decoded
                if previous is not None:
                    yielded += frame
                    yield from _silence(frame, rate, previous)
                continue
            if not frame.sample_rate or not frame.samples:
                continue
            rate, time = frame.sample_rate, None
            if frame.pts is not None and frame.time_base:
                time = float(frame.pts * frame.time_base) - base
            samples = _samples(frame)
            if previous is None and from_start:
                drop, before = self._adjust_start(frame, first_pts, time)
                yield from _silence(before / rate, rate, samples)
            previous = samples
            if time is not None and self.container in TIMED:
                first_time = time - yielded if first_time is None else first_time
                gap = time - first_time - yielded
                if gap > GAP_SECONDS and self._is_gap(yielded, gap):
                    self.filled_seconds += gap
                    yielded += gap
                    yield from _silence(gap, rate, samples)
                elif not -BACK_SECONDS < gap <= GAP_SECONDS:  # the clock was reset, or another recording was joined
                    self.jumps += 1
                    first_time += gap
            yielded += len(samples) / rate
            cut = min(drop, len(samples))
            drop -= cut
            yield samples[cut:], rate, time

    def _is_gap(self, yielded: float, gap: float) -> bool:
        """Return whether `gap` seconds of packets are missing. Otherwise the clock has jumped."""
        if self.container in ("mpeg-ts", "m2ts", "mpeg-ps"):
            return gap <= MAX_GAP_SECONDS
        seconds = self._file.duration
        return gap <= MAX_GAP_SECONDS if seconds is None else yielded + gap <= seconds / 1e6 + 1.0

    def _adjust_start(self, frame: AudioFrame, first_pts: int | None, time: float | None) -> tuple[int, int]:
        """Return how many samples to drop at the beginning, and how many samples of silence to insert there.

        Args:
            frame: The first frame.
            first_pts: Time stamp of its packet.
            time: Time of its first sample in seconds.
        """
        codec = self._stream.codec_context.name
        if codec.startswith("wmav"):  # FFmpeg drops the first frame, and encoders are one frame late
            return 0, frame.samples
        if time is not None and time > LATE_SECONDS and self.container in TIMED and len(self._file.streams) > 1:
            return 0, round(time * frame.sample_rate)  # the picture begins earlier
        was_cut = first_pts is not None and ((first_pts < 0 and self.container in TIMED) or frame.pts != first_pts)
        return (0 if was_cut else USUAL_DELAY.get(codec, 0)), 0

    def _frames(self) -> Iterator[tuple[AudioFrame | float, int | None]]:
        """Decode packet by packet. Yield frames, or a damaged packet's seconds, each with the first packet's time stamp."""
        error_types = (self._av.error.FFmpegError, ValueError)
        packets = self._file.demux(self._stream)
        first_pts, is_first = None, True
        while True:
            try:
                packet = next(packets, None)
            except self._av.error.FFmpegError as error:
                raise AudioError(f"cannot be decoded to its end: {_reason(error)}") from None
            if packet is None:
                return
            if is_first:
                first_pts, is_first = packet.pts, False
            try:
                frames = packet.decode()
            except error_types:
                if packet.duration and packet.time_base:
                    seconds = float(packet.duration * packet.time_base)
                    self.lost_seconds += seconds
                    yield seconds, first_pts
                continue
            for frame in frames:
                yield frame, first_pts


def _silence(seconds: float, rate: int, like: np.ndarray) -> Iterator[tuple[np.ndarray, int, None]]:
    """Yield blocks of silence with the channels and dtype of `like`."""
    left, block_frames = round(seconds * rate), max(BLOCK_SAMPLES // like.shape[1], 1)
    while left > 0:
        yield np.zeros((min(left, block_frames), like.shape[1]), like.dtype), rate, None
        left -= block_frames


def _samples(frame: AudioFrame) -> np.ndarray:
    """Return a frame as `[S, channels]`, int16 or float32."""
    data: np.ndarray
    if frame.format.name in ("s64", "s64p"):  # not supported by to_ndarray
        planes = [np.frombuffer(memoryview(plane), np.int64) for plane in frame.planes]
        data = np.stack(
            [plane[: frame.samples * (1 if frame.format.is_planar else frame.layout.nb_channels)] for plane in planes]
        )
    else:
        data = frame.to_ndarray()
    data = data.T if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels)
    if data.dtype == np.int16 or data.dtype == np.float32:
        return data
    if data.dtype == np.uint8:
        return (data.astype(np.float32) - 128) / np.float32(128)
    if np.issubdtype(data.dtype, np.integer):
        return data.astype(np.float32) * np.float32(1 / (1 << 8 * data.dtype.itemsize - 1))
    return data.astype(np.float32)


def _reason(error: Exception) -> str:
    """Return FFmpeg's message without the error code before it and the file name after it."""
    return first_line(error).split("] ")[-1].split(": '")[0]

"""What headerless samples are: their encoding, sampling rate and channels, as ``--stdin-format s16le:16000:2`` says it."""

from __future__ import annotations

from typing import NamedTuple

# Each name with FFmpeg's format for it; NumPy's type follows from the name.
ENCODINGS = tuple("s8 u8 s16le s16be s24le s24be s32le s32be f32le f32be f64le f64be mulaw alaw".split())
RATES_HZ = (1000, 768_000)
RAW_PREFIX = "raw:"  # of "raw:s16le:16000:1:-", samples without a header on standard input
MOST_CHANNELS = 32


class RawFormat(NamedTuple):
    """The encoding of samples that have no header; ``sample_rate_hz`` of each channel, channels interleaved."""

    encoding: str
    sample_rate_hz: int
    channels: int = 1

    @classmethod
    def parse(cls, text: str) -> RawFormat:
        """Read ``"s16le:16000"`` or ``"s16le:16000:2"``. Raises ``ValueError`` that names what is accepted."""
        encoding, *numbers = text.strip().lower().split(":")
        if encoding not in ENCODINGS:
            raise ValueError(f"a raw format begins with one of {', '.join(ENCODINGS)}, but is {text!r}: write s16le:16000")
        if not 1 <= len(numbers) <= 2 or not all(number.isdecimal() and number.isascii() for number in numbers):
            raise ValueError(
                f"a raw format is ENCODING:RATE or ENCODING:RATE:CHANNELS, but is {text!r}: write {encoding}:16000 for one "
                "channel at 16 kHz"
            )
        rate_hz, channels = int(numbers[0]), int(numbers[1]) if len(numbers) == 2 else 1
        if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
            raise ValueError(f"the rate of a raw format is {RATES_HZ[0]} to {RATES_HZ[1]} Hz, but in {text!r} it is {rate_hz}")
        if not 1 <= channels <= MOST_CHANNELS:
            raise ValueError(f"a raw format has 1 to {MOST_CHANNELS} channels, but {text!r} has {channels}")
        return cls(encoding, rate_hz, channels)

    def __str__(self) -> str:
        return f"{self.encoding}:{self.sample_rate_hz}:{self.channels}"

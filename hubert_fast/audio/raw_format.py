"""Parse the format of headerless samples (encoding, sampling rate, channels), such as `s16le:16000:2`."""

from __future__ import annotations

from typing import NamedTuple

# FFmpeg's names of the formats
ENCODINGS = tuple("s8 u8 s16le s16be s24le s24be s32le s32be f32le f32be f64le f64be mulaw alaw".split())
RATES_HZ = (1000, 768_000)
RAW_PREFIX = "raw:"  # in "raw:s16le:16000:1:-", which names headerless samples on standard input
MAX_CHANNELS = 32


class RawFormat(NamedTuple):
    """The format of headerless samples. Channels are interleaved; `sample_rate_hz` is the rate of each channel."""

    encoding: str
    sample_rate_hz: int
    channels: int = 1

    @classmethod
    def parse(cls, text: str) -> RawFormat:
        """Parse text such as `"s16le:16000"` or `"s16le:16000:2"`.

        Raises:
            ValueError: If the text is no such format. The message names the accepted values.
        """
        encoding, *numbers = text.strip().lower().split(":")
        if encoding not in ENCODINGS:
            raise ValueError(
                f"a raw format must begin with one of {', '.join(ENCODINGS)}, but is {text!r}: write for example s16le:16000"
            )
        if not 1 <= len(numbers) <= 2 or not all(number.isdecimal() and number.isascii() for number in numbers):
            raise ValueError(
                f"a raw format must be ENCODING:RATE or ENCODING:RATE:CHANNELS, but is {text!r}: write for example "
                f"{encoding}:16000 for one channel at 16 kHz"
            )
        rate_hz, channels = int(numbers[0]), int(numbers[1]) if len(numbers) == 2 else 1
        if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
            raise ValueError(
                f"the rate of a raw format must be {RATES_HZ[0]} to {RATES_HZ[1]} Hz, but in {text!r} it is {rate_hz}"
            )
        if not 1 <= channels <= MAX_CHANNELS:
            raise ValueError(f"a raw format must have 1 to {MAX_CHANNELS} channels, but {text!r} has {channels}")
        return cls(encoding, rate_hz, channels)

    def __str__(self) -> str:
        return f"{self.encoding}:{self.sample_rate_hz}:{self.channels}"

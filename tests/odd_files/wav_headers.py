"""WAV files whose sizes and chunks violate the standard, or follow it in ways that surprise readers."""

from __future__ import annotations

import struct

import numpy as np
import odd_sounds
from corpus import Corpus
from edits import SIZE_UNKNOWN, chunk, fmt, id3v1, id3v2, put, riff

WORD = "short@6000"
LONGER = "but the file has"


def add(corpus: Corpus) -> None:
    _add_sizes(corpus)
    _add_chunks(corpus)
    _add_encodings(corpus)
    _add_without_samples(corpus)


def _add_sizes(corpus: Corpus) -> None:
    pcm, head = odd_sounds.samples(WORD)[0][0].tobytes(), fmt(6000)
    half = len(pcm) // 2
    for name, inner, outer, what, note in (
        ("zero", 0, 0, "sizes of 0, from a recorder that died", ""),
        ("ffffffff", SIZE_UNKNOWN, SIZE_UNKNOWN, "sizes of 0xFFFFFFFF, from a pipe", ""),
        ("7fffffff", 0x7FFFFFFF - 36, 0x7FFFFFFF, "sizes of 0x7FFFFFFF, from SoX", ""),
        ("80000024", 0x80000000, 0x80000024, "sizes of 0x80000000, from arecord", ""),
        ("half", half, len(pcm) + 36, "an inner size of half the samples", LONGER),
        ("half-both", half, half + 36, "sizes of half the samples", LONGER),
        ("44", 44, len(pcm) + 36, "an inner size of 44 bytes", LONGER),
        ("odd", half + 1, len(pcm) + 36, "an odd inner size of half the samples", LONGER),
        ("outer-zero", len(pcm), 0, "an outer size of 0 and a right inner one", ""),
        ("outer-long", len(pcm), 10**6, "an outer size that is too long", ""),
        ("outer-short", len(pcm), 100, "an outer size that is too short", ""),
    ):
        corpus.add(
            f"wav-size-{name}.wav", riff(head + chunk(b"data", pcm, inner), outer), f"a WAV with {what}", WORD, note=note
        )


def _add_chunks(corpus: Corpus) -> None:
    """Add WAVs of 8-bit samples, which keeps them small."""
    head = fmt(6000, bits=8)
    samples = chunk(b"data", _eight_bit())
    info = chunk(b"LIST", b"INFO" + chunk(b"ISFT", b"recorder\0\0"))
    tag = id3v2(b"TIT2", b"\0stop")
    for name, data, what in (
        ("list-before", riff(head + info + samples), "a LIST chunk before the samples"),
        ("list-after", riff(head + samples + info), "a LIST chunk after the samples"),
        ("list-first", riff(info + head + samples), "a LIST chunk before the format"),
        ("data-in-list", riff(head + chunk(b"LIST", b"INFOdata\4\0\0\0abcd") + samples), "the letters `data` in a LIST chunk"),
        ("id3-chunk", riff(head + samples + chunk(b"id3 ", tag)), "an id3 chunk after the samples"),
        ("id3v1-after", riff(head + samples) + id3v1(), "an ID3v1 tag after the last chunk"),
        ("padded", riff(head + samples) + bytes(700), "zeros after the last chunk"),
        (
            "junk-first",
            riff(chunk(b"JUNK", bytes(28)) + head + samples),
            "a JUNK chunk first, which reserves room for RF64's sizes",
        ),
        ("odd-padded", riff(chunk(b"bext", bytes(603)) + head + samples), "a chunk of odd length, padded"),
        ("odd-unpadded", riff(chunk(b"note", b"odd")[:-1] + head + samples), "a chunk of odd length, not padded"),
        ("fmt-18", riff(chunk(b"fmt ", head[8:] + b"\0\0") + samples), "a format chunk of 18 bytes"),
        ("fact", riff(head + chunk(b"fact", struct.pack("<I", 12)) + samples), "a fact chunk that counts 12 samples"),
        ("byte-rate-zero", riff(put(head, 16, bytes(4)) + samples), "a format of 0 bytes per second"),
        ("block-align-zero", riff(put(head, 20, bytes(2)) + samples), "a format of blocks of 0 bytes"),
    ):
        corpus.add(f"wav-{name}.wav", data, f"a WAV with {what}", WORD)


def _eight_bit() -> bytes:
    return (odd_sounds.samples(WORD)[0][0] // 256 + 128).astype(np.uint8).tobytes()


def _add_encodings(corpus: Corpus) -> None:
    mulaw = corpus.files["wav-mulaw.wav"]
    at = mulaw.index(b"data")
    corpus.add("wav-mulaw-size-zero.wav", put(mulaw, at + 4, bytes(4)), "a mu-law WAV with a data size of 0", WORD)
    for name in ("gsm", "ima-adpcm", "ms-adpcm"):
        data = corpus.files[f"wav-{name}.wav"]
        at = data.index(b"data")
        zero = put(put(data, at + 4, bytes(4)), 4, bytes(4))
        corpus.add(f"wav-{name}-size-zero.wav", zero, f"a WAV of {name} with sizes of 0", "garden@8000")
        few = 650 if name == "gsm" else 1024  # whole blocks
        short = put(data, at + 4, struct.pack("<I", few))
        corpus.add(f"wav-{name}-size-short.wav", short, f"a WAV of {name} with part of its size", "garden@8000", note=LONGER)
    stereo = np.frombuffer(_eight_bit(), np.uint8).repeat(2).tobytes()
    whole = riff(fmt(6000, bits=8, channels=2) + chunk(b"data", stereo, len(stereo) // 2))
    corpus.add("wav-stereo-size-half.wav", whole, "a WAV of two channels with half of its size", WORD, note=LONGER)


def _add_without_samples(corpus: Corpus) -> None:
    head, data = fmt(6000, bits=8), chunk(b"data", _eight_bit())
    corpus.add("wav-no-data.wav", riff(head), "a WAV that ends after its format", error="no samples")
    corpus.add("wav-data-empty.wav", riff(head + chunk(b"data", b"")), "a WAV with 0 samples", error="no samples")
    corpus.add("wav-44-bytes.wav", riff(head + data)[:44], "a WAV that ends after its header", WORD, error="cut")
    corpus.add("wav-channels-zero.wav", riff(put(head, 10, b"\0\0") + data), "a WAV of 0 channels", error="channels")
    corpus.add("wav-rate-zero.wav", riff(put(head, 12, bytes(4)) + data), "a WAV of 0 Hz", error="cannot be decoded")
    corpus.add("wav-unknown-codec.wav", riff(fmt(6000, tag=0x6666) + data), "a WAV with an unknown codec", error="encoding")
    bad = struct.pack("<4f", 0.1, float("nan"), float("inf"), 0.1) * 100
    nan = riff(fmt(6000, bits=32, tag=3) + chunk(b"data", bad))
    corpus.add("wav-nan.wav", nan, "a WAV with NaN and infinite samples", error="NaN")

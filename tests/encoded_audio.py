"""Encode recordings in many formats, give their headers the faults of real files, and decode and compare them."""

import io
import re

import av
import numpy as np
import soundfile

from hubert_fast.audio import read_blocks

BY_LIBSNDFILE = {
    "wav": ("WAV", "PCM_16"), "wav 24 bit": ("WAV", "PCM_24"), "wav float": ("WAV", "FLOAT"), "wav mu-law": ("WAV", "ULAW"),
    "wav gsm": ("WAV", "GSM610"), "wav adpcm": ("WAV", "IMA_ADPCM"), "rf64": ("RF64", "PCM_16"), "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"), "au": ("AU", "PCM_16"), "caf": ("CAF", "PCM_16"), "sphere": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"), "mp3": ("MP3", "MPEG_LAYER_III"), "ogg vorbis": ("OGG", "VORBIS"), "ogg opus": ("OGG", "OPUS"),
}  # fmt: skip
BY_FFMPEG = {  # codec, container, rate
    "m4a": ("aac", "ipod", 44100), "m4a fragmented": ("aac", "mp4", 44100), "alac": ("alac", "ipod", 16000),
    "aac": ("aac", "adts", 16000), "webm": ("libopus", "webm", 48000), "mkv": ("aac", "matroska", 44100),
    "wma": ("wmav2", "asf", 16000), "avi": ("libmp3lame", "avi", 16000), "flv": ("aac", "flv", 44100),
    "mpeg-ts": ("aac", "mpegts", 44100), "mp2": ("mp2", "mp2", 16000), "ac3": ("ac3", "ac3", 32000),
    "wavpack": ("wavpack", "wv", 16000), "tta": ("tta", "tta", 16000), "mp3 44.1 kHz": ("libmp3lame", "mp3", 44100),
    "mov": ("aac", "mov", 44100),
}  # fmt: skip
OPTIONS = {"m4a fragmented": {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "500000"}}


def encode(samples: np.ndarray, format: str) -> bytes:
    """Encode float32 samples at 16 kHz, `[S]` or `[S, channels]`."""
    file = io.BytesIO()
    if format in BY_LIBSNDFILE:
        major, subtype = BY_LIBSNDFILE[format]
        soundfile.write(file, samples, 16000, format=major, subtype=subtype)
        return file.getvalue()
    codec, container, rate_hz = BY_FFMPEG[format]
    with av.open(file, "w", format=container, options=OPTIONS.get(format, {})) as output:
        stream = output.add_stream(codec, rate=rate_hz)
        stream.layout, stream.bit_rate = "mono", 64_000
        stream.codec_context.open()
        frame = av.AudioFrame.from_ndarray((samples[None] * 32767).round().astype(np.int16), format="s16", layout="mono")
        frame.sample_rate = 16000
        resampler = av.AudioResampler(stream.codec_context.format, "mono", rate_hz, stream.codec_context.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return file.getvalue()


def _size_field(format: str, data: bytes) -> tuple[int, int, str]:
    """Return the offset of the size of the samples in the header, its length in bytes and its byte order."""
    if format.startswith("wav"):
        return data.index(b"data") + 4, 4, "little"
    return {
        "rf64": lambda: (data.index(b"ds64") + 16, 8, "little"),
        "w64": lambda: (data.index(b"data\xf3\xac") + 16, 8, "little"),
        "aiff": lambda: (data.index(b"SSND") + 4, 4, "big"),
        "au": lambda: (8, 4, "big"),
        "caf": lambda: (data.index(b"data") + 4, 8, "big"),
    }[format]()


def with_claimed_size(format: str, data: bytes, share: float | None) -> bytes:
    """Return a file whose header claims `share` of its actual size, or states none if `share` is None."""
    out = bytearray(data)
    if format == "sphere":
        count = int(re.search(rb"sample_count -i (\d+)", data)[1])
        line = b"sample_count -i %d" % int(count * share)
        header = data[:1024].replace(b"sample_count -i %d" % count, line, 1)
        return header.rstrip(b"\0").ljust(1024, b"\0") + data[1024:]
    if format == "flac":
        claimed = int.from_bytes(data[18:26], "big")
        total = 0 if share is None else int((claimed & (1 << 36) - 1) * share)
        out[18:26] = (claimed >> 36 << 36 | total).to_bytes(8, "big")
        return bytes(out)
    if format.startswith("mp3"):
        at = max(data.find(b"Xing", 0, 400), data.find(b"Info", 0, 400))
        if share is None:
            return _without_tag(data, at)
        for offset in (at + 8, at + 12):  # frames, bytes
            out[offset : offset + 4] = int(int.from_bytes(data[offset : offset + 4], "big") * share).to_bytes(4, "big")
        return bytes(out)
    at, length, order = _size_field(format, data)
    size = int.from_bytes(data[at : at + length], order)
    fixed = 24 if format == "w64" else 0  # a W64 size includes the header of its chunk
    if share is None:
        claimed = {"wav": 0, "caf": (1 << 64) - 1, "au": (1 << 32) - 1, "rf64": 0, "w64": 0, "aiff": 0}[format.split()[0]]
    else:
        claimed = int((size - fixed) * share) + fixed
    out[at : at + length] = (claimed & ~1 if share is not None else claimed).to_bytes(length, order)
    return bytes(out)


def _without_tag(data: bytes, at: int) -> bytes:
    """Drop the frame that states length and delay, as streaming encoders and audio cutters do."""
    start = data.rfind(b"\xff", 0, at - 8)
    end = start + 4
    while not (data[end] == 0xFF and data[end + 1] == data[start + 1] and data[end + 2] & 0x0C == data[start + 2] & 0x0C):
        end += 1
    return data[:start] + data[end:]


def id3v2(picture_bytes: int) -> bytes:
    """Return an ID3v2.3 tag with a picture of random bytes."""
    picture = b"image/jpeg\0\3\0\xff\xd8\xff\xe0" + np.random.default_rng(1).bytes(picture_bytes)
    frame = b"APIC" + len(picture).to_bytes(4, "big") + b"\0\0" + picture
    return b"ID3\3\0\0" + bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0)) + frame


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return consecutive RIFF chunks with the given names and contents."""
    return b"".join(name + len(data).to_bytes(4, "little") + data + b"\0" * (len(data) % 2) for name, data in chunks)


def lag_seconds(samples: np.ndarray, expected: np.ndarray) -> float:
    """Return by how much `samples` lag behind `expected`, from their cross-correlation."""
    size = 1 << (len(samples) + len(expected)).bit_length()
    correlation = np.fft.irfft(np.fft.rfft(samples, size) * np.conj(np.fft.rfft(expected, size)), size)
    lag = int(np.abs(correlation).argmax())
    return (lag if lag < size // 2 else lag - size) / 16000


def decoded_file(path, **options) -> tuple[np.ndarray, list[str]]:
    """Return the samples of a file as floats, and the notes about it."""
    notes: list[str] = []
    blocks = [block[0] / (32768 if block.dtype == np.int16 else 1) for block in read_blocks(path, note=notes.append, **options)]
    return np.concatenate(blocks), notes

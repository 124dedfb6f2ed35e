"""Files without audio, or without any that can be decoded, under all kinds of names."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile

import numpy as np
from corpus import Corpus, ffmpeg, lame, sox, tool, wav
from edits import chunk, fmt, pages, png, put, riff

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a2146" * 8 + b"\nsize 12345\n"


def add(corpus: Corpus) -> None:
    _add_text(corpus)
    _add_archives(corpus)
    _add_others(corpus)
    _add_too_short(corpus)
    _add_unreadable(corpus)


def _add_text(corpus: Corpus) -> None:
    page = b"<!DOCTYPE html>\n<html><head><title>403 Forbidden</title></head><body>Log in first.</body></html>\n"
    denied = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code><Message>no</Message></Error>'
    for name, data, what, error in (
        ("lfs.wav", LFS, "a Git LFS pointer", "Git LFS pointer"),
        ("html.mp3", page, "a web page", "HTML page"),
        ("xml.flac", denied, "an error message from an object store", "AccessDenied"),
        ("json.m4a", json.dumps({"error": "not found"}).encode(), "JSON", "JSON"),
        ("text.wav", b"move forward eleven steps\n", "a transcript named .wav", "text file"),
        ("playlist.mp3", b"#EXTM3U\n#EXTINF:2,steps\nsteps.mp3\n", "a playlist named .mp3", "playlist"),
        ("hls.m4a", b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n/etc/passwd\n", "an HLS playlist", "playlist"),
        ("concat.wav", b"ffconcat version 1.0\nfile /etc/passwd\n", "a list of files for FFmpeg", "text file"),
        ("pls.ogg", b"[playlist]\nFile1=steps.ogg\n", "a PLS playlist", "playlist"),
        ("utf16.wav", "move forward".encode("utf-16"), "UTF-16 text", "UTF-16"),
        ("subtitles.mp4", b"1\n00:00:00,000 --> 00:00:02,000\nmove forward\n", "subtitles named .mp4", "text file"),
        ("base64.mp3", b"SUQzBAAAAAAAI1RTU0UAAAAPAAADTGF2ZjU4Ljc2LjEwMAAAAAAAAAAAAAAA//tQAAAAAAAA\n", "Base64", "text file"),
        ("csv.wav", b"file,text\nsteps.wav,move forward\n", "a table named .wav", "text file"),
    ):
        corpus.add(name, data, what, error=error)


def _add_archives(corpus: Corpus) -> None:
    inside = corpus.files["amr.amr"]
    packed, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(zipfile.ZipInfo("steps.amr"), inside)
    with tarfile.open(fileobj=tarred, mode="w") as archive:
        entry = tarfile.TarInfo("steps.amr")
        entry.size = len(inside)
        archive.addfile(entry, io.BytesIO(inside))
    for name, data, what, error in (
        ("zip.wav", packed.getvalue(), "a zip archive named .wav", "zip archive"),
        ("gzip.wav", gzip.compress(corpus.files["wav-mulaw.wav"], mtime=0), "a WAV compressed with gzip", "gzip"),
        ("tar.flac", tarred.getvalue()[:2560], "a tar archive named .flac", "tar archive"),
    ):
        corpus.add(name, data, what, error=error)


def _add_others(corpus: Corpus) -> None:
    array = io.BytesIO()
    np.save(array, np.zeros(500, np.float32))
    noise = np.random.default_rng(17).integers(0, 256, 1500, np.uint8).tobytes()
    midi = b"MThd\0\0\0\6\0\0\0\1\0\x60MTrk\0\0\0\4\0\xff\x2f\0"
    for name, data, what, error in (
        ("png.mp3", png(), "a picture named .mp3", "PNG"),
        ("pdf.wav", b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n%%EOF\n", "a PDF named .wav", "PDF"),
        ("zeros.wav", bytes(1200), "1,200 zeros, from a copy that was never written", "zero bytes"),
        ("noise.mp3", noise, "1,500 random bytes", "not audio"),
        ("numpy.wav", array.getvalue(), "a NumPy array named .wav", "NumPy"),
        ("midi.wav", midi, "a MIDI file named .wav", "MIDI"),
        (
            "._steps.wav",
            b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(100),
            "the metadata file that macOS keeps beside steps.wav",
            "AppleDouble",
        ),
        ("one-byte.wav", b"R", "a file of one byte", "text"),
        ("raw.wav", corpus.files["wav-pcm-s16.wav"][44:1044], "samples without a header named .wav", "not audio"),
    ):
        corpus.add(name, data, what, error=error)


def _add_too_short(corpus: Corpus) -> None:
    short = wav(np.arange(399, dtype=np.int16))
    for name, data, what in (
        ("short-399.wav", short, "a WAV of 399 samples, where the model needs 400"),
        ("short-1.wav", wav(np.ones(1, np.int16)), "a WAV of one sample"),
        ("short.flac", tool("flac --silent --no-padding -o OUT IN", "flac", short), "a FLAC of 399 samples"),
    ):
        corpus.add(name, data, what, error="too short")
    corpus.add("short-400.wav", wav(np.zeros(400, np.int16)), "a WAV of 400 samples, which is one frame", "silence@16000:0.025")


def _add_unreadable(corpus: Corpus) -> None:
    video = "-f lavfi -i color=c=red:s=16x16:r=5:d=1"
    for suffix, options in (("mp4", "-c:v mpeg4"), ("mkv", "-c:v mpeg4"), ("avi", "-c:v mpeg4"), ("ogv", "-c:v libtheora")):
        silent = ffmpeg(f"-map 0:v {options}", suffix, "short@6000", video)
        corpus.add(f"video-silent.{suffix}", silent, "a video without sound", error="no audio")
    m4a = corpus.files["aac.m4a"].replace(b"mp4a", b"drms", 1)
    start, end = m4a.index(b"mdat") + 4, m4a.index(b"moov") - 4
    scrambled = np.random.default_rng(17).integers(0, 256, end - start, np.uint8).tobytes()
    corpus.add("drm.m4a", put(m4a, start, scrambled), "an M4A from a shop with copy protection", error="encrypted")
    encrypted = ffmpeg(
        "-c:a aac -b:a 24k -encryption_scheme cenc-aes-ctr -encryption_key 76a6c65c5ea762046bd749a2e632ccbb "
        "-encryption_kid a7e61c373e219033c21091fa607bf3b8",
        "mp4",
        "garden@16000",
    )
    corpus.add("encrypted.mp4", encrypted, "an MP4 whose samples are encrypted (CENC)", error="encrypted")
    corpus.add("no-index.m4a", corpus.files["aac.m4a"].replace(b"moov", b"free"), "an M4A without an index", error="index")
    corpus.add("header-only.mp3", lame("-b 16", "stop@16000")[:2], "the first two bytes of an MP3", error="not audio")
    corpus.add("header-only.flac", corpus.files["flac.flac"][:42], "the header of a FLAC", "short@6000", error="cut off")
    corpus.add("header-only.ogg", corpus.files["vorbis.ogg"][:58], "the first page of an Ogg Vorbis", error="cut off")
    last = pages(corpus.files["vorbis.ogg"])[-1]
    corpus.add("no-beginning.ogg", last, "an Ogg Vorbis without its beginning", "garden@16000", error="beginning")
    too_fast = riff(put(fmt(8000), 12, struct.pack("<I", 4_000_000_000)) + chunk(b"data", bytes(2000)))
    corpus.add("wav-rate-4-GHz.wav", too_fast, "a WAV of four billion samples a second", error="cannot be decoded")
    corpus.add("quiet.wav", sox("", "wav", "silence@6000:0.3"), "0.3 s of silence", "silence@6000:0.3")

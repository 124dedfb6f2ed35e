"""Recognise audio by file name, and check URLs.

Names only decide which files a folder search picks up. Whether a file really is audio depends on its bytes.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from .errors import AudioError

SOUND_SUFFIXES = frozenset(
    ".3ga .aac .ac3 .aif .aifc .aiff .alac .amr .ape .au .avr .awb .caf .dts .flac .gsm .m4a .m4b .m4r .mka .mp2 .mp3 .mpc "
    ".mpga .nist .oga .ogg .opus .qcp .ra .rf64 .snd .spx .sph .tta .voc .w64 .wav .wave .weba .wma .wv".split()
)
VIDEO_SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .f4v .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .vob .webm .wmv".split()
)
# The suffixes that a folder search picks up. From a video, one audio track is read.
AUDIO_SUFFIXES = SOUND_SUFFIXES | VIDEO_SUFFIXES

# Compression methods by the last suffix of a file name. fsspec does not know the short suffixes of tar archives.
COMPRESSION = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz"}
SHORT_TAR_SUFFIXES = {".tgz": "gzip", ".tbz": "bz2", ".tbz2": "bz2", ".txz": "xz"}
TAR_SUFFIXES = (".tar", *(f".tar{suffix}" for suffix in COMPRESSION), *SHORT_TAR_SUFFIXES)

# File systems that read the file named by the URL and nothing else. Deliberately missing: reference (fsspec before 2024.12 runs
# code contained in its JSON) and dir, generic, git, dask and jlab, which give access to arbitrary other files or programs.
PROTOCOLS = frozenset(
    "abfs abfss adl arrow_hdfs az blockcache box cached dbfs dropbox file filecache ftp gcs gdrive github gs hdfs hf http "
    "https libarchive local memory oci ocilake oss r2 s3 s3a sftp simplecache smb ssh tar wasb webdav webhdfs zip".split()
)


def has_audio_suffix(name: str) -> bool:
    """Return whether a name has the suffix of an audio or video file."""
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES


def check_url(url: str) -> None:
    """Raise `AudioError` unless every link of a URL such as `zip://a.wav::s3://b/c.zip` uses one of `PROTOCOLS`."""
    for link in url.split("::"):
        protocol, separator, _ = link.partition("://")
        if (separator or _is_protocol(link)) and protocol not in PROTOCOLS:
            raise AudioError(f"{protocol[:60]}:// URLs are not supported: download the file and pass its path")


def _is_protocol(link: str) -> bool:
    """Return whether fsspec takes a link without `://` for the name of a file system."""
    if not re.fullmatch(r"[a-z]+", link):
        return False
    from fsspec.registry import known_implementations, registry

    return link in known_implementations or link in registry


def archive_options(url: str) -> dict[str, dict[str, str]]:
    """Return fsspec options for a URL: the compression of a tar archive whose short suffix fsspec does not know."""
    name = url.rpartition("::")[2].lower()
    methods = [method for suffix, method in SHORT_TAR_SUFFIXES.items() if name.endswith(suffix)]
    return {"tar": {"compression": methods[0]}} if methods else {}


def is_url(path: str | Path) -> bool:
    """Return whether fsspec should open a path: `s3://bucket/a.wav`, `https://...`, `zip://a.wav::archive.zip`."""
    return "://" in str(path)

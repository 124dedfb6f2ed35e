"""Which file names mean audio: what a folder is searched for. Whether a file is audio, its bytes decide."""

from __future__ import annotations

from pathlib import Path

SOUND_SUFFIXES = frozenset(
    ".3ga .aac .ac3 .aif .aifc .aiff .alac .amr .ape .au .avr .awb .caf .dts .flac .gsm .m4a .m4b .m4r .mka .mp2 .mp3 .mpc "
    ".mpga .nist .oga .ogg .opus .qcp .ra .rf64 .snd .spx .sph .tta .voc .w64 .wav .wave .weba .wma .wv".split()
)
VIDEO_SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .f4v .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .vob .webm .wmv".split()
)
# A folder is searched for these; of a video the first audio track is taken.
AUDIO_SUFFIXES = SOUND_SUFFIXES | VIDEO_SUFFIXES

SHORT_TAR_SUFFIXES = {".tgz": "gzip", ".tbz": "bz2", ".tbz2": "bz2", ".txz": "xz"}


def archive_options(url: str) -> dict[str, dict[str, str]]:
    """Return what fsspec must be told to open a URL: how an archive is compressed whose suffix does not say so to it."""
    name = url.rpartition("::")[2].lower()
    methods = [method for suffix, method in SHORT_TAR_SUFFIXES.items() if name.endswith(suffix)]
    return {"tar": {"compression": methods[0]}} if methods else {}


def is_url(path: str | Path) -> bool:
    """Return whether fsspec is to open it: ``s3://bucket/a.wav``, ``https://...``, ``zip://a.wav::archive.zip``."""
    return "://" in str(path)

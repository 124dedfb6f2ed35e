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


def is_url(path: str | Path) -> bool:
    """Return whether fsspec is to open it: ``s3://bucket/a.wav``, ``https://...``, ``zip://a.wav::archive.zip``."""
    return "://" in str(path)

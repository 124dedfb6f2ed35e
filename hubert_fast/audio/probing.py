"""Recognise the container format of audio by its first bytes, because file names are often wrong."""

from __future__ import annotations

import re

from ..first_bytes import may_be_text
from . import mpeg

ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")
SIGNATURES = (  # container, pattern of its first bytes
    ("wav", re.compile(rb"(?:RIFF|RIFX|RF64|BW64).{4}WAVE", re.DOTALL)),
    ("w64", re.compile(re.escape(W64))),
    ("aiff", re.compile(rb"FORM.{4}AIF[FC]", re.DOTALL)),
    ("au", re.compile(rb"\.snd|dns\.")),
    ("caf", re.compile(rb"caff\0[\x01\x02]")),
    ("sphere", re.compile(rb"NIST_1A\n")),
    ("flac", re.compile(rb"fLaC")),
    ("ogg", re.compile(rb"OggS")),
    ("mp4", re.compile(rb".{4}(?:ftyp|moov|mdat|moof|styp)|\0.{3}(?:wide|free|skip|pnot)", re.DOTALL)),
    ("matroska", re.compile(rb"\x1a\x45\xdf\xa3")),
    ("asf", re.compile(re.escape(ASF))),
    ("amr", re.compile(rb"#!AMR")),
    ("avi", re.compile(rb"(?:RIFF|ON2 ).{4}(?:AVI |AVIX|ON2f)", re.DOTALL)),
    ("flv", re.compile(rb"FLV\x01")),
    ("mpeg-ps", re.compile(rb"\0\0\x01[\xba\xb3]")),
    ("mpeg-ts", re.compile(rb"G.{187}G.{187}G", re.DOTALL)),
    ("m2ts", re.compile(rb".{4}G.{191}G.{191}G", re.DOTALL)),
    ("wavpack", re.compile(rb"wvpk")),
    ("ape", re.compile(rb"MAC ")),
    ("tta", re.compile(rb"TTA[12]")),
    ("musepack", re.compile(rb"MP\+|MPCK")),
    ("ac3", re.compile(rb"\x0b\x77|\x77\x0b")),
    ("dts", re.compile(rb"\x7f\xfe\x80\x01|\xfe\x7f\x01\x80|\x1f\xff\xe8\x00|\xff\x1f\x00\xe8")),
    ("real", re.compile(rb"\.RMF|\.ra\xfd")),
    ("voc", re.compile(rb"Creative Voice File")),
    ("shorten", re.compile(rb"ajkg")),
    ("dsf", re.compile(rb"DSD ")),
    ("mxf", re.compile(rb"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02")),
    ("qcp", re.compile(rb"RIFF.{4}QLCM", re.DOTALL)),
    ("avr", re.compile(rb"2BIT")),
    ("ircam", re.compile(rb"\x64\xa3[\x01-\x04]\0|\0[\x01-\x04]\xa3\x64")),
    ("paf", re.compile(rb" paf|fap ")),
    ("svx", re.compile(rb"FORM.{4}(?:8SVX|16SV)", re.DOTALL)),
    ("aac", re.compile(rb"ADIF")),
)
TEXT_HEADERS = ("sphere", "amr")  # formats that begin with text, though not as a list would


def container_of(head: bytes) -> str | None:
    """Return the name of the audio or video container that begins with `head`, or `None` if the bytes do not tell.

    `head` is the first 1,024 bytes, or all of a shorter file.

    MPEG audio and ADTS AAC have no signature, only frames that follow each other. They are recognised if the first frame is at
    the very beginning or after an ID3v2 tag; `planning.plan_file` also looks for them after other bytes.
    """
    is_text = may_be_text(head)
    for name, signature in SIGNATURES:
        if signature.match(head) and not (is_text and name not in TEXT_HEADERS):
            return name
    after_tag = mpeg.end_of_id3v2(head)
    if after_tag > len(head):  # a tag with a picture: nearly always followed by MPEG audio
        return "mpeg"
    if after_tag:
        return container_of(head[after_tag:]) or "mpeg"
    if mpeg.loas_length(head):
        return "loas"
    if mpeg.adts_length(head):
        return "aac"
    return "mpeg" if mpeg.frame_length(head) else None


def looks_like_audio(head: bytes) -> bool:
    """Return whether a file that begins with `head` is audio or video."""
    return container_of(head) is not None

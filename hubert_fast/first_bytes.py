"""Identify a file by its first bytes: Git LFS pointers, web pages, archives, images, text.

Errors about audio, checkpoints and lists use this where the message of the decoding library would mislead. No file is decoded
here. Advice that applies only to weights is in `other_formats`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

HEAD_BYTES = 1024  # enough for every signature below: that of tar is at byte 257


class Identity(NamedTuple):
    """The kind of a file, and advice for the user.

    Attributes:
        kind: A short stable name, such as `"git-lfs"` or `"html"`.
        description: A noun phrase with its article, which completes "this is ...".
        advice: An imperative clause that says what to do.
    """

    kind: str
    description: str
    advice: str

    def instead_of(self, expected: str) -> str:
        """Return a one-line message for a place where `expected`, such as "audio" or "weights", should be."""
        return f"this is {self.description}, not {expected}: {self.advice}"


SIGNATURES = (  # kind, bytes, their offset in the file, description, advice
    ("gzip", b"\x1f\x8b", 0, "a gzip file", "decompress it with `gunzip`"),
    ("bzip2", b"BZh", 0, "a bzip2 file", "decompress it with `bunzip2`"),
    ("xz", b"\xfd7zXZ\0", 0, "an xz file", "decompress it with `unxz`"),
    ("zstd", b"\x28\xb5\x2f\xfd", 0, "a Zstandard file", "decompress it with `unzstd`"),
    ("zip", b"PK\x03\x04", 0, "a zip archive", "unpack it, or name a file in it as zip://NAME::ARCHIVE.zip"),
    ("zip", b"PK\x05\x06", 0, "an empty zip archive", "name the intended one"),
    ("tar", b"ustar", 257, "a tar archive", "unpack it, or name a file in it as tar://NAME::ARCHIVE.tar"),
    ("7z", b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive", "unpack it"),
    ("rar", b"Rar!\x1a\x07", 0, "a RAR archive", "unpack it"),
    (
        "appledouble",
        b"\x00\x05\x16\x07",
        0,
        "macOS metadata (AppleDouble)",
        "name the file of the same name without `._`",
    ),
    ("applesingle", b"\x00\x05\x16\x00", 0, "a file in macOS's AppleSingle format", "unpack it on a Mac"),
    ("pdf", b"%PDF-", 0, "a PDF document", "name the intended file"),
    ("png", b"\x89PNG\r\n\x1a\n", 0, "a PNG image", "name the intended file"),
    ("jpeg", b"\xff\xd8\xff", 0, "a JPEG image", "name the intended file"),
    ("gif", b"GIF8", 0, "a GIF image", "name the intended file"),
    ("elf", b"\x7fELF", 0, "a Linux program or library", "name the intended file"),
    ("numpy", b"\x93NUMPY", 0, "a NumPy array", "load it with numpy.load, and pass the samples to Transcriber.transcribe"),
    ("parquet", b"PAR1", 0, "a Parquet table", "give it the suffix .parquet, so that its rows are read"),
    ("arrow", b"ARROW1", 0, "an Arrow file", "give it the suffix .arrow, so that its rows are read"),
    ("hdf5", b"\x89HDF\r\n\x1a\n", 0, "an HDF5 file", "name the intended file"),
    ("sqlite", b"SQLite format 3\0", 0, "an SQLite database", "name the intended file"),
    ("gguf", b"GGUF", 0, "a GGUF file", "name the intended file"),
    ("tflite", b"TFL3", 4, "a TensorFlow Lite model", "name the intended file"),
    ("pickle", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", 0, "a PyTorch file", "name the intended file"),
    ("pickle", b"\x80\x02}q", 0, "a Python pickle", "name the intended file"),
    ("pickle", b"\x80\x03}q", 0, "a Python pickle", "name the intended file"),
    ("pickle", b"\x80\x04\x95", 0, "a Python pickle", "name the intended file"),
    ("pickle", b"\x80\x05\x95", 0, "a Python pickle", "name the intended file"),
    ("midi", b"MThd", 0, "a MIDI file, which holds notes, not sound", "render it first"),
)
LFS = re.compile(rb"version https://git-lfs\.github\.com/spec/.*?^size (\d+)", re.DOTALL | re.MULTILINE)
ONNX = re.compile(rb"\x08[\x01-\x20]\x12[\x01-\x40][\x20-\x7e]{2}")  # the version of the format and the name of the producer
HTML = re.compile(rb"<(?:!doctype\s+html|html|head|body|title)\b", re.IGNORECASE)
MARKS = {  # byte order marks; longer ones come first
         b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16",
         b"\xfe\xff": "utf-16"}  # fmt: skip


def identify(head: bytes) -> Identity | None:
    """Identify a file by `head`, its first `HEAD_BYTES`. Return `None` when the bytes match nothing known.

    Audio and weights are not recognised here, but by their readers.
    """
    if not head:
        return Identity("empty", "an empty file (0 bytes)", "download or write it again")
    if pointer := LFS.match(head):
        size = f"{int(pointer[1]):,}"
        return Identity("git-lfs", f"a Git LFS pointer to a file of {size} bytes", "run `git lfs pull` in its repository")
    looks_like_text = may_be_text(head)
    for kind, signature, offset, description, advice in SIGNATURES:
        # a text may happen to begin with the letters of a signature
        is_word_of_text = looks_like_text and signature.isalnum() and offset < 8
        if head[offset : offset + len(signature)] == signature and not is_word_of_text:
            return Identity(kind, description, advice)
    if ONNX.match(head):
        return Identity("onnx", "an ONNX model", "name the intended file")
    if len(head) >= 512 and not head.strip(b"\0"):
        return Identity("zeros", "a file that begins with nothing but zero bytes", "download or copy it again")
    return _identify_text(head)


def _identify_text(head: bytes) -> Identity | None:
    encoding = next((name for mark, name in MARKS.items() if head.startswith(mark)), None)
    if encoding in ("utf-16", "utf-32"):
        return Identity(encoding, f"a text file in {encoding.upper()}", "save it as UTF-8")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if HTML.match(text) or (text.startswith(b"<!--") and HTML.search(text)):
        return Identity(
            "html", "an HTML page", "a server sent an error page or a log-in form in place of the file, so download it again"
        )
    if text.startswith(b"<?xml") or text.startswith(b"<Error>"):
        error = re.search(rb"<Code>([\w.]{1,60})</Code>", text)
        description = f"an XML error message ({error[1].decode()})" if error else "an XML document"
        return Identity("xml", description, "download the file itself again")
    if not _is_text(head):
        return None
    if re.match(rb"#EXTM3U|\[playlist\]", text, re.IGNORECASE):
        return Identity("playlist", "a playlist", "name the files in it, or give it the suffix .m3u to use it as a list")
    if re.match(rb"[\[{]\s*(?:[\[{\]}\"\d-]|$)", text):
        return Identity("json", "JSON text", "name the intended file")
    first_line = text.split(b"\n", 1)[0][:60].decode("utf-8", "replace").strip()
    return Identity("text", f"a text file that begins with {first_line!r}", "name the intended file")


def may_be_text(head: bytes) -> bool:
    """Return whether the bytes are UTF-8 text, possibly with NUL characters between entries, as `find -print0` writes it."""
    return _is_text(head.replace(b"\0", b"\n"))


def _is_text(head: bytes) -> bool:
    """Return whether the bytes are UTF-8 without control characters except white space. The last character may be cut off."""
    if any(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head) or b"\x7f" in head:
        return False
    for cut in range(4):
        try:
            head[: len(head) - cut].decode("utf-8")
            return len(head) > cut
        except UnicodeDecodeError:
            continue
    return False


def head_of(path: str | Path) -> bytes:
    """Return the first `HEAD_BYTES` of a local file. Raises `OSError` as `open` does."""
    with open(path, "rb") as file:
        return file.read(HEAD_BYTES)

"""Say what a file is by its first bytes, where a library's own message would mislead: pointers, web pages, archives, text.

Used before audio, checkpoints and lists are read. Nothing here decodes or imports anything.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

HEAD_BYTES = 1024  # enough for every signature below; tar's is at byte 257


class Identity(NamedTuple):
    """What a file is.

    kind: a short stable name, such as ``"git-lfs"`` or ``"html"``. description: a noun phrase with its article that completes
    "this is ...". advice: what to do about it, as an imperative clause.
    """

    kind: str
    description: str
    advice: str

    def instead_of(self, wanted: str) -> str:
        """Return the one line to show where something else was expected: ``wanted`` is "audio", "weights", "a list"."""
        return f"this is {self.description}, not {wanted}: {self.advice}"


SIGNATURES = (  # kind, bytes, where they stand, description, advice
    ("gzip", b"\x1f\x8b", 0, "a gzip file", "decompress it with `gunzip`"),
    ("bzip2", b"BZh", 0, "a bzip2 file", "decompress it with `bunzip2`"),
    ("xz", b"\xfd7zXZ\0", 0, "an xz file", "decompress it with `unxz`"),
    ("zstd", b"\x28\xb5\x2f\xfd", 0, "a Zstandard file", "decompress it with `unzstd`"),
    ("zip", b"PK\x03\x04", 0, "a zip archive", "unpack it, or name what is in it as zip://NAME::ARCHIVE.zip"),
    ("zip", b"PK\x05\x06", 0, "an empty zip archive", "name the one that was meant"),
    ("tar", b"ustar", 257, "a tar archive", "unpack it, or name what is in it as tar://NAME::ARCHIVE.tar"),
    ("7z", b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive", "unpack it"),
    ("rar", b"Rar!\x1a\x07", 0, "a RAR archive", "unpack it"),
    (
        "appledouble",
        b"\x00\x05\x16\x07",
        0,
        "macOS metadata (AppleDouble)",
        "name the file beside it, without `._`",
    ),
    ("applesingle", b"\x00\x05\x16\x00", 0, "a file in macOS's AppleSingle format", "unpack it on a Mac"),
    ("pdf", b"%PDF-", 0, "a PDF document", "name the file that was meant"),
    ("png", b"\x89PNG\r\n\x1a\n", 0, "a PNG image", "name the file that was meant"),
    ("jpeg", b"\xff\xd8\xff", 0, "a JPEG image", "name the file that was meant"),
    ("gif", b"GIF8", 0, "a GIF image", "name the file that was meant"),
    ("elf", b"\x7fELF", 0, "a Linux program or library", "name the file that was meant"),
    ("numpy", b"\x93NUMPY", 0, "a NumPy array", "load it with numpy.load, and pass the samples to Transcriber.transcribe"),
    ("parquet", b"PAR1", 0, "a Parquet table", "write its rows as JSON lines, and its audio as files"),
    ("arrow", b"ARROW1", 0, "an Arrow file", "write its rows as JSON lines, and its audio as files"),
    ("hdf5", b"\x89HDF\r\n\x1a\n", 0, "an HDF5 file", "name the file that was meant"),
    ("sqlite", b"SQLite format 3\0", 0, "an SQLite database", "name the file that was meant"),
    ("gguf", b"GGUF", 0, "a GGUF file", "name the file that was meant"),
    ("tflite", b"TFL3", 4, "a TensorFlow Lite model", "name the file that was meant"),
    ("pickle", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", 0, "a PyTorch file", "name the file that was meant"),
    ("pickle", b"\x80\x02}q", 0, "a Python pickle", "name the file that was meant"),
    ("pickle", b"\x80\x03}q", 0, "a Python pickle", "name the file that was meant"),
    ("pickle", b"\x80\x04\x95", 0, "a Python pickle", "name the file that was meant"),
    ("pickle", b"\x80\x05\x95", 0, "a Python pickle", "name the file that was meant"),
    ("midi", b"MThd", 0, "a MIDI file, which holds notes and no sound", "render it first"),
)
LFS = re.compile(rb"version https://git-lfs\.github\.com/spec/.*?^size (\d+)", re.DOTALL | re.MULTILINE)
ONNX = re.compile(rb"\x08[\x01-\x20]\x12[\x01-\x40][\x20-\x7e]{2}")  # its version and the name of its producer
HTML = re.compile(rb"<(?:!doctype\s+html|html|head|body|title)\b", re.IGNORECASE)
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16",
         b"\xfe\xff": "utf-16"}  # fmt: skip  # the longer ones first


def identify(head: bytes) -> Identity | None:
    """Return what a file is that begins with ``head`` (``HEAD_BYTES`` of it), or ``None`` when the bytes do not tell.

    Knows nothing about audio or weights, which their own readers recognise.
    """
    if not head:
        return Identity("empty", "an empty file (0 bytes)", "fetch or write it again")
    if found := LFS.match(head):
        size = f"{int(found[1]):,}"
        return Identity("git-lfs", f"a Git LFS pointer to a file of {size} bytes", "run `git lfs pull` where it was cloned")
    of_text = may_be_text(head)
    for kind, signature, start, description, advice in SIGNATURES:
        if head[start : start + len(signature)] == signature and not (of_text and signature.isalnum() and start < 8):
            return Identity(kind, description, advice)
    if ONNX.match(head):
        return Identity("onnx", "an ONNX program", "name the file that was meant")
    if len(head) >= 512 and not head.strip(b"\0"):
        return Identity("zeros", "a file that begins with nothing but zero bytes", "fetch or copy it again")
    return _identify_text(head)


def _identify_text(head: bytes) -> Identity | None:
    encoding = next((name for mark, name in MARKS.items() if head.startswith(mark)), None)
    if encoding in ("utf-16", "utf-32"):
        return Identity(encoding, f"a text file in {encoding.upper()}", "save it as UTF-8")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if HTML.match(text) or (text.startswith(b"<!--") and HTML.search(text)):
        return Identity(
            "html", "an HTML page", "a server sent a page in its place, such as an error or a log-in form, so fetch it again"
        )
    if text.startswith(b"<?xml") or text.startswith(b"<Error>"):
        error = re.search(rb"<Code>([\w.]{1,60})</Code>", text)
        what = f"an XML error message ({error[1].decode()})" if error else "an XML document"
        return Identity("xml", what, "fetch the file itself again")
    if not _is_text(head):
        return None
    if re.match(rb"#EXTM3U|\[playlist\]", text, re.IGNORECASE):
        return Identity("playlist", "a playlist", "name the files in it, or the playlist as a list with the suffix .m3u")
    if re.match(rb"[\[{]\s*(?:[\[{\]}\"\d-]|$)", text):
        return Identity("json", "JSON text", "name the file that was meant")
    first = text.split(b"\n", 1)[0][:60].decode("utf-8", "replace").strip()
    return Identity("text", f"a text file that begins with {first!r}", "name the file that was meant")


def may_be_text(head: bytes) -> bool:
    """Return whether the bytes are text or names with NULs between: a line of it may begin with letters of a signature."""
    return _is_text(head.replace(b"\0", b"\n"))


def _is_text(head: bytes) -> bool:
    """Return whether the bytes are UTF-8 (the last character may be cut) without control characters other than white space."""
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
    """Return the first bytes of a local file. ``OSError`` as from ``open``."""
    with open(path, "rb") as file:
        return file.read(HEAD_BYTES)

"""What is to be transcribed: files, folders, patterns, lists and manifests, one utterance after the other."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..audio import AUDIO_SUFFIXES, is_url
from . import manifests


@dataclass(frozen=True, slots=True)
class Utterance:
    """A file, or a part of one, to be transcribed.

    id: the manifest's, or the path, with ``#from-to`` seconds behind it for a part.
    audio: local path or URL.
    offset_seconds, duration_seconds: of the part; ``None`` is up to the end.
    reference: what is said in it, if known.
    name: where its own file of text goes below an output folder, without suffix.
    error: why it cannot be transcribed, if that is known before it is opened.
    """

    id: str
    audio: str
    offset_seconds: float = 0.0
    duration_seconds: float | None = None
    reference: str | None = None
    name: str = ""
    error: str | None = None

    @property
    def key(self) -> bytes:
        """What tells it from every other, as 16 bytes."""
        parts = (self.id, self.audio, repr(self.offset_seconds), repr(self.duration_seconds))
        return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Shard(NamedTuple):
    """The ``index``-th, from 1, of ``count`` parts of the inputs. An utterance's key says which one it belongs to."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``"2/16"``. Raises ``ValueError`` unless it is I/N with 1 <= I <= N."""
        index, slash, count = text.partition("/")
        if slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
            return cls(int(index), int(count))
        raise ValueError(f"a shard must be I/N with I from 1 to N, such as 2/16, but is {text!r}")

    def __contains__(self, utterance: Utterance) -> bool:
        return int.from_bytes(utterance.key[:8], "big") % self.count == self.index - 1


class Inputs(Iterable[Utterance]):
    """The utterances of what a command names; nothing is kept of them.

    sources: audio files, folders (searched recursively, sorted), glob patterns, manifests (:mod:`.manifests`), ``-`` for a
        list on standard input; local, or URLs that fsspec knows.
    shard: give only these.

    A source that does not exist or holds no audio is an utterance with an ``error``. Raises :class:`manifests.ManifestError`
    while it is run through, when a manifest cannot be read at all.
    """

    def __init__(self, sources: Iterable[str | Path], shard: Shard | None = None):
        self.sources = [os.fspath(source) for source in ([sources] if isinstance(sources, (str, Path)) else sources)]
        if self.sources.count("-") > 1:
            raise ValueError("standard input can be read once, but '-' was named twice")
        self.shard = shard

    @property
    def can_repeat(self) -> bool:
        """Whether they can be run through again."""
        return not any(source == "-" or (os.path.exists(source) and _is_read_once(source)) for source in self.sources)

    @property
    def is_one_file(self) -> bool:
        """Whether they are the one file that is named, and no list or pattern or folder."""
        if len(self.sources) != 1 or self.sources[0] == "-" or manifests.is_manifest(self.sources[0]):
            return False
        (source,) = self.sources
        if is_url(source):
            return PurePosixPath(source).suffix.lower() in AUDIO_SUFFIXES and not glob.has_magic(source)
        return os.path.isfile(source) or not (os.path.exists(source) or glob.has_magic(source))

    def __iter__(self) -> Iterator[Utterance]:
        for source in self.sources:
            for utterance in _of_source(source):
                if self.shard is None or utterance in self.shard:
                    yield utterance


def _is_read_once(source: str) -> bool:
    return not os.path.isfile(source) and not os.path.isdir(source)


def _of_source(source: str) -> Iterator[Utterance]:
    if source == "-":
        yield from _of_entries(manifests.standard_input(), "-")
    elif is_url(source) and not manifests.is_manifest(source):
        yield from _of_url(source)
    elif manifests.is_manifest(source) and not os.path.isdir(source):
        yield from _of_entries(manifests.read(source), source)
    else:
        try:
            yield from _of_path(source)
        except OSError as error:  # a name that is too long, a folder that may not be entered
            yield Utterance(source, source, error=f"{source}: cannot be looked at: {error.strerror}")


def _of_path(source: str) -> Iterator[Utterance]:
    if os.path.isdir(source):
        utterance = None
        for utterance in _below(source):
            yield utterance
        if utterance is None:
            suffixes = ", ".join(sorted(AUDIO_SUFFIXES))
            yield Utterance(source, source, error=f"{source}: no audio files in this folder ({suffixes})")
    elif not os.path.lexists(source) and glob.has_magic(source):
        found = False
        for match in sorted(glob.iglob(source, recursive=True)):
            if os.path.isdir(match):
                continue  # of ** itself
            found = True
            yield Utterance(match, match, name=_stem(os.path.basename(match)))
        if not found:
            yield Utterance(source, source, error=f"{source}: nothing matches this pattern")
    else:
        error = None
        try:
            os.stat(source)
        except FileNotFoundError:
            error = f"{source}: no such file or folder"
        yield Utterance(source, source, name=_stem(os.path.basename(source)), error=error)


def _below(source: str) -> Iterator[Utterance]:
    """Audio files below a folder, a folder at a time in alphabetical order; folders that may not be entered as errors."""
    refused: list[OSError] = []
    for parent, folders, files in os.walk(source, onerror=refused.append):
        folders.sort()
        for file in sorted(files):
            if os.path.splitext(file)[1].lower() in AUDIO_SUFFIXES:
                path = os.path.join(parent, file)
                yield Utterance(path, path, name=_stem(os.path.relpath(path, source)))
    for error in refused:
        path = os.fspath(error.filename)
        yield Utterance(path, path, error=f"{path}: cannot be looked at: {error.strerror}")


def _of_url(source: str) -> Iterator[Utterance]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(source)
        if source.startswith(("http://", "https://")):  # which know no folders, and have ? in names
            yield Utterance(source, source, name=_stem(PurePosixPath(path).name))
            return
        if glob.has_magic(path):
            matches = sorted(match for match in system.glob(path) if not system.isdir(match))
        elif system.isdir(path) and PurePosixPath(path).suffix.lower() not in AUDIO_SUFFIXES:
            matches = [file for file in system.find(path) if PurePosixPath(file).suffix.lower() in AUDIO_SUFFIXES]
        else:
            yield Utterance(source, source, name=_stem(PurePosixPath(path).name))
            return
    except Exception as error:  # each file system has its own
        yield Utterance(source, source, error=f"{source}: cannot be looked at: {error}")
        return
    within = source[source.index("::") :] if "::" in source else ""  # zip://a/*.wav::archive.zip
    for match in matches:
        name = match.removeprefix(path.rstrip("/") + "/") if match.startswith(path.rstrip("/")) else PurePosixPath(match).name
        url = system.unstrip_protocol(match) + within
        yield Utterance(url, url, name=_stem(name))
    if not matches:
        yield Utterance(source, source, error=f"{source}: no audio files here")


def _of_entries(entries: Iterator[manifests.Entry], source: str) -> Iterator[Utterance]:
    folder = os.path.dirname(source) if source != "-" else ""
    for entry in entries:
        if entry.error is not None:
            yield Utterance(f"{source}:{entry.line}", source, error=f"{source}, {entry.error}")
            continue
        audio = _beside(entry.audio, folder)
        part = _part(entry.offset_seconds, entry.duration_seconds)
        id = entry.id or f"{entry.audio}{part}"
        name = _stem(entry.audio) + part.replace("#", ".") if entry.id is None else entry.id
        yield Utterance(id, audio, entry.offset_seconds or 0.0, entry.duration_seconds, entry.reference, name)


def _beside(audio: str, folder: str) -> str:
    """A relative path is of the working directory or, if there is no such file, of the manifest's folder."""
    if is_url(audio) or os.path.isabs(audio) or not folder or (not is_url(folder) and os.path.exists(audio)):
        return audio
    return f"{folder}/{audio}"


def _part(offset_seconds: float | None, duration_seconds: float | None) -> str:
    if offset_seconds is None:
        return ""
    return f"#{offset_seconds:.10g}-" + ("" if duration_seconds is None else f"{offset_seconds + duration_seconds:.10g}")


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]

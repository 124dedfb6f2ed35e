"""Read the audio in tar archives as a stream. As in WebDataset, the files of a sample share their names up to the first dot."""

from __future__ import annotations

import contextlib
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple, cast

from ...audio.contained import Contained
from ...first_bytes import HEAD_BYTES, Identity, identify
from ...hub import first_line
from ..audio_filter import AudioFilter, is_system_path
from ..rows import MOST_TEXT_BYTES, TEXT_SUFFIXES, reference_in_file
from ..utterances import Utterance
from . import streams

BUFFER_BYTES = 1 << 16
DAMAGE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError)


class _Header(tarfile.TarInfo):
    """A member's header. `tarfile` takes damage between members for the end of the archive; here it is an error."""

    @classmethod
    def fromtarfile(cls, archive: Any) -> Any:
        try:
            member = super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            archive.has_end = True
            raise
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            if archive.has_end or not archive.offset:
                raise
            raise tarfile.ReadError("its end mark is missing, so it may be cut off") from None
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no member begins at byte {archive.offset}: {error}") from None
        archive.has_end = False
        return member


class _Archive(tarfile.TarFile):
    """An archive, or several that were joined, as `cat a.tar b.tar` does."""

    tarinfo = _Header
    has_end = False


@dataclass
class _Sample:
    """Consecutive members whose names are the same up to the first dot: audio files and texts."""

    key: str = ""
    audio: list[tuple[str, Contained]] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)

    def utterances(self, filter: AudioFilter) -> Iterator[Utterance]:
        """Yield the audio files; let `filter` count texts that stand alone."""
        for name in () if self.audio else self.texts:
            filter.accepts(name)
        for name, audio in self.audio:
            stem = os.path.splitext(name)[0]
            yield Utterance(str(audio), audio, reference=self._reference(stem), name=stem.removeprefix("./"))

    def _reference(self, stem: str) -> str | None:
        """Return the text beside audio: that of the same name, or else of the same sample."""
        for suffix in TEXT_SUFFIXES:
            text = self.texts.get(stem + suffix, self.texts.get(self.key + suffix))
            if text is None:
                continue
            with contextlib.suppress(ValueError, RecursionError):  # a faulty text must not prevent transcription
                return reference_in_file(suffix, text)
        return None


def key_of(name: str) -> str:
    """Return what the files of a sample share: the path up to the first dot of the file's name."""
    folder, name = os.path.split(name)
    return os.path.join(folder, name.partition(".")[0])


class Member(NamedTuple):
    """A file in an archive: its name and size, and its content, which is to be read before the next member is asked for."""

    name: str
    size: int
    content: BinaryIO


class Link(io.BytesIO):
    """The empty content of a member that is a link to another, which cannot be followed.

    Attributes:
        target: The name of the other member.
    """

    def __init__(self, target: str):
        super().__init__()
        self.target = target


def members(file: BinaryIO) -> Iterator[Member]:
    """Yield the regular files in an archive that is read as a stream.

    A link to an earlier member, as archives have them for files with several names, is followed in a local file that is not
    compressed. Otherwise its content is a `Link`.

    Raises:
        TarError: If the archive is damaged, as with other errors in `DAMAGE`.
    """
    stream = streams.decompressed(file)
    again = stream is file and isinstance(getattr(file, "raw", None), io.FileIO)
    places: dict[str, tuple[int, int]] = {}
    with _Archive.open(fileobj=stream, mode="r|", bufsize=BUFFER_BYTES, ignore_zeros=True) as archive:
        while (member := archive.next()) is not None:
            if member.isreg():
                places[member.name] = member.offset_data, member.size
                yield Member(member.name, member.size, cast(BinaryIO, archive.extractfile(member)))
            elif member.islnk() and again and member.linkname in places:
                start, size = places[member.name] = places[member.linkname]
                yield Member(member.name, size, io.BytesIO(os.pread(file.fileno(), size, start)))
            elif member.islnk() or member.issym():
                yield Member(member.name, 0, Link(member.linkname))
            archive.members = []  # type: ignore[attr-defined]  # else memory grows with the number of members


def utterances(source: str, note: Callable[[str], None] = lambda message: None) -> Iterator[Utterance]:
    """Yield the audio files in a tar archive, in its order, with the bytes of each.

    If the archive is damaged or not one, the last utterance has an error that says so.

    Args:
        source: The path or URL of the archive, which may be compressed by gzip, bzip2 or xz.
        note: Function called with each warning about the archive.

    Raises:
        StorageError: If the file cannot be opened or read.
    """
    filter, sample = AudioFilter(reads=False), _Sample()
    seen, keys = set[str](), set[str]()
    late, current, problem = 0, "", None
    with streams.opened(source) as file:
        identity = identify(cast(io.BufferedReader, file).peek(HEAD_BYTES)[:HEAD_BYTES])
        try:
            for name, size, content in members(file):
                current = name
                if is_system_path(name):
                    continue
                if key_of(name) != sample.key:
                    yield from sample.utterances(filter)
                    sample = _Sample(key_of(name))
                if name.lower().endswith(TEXT_SUFFIXES) and size <= MOST_TEXT_BYTES:
                    late += sample.key in keys and not sample.audio
                    sample.texts[name] = content.read()
                    continue
                if not filter.accepts(name):
                    continue
                url = f"tar://{name}::{source}"
                reason = None
                if name in seen:
                    reason = "the archive has several files of this name, of which only the first is read"
                elif isinstance(content, Link):
                    reason = (
                        f"this is a link to {content.target}, which cannot be followed in an archive that is read as a stream"
                    )
                if reason is not None:
                    yield Utterance(f"{url}#{len(seen)}", url, error=f"{url}: {reason}", token=f"after {len(seen)}")
                    continue
                sample.audio.append((name, Contained.read(url, content, size)))
                seen.add(name)
                keys.add(sample.key)
        except DAMAGE as error:
            problem = first_line(error)
    yield from sample.utterances(filter)
    if problem is not None:
        yield Utterance(source, source, error=f"{source}: {_damage(identity, current, len(seen), problem)}")
        return
    if not seen:
        rejected = filter.describe_rejected()
        yield Utterance(source, source, error=f"{source}: no audio files here{f', only {rejected}' if rejected else ''}")
        return
    if (rejected := filter.describe_rejected()) is not None:
        note(f"skipped {rejected}")
    if late:
        note(f"{late} texts are not used, since they do not stand beside their audio: sort the archive by name")


def _damage(identity: Identity | None, current: str, count: int, problem: str) -> str:
    """Describe damage after `count` audio files, in or after the member `current`."""
    if not current and identity is not None and identity.kind not in ("tar", "gzip", "bzip2", "xz", "zeros"):
        return identity.instead_of("an archive that can be read by its name")
    if not current and identity is None:
        return f"this is not a tar archive: {problem}"
    if not current:
        return f"the archive is damaged at its beginning: {problem}"
    files = "1 audio file before that was" if count == 1 else f"{count} audio files before that were"
    return f"the archive is damaged in or after {current} ({problem}): {files} read, and the rest is lost"

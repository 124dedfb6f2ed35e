"""What is to be transcribed: files, folders, patterns, lists and archives, one utterance after the other."""

from __future__ import annotations

import os
import stat
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..audio import AUDIO_SUFFIXES, is_url
from ..audio.pipes import Command
from ..audio.raw_format import RAW_PREFIX, RawFormat
from ..audio.standard_input import named_pipe, standard_input
from ..first_bytes import identify
from . import manifests
from .folders import Walk, reason_of_link
from .left_out import Sieve, is_audio, is_audio_file, is_resource
from .patterns import BRACES, is_pattern, matches, names_suffix, real_place
from .places import Place, Places, as_file, folder_of
from .remote import CannotList, is_archive, items, url_of_archive
from .row_places import in_samples, is_bare, is_comment, placed
from .utterances import Shard as Shard
from .utterances import Utterance as Utterance

TEXT_KINDS = ("text", "json", "utf-16", "utf-32")


class Inputs(Iterable[Utterance]):
    """The utterances of what a command names; nothing is kept of them.

    sources: audio files, folders (searched recursively, sorted), glob patterns, lists (:mod:`.manifests`), zip and tar
        archives, ``-`` for audio or a list on standard input; local, or URLs that fsspec knows.
    shard: give only these.
    note: is called with a line on what a source left out, once for each.
    allow_pipes: run the commands that lists of Kaldi and Lhotse name instead of files; otherwise they are errors.
    raw: what the bytes on standard input are, if they are samples without a header.

    A source that does not exist or holds no audio is an utterance with an ``error``. Raises :class:`manifests.ManifestError`
    while it is run through, when a list cannot be read at all.
    """

    def __init__(
        self,
        sources: Iterable[str | Path],
        shard: Shard | None = None,
        *,
        note: Callable[[str], None] | None = None,
        allow_pipes: bool = False,
        raw: RawFormat | None = None,
    ):
        self.sources = [os.fspath(source) for source in ([sources] if isinstance(sources, (str, Path)) else sources)]
        if self.sources.count("-") > 1:
            raise ValueError("standard input can be read once, but '-' was named twice")
        if raw is not None and "-" not in self.sources:
            raise ValueError("--stdin-format says what is on standard input, but '-' is not among the inputs: add it")
        self.shard, self.allow_pipes, self.raw = shard, allow_pipes, raw
        self._note, self._noted, self._lock = note, set[str](), threading.Lock()
        self._token = uuid.uuid4().hex  # what comes through a pipe is new each time

    @property
    def can_repeat(self) -> bool:
        """Return whether they can be run through again."""
        return not any(source == "-" or _is_read_once(source) for source in self.sources)

    @property
    def is_one_file(self) -> bool:
        """Return whether they are the one file that is named, and no list or pattern or folder or archive."""
        if len(self.sources) != 1:
            return False
        (source,) = self.sources
        if source == "-":
            return self._is_audio_on_standard_input()
        if _is_list(source) or is_archive(source) or _is_list_in_pipe(source):
            return False
        if is_url(source):
            return PurePosixPath(source).suffix.lower() in AUDIO_SUFFIXES and not is_pattern(source)
        return not os.path.isdir(source) and (os.path.exists(source) or not is_pattern(source))

    def audio_in_pipes(self) -> list[str]:
        """Return those sources that are audio on standard input or in a pipe, which another process cannot read."""
        piped = [source for source in self.sources if _is_read_once(source) and not _is_list_in_pipe(source)]
        has_audio = "-" in self.sources and self._is_audio_on_standard_input()
        return ["-", *piped] if has_audio else piped

    def __iter__(self) -> Iterator[Utterance]:
        for source in self.sources:
            for utterance in self._of_source(source):
                if self.shard is None or utterance in self.shard:
                    yield utterance

    def _say(self, source: str, message: str) -> None:
        """Note a line about a source, once however often it is run through."""
        line = f"{source}: {message}"
        with self._lock:
            is_new = line not in self._noted
            self._noted.add(line)
        if is_new and self._note is not None:
            self._note(line)

    def _say_left_out(self, source: str, sieve: Sieve) -> None:
        others = sieve.others()
        if others is not None:
            self._say(source, f"left out {others}")

    def _is_audio_on_standard_input(self) -> bool:
        return self.raw is not None or is_audio(standard_input.peek())

    def _of_source(self, source: str) -> Iterator[Utterance]:
        if source == "-":
            yield from self._of_standard_input()
        elif _is_list(source):
            yield from self._of_list(source)
        elif _is_list_in_pipe(source):
            yield from self._of_list(source, named_pipe(source))
        else:
            yield from self._of_files(source)

    def _of_standard_input(self) -> Iterator[Utterance]:
        if self._is_audio_on_standard_input():
            audio = "-" if self.raw is None else f"{RAW_PREFIX}{self.raw}:-"
            yield Utterance("-", audio, name="stdin", token=self._token)
        else:
            yield from self._of_list("-", standard_input)

    def _of_list(self, source: str, file: BinaryIO | None = None) -> Iterator[Utterance]:
        """Give the rows of a list. Paths of one that is read from a pipe are of the working folder."""
        folder = folder_of(source) if file is None else ""
        yield from self._of_entries(manifests.read(source, lambda message: self._say(source, message), file), source, folder)

    def _of_files(self, source: str) -> Iterator[Utterance]:
        """Give what a source holds that is no list."""
        if is_archive(source) and (is_url(source) or os.path.isfile(source)):
            yield from self._of_url(source, url_of_archive(source))
        elif is_url(source):
            yield from self._of_url(source, source)
        else:
            try:
                yield from self._of_path(source)
            except OSError as error:  # a name that is too long, a folder that may not be entered
                yield Utterance(source, source, error=f"{source}: cannot be opened: {error.strerror}")

    def _of_path(self, source: str) -> Iterator[Utterance]:
        if os.path.isdir(source):
            yield from self._of_folder(source)
        elif not os.path.lexists(source) and is_pattern(source):
            yield from self._of_pattern(source)
        else:
            yield self._of_file(source)

    def _of_file(self, path: str) -> Utterance:
        error, token = None, ""
        try:
            token = "" if stat.S_ISREG(os.stat(path).st_mode) else self._token
        except FileNotFoundError as failure:
            link = os.path.islink(path)
            error = f"{path}: {reason_of_link(path, failure) if link else 'no such file or folder'}"
        return Utterance(path, as_file(path), name=_stem(os.path.basename(path)), error=error, token=token)

    def _of_folder(self, source: str, walk: Walk | None = None, given: frozenset[str] = frozenset()) -> Iterator[Utterance]:
        """Give the files below a folder. walk: of the folders before it. given: real paths of files that come otherwise."""
        walk, found = Walk() if walk is None else walk, None
        walk.sieve, walk.came_back, walk.note = Sieve(), False, lambda message: self._say(source, message)
        for found in walk.below(source):
            if given and real_place(found.path) in given:
                continue
            name = "" if found.error else _stem(os.path.relpath(found.path, source))
            yield Utterance(found.path, as_file(found.path), reference=found.reference, name=name, error=found.error)
        if found is not None or walk.came_back:
            self._say_left_out(source, walk.sieve)
            return
        others = walk.sieve.others()
        there = "it has no files" if others is None else f"there are {others}; if one of them lists audio, name that"
        yield Utterance(source, source, error=f"{source}: no audio files in this folder: {there}")

    def _of_pattern(self, source: str) -> Iterator[Utterance]:
        sieve, by_suffix, count, folders = Sieve(), names_suffix(source), 0, 0
        found = sorted(matches(source), key=_is_linked_folder)  # files have the names that they have without links
        walk, given = Walk(), frozenset(real_place(match) for match in found if not os.path.isdir(match))
        for match in found:
            if os.path.isdir(match):
                folders += 1
                if "**" not in source:  # which goes into folders itself
                    count += 1
                    yield from self._of_folder(match, walk, given)
            elif _is_special(match):
                count += 1
                yield Utterance(match, match, error=f"{match}: not a regular file: name it by itself")
            elif by_suffix and not is_resource(os.path.basename(match)):
                count += 1
                yield from self._of_source(match) if _is_list(match) or is_archive(match) else [self._of_file(match)]
            elif sieve.takes(match):
                count += 1
                yield self._of_file(match)
        if count:
            self._say_left_out(source, sieve)
            return
        others, reason = sieve.others(), "nothing matches this pattern"
        if others is not None:
            reason = f"nothing that this pattern matches is audio: there are {others}"
        elif folders:
            reason = "this pattern matches only folders: append a file pattern, such as /*.wav"
        elif BRACES.search(source):
            reason = "nothing matches this pattern: braces are the shell's, so leave it without quotes or name each pattern"
        yield Utterance(source, source, error=f"{source}: {reason}")

    def _of_url(self, source: str, url: str) -> Iterator[Utterance]:
        sieve = Sieve(reads=False)
        try:
            for item in items(url, sieve):
                if item.url != source and _is_list(item.url):
                    yield from self._of_source(item.url)
                    continue
                yield Utterance(item.url, item.url, reference=item.reference, name=_stem(item.name))
        except CannotList as reason:
            yield Utterance(source, source, error=f"{source}: {reason}")
        else:
            self._say_left_out(source, sieve)

    def _of_entries(self, entries: Iterator[manifests.Entry], source: str, folder: str) -> Iterator[Utterance]:
        places, comments = None, 0
        for entry in entries:
            if entry.error is not None:
                yield Utterance(f"{source}:{entry.line}", source, error=f"{source}, {entry.error}")
                continue
            if entry.unread is not None:
                self._say(source, entry.unread)
            if entry.is_command:
                yield self._of_command(entry, source)
                continue
            if places is None or places.root != entry.root:
                places = Places(folder, entry.root)
            entry, place = placed(entry, places)
            if is_comment(entry, place):
                comments += 1
                continue
            if not place.is_there and (error := in_samples(entry.audio, places)) is not None:
                yield Utterance(f"{source}:{entry.line}", source, error=f"{source}, line {entry.line}: {error}")
                continue
            yield from self._of_entry(entry, place, source)
        if comments:
            lines = "1 comment line" if comments == 1 else f"{comments} comment lines"
            self._say(source, f"left out {lines}, which begin with #, ; or // and are not the name of a file")

    def _of_command(self, entry: manifests.Entry, source: str) -> Utterance:
        id = entry.id or f"{source}:{entry.line}"
        if not self.allow_pipes:
            reason = "is a command, and commands of lists are run only with --allow-pipes"
            error = f"{source}, row {entry.line}: {entry.audio[:200]!r} {reason}"
            return Utterance(id, source, error=error)
        return _utterance(entry, id, Command(entry.audio), id)

    def _of_entry(self, entry: manifests.Entry, place: Place, source: str) -> Iterator[Utterance]:
        is_folder = is_bare(entry) and os.path.isdir(place.audio)
        if is_folder and os.path.realpath(place.audio) == os.sep:
            error = f"{source}, line {entry.line} names the whole file system: name a folder in it"
            yield Utterance(f"{source}:{entry.line}", source, error=error)
        elif is_folder or (is_bare(entry) and is_archive(place.audio)):
            yield from self._of_files(place.audio)
        else:
            part = _part(entry.offset_seconds, entry.duration_seconds)
            id = entry.id or f"{place.shown}{part}"
            yield _utterance(entry, id, place.audio, _stem(place.shown) + part.replace("#", ".") if entry.id is None else id)


def _utterance(entry: manifests.Entry, id: str, audio: str, name: str) -> Utterance:
    offset, duration = entry.offset_seconds or 0.0, entry.duration_seconds
    return Utterance(id, audio, offset, duration, entry.reference, name, channel=entry.channel)


def _is_list(source: str) -> bool:
    """Return whether a source is a list, by its name, and is not audio that is only called so."""
    if not manifests.is_manifest(source) or os.path.isdir(source):
        return False
    if is_pattern(source) and not source.startswith(("http://", "https://")) and not os.path.lexists(source):
        return False
    return is_url(source) or not (os.path.isfile(source) and is_audio_file(source))


def _is_read_once(source: str) -> bool:
    return os.path.exists(source) and not os.path.isfile(source) and not os.path.isdir(source)


def _is_list_in_pipe(source: str) -> bool:
    """Return whether a named pipe holds a list, by its first bytes; waits for them. What else is no audio is said later."""
    try:
        if not stat.S_ISFIFO(os.stat(source).st_mode):
            return False
        head = named_pipe(source).peek()
    except (OSError, ValueError):
        return False
    identity = identify(head)
    return identity is not None and identity.kind in TEXT_KINDS and not is_audio(head)


def _is_linked_folder(path: str) -> bool:
    return os.path.islink(path) and os.path.isdir(path)


def _is_special(path: str) -> bool:
    return os.path.exists(path) and not os.path.isfile(path)


def _part(offset_seconds: float | None, duration_seconds: float | None) -> str:
    if offset_seconds is None:
        return ""
    return f"#{offset_seconds:.10g}-" + ("" if duration_seconds is None else f"{offset_seconds + duration_seconds:.10g}")


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]

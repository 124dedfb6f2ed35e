"""Expand the inputs of a job (files, folders, patterns, lists and archives) into utterances."""

from __future__ import annotations

import io
import os
import stat
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from ..audio import is_url
from ..audio.names import has_audio_suffix
from ..audio.raw_format import RAW_PREFIX, RawFormat
from ..audio.standard_input import named_pipe, standard_input
from . import manifests
from .audio_filter import AudioFilter, is_audio, is_system_file
from .folders import FolderWalk, link_error
from .paths import as_file, parent_folder
from .patterns import is_pattern, matches, names_suffix, resolve_folder
from .remote import CannotListError, NoAudioError, is_archive, list_files, url_of_archive
from .row_paths import utterances_of
from .shards import finding, kinds, lhotse_shar
from .shards.retries import StorageError
from .source_kinds import is_list, is_list_in_pipe, is_special
from .utterances import Shard as Shard
from .utterances import Utterance as Utterance


class Inputs(Iterable[Utterance]):
    """An iterable over the utterances in files, folders, patterns, lists and archives. It holds none of them in memory.

    A source that does not exist or holds no audio yields an utterance with an `error`. Iterating raises `ManifestError`
    when a list cannot be read at all.

    Args:
        sources: Audio files, folders (searched recursively, in sorted order), glob patterns, lists, zip and tar archives, and
            `-` for audio or a list on standard input. All but `-` may also be URLs that fsspec can open. Braces stand for
            several names: `{000..127}.tar`.
        shard: Yield only the utterances of this shard.
        note: Function called with each warning about a source, such as a count of the files that were skipped.
        allow_pipes: Run the shell commands that Kaldi and Lhotse lists may name instead of files. Otherwise they are errors.
        raw: The format of standard input, if it holds samples without a header.
        column: The column with the audio in Parquet and Arrow files; found by default.
    """

    def __init__(
        self,
        sources: Iterable[str | Path],
        shard: Shard | None = None,
        *,
        note: Callable[[str], None] | None = None,
        allow_pipes: bool = False,
        raw: RawFormat | None = None,
        column: str | None = None,
    ):
        named = [os.fspath(source) for source in ([sources] if isinstance(sources, (str, Path)) else sources)]
        self.sources = [name for source in named for name in kinds.expanded(source)]
        if self.sources.count("-") > 1:
            raise ValueError("standard input can only be read once, but '-' is given more than once")
        if raw is not None and "-" not in self.sources:
            raise ValueError("--stdin-format describes standard input, but '-' is not among the inputs: add it")
        self.shard, self.allow_pipes, self.raw, self.column = shard, allow_pipes, raw, column
        self._note, self._noted, self._lock = note, set[str](), threading.Lock()
        self._token = uuid.uuid4().hex  # a pipe brings new audio each time

    @property
    def can_repeat(self) -> bool:
        """Return whether the inputs can be iterated over more than once."""
        return not any(source == "-" or is_special(source) for source in self.sources)

    @property
    def is_one_file(self) -> bool:
        """Return whether the only source is an audio file, and not a list, a pattern, a folder or an archive."""
        if len(self.sources) != 1:
            return False
        (source,) = self.sources
        if source == "-":
            return self._is_audio_on_standard_input()
        if is_list(source) or is_archive(source) or kinds.is_shard(source) or is_list_in_pipe(source):
            return False
        if is_url(source):
            return has_audio_suffix(PurePosixPath(source).name) and not is_pattern(source)
        return not os.path.isdir(source) and (os.path.exists(source) or not is_pattern(source))

    def audio_in_pipes(self) -> list[str]:
        """Return the sources that are audio on standard input or in a pipe, which no other process can read."""
        piped = [source for source in self.sources if is_special(source) and not is_list_in_pipe(source)]
        has_audio = "-" in self.sources and self._is_audio_on_standard_input()
        return ["-", *piped] if has_audio else piped

    def __iter__(self) -> Iterator[Utterance]:
        for source in self.sources:
            for utterance in self._from_source(source):
                if self.shard is None or utterance in self.shard:
                    yield utterance

    def _warn(self, source: str, message: str) -> None:
        """Pass on a warning about a source, only once even if the inputs are iterated over again."""
        line = f"{source}: {message}"
        with self._lock:
            is_new = line not in self._noted
            self._noted.add(line)
        if is_new and self._note is not None:
            self._note(line)

    def _warn_of_rejected(self, source: str, filter: AudioFilter) -> None:
        rejected = filter.describe_rejected()
        if rejected is not None:
            self._warn(source, f"skipped {rejected}")

    def _is_audio_on_standard_input(self) -> bool:
        return self.raw is not None or is_audio(standard_input.peek())

    def _from_source(self, source: str) -> Iterator[Utterance]:
        if source == "-":
            yield from self._from_standard_input()
        elif kinds.is_shar(source):
            yield from self._from_cuts(source)
        elif is_list(source):
            yield from self._from_list(source)
        elif is_list_in_pipe(source):
            yield from self._from_list(source, named_pipe(source))
        else:
            yield from self._from_files(source)

    def _from_standard_input(self) -> Iterator[Utterance]:
        if self._is_audio_on_standard_input():
            audio = "-" if self.raw is None else f"{RAW_PREFIX}{self.raw}:-"
            yield Utterance("-", audio, name="stdin", token=self._token)
        else:
            yield from self._from_list("-", standard_input)

    def _from_list(self, source: str, file: io.RawIOBase | None = None) -> Iterator[Utterance]:
        """Yield the rows of a list. Paths in a list from a pipe are relative to the working folder."""

        def warn(message: str) -> None:
            self._warn(source, message)

        folder = parent_folder(source) if file is None else ""
        for row in utterances_of(manifests.read(source, warn, file), source, folder, self.allow_pipes, warn):
            yield from [row] if isinstance(row, Utterance) else self._from_files(row)

    def _from_files(self, source: str) -> Iterator[Utterance]:
        """Yield the utterances of a source that is not a list."""
        is_file = os.path.isfile(source) or (is_url(source) and not kinds.is_pattern_of_urls(source))
        if kinds.is_shard(source) and is_file:
            yield from self._from_shard(source)
        elif is_archive(source) and is_file:
            yield from self._from_url(source, url_of_archive(source))
        elif is_url(source):
            yield from self._from_url(source, source)
        else:
            try:
                yield from self._from_path(source)
            except OSError as error:  # a name that is too long, a folder without permission
                yield Utterance(source, source, error=f"{source}: cannot be opened: {error.strerror or error}")

    def _from_cuts(self, source: str) -> Iterator[Utterance]:
        """Yield the cuts of a shard of Lhotse Shar, or those of a list that merely has such a name."""
        try:
            is_shar = lhotse_shar.is_shar(source)
        except StorageError as error:
            yield Utterance(source, source, error=str(error))
            return
        yield from self._from_shard(source) if is_shar else self._from_list(source)

    def _from_shards(self, folder: str) -> Iterator[Utterance]:
        """Yield the utterances of the shards in a folder; none if it has no shards. Warn of its other files."""
        filter = AudioFilter(reads=False)
        for shard in finding.in_folder(folder, filter):
            yield from self._from_source(shard.url)
        self._warn_of_rejected(folder, filter)

    def _from_shard(self, source: str) -> Iterator[Utterance]:
        last = None
        try:
            for utterance in kinds.utterances(source, self.column, lambda message: self._warn(source, message)):
                yield utterance
                last = utterance.id
        except StorageError as error:
            lost = "" if last is None else f"; what follows {last} was not read"
            yield Utterance(source, source, error=f"{error}{lost}")

    def _from_path(self, source: str) -> Iterator[Utterance]:
        if os.path.isdir(source):
            yield from self._from_folder(source)
        elif not os.path.lexists(source) and is_pattern(source):
            yield from self._from_pattern(source)
        else:
            yield self._from_file(source)

    def _from_file(self, path: str) -> Utterance:
        reason, token = None, ""
        try:
            token = "" if stat.S_ISREG(os.stat(path).st_mode) else self._token
        except FileNotFoundError as error:
            reason = f"{path}: {link_error(path, error) if os.path.islink(path) else 'no such file or folder'}"
        return Utterance(path, as_file(path), name=_stem(os.path.basename(path)), error=reason, token=token)

    def _from_folder(
        self, source: str, walk: FolderWalk | None = None, exclude: frozenset[str] = frozenset()
    ) -> Iterator[Utterance]:
        """Yield the files below a folder.

        Args:
            source: The folder.
            walk: The walk that all folders of a pattern share, so that each file is yielded once.
            exclude: Files to leave out, with the links in their folders resolved.
        """
        walk = FolderWalk() if walk is None else walk
        walk.filter, walk.met_visited, walk.note = AudioFilter(), False, lambda message: self._warn(source, message)
        is_empty, has_audio = True, False
        for file in walk.files(source):
            is_empty = False
            has_audio |= file.error is None
            if exclude and resolve_folder(file.path) in exclude:
                continue
            name = "" if file.error else _stem(os.path.relpath(file.path, source))
            yield Utterance(file.path, as_file(file.path), reference=file.reference, name=name, error=file.error)
        rejected, has_shards = walk.filter.describe_rejected(), False
        for utterance in self._from_shards(source) if rejected is not None and not has_audio else ():
            has_shards = True
            yield utterance
        if has_shards:
            return
        if not is_empty or walk.met_visited:
            self._warn_of_rejected(source, walk.filter)
            return
        reason = "no audio files in this folder"
        if rejected is not None:
            reason += f", only {rejected}; if one of them is a list of audio files, pass that file instead"
        yield Utterance(source, source, error=f"{source}: {reason}")

    def _from_pattern(self, source: str) -> Iterator[Utterance]:
        filter, takes_all, count, n_folders = AudioFilter(), names_suffix(source), 0, 0
        paths = sorted(matches(source), key=_is_linked_folder)  # links last, so that files get their paths without links
        walk, exclude = FolderWalk(), frozenset(resolve_folder(path) for path in paths if not os.path.isdir(path))
        for path in paths:
            if os.path.isdir(path):
                n_folders += 1
                if "**" not in source:  # `**` descends into folders by itself
                    count += 1
                    yield from self._from_folder(path, walk, exclude)
            elif is_special(path):
                count += 1
                reason = "this is not a regular file: to read it, pass it as a separate input"
                yield Utterance(path, path, error=f"{path}: {reason}")
            elif takes_all and not is_system_file(os.path.basename(path)):
                count += 1
                yield from self._from_source(path) if _holds_many(path) else [self._from_file(path)]
            elif filter.accepts(path):
                count += 1
                yield self._from_file(path)
        if count:
            self._warn_of_rejected(source, filter)
            return
        rejected, reason = filter.describe_rejected(), "nothing matches this pattern"
        if rejected is not None:
            reason = f"this pattern matches only {rejected}"
        elif n_folders:
            reason = "this pattern matches only folders: append a file pattern, such as /*.wav"
        yield Utterance(source, source, error=f"{source}: {reason}")

    def _from_url(self, source: str, url: str) -> Iterator[Utterance]:
        filter, problem = AudioFilter(reads=False), None
        try:
            for file in list_files(url, filter):
                if kinds.is_shard(file.url):
                    yield from self._from_shard(file.url)
                elif file.url != source and _holds_many(file.url):
                    yield from self._from_source(file.url)
                else:
                    yield Utterance(file.url, file.url, reference=file.reference, name=_stem(file.name))
        except NoAudioError as error:
            problem = str(error)
            try:
                for utterance in self._from_shards(url):
                    problem = None
                    yield utterance
            except StorageError as failure:
                yield Utterance(source, source, error=str(failure))
                return
        except CannotListError as error:
            problem = str(error)
        else:
            self._warn_of_rejected(source, filter)
        if problem is not None:
            yield Utterance(source, source, error=f"{source}: {problem}")


def _holds_many(source: str) -> bool:
    """Return whether a path or URL is a list, an archive or a shard."""
    return is_list(source) or is_archive(source) or kinds.is_shard(source)


def _is_linked_folder(path: str) -> bool:
    return os.path.islink(path) and os.path.isdir(path)


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]

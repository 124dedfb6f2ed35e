"""Write the outputs of shards to a folder, here or on any file system of fsspec, where files appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ...audio import AudioError
from ...audio.contained import temporary_file
from ...audio.names import check_url
from ..journal import JournalError
from ..row_file import sync_path
from .retries import StorageError, repeated
from .streams import local_path

UNFINISHED = ".unfinished"
STALE_SECONDS = 86_400.0  # after which an unfinished file is known to be left by a run that was killed
# File systems whose uploads appear whole. Elsewhere a file is written under another name and moved.
OBJECT_STORES = frozenset("abfs abfss adl az gcs gs hf memory oci oss r2 s3 s3a".split())


class Storage:
    """A folder of files.

    Attributes:
        url: Its path or URL.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")

    @staticmethod
    def of(url: str) -> Storage:
        """Return the storage at a path or URL.

        Raises:
            StorageError: If there is no file system for the URL.
        """
        path = local_path(url)
        return Remote(url) if path is None else Local(path)

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of each file in the folder and below, by its path below the folder."""
        raise NotImplementedError

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        raise NotImplementedError

    def put(self, name: str, file: BinaryIO) -> int:
        """Write a file with the content of a temporary one, and return its size. It replaces an earlier file of that name."""
        raise NotImplementedError

    def write(self, name: str, content: bytes) -> None:
        """Write a file."""
        with temporary_file() as file:
            file.write(content)
            self.put(name, file)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, which may be missing."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise `JournalError` if there can be no such folder."""

    def begin(self) -> None:
        """Create the folder, and remove what killed runs left in it."""


class Local(Storage):
    """A folder on this machine, or on a network file system that is mounted here."""

    def __init__(self, path: str):
        super().__init__(path)
        self._folder = Path(path)

    def sizes(self) -> dict[str, int]:
        sizes = {}
        for path in self._folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # another run may just remove or rename it
                if path.suffix != UNFINISHED and path.is_file():
                    sizes[path.relative_to(self._folder).as_posix()] = path.stat().st_size
        return sizes

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def put(self, name: str, file: BinaryIO) -> int:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{uuid.uuid4().hex}{UNFINISHED}")  # short: the path's name may be as long as any can be
        try:
            with open(unfinished, "xb") as target:
                file.seek(0)
                shutil.copyfileobj(file, target, 1 << 20)
                target.flush()
                os.fsync(target.fileno())
                size = target.tell()
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        sync_path(path.parent)
        return size

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    def check(self) -> None:
        if self._folder.exists() and not self._folder.is_dir():
            raise JournalError(f"{self._folder} is a file: name a folder with -o")
        if not self._folder.absolute().parent.is_dir():
            raise JournalError(f"{self._folder} cannot be written: there is no folder {self._folder.parent}")

    def begin(self) -> None:
        self._folder.mkdir(exist_ok=True)
        for path in self._folder.rglob(f".*{UNFINISHED}"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()


class Remote(Storage):
    """A folder on a file system of fsspec. Requests that fail are repeated.

    Raises:
        StorageError: If there is no such file system, as also when a method fails too often or is refused.
    """

    def __init__(self, url: str):
        super().__init__(url)
        import fsspec

        try:
            check_url(url)
            self._system, self._root = fsspec.core.url_to_fs(self.url)
        except (AudioError, ImportError, ValueError) as error:
            raise StorageError(f"{url}: {error}") from None
        protocols = self._system.protocol
        names = {protocols} if isinstance(protocols, str) else set(protocols)
        self._appears_whole = bool(names & OBJECT_STORES)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def sizes(self) -> dict[str, int]:
        def listing() -> dict[str, Any]:
            self._system.invalidate_cache()
            try:
                return self._system.find(self._root, detail=True)
            except FileNotFoundError:
                return {}

        found = repeated(f"{self.url} cannot be listed", listing)
        root = self._root.strip("/") + "/"
        return {
            path.strip("/").removeprefix(root): info.get("size") or 0
            for path, info in found.items()
            if not path.endswith(UNFINISHED)
        }

    def read(self, name: str) -> bytes:
        return repeated(f"{self.url}/{name} cannot be read", lambda: self._system.cat_file(self._path(name)))

    def put(self, name: str, file: BinaryIO) -> int:
        file.flush()
        size = os.fstat(file.fileno()).st_size
        local = file.name if isinstance(file.name, str) else f"/proc/self/fd/{file.fileno()}"
        target = self._path(name)
        unfinished = f"{target}.{uuid.uuid4().hex}{UNFINISHED}"

        def upload() -> None:
            if self._appears_whole:
                self._system.put_file(local, target)
                return
            self._system.makedirs(str(PurePosixPath(target).parent), exist_ok=True)
            self._system.put_file(local, unfinished)
            if self._system.exists(target):
                self._system.rm_file(target)
            self._system.mv(unfinished, target)

        repeated(f"{self.url}/{name} cannot be written", upload)
        return size

    def remove(self, names: Iterable[str]) -> None:
        for name in names:

            def removal(path: str = self._path(name)) -> None:
                with contextlib.suppress(FileNotFoundError):
                    self._system.rm_file(path)

            repeated(f"{self.url}/{name} cannot be removed", removal)

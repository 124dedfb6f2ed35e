"""Run FFmpeg in child processes, so that a file on which it crashes, hangs or uses up memory only ends that process.

FFmpeg reads dozens of formats, and files come from anywhere: of 10,000 damaged ones, one ended its decoder process, and none
made libsndfile crash (`bench/results/audio_mutations.csv`). Child processes also keep PyAV's work per frame away from this
process's GIL. They start when a file first needs FFmpeg, and each decodes one file after another. libsndfile runs in this
process: it only decodes what `planning` has judged well-formed.

The protocol:

    parent -> child: a JSON line per file, followed by the file's bytes if they are in memory
    child -> parent: a JSON line when it is ready; a JSON line and the samples for each block; a JSON line at the end of a file
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .errors import AudioError
from .opening import copied
from .plan import Part
from .sources import LocalFile, Memory, Source
from .with_pyav import Decoded

SILENT_SECONDS = 60.0  # a child that sends nothing for this long is killed
MAX_BYTES = 1 << 30  # memory that a child may use to decode
MAX_FILES = 10_000  # files after which a child is replaced, in case of memory leaks
_PACKAGE = str(Path(__file__).parents[2])
_COMMAND = "import sys; sys.path[:] = sys.argv[3:]; from hubert_fast.audio.decoder_child import serve; serve()"


class Decoding:
    """Decodes one part of a file in a child process.

    The attributes `tracks`, `track`, `seconds`, `lost_seconds`, `filled_seconds` and `jumps` are those of `with_pyav.Decoder`,
    and are set after the last block. `skipped_seconds`, the time skipped by seeking, is set with the first block.
    """

    def __init__(self, source: Source, part: Part):
        self._source, self._part = source, part
        self.tracks, self.track, self.jumps = 1, 1, 0
        self.seconds: float | None = None
        self.lost_seconds = self.filled_seconds = self.skipped_seconds = 0.0

    def blocks(self, skip_seconds: float, until_seconds: float | None = None) -> Iterator[Decoded]:
        """Yield blocks from `skip_seconds` on, or from the beginning for formats that cannot seek.

        Args:
            skip_seconds: Time in the part at which to begin.
            until_seconds: Time in the part after which decoding may stop; by default its end.

        Raises:
            AudioError: If the part cannot be decoded, or the child crashes, hangs or runs out of memory.
        """
        source, part = self._source, self._part
        with contextlib.ExitStack() as stack:
            if not isinstance(source, (LocalFile, Memory)):
                source = stack.enter_context(copied(source))
            request: dict[str, Any] = {
                "start": part.start, "end": part.end, "container": part.container, "options": part.options,
                "skip_seconds": skip_seconds, "until_seconds": until_seconds,
            }  # fmt: skip
            data = b""
            if isinstance(source, Memory):
                data = source.read_at(part.start, part.end - part.start)
                request |= {"start": 0, "end": len(data), "bytes": len(data)}
            else:
                request |= {"path": _path_of(source)}
            child, is_reusable = _acquire(), False
            try:
                child.send(request, data)
                for answer in child.answers():
                    if "samples" in answer:
                        yield Decoded(answer["samples"], answer["rate_hz"])
                    elif "skipped_seconds" in answer:
                        self.skipped_seconds = answer["skipped_seconds"]
                    else:
                        is_reusable = answer["is_reusable"]
                        vars(self).update(answer["report"])
                        if answer["error"] is not None:
                            raise AudioError(answer["error"])
            finally:
                _release(child) if is_reusable else child.end()


def _path_of(source: LocalFile) -> str:
    """Return a path to the open file itself where the system has `/proc`, otherwise the path that was opened."""
    opened = f"/proc/{os.getpid()}/fd/{source.descriptor}"
    return opened if os.path.exists(opened) or source.path is None else os.path.abspath(os.fsdecode(source.path))


class _Child:
    """A decoder process.

    Raises:
        AudioError: If it cannot start, which is not the fault of a file.
    """

    def __init__(self) -> None:
        # Replaces the sys.path of `python -c`, which begins with the working folder: a file there might shadow a module.
        path = [os.getcwd() if entry == "" else entry for entry in sys.path]
        path += [] if _PACKAGE in path else [_PACKAGE]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, str(MAX_BYTES), str(os.getpid()), *path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,  # poll does not see bytes in Python's buffer
                start_new_session=True,  # on Ctrl-C the files in progress are still finished
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
        except OSError as error:
            raise AudioError(f"no process could be started for FFmpeg: {error.strerror or error}") from None
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._held, self.files = b"", 0
        self._ready = select.poll()  # select is limited to descriptors below 1,024
        self._ready.register(self._answers, select.POLLIN)
        try:
            failure = json.loads(self._read_line())["failure"]
        except AudioError as error:
            failure = str(error)
        if failure is not None:
            self.end()
            raise AudioError(f"PyAV, which decodes what libsndfile cannot, does not start: {failure}")

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, request: dict[str, Any], data: bytes) -> None:
        self.files += 1
        try:
            left = memoryview(json.dumps(request).encode() + b"\n" + data)
            while left:
                left = left[self._requests.write(left) :]
        except OSError:  # the child has died; reading its answers will report how
            pass

    def answers(self) -> Iterator[dict[str, Any]]:
        """Yield the child's messages up to the one that ends a file."""
        while True:
            answer = json.loads(self._read_line())
            if "shape" in answer:
                samples = np.frombuffer(self._read(answer["bytes"]), answer["dtype"]).reshape(answer["shape"])
                yield {"samples": samples, "rate_hz": answer["rate_hz"]}
                continue
            yield answer
            if "error" in answer:
                return

    def _read_line(self) -> bytes:
        while b"\n" not in self._held:
            self._fill()
        line, _, self._held = self._held.partition(b"\n")
        return line

    def _read(self, count: int) -> bytes:
        pieces, have = [self._held[:count]], min(len(self._held), count)
        self._held = self._held[count:]
        while have < count:
            self._fill()
            pieces.append(self._held[: count - have])
            self._held = self._held[count - have :]
            have += len(pieces[-1])
        return b"".join(pieces)

    def _fill(self) -> None:
        """Append what arrives next to the held bytes. It may be any part of a line and the block that follows it."""
        if not self._ready.poll(1000 * SILENT_SECONDS):
            raise AudioError(f"the decoder produced no audio for {SILENT_SECONDS:.0f} s and was stopped")
        data = self._answers.read(1 << 20)
        if not data:
            raise AudioError(self._describe_death())
        self._held += data

    def _describe_death(self) -> str:
        status = self._process.wait()
        name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return f"the decoder crashed on this file ({name}); other files are not affected"

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._requests.close()
        self._answers.close()


class _Pool:
    """The children that are waiting for a file."""

    def __init__(self) -> None:
        self.idle: list[_Child] = []
        self.lock = threading.Lock()


_pool = _Pool()


def _reset_pool() -> None:
    """Start with an empty pool after a fork: the children are the parent's, and another thread may have held the lock."""
    global _pool
    _pool = _Pool()


os.register_at_fork(after_in_child=_reset_pool)


def _acquire() -> _Child:
    while True:
        with _pool.lock:
            child = _pool.idle.pop() if _pool.idle else None
        if child is None:
            return _Child()
        if child.is_alive:
            return child
        child.end()  # it died while idle, so no file is to blame


def _release(child: _Child) -> None:
    if child.files >= MAX_FILES:
        child.end()
        return
    with _pool.lock:
        _pool.idle.append(child)

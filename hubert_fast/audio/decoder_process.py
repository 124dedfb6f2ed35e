"""FFmpeg in processes of its own: a file that makes it crash, hang or take all memory costs one process, and its own row.

FFmpeg reads dozens of formats, and files come from anywhere: two of 150,000 damaged ones made it, or PyAV, crash; none made
libsndfile (``bench/audio_mutations.py``). A process begins with the first file that needs FFmpeg and serves one file after the
other. It also keeps PyAV's work for each frame away from this process's interpreter lock. libsndfile runs in this process: it
decodes what :mod:`.plans` found well-formed.

    parent -> child: a JSON line, then the bytes of a file that is in memory
    child -> parent: a JSON line when it is ready; for each block a JSON line and its samples; a JSON line at the end of a file
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

import numpy as np

from .errors import AudioError
from .opening import copied
from .plan import Part
from .sources import LocalFile, Memory, Source
from .with_pyav import Decoded

SILENT_SECONDS = 60.0  # a child that says nothing for so long is given up
MOST_BYTES = 1 << 30  # that a child may take for a file
MOST_FILES = 10_000  # of a child, whatever it may leak
_PACKAGE = str(Path(__file__).parents[2])
_COMMAND = "import sys; sys.path[:] = sys.argv[3:]; from hubert_fast.audio.decoder_child import serve; serve()"


class Decoding:
    """A part of a file that a child decodes.

    tracks, track, seconds, lost_seconds, filled_seconds, jumps: those of :class:`.with_pyav.Decoder`, once the last block has
    come. skipped_seconds: what was not decoded before the part that is wanted, once the first block has come.
    """

    def __init__(self, source: Source, part: Part):
        self._source, self._part = source, part
        self.tracks, self.track, self.jumps, self.seconds = 1, 1, 0, None
        self.lost_seconds = self.filled_seconds = self.skipped_seconds = 0.0

    def blocks(self, skip_seconds: float, until_seconds: float | None = None) -> Iterator[Decoded]:
        """Give blocks from ``skip_seconds`` on, or from the beginning where the format has no index.

        until_seconds: what is beyond is not decoded. Raises :class:`AudioError` for what cannot be decoded, and when the child
        crashes, hangs or runs out of memory.
        """
        source, part = self._source, self._part
        with contextlib.ExitStack() as stack:
            if not isinstance(source, (LocalFile, Memory)):
                source = stack.enter_context(copied(source))
            request = {"start": part.start, "end": part.end, "container": part.container, "options": part.options}
            request |= {"skip_seconds": skip_seconds, "until_seconds": until_seconds}
            data = b""
            if isinstance(source, Memory):
                data = source.read_at(part.start, part.end - part.start)
                request |= {"start": 0, "end": len(data), "bytes": len(data)}
            else:
                request |= {"path": _path_of(source)}
            child, is_done = _take(), False
            try:
                child.send(request, data)
                for answer in child.answers():
                    if "samples" in answer:
                        yield Decoded(answer["samples"], answer["rate_hz"])
                    elif "skipped_seconds" in answer:
                        self.skipped_seconds = answer["skipped_seconds"]
                    else:
                        is_done = answer["is_well"]
                        vars(self).update(answer["about"])
                        if answer["error"] is not None:
                            raise AudioError(answer["error"])
            finally:
                _give_back(child) if is_done else child.end()


def _path_of(source: LocalFile) -> str:
    """Return what names the open file itself where the system has that, and its name elsewhere."""
    opened = f"/proc/{os.getpid()}/fd/{source.descriptor}"
    return opened if os.path.exists(opened) or source.path is None else os.path.abspath(os.fsdecode(source.path))


class _Child:
    """A process that decodes. Raises :class:`AudioError` when it cannot begin, which is not the fault of a file."""

    def __init__(self) -> None:
        # this process's path, and not the folder that it happens to be in, whose files might have the names of modules
        path = [os.getcwd() if entry == "" else entry for entry in sys.path]
        path += [] if _PACKAGE in path else [_PACKAGE]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, str(MOST_BYTES), str(os.getpid()), *path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,  # so that a wait for more is one for what is in no buffer
                start_new_session=True,  # Ctrl-C lets files that are under way finish
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
        except OSError as error:
            raise AudioError(f"no process could be started for FFmpeg: {error.strerror or error}") from None
        self._held, self.files = b"", 0
        self._ready = select.poll()
        self._ready.register(self._process.stdout, select.POLLIN)
        try:
            failure = json.loads(self._line())["failure"]
        except AudioError as error:
            failure = str(error)
        if failure is not None:
            self.end()
            raise AudioError(f"PyAV, which decodes what libsndfile cannot, does not start: {failure}")

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, request: dict[str, object], data: bytes) -> None:
        self.files += 1
        try:
            left = memoryview(json.dumps(request).encode() + b"\n" + data)
            while left:
                left = left[self._process.stdin.write(left) :]
        except OSError:  # it has died; reading its answers tells how
            pass

    def answers(self) -> Iterator[dict]:
        """Give what it says up to the answer that ends a file."""
        while True:
            answer = json.loads(self._line())
            if "shape" in answer:
                samples = np.frombuffer(self._read(answer["bytes"]), answer["dtype"]).reshape(answer["shape"])
                yield {"samples": samples, "rate_hz": answer["rate_hz"]}
                continue
            yield answer
            if "error" in answer:
                return

    def _line(self) -> bytes:
        while b"\n" not in self._held:
            self._fill()
        line, _, self._held = self._held.partition(b"\n")
        return line

    def _read(self, count: int) -> bytes:
        parts, there = [self._held[:count]], min(len(self._held), count)
        self._held = self._held[count:]
        while there < count:
            self._fill()
            parts.append(self._held[: count - there])
            self._held = self._held[count - there :]
            there += len(parts[-1])
        return b"".join(parts)

    def _fill(self) -> None:
        """Read on, after what is held; a line comes with all of its block or with some of it."""
        if not self._ready.poll(1000 * SILENT_SECONDS):
            raise AudioError(f"the decoder produced no audio for {SILENT_SECONDS:.0f} s and was stopped")
        data = self._process.stdout.read(1 << 20)
        if not data:
            raise AudioError(self._died())
        self._held += data

    def _died(self) -> str:
        status = self._process.wait()
        name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return f"the decoder crashed on this file ({name}); other files are not affected"

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


class _Pool:
    """Children that wait for a file."""

    def __init__(self) -> None:
        self.idle: list[_Child] = []
        self.lock = threading.Lock()


_pool = _Pool()


def _forget() -> None:
    """Begin anew after a fork: the children are the parent's, and so is whoever held the lock."""
    global _pool
    _pool = _Pool()


os.register_at_fork(after_in_child=_forget)


def _take() -> _Child:
    while True:
        with _pool.lock:
            child = _pool.idle.pop() if _pool.idle else None
        if child is None:
            return _Child()
        if child.is_alive:
            return child
        child.end()  # while it waited: no file's fault


def _give_back(child: _Child) -> None:
    if child.files >= MOST_FILES:
        child.end()
        return
    with _pool.lock:
        _pool.idle.append(child)

"""FFmpeg in processes of its own: a file that makes it crash, hang or take all memory costs one process, and its own row.

FFmpeg reads dozens of formats, and files come from anywhere: two of 150,000 damaged ones made it, or PyAV, crash; none made
libsndfile (``bench/audio_mutations.py``). A process begins with the first file that needs FFmpeg and serves one file after the
other. It also keeps PyAV's work for each frame away from this process's interpreter lock. libsndfile runs in this process: it
decodes what :mod:`.plans` found well-formed.

    parent -> child: a JSON line, then the bytes of a file that is in memory
    child -> parent: a JSON line for each block, then its samples; a JSON line at the end
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
_PACKAGE = str(Path(__file__).parents[2])
_COMMAND = "import sys; sys.path.insert(0, sys.argv[1]); from hubert_fast.audio.decoder_child import serve; serve()"


class Apart:
    """A part of a file that a child decodes.

    tracks, seconds, lost_seconds, filled_seconds: those of :class:`.with_pyav.Decoder`, once the last block has come.
    skipped_seconds: what was not decoded before the part that is wanted, once the first block has come.
    """

    def __init__(self, source: Source, part: Part):
        self._source, self._part = source, part
        self.tracks, self.seconds, self.lost_seconds, self.filled_seconds = 1, None, 0.0, 0.0
        self.skipped_seconds = 0.0

    def blocks(self, skip_seconds: float) -> Iterator[Decoded]:
        """Give blocks from ``skip_seconds`` on, or from the beginning where the format has no index.

        Raises :class:`AudioError` for what cannot be decoded, and when the child crashes, hangs or runs out of memory.
        """
        source = self._source
        with contextlib.ExitStack() as stack:
            if not isinstance(source, (LocalFile, Memory)):
                source = stack.enter_context(copied(source))
            child = _take()
            is_idle = False
            try:
                child.send(
                    self._request(source, skip_seconds), source.read_at(0, source.size) if isinstance(source, Memory) else b""
                )
                for answer in child.answers():
                    if "samples" in answer:
                        yield Decoded(answer["samples"], answer["rate_hz"])
                    elif "skipped_seconds" in answer:
                        self.skipped_seconds = answer["skipped_seconds"]
                    else:
                        is_idle = True
                        self.tracks, self.seconds = answer["tracks"], answer["seconds"]
                        self.lost_seconds, self.filled_seconds = answer["lost_seconds"], answer["filled_seconds"]
                        if answer["error"] is not None:
                            raise AudioError(answer["error"])
            finally:
                _give_back(child) if is_idle else child.end()

    def _request(self, source: LocalFile | Memory, skip_seconds: float) -> dict[str, object]:
        part = self._part
        request = {"start": part.start, "end": part.end, "container": part.container, "options": part.options}
        if isinstance(source, Memory):
            where = {"bytes": source.size}
        else:
            path = f"/proc/{os.getpid()}/fd/{source.descriptor}" if source.path is None else os.fsdecode(source.path)
            where = {"path": os.path.abspath(path)}
        return request | where | {"skip_seconds": skip_seconds}


class _Child:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, _PACKAGE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # so that a wait for more is one for what is in no buffer
            start_new_session=True,  # Ctrl-C lets files that are under way finish
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "HUBERT_FAST_DECODER_BYTES": str(MOST_BYTES)},
        )
        self._held = b""

    def send(self, request: dict[str, object], data: bytes) -> None:
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
        if not select.select([self._process.stdout], [], [], SILENT_SECONDS)[0]:
            raise AudioError(f"its decoder said nothing for {SILENT_SECONDS:.0f} s, and was stopped")
        data = self._process.stdout.read(1 << 20)
        if not data:
            raise AudioError(self._died())
        self._held += data

    def _died(self) -> str:
        status = self._process.wait()
        name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return f"its decoder crashed on it ({name}), in a process of its own"

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


_idle: list[_Child] = []
_lock = threading.Lock()
_owner = os.getpid()


def _take() -> _Child:
    global _owner
    with _lock:
        if _owner != os.getpid():  # forked: the children are the parent's
            _idle.clear()
            _owner = os.getpid()
        if _idle:
            return _idle.pop()
    return _Child()


def _give_back(child: _Child) -> None:
    with _lock:
        _idle.append(child)

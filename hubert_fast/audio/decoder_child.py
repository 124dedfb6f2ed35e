"""Run in a decoder process and decode files for its parent. `decoder_process` describes the protocol."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, BinaryIO

from ..hub import first_line
from .errors import AudioError
from .sources import LocalFile, Memory, Source

if TYPE_CHECKING:
    from .with_pyav import Decoder

# attributes of with_pyav.Decoder that the parent receives at the end of a file
REPORTED = ("tracks", "track", "seconds", "lost_seconds", "filled_seconds", "jumps")


def serve() -> None:
    """Serve the requests on standard input, one file after another, until it is closed.

    The process takes two command-line arguments: the bytes of memory that it may use beyond those it has when it is ready, and
    its parent's process id.
    """
    max_bytes, parent = map(int, sys.argv[1:3])
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()
    requests, answers = open(0, "rb"), open(os.dup(1), "wb", buffering=1 << 20)  # noqa: SIM115
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries may print, which must not mix with the answers
    try:
        import av  # noqa: F401
    except Exception as error:  # a wheel for another system, or a missing library
        _send(answers, {"failure": first_line(error)})
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if (used_bytes := _address_space_bytes()) is not None:
        resource.setrlimit(resource.RLIMIT_AS, (used_bytes + max_bytes, used_bytes + max_bytes))
    with contextlib.suppress(BrokenPipeError):
        _send(answers, {"failure": None})
        while line := requests.readline():
            request = json.loads(line)
            _answer(request, requests.read(request.get("bytes", 0)), answers)


def _exit_with(parent: int) -> None:
    """Exit within a second after the parent has exited, even if a decoder hangs."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _address_space_bytes() -> int | None:
    """Return the size of this process's address space, `None` without `/proc`."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except FileNotFoundError:
        return None


def _source(request: dict[str, Any], data: bytes) -> Source:
    if "path" not in request:
        return Memory(data)
    return LocalFile(os.open(os.fsencode(request["path"]), os.O_RDONLY | os.O_CLOEXEC), None)


def _answer(request: dict[str, Any], data: bytes, answers: BinaryIO) -> None:
    from .with_pyav import Decoder

    error: str | None = None
    report: dict[str, Any] = {}
    is_reusable = True
    try:
        with contextlib.closing(_source(request, data)) as source:
            span = source.span(request["start"], request["end"])
            with contextlib.closing(Decoder(span, request["container"], **request["options"])) as decoder:
                try:
                    _send_blocks(request, source, decoder, answers)
                finally:
                    report = {name: getattr(decoder, name) for name in REPORTED}
    except AudioError as failure:
        error = str(failure)
    except MemoryError:
        error, is_reusable = f"decoding it needs more than {int(sys.argv[1]) / (1 << 30):g} GiB of memory", False
    except BrokenPipeError:
        raise
    except OSError as failure:
        error = f"cannot be read: {failure.strerror or failure}"
    except Exception as failure:  # a file can make a library raise anything; other files are not affected
        error = f"cannot be decoded: {type(failure).__name__}: {first_line(failure)}"
    _send(answers, {"error": error, "report": report, "is_reusable": is_reusable})


def _send_blocks(request: dict[str, Any], source: Source, decoder: Decoder, answers: BinaryIO) -> None:
    skip_seconds = request["skip_seconds"] if decoder.can_seek(request["skip_seconds"]) else 0.0
    _send(answers, {"skipped_seconds": skip_seconds})
    at, until = skip_seconds, request["until_seconds"]
    for samples, rate_hz in decoder.blocks(skip_seconds):
        data = samples.tobytes()
        _send(answers, {"shape": samples.shape, "dtype": samples.dtype.name, "rate_hz": rate_hz, "bytes": len(data)}, data)
        at += len(samples) / rate_hz
        if until is not None and at >= until:
            break
    source.check()


def _send(answers: BinaryIO, message: dict[str, Any], data: bytes = b"") -> None:
    answers.write(json.dumps(message).encode() + b"\n" + data)
    answers.flush()

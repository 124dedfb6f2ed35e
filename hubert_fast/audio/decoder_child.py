"""What runs in a decoder's process: see :mod:`.decoder_process`."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import threading
import time
from typing import BinaryIO

from ..hub import first_line
from .errors import AudioError
from .sources import LocalFile, Memory, Source

ABOUT = ("tracks", "track", "seconds", "lost_seconds", "filled_seconds", "jumps")


def serve() -> None:
    """Decode what standard input asks for, one file after the other, until it ends.

    The command's arguments: bytes that may be taken beyond what the process has when it is ready, and its parent's number.
    """
    most_bytes, parent = map(int, sys.argv[1:3])
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    questions, answers = open(0, "rb"), open(os.dup(1), "wb", buffering=1 << 20)  # noqa: SIM115
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer
    try:
        import av  # noqa: F401
    except Exception as error:  # a wheel for another system, or a library that it needs
        _say(answers, {"failure": first_line(error)})
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if (there := _address_space()) is not None:
        resource.setrlimit(resource.RLIMIT_AS, (there + most_bytes, there + most_bytes))
    with contextlib.suppress(BrokenPipeError):
        _say(answers, {"failure": None})
        while line := questions.readline():
            request = json.loads(line)
            _answer(request, questions.read(request.get("bytes", 0)), answers)


def _end_with(parent: int) -> None:
    """End when the parent has: a decoder that hangs would not notice."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _address_space() -> int | None:
    """Return the bytes of this process's address space; ``None`` where there is no ``/proc``."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except FileNotFoundError:
        return None


def _source(request: dict, data: bytes) -> Source:
    if "path" not in request:
        return Memory(data)
    return LocalFile(os.open(os.fsencode(request["path"]), os.O_RDONLY | os.O_CLOEXEC), None)


def _answer(request: dict, data: bytes, answers: BinaryIO) -> None:
    from .with_pyav import Decoder

    error, about, is_well = None, {}, True
    try:
        with contextlib.closing(_source(request, data)) as source:
            span = source.span(request["start"], request["end"])
            with contextlib.closing(Decoder(span, request["container"], **request["options"])) as decoder:
                try:
                    _send_blocks(request, source, decoder, answers)
                finally:
                    about = {name: getattr(decoder, name) for name in ABOUT}
    except AudioError as failure:
        error = str(failure)
    except MemoryError:
        error, is_well = f"decoding it needs more than {int(sys.argv[1]) / (1 << 30):g} GiB of memory", False
    except BrokenPipeError:
        raise
    except OSError as failure:
        error = f"cannot be read: {failure.strerror or failure}"
    except Exception as failure:  # whatever a file makes a library do is this file's own
        error = f"cannot be decoded: {type(failure).__name__}: {first_line(failure)}"
    _say(answers, {"error": error, "about": about, "is_well": is_well})


def _send_blocks(request: dict, source: Source, decoder: Decoder, answers: BinaryIO) -> None:  # noqa: F821
    skip_seconds = request["skip_seconds"] if decoder.can_seek(request["skip_seconds"]) else 0.0
    _say(answers, {"skipped_seconds": skip_seconds})
    at, until = skip_seconds, request["until_seconds"]
    for samples, rate_hz in decoder.blocks(skip_seconds):
        data = samples.tobytes()
        _say(answers, {"shape": samples.shape, "dtype": samples.dtype.name, "rate_hz": rate_hz, "bytes": len(data)}, data)
        at += len(samples) / rate_hz
        if until is not None and at >= until:
            break
    source.check()


def _say(answers: BinaryIO, about: dict, data: bytes = b"") -> None:
    answers.write(json.dumps(about).encode() + b"\n" + data)
    answers.flush()

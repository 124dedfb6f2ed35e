"""What runs in a decoder's process: see :mod:`.decoder_process`."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from typing import BinaryIO

from .errors import AudioError
from .sources import LocalFile, Memory, Source
from .with_pyav import Decoder


def serve() -> None:
    """Decode what standard input asks for, one file after the other, until it ends."""
    import av  # noqa: F401  # before its size is taken

    if (there := _address_space()) is not None:
        limit = there + int(os.environ["HUBERT_FAST_DECODER_BYTES"])
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    questions, answers = open(0, "rb"), open(os.dup(1), "wb", buffering=1 << 20)  # noqa: SIM115
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer
    with contextlib.suppress(BrokenPipeError):
        while line := questions.readline():
            request = json.loads(line)
            with contextlib.closing(_source(request, questions)) as source:
                _answer(request, source, answers)


def _address_space() -> int | None:
    """Return the bytes of this process's address space; ``None`` where there is no ``/proc``."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except FileNotFoundError:
        return None


def _source(request: dict, questions: BinaryIO) -> Source:
    if "bytes" in request:
        return Memory(questions.read(request["bytes"]))
    return LocalFile(os.open(os.fsencode(request["path"]), os.O_RDONLY | os.O_CLOEXEC), None)


def _answer(request: dict, source: Source, answers: BinaryIO) -> None:
    error, decoder = None, None
    try:
        decoder = Decoder(source.span(request["start"], request["end"]), request["container"], **request["options"])
        skip_seconds = request["skip_seconds"] if decoder.can_seek(request["skip_seconds"]) else 0.0
        _say(answers, {"skipped_seconds": skip_seconds})
        for samples, rate_hz in decoder.blocks(skip_seconds):
            data = samples.tobytes()
            about = {"shape": samples.shape, "dtype": samples.dtype.name, "rate_hz": rate_hz, "bytes": len(data)}
            _say(answers, about, data)
        source.check()
    except AudioError as failure:
        error = str(failure)
    except MemoryError:
        error = "it would take too much memory to decode"
    except BrokenPipeError:
        raise
    except Exception as failure:  # whatever a file makes a library do is this file's own
        error = f"{type(failure).__name__}: {str(failure).splitlines()[0] if str(failure) else 'in its decoder'}"
    end = {"error": error, "tracks": 1, "seconds": None, "lost_seconds": 0.0, "filled_seconds": 0.0}
    if decoder is not None:
        end |= {name: getattr(decoder, name) for name in ("tracks", "seconds", "lost_seconds", "filled_seconds")}
        decoder.close()
    _say(answers, end)
    answers.flush()


def _say(answers: BinaryIO, about: dict, data: bytes = b"") -> None:
    answers.write(json.dumps(about).encode() + b"\n" + data)
    answers.flush()


if __name__ == "__main__":
    sys.exit("this module is run by hubert_fast.audio.decoder_process")

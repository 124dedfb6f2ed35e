"""The errors of remote file systems, of which each has its own, as one that says what happened."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from http import HTTPStatus

from ..hub import first_line
from .errors import AudioError


@contextlib.contextmanager
def as_audio_errors() -> Iterator[None]:
    """Turn what goes wrong into an :class:`AudioError` that says it; an ``OSError`` stays one."""
    try:
        yield
    except AudioError:
        raise
    except Exception as error:
        status = http_status(error)
        if status is not None:
            raise AudioError(f"the server answered {status}") from None
        if isinstance(error, FileNotFoundError):
            raise AudioError("no such file") from None
        if isinstance(error, OSError):
            raise
        raise AudioError(f"cannot be opened: {first_line(error)}") from None


def http_status(error: BaseException | None) -> str | None:
    """Return the status that an HTTP server answered with, such as ``"403 Forbidden"``, from the cause of an error."""
    while error is not None:
        status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int) and status >= 400:
            known = status in HTTPStatus.__members__.values()
            return f"{status} {HTTPStatus(status).phrase}" if known else str(status)
        error = error.__cause__ or error.__context__
    return None

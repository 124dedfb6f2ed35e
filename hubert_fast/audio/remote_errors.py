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
        cause = _connection_error(error)
        if cause is not None:
            raise AudioError(cause) from None
        if isinstance(error, FileNotFoundError):
            raise AudioError("no such file") from None
        if isinstance(error, OSError):
            raise
        raise AudioError(f"cannot be opened: {first_line(error)}") from None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _connection_error(error: BaseException) -> str | None:
    """Say why a server was not reached or broke off, from the names of what aiohttp raises; ``None`` for anything else."""
    for cause in _chain(error):
        names = {kind.__name__ for kind in type(cause).__mro__}
        if "ClientConnectorDNSError" in names or "gaierror" in names:
            return "the server's name is not known (or there is no network)"
        if names & {"ClientSSLError", "SSLError", "ClientConnectorCertificateError"}:
            return f"no secure connection to the server: {first_line(cause)}"
        if "TooManyRedirects" in names:
            return "the server redirects without an end"
        if names & {"ClientPayloadError", "ServerDisconnectedError", "ContentLengthError"}:
            return "the server broke off before all of it was sent"
        if names & {"TimeoutError", "ServerTimeoutError"}:
            return "the server did not answer in time"
        if names & {"ClientConnectorError", "ConnectionRefusedError", "ConnectionResetError"}:
            return "the server cannot be reached (connection refused or reset)"
    return None


def http_status(error: BaseException | None) -> str | None:
    """Return the status that an HTTP server answered with, such as ``"403 Forbidden"``, from the cause of an error."""
    for cause in _chain(error):
        status = getattr(cause, "status", None) or getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int) and status >= 400:
            known = status in HTTPStatus.__members__.values()
            return f"{status} {HTTPStatus(status).phrase}" if known else str(status)
    return None

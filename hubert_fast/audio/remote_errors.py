"""Translate the exceptions of remote file systems, each of which has its own, into messages that say what happened."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from http import HTTPStatus

from ..hub import first_line
from .errors import AudioError


@contextlib.contextmanager
def as_audio_errors() -> Iterator[None]:
    """Turn any exception into an ``AudioError`` that explains it. An unexplained ``OSError`` passes through."""
    try:
        yield
    except AudioError:
        raise
    except Exception as error:
        status = http_status(error)
        if status is not None:
            raise AudioError(f"the server answered {status}") from None
        reason = _connection_error(error)
        if reason is not None:
            raise AudioError(reason) from None
        if isinstance(error, FileNotFoundError):
            raise AudioError("no such file") from None
        if isinstance(error, OSError):
            raise
        raise AudioError(f"cannot be opened: {first_line(error)}") from None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _connection_error(error: BaseException) -> str | None:
    """Explain a failed connection by the names of aiohttp's exception classes; ``None`` for any other error."""
    for cause in _chain(error):
        names = {kind.__name__ for kind in type(cause).__mro__}
        if "ClientConnectorDNSError" in names or "gaierror" in names:
            return "the server's name cannot be resolved (or there is no network)"
        if names & {"ClientSSLError", "SSLError", "ClientConnectorCertificateError"}:
            return f"no secure connection to the server: {first_line(cause)}"
        if "TooManyRedirects" in names:
            return "the server redirects endlessly"
        if names & {"ClientPayloadError", "ServerDisconnectedError", "ContentLengthError"}:
            return "the server closed the connection before sending the whole file"
        if names & {"TimeoutError", "ServerTimeoutError"}:
            return "the server did not answer in time"
        if names & {"ClientConnectorError", "ConnectionRefusedError", "ConnectionResetError"}:
            return "the server cannot be reached (connection refused or reset)"
    return None


def http_status(error: BaseException | None) -> str | None:
    """Return the HTTP status behind an exception, such as ``"403 Forbidden"``; ``None`` if no server answered with one."""
    for cause in _chain(error):
        status = getattr(cause, "status", None) or getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int) and status >= 400:
            is_standard = status in HTTPStatus.__members__.values()
            return f"{status} {HTTPStatus(status).phrase}" if is_standard else str(status)
    return None

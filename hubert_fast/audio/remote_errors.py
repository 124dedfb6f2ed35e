"""Translate the exceptions of remote file systems, which all have their own, into messages that say what happened."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..http_status import chain, describe_status, http_status
from ..hub import first_line
from .errors import AudioError


@contextlib.contextmanager
def as_audio_errors() -> Iterator[None]:
    """Turn any exception into an `AudioError` that explains it, except an `OSError` without a known explanation."""
    try:
        yield
    except AudioError:
        raise
    except Exception as error:
        status = http_status(error)
        if status is not None:
            raise AudioError(f"the server answered {describe_status(status)}") from None
        reason = _connection_error(error)
        if reason is not None:
            raise AudioError(reason) from None
        if isinstance(error, FileNotFoundError):
            raise AudioError("no such file") from None
        if isinstance(error, OSError):
            raise
        raise AudioError(f"cannot be opened: {first_line(error)}") from None


def _connection_error(error: BaseException) -> str | None:
    """Explain a failed connection by the names of aiohttp's exception classes; `None` for any other error."""
    for cause in chain(error):
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

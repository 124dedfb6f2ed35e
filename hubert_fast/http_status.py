"""Find the HTTP status behind an exception, whichever library raised it."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def http_status(error: BaseException | None) -> int | None:
    """Return the HTTP error status (400 or more) in an exception or one of its causes; `None` if there is none."""
    for cause in chain(error):
        # aiohttp has `status`; requests and httpx have `response.status_code`
        status = getattr(cause, "status", None) or getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int) and status >= 400:
            return status
    return None


def describe_status(status: int) -> str:
    """Return a status with its name, such as `"403 Forbidden"`."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:  # not a standard status
        return str(status)

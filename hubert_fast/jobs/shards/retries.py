"""Repeat requests to file systems that fail now and then, and tell failures that will pass from those that will not."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from ...http_status import chain, http_status
from ..remote import reason_of

logger = logging.getLogger(__name__)

MOST_ATTEMPTS = 6
FIRST_PAUSE_SECONDS, MOST_PAUSE_SECONDS = 0.5, 15.0
MOST_SECONDS = 180.0  # from the first failure on
PASSING_STATUS = frozenset((408, 409, 425, 429))  # of those below 500: the server asks to try again
FINAL_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
FINAL_NAMES = ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError")  # of botocore
FAULTS = (NotImplementedError, ValueError, TypeError, ImportError)  # of the request itself

Value = TypeVar("Value")


class StorageError(Exception):
    """A file system refuses, or has failed too often. The message says which file, and why."""


def is_final(error: Exception) -> bool:
    """Return whether the same request would fail again: no such file, no permission, no space, a faulty request."""
    status = http_status(error)
    if status is not None:
        return status < 500 and status not in PASSING_STATUS
    if isinstance(error, FAULTS):
        return True
    return any(isinstance(cause, FINAL_ERRORS) or type(cause).__name__ in FINAL_NAMES for cause in chain(error))


class Attempts:
    """Counts the failures of one request. After a success, a new object counts those of the next.

    Args:
        what: What is attempted, for messages: `"s3://bucket/a.tar cannot be read"`.
    """

    def __init__(self, what: str):
        self._what, self._count, self._began = what, 0, 0.0

    def failed(self, error: Exception) -> None:
        """Wait before the next attempt.

        Raises:
            StorageError: If there should be none.
        """
        now = time.monotonic()
        self._began = self._began or now
        self._count += 1
        reason = reason_of(error)
        if is_final(error):
            raise StorageError(f"{self._what}: {reason}") from error
        if self._count >= MOST_ATTEMPTS or now - self._began > MOST_SECONDS:
            times = f"{self._count} attempts in {now - self._began:.0f} s"
            raise StorageError(f"{self._what}, after {times}: {reason}") from error
        logger.warning("%s: %s; trying again (%d of %d)", self._what, reason, self._count, MOST_ATTEMPTS - 1)
        pause = min(FIRST_PAUSE_SECONDS * 2 ** (self._count - 1), MOST_PAUSE_SECONDS)
        time.sleep(pause * random.uniform(0.5, 1.0))  # so that many actors do not all return at once


def repeated(what: str, request: Callable[[], Value]) -> Value:
    """Return what a request returns, after repeating it if it fails.

    Raises:
        StorageError: If the failure is final, or the request has failed too often.
    """
    attempts = Attempts(what)
    while True:
        try:
            return request()
        except Exception as error:  # each file system has its own exceptions
            attempts.failed(error)

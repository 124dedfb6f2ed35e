"""Define exit statuses, the error that ends a command, and messages on standard error, for all commands.

This module imports nothing from this package, so that the parser and every command can import it.
"""

from __future__ import annotations

import contextlib
import signal
import sys

EXIT_OK, EXIT_SOME_FAILED, EXIT_CANNOT_RUN = 0, 1, 2
EXIT_READER_GONE = 128 + signal.SIGPIPE


class CannotRunError(Exception):
    """The command cannot run or continue. The message is the one line that the user sees."""


def say(message: str) -> None:
    """Write a line to standard error, above the progress bar if there is one. Do nothing if standard error is closed."""
    from tqdm import tqdm  # on demand: --help and --version need no progress bar

    with contextlib.suppress(OSError), tqdm.external_write_mode(file=sys.stderr):
        print(f"hubert-fast: {message}", file=sys.stderr)

"""Handle Ctrl-C while a command starts or ends and has nothing to save: print one line and exit at once with status 130.

By default Python raises KeyboardInterrupt at an arbitrary point. During imports this prints a traceback, or the exception is
lost: in the bare `except` of a library, or in a destructor, where Python prints the exception and continues.
"""

from __future__ import annotations

import os
import signal

EXIT_INTERRUPTED = 128 + signal.SIGINT


def exit_at_once(*_: object) -> None:
    """Print one line and end this process at once; a signal handler."""
    os.write(2, b"hubert-fast: interrupted\n")
    os._exit(EXIT_INTERRUPTED)


def exit_at_interrupts() -> None:
    """Make Ctrl-C end this process at once, unless SIGINT is ignored (as under `nohup`) or already has a handler."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, exit_at_once)


class keyboard_interrupts:
    """A context in which Ctrl-C raises KeyboardInterrupt, as usual, so that unfinished work can be cleaned up."""

    def __enter__(self) -> None:
        self.is_set = signal.getsignal(signal.SIGINT) is exit_at_once
        if self.is_set:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *_: object) -> None:
        if self.is_set:
            signal.signal(signal.SIGINT, exit_at_once)

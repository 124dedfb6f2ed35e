"""Run the command `hubert-fast`, also as `python -m hubert_fast`.

Importing PyTorch takes seconds. Therefore a handler that lets Ctrl-C end the process without a traceback is set first.
PyTorch's OpenMP library reads its environment variables when it is loaded. Therefore they are set before that as well.
"""

import os
import sys

# Variables by which a user chooses how OpenMP threads wait: of the standard, of GNU's library and of LLVM's and Intel's
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SPIN_COUNT = 1_000  # before a thread sleeps; GNU's default is 300,000, about 3 ms. bench/contention.py measures both


def main() -> int:
    """Run the command line of this process and return the exit status."""
    try:
        from . import interrupts

        interrupts.exit_at_interrupts()
    except KeyboardInterrupt:  # before the handler was set
        os.write(2, b"hubert-fast: interrupted\n")
        os._exit(130)
    _limit_spinning()
    from .cli import main as run

    return run()


def _limit_spinning() -> None:
    """Let OpenMP threads that wait for work sleep soon, unless the user has chosen otherwise or runs a benchmark.

    A benchmark measures what programs get that leave PyTorch as it is; there, spinning saves 2 to 4 % of the time of a call.

    Spinning takes CPU time from other processes, and uses up the CPU quota of a container. This is the only place besides
    dispatch.py that reads the environment, and the only one that writes it: GNU's library, which comes with PyTorch, has no
    other interface for it and reads variables only once, while it is loaded; dispatch.py imports PyTorch. A command owns its
    process. As a library, this package leaves the environment alone. Child processes inherit the setting.
    """
    if sys.argv[1:2] != ["bench"] and not any(variable in os.environ for variable in WAIT_VARIABLES):
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)


if __name__ == "__main__":
    sys.exit(main())

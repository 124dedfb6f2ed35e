"""Run the command `hubert-fast`, also as `python -m hubert_fast`.

Importing PyTorch takes seconds. Therefore a handler that lets Ctrl-C end the process without a traceback is set first.
"""

import os
import sys


def main() -> int:
    """Run the command line of this process and return the exit status."""
    try:
        from . import interrupts

        interrupts.exit_at_interrupts()
    except KeyboardInterrupt:  # before the handler was set
        os.write(2, b"hubert-fast: interrupted\n")
        os._exit(130)
    from .cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())

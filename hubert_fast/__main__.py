"""The command `hubert-fast`, which is also `python -m hubert_fast`.

Importing PyTorch takes seconds. The first thing done is therefore to let Ctrl-C end the process without a traceback.
"""

import os
import sys


def main() -> int:
    """Run the command line of this process; return the exit status."""
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

"""``python -m hubert_fast`` is the command ``hubert-fast``."""

import sys

from .cli import main

sys.exit(main())

"""Imported first by programs that run from a bare checkout, where nothing is installed."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("hubert_fast") is None:
    sys.path.append(str(Path(__file__).resolve().parent.parent))

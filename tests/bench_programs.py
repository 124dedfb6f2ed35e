"""Helpers for tests of the programs in bench/: their folder, a fixture that imports them, and a reader of their rows."""

import csv
import importlib
import sys
from pathlib import Path

import pytest

import hubert_fast

FOLDER = Path(hubert_fast.__file__).parent.parent / "bench"
needs_programs = pytest.mark.skipif(not FOLDER.exists(), reason="bench/ is not beside the package under test")


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def bench_program(monkeypatch):
    """Yield a function that imports a program of bench/; forget the imported modules afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(f"{FOLDER}/"):
            del sys.modules[name]

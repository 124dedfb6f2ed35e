"""Test the suite itself: pytest-xdist refuses to run unless all of its workers collect tests of the same names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Collect with a clock that always shows the time in the first argument.
COLLECT = "import sys, time; time.time = lambda: float(sys.argv[1]); import pytest; sys.exit(pytest.main(sys.argv[2:]))"


def _collect(seed: int) -> list[str]:
    arguments = ["--collect-only", "-q", "-o", "addopts=", "-p", "no:cacheprovider", str(ROOT / "tests")]
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    result = subprocess.run(
        [sys.executable, "-c", COLLECT, str(1e9 + seed), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr
    return [line for line in result.stdout.splitlines() if "::" in line]


@pytest.mark.slow
def test_names_of_tests_depend_neither_on_the_time_nor_on_the_order_of_sets():
    first, second = _collect(1), _collect(2)
    assert len(first) > 3000
    assert first == second

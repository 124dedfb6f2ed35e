"""The suite itself: workers of pytest-xdist refuse to run unless all collect tests of the same names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Collect as if started at time N.
COLLECT = "import sys, time; time.time = lambda: float(sys.argv[1]); import pytest; sys.exit(pytest.main(sys.argv[2:]))"


def _collected(number: int) -> list[str]:
    arguments = ["--collect-only", "-q", "-o", "addopts=", "-p", "no:cacheprovider", str(ROOT / "tests")]
    environment = {**os.environ, "PYTHONHASHSEED": str(number)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    result = subprocess.run(
        [sys.executable, "-c", COLLECT, str(1e9 + number), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr
    return [line for line in result.stdout.splitlines() if "::" in line]


@pytest.mark.slow
def test_names_of_tests_depend_neither_on_the_time_nor_on_the_order_of_sets():
    first, second = _collected(1), _collected(2)
    assert len(first) > 3000
    assert first == second

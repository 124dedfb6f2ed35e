"""pytest-benchmark suites: ``pytest bench/suites [--benchmark-json FILE] [--tiny]``, after ``pip install '.[bench]'``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # programs of bench/ are modules to each other

import sizes


def pytest_addoption(parser):
    parser.addoption("--tiny", action="store_true", help="at tiny shapes, with no rows and no bars: a test of the suites")


def pytest_configure(config):
    sizes.TINY = config.getoption("--tiny")

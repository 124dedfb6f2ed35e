"""Where rows of results go. What a row says of its machine is ``hubert_fast.benchmark.rows``."""

from __future__ import annotations

from pathlib import Path

import checkout  # noqa: F401

from hubert_fast.benchmark.rows import append, origin, percentiles, processor

RESULTS = Path(__file__).parent / "results"

__all__ = ["RESULTS", "append", "origin", "percentiles", "processor"]

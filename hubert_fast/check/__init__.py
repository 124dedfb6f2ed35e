"""Kernels hold themselves to their definitions where they run: ``hubert-fast check``, and once before ``auto`` takes them.

:mod:`.cases` has every op at shapes that matter, :mod:`.values` and :mod:`.models` compare, :mod:`.process` does that in a
process of its own, :mod:`.verdicts` keeps what came of it.
"""

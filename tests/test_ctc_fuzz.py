"""Call the C++ extension directly with wrong arguments: each call must return or raise, and never crash.

`make sanitize` runs these tests with sanitizers, which end the process at a read or write outside a buffer.
"""

import sys
import time
from collections import namedtuple

import numpy as np
import pytest

from hubert_fast import ctc
from hubert_fast.ctc import fallback

_ctc = pytest.importorskip("hubert_fast._ctc", reason=f"not built: {ctc.why_not_built()}")
DTYPES = [np.int64, np.int32, np.int16, np.uint8, np.float32, np.float64, bool, np.uint64, ">i8", "U1", object, complex]


def _array(rng, size, low, high):
    """Return an array whose dtype, shape, stride or alignment may be wrong."""
    dtype = DTYPES[rng.choice(len(DTYPES), p=[0.5, 0.1, 0.1, 0.1] + [0.2 / 8] * 8)]
    array = rng.integers(low, high, size).astype(dtype)
    kind = rng.integers(0, 20)
    if kind == 0:
        return array[::-1]
    if kind == 1:
        return np.repeat(array, 2)[::2]
    if kind == 2:
        return array.reshape(-1, 1)
    if kind == 3 and dtype == np.int64:
        return np.frombuffer(b"x" + array.tobytes(), np.uint8)[1:].view(np.int64)  # not aligned
    if kind == 4:
        return np.broadcast_to(array[:1], (size,)) if size else array
    return array


def _extreme(rng, small):
    return int(rng.choice([small, -1, 0, 2**31, 2**63 - 1, -(2**63), small + 1]))


def test_random_arguments():
    rng = np.random.default_rng(0)
    outcomes = {"answer": 0, "error": 0}
    for _ in range(4000):
        size, utterances = int(rng.integers(0, 200)), int(rng.integers(0, 8))
        vocabulary = int(rng.integers(1, 20))
        table = _ctc.Table(["é" * int(rng.integers(0, 4)) for _ in range(vocabulary)], rng.integers(0, 4, vocabulary).tolist())
        ids = _array(rng, size, -1 if rng.random() < 0.2 else 0, vocabulary + (rng.random() < 0.2))
        begins = np.sort(rng.integers(0, size + 1, utterances))
        lengths = rng.integers(0, size + 1 - begins.max(initial=0), utterances)
        if rng.random() < 0.3 and utterances:
            (begins if rng.random() < 0.5 else lengths)[rng.integers(0, utterances)] = _extreme(rng, size)
        if rng.random() < 0.1:
            begins = _array(rng, utterances, 0, size + 1)
        log_probs = None if rng.random() < 0.5 else rng.random(size + (rng.random() < 0.1)).astype(np.float32)
        if log_probs is not None and rng.random() < 0.1:
            log_probs = log_probs.astype(np.float64) if rng.random() < 0.5 else log_probs[::2]
        blank = _extreme(rng, 0) if rng.random() < 0.1 else int(rng.integers(0, vocabulary))
        threads = _extreme(rng, 3) if rng.random() < 0.05 else int(rng.integers(1, 5))
        flags = [bool(flag) for flag in rng.integers(0, 2, 3)]
        try:
            answer = _ctc.decode(ids, begins, lengths, table, blank, log_probs, *flags, threads)
        except (ValueError, TypeError):
            outcomes["error"] += 1
            continue
        outcomes["answer"] += 1
        assert len(answer["texts"]) == len(answer["text_means"]) == utterances
    assert min(outcomes.values()) > 500, outcomes


@pytest.mark.parametrize("tokens, kinds", [(["a"], []), (["a"], [4]), (["a"], [-1]), ([1], [0]), ([b"\xff"], [0])])
def test_invalid_tables_are_refused(tokens, kinds):
    ids, begins, lengths = np.zeros(2, np.int64), np.zeros(1, np.int64), np.full(1, 2)
    with pytest.raises((ValueError, TypeError)):  # invalid UTF-8 is only detected when it becomes text
        table = _ctc.Table([*tokens, "b"], [*kinds, 0] if kinds else kinds)
        _ctc.decode(ids, begins, lengths, table, 1, None, True, True, True, 1)


def test_arguments_of_wrong_types_are_refused():
    table, ones = _ctc.Table(["a", "b"], [0, 0]), np.ones(1, np.int64)
    for wrong in (None, "ids", 3.5, object(), [[0]], b"0"):
        for position in range(3):
            arguments = [ones, 0 * ones, ones]
            arguments[position] = wrong
            with pytest.raises((ValueError, TypeError)):
                _ctc.decode(*arguments, table, 0)
    for wrong in (None, "table", object(), _ctc.Table.__new__(_ctc.Table)):
        with pytest.raises(TypeError):
            _ctc.decode(ones, 0 * ones, ones, wrong, 0)
    with pytest.raises((TypeError, ValueError)):
        _ctc.decode(ones, 0 * ones, ones, table, 2**80)


def test_both_backends_name_an_utterance_out_of_range_alike():
    ids, begins, lengths, table = np.zeros(9, np.int64), np.array([0, 5]), np.array([5, 7]), (["a", "b"], [0, 0])
    message = "^utterance 1 has 7 frames from frame 5 on, but there are 9 frames$"
    for module in (_ctc, fallback):
        with pytest.raises(ValueError, match=message):
            module.decode(ids, begins, lengths, module.Table(*table), 0)


Row = namedtuple("Row", "text number share")


class Derived(Row):
    """A subclass whose instances have a `__dict__`."""


NOT_ROWS = [tuple, list, int, time.struct_time, type(sys.float_info), Derived, type("Fields", (), {"_fields": ("a",)})]


@pytest.mark.parametrize("kind", NOT_ROWS, ids=lambda kind: kind.__name__)
def test_rows_refuse_types_other_than_plain_named_tuples(kind):
    with pytest.raises((ValueError, TypeError)):
        _ctc.rows(kind, np.array([1]), ["a"], np.zeros(1, np.int32), np.zeros(1))


def test_rows_of_random_columns():
    rng = np.random.default_rng(1)
    outcomes = {"answer": 0, "error": 0}
    for _ in range(3000):
        counts = rng.integers(0, 6, rng.integers(0, 6))
        size = int(counts.sum())
        sizes = size + (rng.random(3) < 0.05) * rng.integers(-2, 3, 3)
        columns = [
            [f"{i}" for i in range(sizes[0])],
            _array(rng, max(sizes[1], 0), 0, 9) if rng.random() < 0.2 else np.arange(max(sizes[1], 0), dtype=np.int32),
            np.arange(max(sizes[2], 0)) / 2,
        ][: 3 if rng.random() < 0.95 else 2]
        if rng.random() < 0.1:
            counts = _array(rng, len(counts), -1, 2**40)
        try:
            actual = _ctc.rows(Row, counts, *columns)
        except (ValueError, TypeError):
            outcomes["error"] += 1
            continue
        outcomes["answer"] += 1
        assert actual == fallback.rows(Row, counts, *columns)
        assert all(type(row) is Row for part in actual for row in part)
    assert min(outcomes.values()) > 300, outcomes


def test_reference_counts_are_unchanged():
    """A reference too many would leak memory; one too few would free an object in use."""
    text, numbers = "a text of its own " * 2, np.zeros(5, np.int32)
    before = sys.getrefcount(text), sys.getrefcount(Row), sys.getrefcount(numbers)
    for _ in range(100):
        rows = _ctc.rows(Row, np.array([2, 3]), [text] * 5, numbers, np.ones(5))
        assert rows[1][2] == (text, 0, 1.0)
        with pytest.raises(ValueError, match="a column must be"):
            _ctc.rows(Row, np.array([2, 3]), [text] * 5, numbers, np.ones(4))
    del rows
    assert (sys.getrefcount(text), sys.getrefcount(Row), sys.getrefcount(numbers)) == before


def test_decoding_leaks_no_memory():
    resource = pytest.importorskip("resource")
    table, ids = _ctc.Table(["", "ab"], [0, 0]), np.tile(np.array([0, 1]), 20_000)

    def peak_bytes() -> int:
        for _ in range(40):
            _ctc.decode(ids, np.array([0]), np.array([len(ids)]), table, 0, tokens=True, words=True)
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    first = peak_bytes()
    assert peak_bytes() - first < 20e6  # forty calls allocate a hundred megabytes

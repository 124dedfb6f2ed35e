"""Test that bench/padded_texts.py finds what raises the word error rate of padded batches."""

import pytest
from bench_programs import needs_programs, rows_of

pytestmark = [needs_programs, pytest.mark.bench]


def test_padding_and_lost_letters_are_told_apart(bench_program, tmp_path):
    bench_program("padded_texts").main(["--out", str(tmp_path)])
    rows = rows_of(tmp_path / "padded_texts.csv")
    names = ("provider", "batch", "frames", "skip_special_tokens")
    errors = {tuple(row[name] for name in names): int(row["word_errors"]) for row in rows}
    assert len(rows) == len(errors) == 24 and {row["words"] for row in rows} == {"118"}
    alone, without_doubled_letters = (errors["hf-sdpa", "1", "audio", skips] for skips in ("False", "True"))
    assert alone < 6 and without_doubled_letters > 3 * alone
    for (provider, batch, frames, skips), count in errors.items():
        expected = without_doubled_letters if skips == "True" else alone
        if (provider, batch, frames) == ("hf-sdpa", "8", "all"):
            assert count > expected, "transformers decodes the padding"
        else:
            assert count == expected, (provider, batch, frames, skips)

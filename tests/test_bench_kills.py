"""Test the program that kills jobs: its rows and table, and that it notices inputs that are lost, doubled or mixed up."""

import json
from pathlib import Path

import numpy as np
import pytest
from bench_programs import needs_programs, rows_of

from hubert_fast import demo

pytestmark = [needs_programs, pytest.mark.bench]


def test_rows_and_table(bench_program, tmp_path):
    pytest.importorskip("pyarrow")
    pytest.importorskip("sklearn")
    options = ["--jobs", "units", "--files", "20", "--kills", "1", "--most-seconds", "2"]
    assert bench_program("kills").main([*options, "--scratch", str(tmp_path), "--out", str(tmp_path)]) == 0
    rows = rows_of(tmp_path / "kills.csv")
    assert [(row["command"], row["format"]) for row in rows] == [("units", "jsonl"), ("units", "parquet")]
    for row in rows:
        assert row["files"] == row["rows"] == "20" and row["kills"] == "1" and row["kills_with_progress"] in "01"
        assert row["missing"] == row["doubled"] == row["differing"] == "0"
        assert row["frames"] == row["frames_in_files"] and int(row["frames"]) > 1000
    table = bench_program("report_units").unit_kills(tmp_path)
    assert (
        f"| units --format jsonl | 1 ({rows[0]['kills_with_progress']}) | 20 | 0 | 0 | 0 | {int(rows[0]['frames']):,} |"
        in table
    )
    assert not [*tmp_path.glob("*/")], "temporary files are removed"


def test_job_that_ends_too_early_is_refused(bench_program, tmp_path):
    pytest.importorskip("sklearn")
    with pytest.raises(SystemExit, match="units ended with 0 before kill 1 of 1: give more --files"):
        bench_program("kills").main(
            ["--jobs", "units", "--files", "2", "--kills", "1", "--most-seconds", "3600", "--out", str(tmp_path)]
        )
    assert not [*tmp_path.iterdir()]


@pytest.fixture
def corpus(bench_program, tmp_path):
    """Return a corpus of all recordings and one more, and the units of each recording."""
    count = len(demo.recordings()) + 1
    corpus = bench_program("kills").write_corpus(tmp_path / "audio", count)
    assert len(corpus) == count and all(Path(name).exists() for name in corpus)
    return corpus, {source: np.array([number, 0, 1]) for number, source in enumerate(dict.fromkeys(corpus.values()))}


def test_faults_are_counted(bench_program, corpus):
    kills, (corpus, expected) = bench_program("kills"), corpus
    entries = [kills.Entry(name, expected[source]) for name, source in corpus.items()]
    right = kills.judge(kills.Output(entries), corpus, expected)
    assert right["rows"] == len(corpus) and not any(right[name] for name in ("missing", "doubled", "differing"))
    assert kills.judge(kills.Output(entries[1:]), corpus, expected)["missing"] == 1
    assert kills.judge(kills.Output([*entries, entries[3]]), corpus, expected)["doubled"] == 1
    mixed_up = [entries[0]._replace(values=entries[1].values), entries[1]._replace(values=entries[0].values), *entries[2:]]
    assert kills.judge(kills.Output(mixed_up), corpus, expected)["differing"] == 2
    short = [entries[0]._replace(values=entries[0].values[:-1]), *entries[1:]]
    assert kills.judge(kills.Output(short), corpus, expected)["differing"] == 1


def test_frames_without_a_row_are_counted(bench_program, tmp_path):
    kills = bench_program("kills")
    frames = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float16)
    np.save(tmp_path / f"layer{kills.LAYER}-00000.npy", frames)
    rows = [{"audio": "a", "shard": 0, "start": 0, "frames": 3}, {"audio": "b", "shard": 0, "start": 3, "frames": 2}]
    (tmp_path / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = kills.read_shards(tmp_path)
    assert output.frames_in_files == 7 and [len(entry.values) for entry in output.entries] == [3, 2]
    assert kills.agree(output.entries[1].values, frames[3:5].astype(np.float32) * (1 + 1e-4))
    assert not kills.agree(output.entries[1].values, frames[2:4].astype(np.float32))

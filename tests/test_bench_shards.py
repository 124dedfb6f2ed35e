"""Test the program that measures shards, at tiny sizes: its rows, its judgement and its tables."""

import pytest
from bench_programs import needs_programs, rows_of

pytestmark = [needs_programs, pytest.mark.bench]


@pytest.fixture(autouse=True)
def disconnected():
    """Leave the cluster that a program has started."""
    ray = pytest.importorskip("ray", reason="Ray is an optional dependency: pip install 'hubert_fast[ray]'")
    yield
    ray.shutdown()


def test_kills(bench_program, tmp_path):
    options = ["--shards", "3", "--clips", "4", "--kills", "1", "--most-seconds", "1.5", "--scratch", str(tmp_path)]
    cases = ["command, in one process", "actors on Ray"]
    assert bench_program("shards").main(["kills", *options, "--out", str(tmp_path), "--cases", *cases]) == 0
    rows = rows_of(tmp_path / "shards_kills.csv")
    assert [row["case"] for row in rows] == cases
    for row in rows:
        assert row["clips"] == row["rows"] == "12" and row["kills_with_progress"] in "01"
        assert row["missing"] == row["doubled"] == row["differing"] == "0"
    table = bench_program("report_shards").shard_kills(tmp_path)
    assert f"| command, in one process | 1 | {rows[0]['kills_with_progress']} | 12 | 0 | 0 | 0 |" in table
    assert not [*tmp_path.glob("*/")], "temporary files are removed"


def test_faults_are_counted(bench_program):
    judge, expected = bench_program("shards").judge, {"a": ["ONE"], "b": ["TWO"], "c": ["SIX"]}
    assert judge(expected, expected) == {"rows": 3, "missing": 0, "doubled": 0, "differing": 0}
    found = {"a": ["ONE", "ONE"], "b": ["TEN"], "d": ["SIX"]}
    assert judge(expected, found) == {"rows": 4, "missing": 1, "doubled": 1, "differing": 2}


def test_speed(bench_program, tmp_path):
    bench_program("shards").main(["speed", "--shards", "2", "--clips", "3", "--rounds", "1", "--out", str(tmp_path)])
    rows = rows_of(tmp_path / "shards_speed.csv")
    assert [row["case"] for row in rows] == ["model alone", "tar to jsonl", "parquet to jsonl", "parquet to parquet"]
    base = float(rows[0]["p50_s"])
    for row in rows:
        assert row["clips"] == "6" and float(row["share_of_model_alone"]) == pytest.approx(base / float(row["p50_s"]), rel=0.05)
        assert float(row["rtfx"]) == pytest.approx(float(row["audio_seconds"]) / float(row["p50_s"]), rel=0.05)
    table = bench_program("report_shards").shard_speed(tmp_path)
    assert "| model alone | " in table and "2 shards with 6 utterances" in table


def test_memory(bench_program, tmp_path):
    bench_program("shards").main(["memory", "--shards", "17", "--clips", "2", "--out", str(tmp_path)])
    rows = rows_of(tmp_path / "shards_memory.csv")
    assert [(row["shards"], row["clips"]) for row in rows] == [("4", "8"), ("16", "32"), ("17", "34")]
    assert all(50 < int(row["peak_megabytes"]) < 2000 for row in rows)
    assert f"| 17 | 34 | {rows[2]['megabytes']} MB |" in bench_program("report_shards").shard_memory(tmp_path)


def test_limits(bench_program, tmp_path):
    bench_program("shards").main(["limits", "--scale", "0.02", "--rounds", "1", "--out", str(tmp_path)])
    rows = {row["case"]: row for row in rows_of(tmp_path / "shards_limits.csv")}
    assert {"one process, 1 s wav, 4 readers", "one journal, results that are ready"} <= rows.keys()
    row = rows["one process, 1 s wav, 4 readers"]
    assert float(row["utterances_per_s"]) == pytest.approx(int(row["utterances"]) / float(row["p50_s"]), rel=0.05)
    report = bench_program("report_shards")
    assert "| one journal, results that are ready | " in report.shard_limits(tmp_path)
    assert report.took(90) == "1.5 min" and report.took(7200) == "2.0 h"


def test_limits_on_ray(bench_program, tmp_path):
    bench_program("shards").main(["ray", "--scale", "0.02", "--rounds", "1", "--out", str(tmp_path)])
    rows = {row["case"]: row for row in rows_of(tmp_path / "shards_ray.csv")}
    assert {"Ray, 1 actor, shards of 2", "Ray, 2 actors, shards of 1"} <= rows.keys()
    assert rows["Ray, 1 actor, shards of 2"]["utterances"] == "120" and rows["Ray, 2 actors, shards of 1"]["utterances"] == "12"
    assert float(rows["Ray, 2 actors, until the first of its shards"]["p50_s"]) > 0.5

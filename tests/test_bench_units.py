"""Test the program that measures files to units, at tiny sizes: its rows, its judgement of units, and its tables."""

import numpy as np
import pytest
import torch
from bench_programs import needs_programs, rows_of

pytestmark = [needs_programs, pytest.mark.bench]

TINY = ["--model", "tiny", "--layers", "1", "--clusters", "20", "--audio-seconds", "10", "--rounds", "1"]
FULL_LAYERS = 2  # of the tiny model


@pytest.fixture
def providers(bench_program):
    return bench_program("units_providers")


def test_speed_rows_and_table(bench_program, providers, tmp_path):
    bench_program("units").main([*TINY, "--out", str(tmp_path)])
    rows = rows_of(tmp_path / "units.csv")
    names = [providers.FULL, providers.OURS, providers.JOB, providers.COMMAND]
    names += [providers.PADDED, providers.LOOP, providers.CUT]
    assert [row["provider"] for row in rows] == names
    assert [row["layer"] for row in rows] == [str(FULL_LAYERS), *"111111"]
    for row in rows:
        assert row["files"] == "2" and row["frames"] == "499" and float(row["audio_seconds"]) == 10
        assert 0 < float(row["min_s"]) <= float(row["p20_s"]) <= float(row["p50_s"]) <= float(row["p80_s"])
        assert float(row["rtfx"]) == pytest.approx(10 / float(row["p50_s"]), rel=1e-3)
        assert row["beyond_rounding"] == "0" or row["provider"] == providers.PADDED
        assert (row["process_peak_bytes"] != "") == (row["provider"] == providers.COMMAND)
    assert 5e7 < int(rows[3]["process_peak_bytes"]) < 2e9
    table = bench_program("report_units").units(tmp_path)
    assert all(f"| {name} |" in table for name in names)
    assert "float32, none of 1,996 of hubert_fast, none of 998 of transformers file by file" in table
    ours, loop = (float(rows[number]["rtfx"]) for number in (1, 5))
    assert f"| {providers.LOOP} | 1 | {loop:.3g} | {ours / loop:.2f}x |" in table or loop >= 100


def test_kmeans_rows_and_table(bench_program, tmp_path):
    options = ["--frames", "4000", "--clusters", "10", "--epochs", "2", "--scratch", str(tmp_path), "--out", str(tmp_path)]
    bench_program("units").main(["--kmeans", *options])
    epoch, whole = rows_of(tmp_path / "units.csv")
    assert epoch["rounds"] == whole["rounds"] == "1" and epoch["frames"] == whole["frames"] == "4000"
    assert 0 < float(epoch["p50_s"]) < float(whole["p50_s"])
    assert 5e7 < int(whole["process_peak_bytes"]) < 2e9
    table = bench_program("report_units").unit_kmeans(tmp_path)
    assert "| 4,000 | 10 | " in table and f" {int(whole['process_peak_bytes']) / 1e6:,.0f} MB |" in table
    assert not [*tmp_path.glob("*/")], "temporary files are removed"


def test_memory_rows_and_table(bench_program, tmp_path):
    bench_program("units").main(["--files", "2", "3", "--out", str(tmp_path)])
    rows = rows_of(tmp_path / "units.csv")
    assert [(row["files"], row["audio_seconds"]) for row in rows] == [("2", "2"), ("3", "3")]
    assert all(5e7 < int(row["process_peak_bytes"]) < 2e9 for row in rows)
    lines = bench_program("report_units").unit_memory(tmp_path).splitlines()
    assert lines[2].startswith("| 2 | ") and lines[3].startswith("| 3 | ")


def test_only_ties_are_judged_as_rounding(providers, tmp_path):
    torch.manual_seed(0)
    files = providers.work(3.0, tmp_path / "audio").paths
    scene = providers.Scene(providers.write_checkpoint(tmp_path / "model", "tiny"), [*files], tmp_path, "float32")
    reference = providers.Reference(scene, [1, 2], 20)
    right = reference.units[1]
    assert reference.judge(1, right, torch.float32)[1:] == (0, 0)
    frames = sum(map(len, right.values()))
    wrong = {name: (units + 1) % 20 for name, units in right.items()}
    for dtype in (torch.float32, torch.bfloat16):
        judged = reference.judge(1, wrong, dtype)
        assert judged.other == frames and judged.beyond_rounding > 0.9 * frames, dtype
    # a frame between two centroids: either is right
    name = next(iter(right))
    values, frame = reference.centroids[1].values, reference.frames[1][name]
    a, b = right[name][0], (right[name][0] + 1) % 20
    frame[0] = (values[a] + values[b]) / 2
    tied = {**right, name: np.array([b, *right[name][1:]])}
    assert reference.judge(1, tied, torch.float32)[1:] == (1, 0)
    with pytest.raises(RuntimeError, match="numbers of their units"):
        reference.judge(1, {**right, name: right[name][1:]}, torch.float32)


def test_no_times_are_taken_of_wrong_units(bench_program, providers, tmp_path, monkeypatch):
    def units(self):
        return {name: (units + 1) % 20 for name, units in computed(self).items()}

    computed = providers.Ours.units
    monkeypatch.setattr(providers.Ours, "units", units)
    with pytest.raises(SystemExit, match="units are wrong: no times are taken"):
        bench_program("units").main([*TINY, "--out", str(tmp_path)])
    assert not (tmp_path / "units.csv").exists()


def test_pages_say_where_rows_are_missing(bench_program, tmp_path):
    report = bench_program("report_units")
    assert {block(tmp_path) for block in (report.units, report.unit_kmeans, report.unit_memory)} == {"Not measured yet.\n"}


@pytest.mark.parametrize(
    "options, message",
    [
        (["--layers", "13"], "--layers must be from 1 to 12, but are [13]"),
        (["--dtypes", "bfloat16"], "no instructions that multiply bfloat16"),
        (["--kmeans", "--files", "2"], "not allowed with"),
    ],
)
def test_options_that_cannot_be_used(bench_program, monkeypatch, capsys, options, message):
    program = bench_program("units")
    monkeypatch.setattr(program, "cpu_has", lambda feature: False)
    with pytest.raises(SystemExit):
        program.main(options)
    assert message in capsys.readouterr().err

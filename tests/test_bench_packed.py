"""The benchmark of the packed graph, at a tiny size: rows of every section, and no time without the same answers."""

import csv
import sys
from pathlib import Path

import pytest
import torch

import hubert_fast

FOLDER = Path(hubert_fast.__file__).parent.parent / "bench"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="bench/ is not beside the package under test")
TINY = ["--models", "tiny", "tiny large", "--cases", "tiny", "--rounds", "2"]


@pytest.fixture
def bench(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    import packed_cpu

    def run(section, *arguments):
        packed_cpu.main([section, *TINY, "--out", str(tmp_path), *arguments])
        with open(tmp_path / f"packed_{section}.csv", newline="") as file:
            return list(csv.DictReader(file))

    yield run
    for name in ("packed_cpu", "packed_models", "rows", "packed_plot"):
        sys.modules.pop(name, None)


def test_speed(bench):
    rows = bench("speed")
    assert len(rows) == 2 * 2 * 3 and {row["dtype"] for row in rows} == {"float32", "bfloat16"}
    for row in rows:
        assert float(row["rtfx"]) == pytest.approx(0.8 / float(row["p50_s"]), rel=0.3)
        assert float(row["p20_s"]) <= float(row["p50_s"]) <= float(row["p80_s"])
        assert float(row["ratio"]) == 1 or row["provider"] != "transformers, sdpa"
        assert row["threads"] == str(torch.get_num_threads()) and row["commit"]


def test_nothing_is_timed_that_answers_otherwise(bench, monkeypatch):
    monkeypatch.setattr(hubert_fast.HubertForCTC, "forward_packed", lambda model, audio: wrong(model, audio))
    right = hubert_fast.HubertModel.forward_packed

    def wrong(model, audio):
        return type("Output", (), {"logits": model.lm_head(1.01 * right(model.hubert, audio).last_hidden_state)})

    with pytest.raises(SystemExit, match="away from transformers: not timed"):
        bench("speed", "--dtypes", "float32")


def test_accuracy(bench):
    rows = bench("accuracy")
    assert len(rows) == 2 * 2 * 3
    for row in rows:
        low, high = {"float32": (1e-9, 1e-5), "bfloat16": (1e-5, 5e-2)}[row["dtype"]]
        assert low < float(row["mean_error"]) < float(row["max_error"]) < high


def test_memory(bench):
    rows = bench("memory", "--seconds", "20", "--dtypes", "float32", "--models", "tiny", "--providers", "hubert_fast, packed")
    assert [row["failed"] for row in rows] == [""] and 1 < float(rows[0]["peak_megabytes"]) < 1000
    rows = bench("memory", "--seconds", "0.01", "--dtypes", "float32", "--models", "tiny")  # below one frame
    assert all(row["failed"] for row in rows[2:])


def test_profile(bench):
    rows = bench("profile", "--dtypes", "float32")
    for model in ("tiny", "tiny large"):
        parts = [row for row in rows if row["model"] == model]
        assert sum(float(row["share"]) for row in parts) == pytest.approx(1, abs=0.01)
        assert float(parts[0]["share_of_ceiling"]) > 0 and parts[0]["operations"] == "matrix products"
        assert all(int(row["calls"]) > 0 for row in parts)


def test_plot(bench, tmp_path):
    pytest.importorskip("matplotlib")
    bench("speed", "--dtypes", "float32")
    import packed_plot

    packed_plot.main(["--results", str(tmp_path)])
    assert (tmp_path / "packed_speed.svg").stat().st_size > 1000

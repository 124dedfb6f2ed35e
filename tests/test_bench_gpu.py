"""The benchmark and the tuner for GPUs, at tiny sizes, interpreted: rows of every section, none without the same answers."""

import csv
import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

import hubert_fast
from hubert_fast import ops

ROOT = Path(hubert_fast.__file__).parent.parent
FOLDER = ROOT / "bench"
SECTIONS = ("environment", "ceilings", "values", "ops", "models", "compiled")
LEFT_OUT = "left out: no time"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="bench/ is not beside the package under test")


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def script(*command, **environment):
    """Run a program as a user does, without what the tests have set."""
    clean = {key: value for key, value in os.environ.items() if key not in ("TRITON_INTERPRET", "HUBERT_FAST_BACKEND")}
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, env=clean | environment)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of a whole run."""
    out = tmp_path_factory.mktemp("finished")
    child = script(FOLDER / "gpu.py", "--out", out, "--tiny")
    assert child.returncode == 0, child.stderr
    return out


@pytest.fixture
def bench(monkeypatch):
    """Import a program of bench/, and forget it afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for variable in ("TRITON_INTERPRET", "HUBERT_FAST_BACKEND"):
        monkeypatch.setenv(variable, "1" if variable == "TRITON_INTERPRET" else "auto")  # main sets them
    threads = torch.get_num_threads()
    yield importlib.import_module
    for name in ("gpu", "gpu_cases", "gpu_decisions", "gpu_models", "gpu_ops", "gpu_run", "gpu_values", "tune", "rows"):
        sys.modules.pop(name, None)
    torch.set_num_threads(threads)  # --tiny takes one


def test_every_section_has_rows(finished):
    assert (finished / "finished.txt").read_text().split() == list(SECTIONS)
    for section in SECTIONS:
        assert rows_of(finished / f"{section}.csv"), section
    known = {row["key"]: row["value"] for row in rows_of(finished / "environment.csv")}
    assert known["torch"] == torch.__version__ and known["utc"] and known["device"]
    assert {row["name"] for row in rows_of(finished / "ceilings.csv")} == {"copy", "bfloat16", "float16", "float32", "tf32"}


def test_values(finished):
    rows = rows_of(finished / "values.csv")
    assert [row for row in rows if row["status"] != "pass"] == []
    assert {row["op"] for row in rows} == {name for name in ops.__all__ if not name.endswith("_eager")}
    assert all(0 <= float(row["relative_error"]) <= float(row["tolerance"]) and row["reason"] for row in rows)


def test_ops(finished):
    rows = rows_of(finished / "ops.csv")
    assert [row for row in rows if row["status"] != "ok"] == []
    assert {row["op"] for row in rows if row["provider"] == "ours"} == {op for op in ops.__all__ if not op.endswith("_eager")}
    for row in rows:
        assert float(row["roofline"]) > 0 and float(row["p20_ms"]) <= float(row["p50_ms"]) <= float(row["p80_ms"])
        assert float(row["tflops"]) == pytest.approx(float(row["flop"]) / float(row["p50_ms"]) / 1e9, rel=1e-2)
    compiled = rows_of(finished / "compiled.csv")
    assert {row["status"] for row in compiled if row["provider"] == "torch.compile"} == {"skipped: tiny"}


def test_models(finished):
    """Rows of ``hubert-fast bench`` for every provider of every item, or the reason why not."""
    rows = rows_of(finished / "models.csv")
    assert [(row["protocol"], row["provider"]) for row in rows] == [
        ("model", "ours"), ("model", "hf-sdpa-sorted"), ("model", "hf-flash"),
        ("leaderboard", "ours"), ("leaderboard", "accelerate"), ("leaderboard", "hf-sdpa"),
        ("files", "ours"), ("files", "hf-sdpa"),
    ]  # fmt: skip
    assert [row["provider"] for row in rows if row["status"] != "ok"] == ["hf-flash"]
    for row in (row for row in rows if row["status"] == "ok"):
        assert float(row["rtfx"]) == pytest.approx(float(row["audio_seconds"]) / float(row["p50_s"]), rel=1e-2)
        assert float(row["max_error"]) < 1e-4 and float(row["share_of_ceiling"]) > 0
    assert "best of transformers" in (finished / "summary.txt").read_text()


def test_what_is_finished_is_not_run_again(finished, bench, tmp_path, capsys):
    again = shutil.copytree(finished, tmp_path / "again")
    (again / "values.csv").write_text("".join((again / "values.csv").read_text().splitlines(True)[:3]))
    before = {section: (again / f"{section}.csv").read_text() for section in SECTIONS}
    assert bench("gpu").main(["--out", str(again), "--tiny"]) == 0
    assert {section: (again / f"{section}.csv").read_text() for section in SECTIONS} == before
    assert "values: 2 rows" in capsys.readouterr().out


def test_what_ran_out_of_time_goes_on(bench, tmp_path):
    gpu, gpu_run = bench("gpu"), bench("gpu_run")
    run = gpu_run.Run(tmp_path, 0, True)
    gpu.ceilings(run)
    assert [row["status"] for row in rows_of(tmp_path / "ceilings.csv")] == [LEFT_OUT] * 5
    table = gpu_run.Table(tmp_path / "ceilings.csv", "name value unit status")
    table.add(name="copy", value=1.0, unit="GB/s", status="ok")
    run.budget_seconds = 60
    gpu.ceilings(run)
    rows = rows_of(tmp_path / "ceilings.csv")
    assert [row["status"] for row in rows] == ["ok"] * 5 and rows[0]["value"] == "1"


def test_no_time_at_all_from_a_bare_checkout(tmp_path):
    """Nothing is installed but the libraries: ``-S`` leaves out what links this package."""
    for name in ("hubert_fast", "kernels", "bench"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    program, out = tmp_path / "bench/gpu.py", tmp_path / "out"
    libraries = sysconfig.get_path("purelib")
    child = script("-S", program, "--out", out, "--tiny", "--budget-seconds", "0", PYTHONPATH=libraries)
    assert child.returncode == 0, child.stderr
    for section in SECTIONS[1:]:
        rows = rows_of(out / f"{section}.csv")
        assert rows and {row["status"] for row in rows} == {LEFT_OUT}, section
    assert (out / "finished.txt").read_text() == "environment\n" and "left out" in (out / "summary.txt").read_text()


@pytest.mark.parametrize("program", ["gpu", "tune"])
def test_no_gpu(bench, monkeypatch, tmp_path, capsys, program):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench(program).main(["--out", str(tmp_path)] if program == "gpu" else ["--csv", str(tmp_path / "tune.csv")]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_nothing_is_timed_that_answers_otherwise_or_fails(bench, tmp_path):
    gpu, gpu_cases, gpu_ops, gpu_run = (bench(name) for name in ("gpu", "gpu_cases", "gpu_ops", "gpu_run"))
    run = gpu_run.Run(tmp_path, 60, True)
    table = gpu_run.Table(tmp_path / "ops.csv", gpu.OP_COLUMNS)
    case = gpu_ops.layer_norm(gpu_cases.TINY, [3], gpu_cases.Where(torch.float32, run.device))
    case.libraries = {
        "wrong": gpu_cases.plain(lambda x, weight, bias: 1.01 * case.definition(x, weight, bias)),
        "nothing": gpu_cases.plain(lambda x, weight, bias: case.definition(x, weight, bias) / 0 * 0),
        "broken": gpu_cases.plain(lambda *arguments: torch.zeros(2) @ torch.zeros(3)),
    }
    gpu.measure(run, table, case, case.providers())
    found = {row["provider"]: row for row in rows_of(tmp_path / "ops.csv")}
    assert found["ours"]["status"] == "ok"
    for name in ("wrong", "nothing"):
        assert found[name]["status"].startswith("not timed") and not found[name]["p50_ms"]
    assert found["broken"]["status"].startswith("RuntimeError")


def test_values_fail_for_memory_that_is_not_written(bench, monkeypatch, tmp_path):
    gpu_cases, gpu_ops, gpu_run, gpu_values = (bench(name) for name in ("gpu_cases", "gpu_ops", "gpu_run", "gpu_values"))
    run = gpu_run.Run(tmp_path, 60, True)
    case = gpu_ops.layer_norm(gpu_cases.TINY, [3], gpu_cases.Where(torch.float32, run.device))
    monkeypatch.setattr(gpu_values, "value_cases", lambda run: [case])
    monkeypatch.setattr(case, "public", lambda x, weight, bias: torch.empty(x.shape))
    gpu_values.values(run)
    assert [row["status"] for row in rows_of(tmp_path / "values.csv")] == ["fail: NaN"]


def test_tune(bench, monkeypatch, tmp_path):
    """Every measurement is made to be 3 % faster than the one before, so that the last candidate wins."""
    tune = bench("tune")
    from hubert_fast.kernels import tuning

    table, times = tmp_path / "tuned.py", itertools.count()
    other = ("attention", (12, 0), 64, 2)
    monkeypatch.setattr(tuning, "TUNED", {other: {"BLOCK_M": 64}})
    monkeypatch.setattr(tune.Run, "times_ms", lambda run, calls, seconds: [0.97 ** next(times)])
    try:
        csv_path = tmp_path / "tune.csv"
        assert tune.main(["--tiny", "--write", "--table", str(table), "--csv", str(csv_path)]) == 0
        spec = importlib.util.spec_from_file_location("tuned", table)
        written = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(written)
        assert max(map(len, table.read_text().splitlines())) <= 128 and written.TUNED[other] == {"BLOCK_M": 64}
        monkeypatch.setattr(tuning, "TUNED", written.TUNED)
        for rule in (tuning.linear, tuning.attention, tuning.conv_positional):
            rule.cache_clear()
        ours = [(key, entry) for key, entry in written.TUNED.items() if key != other]
        blocks, choices = {"linear", "attention", "conv_positional"}, {"linear_gelu_by_library", "linear_add_by_library"}
        assert {key[0] for key, _ in ours} == blocks | choices  # the norm inside, measured last, is what the rule says too
        for (op, capability, *key), entry in ours:
            assert capability == tuning.SMALL
            found = getattr(tuning, op)(*key, capability)
            assert entry.items() <= found.items() if isinstance(found, dict) else found == bool(next(iter(entry.values())))
        assert {row["status"] for row in rows_of(csv_path)} == {"ok"}
    finally:
        for rule in (tuning.linear, tuning.attention, tuning.conv_positional):
            rule.cache_clear()


def test_tune_without_time_keeps_what_there_is(bench, monkeypatch, tmp_path):
    tune = bench("tune")
    from hubert_fast.kernels import tuning

    kept = {("attention", tuning.SMALL, 16, 2): {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 1, "num_stages": 1}}
    monkeypatch.setattr(tuning, "TUNED", dict(kept))
    table, csv_path = tmp_path / "tuned.py", tmp_path / "tune.csv"
    arguments = ["--tiny", "--write", "--budget-seconds", "0", "--table", str(table), "--csv", str(csv_path)]
    assert tune.main(arguments) == 0
    tuning.attention.cache_clear()
    assert kept == tuning.TUNED and {row["status"] for row in rows_of(csv_path)} == {LEFT_OUT}

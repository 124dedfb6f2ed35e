"""Test the GPU benchmark and the tuner, interpreted at tiny sizes: every stage writes rows, and no wrong answer is timed."""

import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_programs import FOLDER, needs_programs, rows_of

import hubert_fast
from hubert_fast import ops, tolerances
from hubert_fast.benchmark import providers
from hubert_fast.benchmark.measure import is_device_lost
from hubert_fast.benchmark.subject import Subject
from hubert_fast.check.cases import Where

ROOT = Path(hubert_fast.__file__).parent.parent
STAGES = ("ceilings", "values", "repeat", "whole", "headline", "ops", "profile", "compile")
LEFT_OUT = "left out: no time"
OPS = {name for name in ops.__all__ if not name.endswith("_eager")}
pytestmark = needs_programs


def script(*command, **environment):
    """Run a program as a user would, without the environment that the tests have set."""
    clean = {key: value for key, value in os.environ.items() if key not in ("TRITON_INTERPRET", "HUBERT_FAST_BACKEND")}
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, env=clean | environment)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run every stage once. Return the folder of its files and its output."""
    out = tmp_path_factory.mktemp("finished") / "rows"
    archive = out.with_name("rows.tar.gz")
    child = script(FOLDER / "gpu", "--out", out, "--tiny", "--commit", "abc1234", "--archive", archive, OMP_NUM_THREADS="1")
    assert child.returncode == 0, child.stdout + child.stderr
    return out, child.stdout


@pytest.fixture
def bench(bench_program, monkeypatch):
    """Import a program of bench/, and undo what its `main` sets."""
    for variable in ("TRITON_INTERPRET", "HUBERT_FAST_BACKEND"):
        monkeypatch.setenv(variable, "1" if variable == "TRITON_INTERPRET" else "auto")
    threads = torch.get_num_threads()
    yield bench_program
    torch.set_num_threads(threads)  # --tiny sets one thread


@pytest.mark.bench
def test_every_stage_succeeds(finished):
    out, printed = finished
    rows = rows_of(out / "stages.csv")
    assert list(dict.fromkeys(row["stage"] for row in rows)) == list(STAGES)
    assert {(row["status"], row["exit_code"], row["reason"]) for row in rows} == {("ok", "0", "")}
    assert [row["process"] for row in rows if row["stage"] == "values"] == ["1 of 2", "2 of 2"]
    known = {row["key"]: row["value"] for row in rows_of(out / "environment.csv")}
    assert known["torch"] == torch.__version__ and known["commit"] == "abc1234" and known["utc"] and known["device"]
    assert (out / "summary.txt").read_text() == printed[printed.index("device ") :]
    with tarfile.open(out.with_name("rows.tar.gz")) as packed:
        assert {Path(name).name for name in packed.getnames()} == {path.name for path in out.iterdir()} | {"rows"}


@pytest.mark.bench
def test_ceilings_stage(finished):
    rows = rows_of(finished[0] / "ceilings.csv")
    assert {row["status"] for row in rows} == {"ok"}
    assert [row["name"] for row in rows if row["kind"] == "sustained"] == ["bfloat16", "float16", "bfloat16 tiny"]
    bursts = [row for row in rows if row["kind"] == "burst"]
    assert [row["name"] for row in bursts] == ["copy", "bfloat16", "float16", "float32", "tf32"]
    for row in (row for row in rows if row["name"] != "copy"):
        m, k, n = map(int, row["shape"].split("x"))
        assert float(row["value"]) == pytest.approx(2e-9 * m * k * n / float(row["time_ms"]), rel=1e-2)


@pytest.mark.bench
def test_values_stage(finished):
    """Two processes compare every case with float64 exactly once."""
    rows = rows_of(finished[0] / "values.csv")
    assert [row for row in rows if row["status"] != "pass"] == []
    assert {row["op"] for row in rows} == OPS
    assert all(0 <= float(row["relative_error"]) <= float(row["tolerance"]) and row["reason"] for row in rows)
    assert len({(row["op"], row["shape"], row["dtype"]) for row in rows}) == len(rows)


def test_values_cover_production_blocks(bench):
    gpu_run, gpu_values = bench("gpu.run"), bench("gpu.values")
    run = gpu_run.Run(Path(), 60, True)
    run.tiny = False  # cases only draw their inputs when they run
    cases = list(gpu_values.value_cases(run))
    for name, dtype in itertools.product(("large", "base", "xlarge"), (torch.bfloat16, torch.float16)):
        covered = {case.op for case in cases if case.shape.startswith(f"{name} [4500, ") and case.dtype == dtype}
        assert {"linear_gelu", "linear_add", "attention", "layer_norm", "add_layer_norm", "conv_positional"} <= covered
    shards = [gpu_values.shard_of(cases, shard, 14) for shard in range(14)]
    assert sorted(map(id, itertools.chain(*shards))) == sorted(map(id, cases))
    slow = [[case.op in gpu_values.SLOW_TO_COMPILE for case in part] for part in shards]
    assert all(part == sorted(part, reverse=True) for part in slow)
    assert max(map(sum, slow)) - min(map(sum, slow)) <= 1


@pytest.mark.bench
def test_repeat_stage(finished):
    rows = rows_of(finished[0] / "repeat.csv")
    assert [row["op"] for row in rows] == ["linear_gelu", "linear_add", "conv_gelu", "conv_positional", "attention"]
    assert {(row["calls"], row["differ"], row["status"]) for row in rows} == {("2", "0", "ok")}


def test_repeat_detects_one_bit(bench, monkeypatch, tmp_path):
    gpu_cases, gpu_repeat, gpu_run = (bench(f"gpu.{name}") for name in ("cases", "repeat", "run"))
    answers = itertools.chain([0.0, 0.0], itertools.repeat(-0.0))  # equal, but with different bits
    make = lambda *_: gpu_cases.Case(  # noqa: E731
        "layer_norm", "one", torch.float32, tuple, 1.0,
        launcher=gpu_cases.Provider(lambda: lambda: torch.tensor([next(answers), float("nan")])),
    )  # fmt: skip
    monkeypatch.setattr(gpu_repeat, "BUILDERS", (make,))
    gpu_repeat.repeat(gpu_run.Run(tmp_path, 60, True))
    (row,) = rows_of(tmp_path / "repeat.csv")
    assert (row["calls"], row["differ"], row["status"]) == ("2", "1", "differs")


@pytest.mark.bench
def test_whole_stage(finished):
    rows = rows_of(finished[0] / "whole.csv")
    assert [row["provider"] for row in rows] == ["ours", "ours-padded", "accelerate", "hf-sdpa"]
    assert {row["status"] for row in rows} == {"ok"}
    assert all(0 < float(row["max_error"]) < 1e-5 and row["tolerance"] == "0.0001" for row in rows)


def test_a_wrong_model_is_marked_wrong(bench, monkeypatch, tmp_path):
    gpu_run, gpu_whole = bench("gpu.run"), bench("gpu.whole")
    right = gpu_whole.Reference.compare
    monkeypatch.setattr(gpu_whole, "PROVIDERS", ("hf-sdpa", "hf-eager", "hf-flash"))
    errors = iter((2e-4, float("inf")))
    monkeypatch.setattr(gpu_whole.Reference, "compare", lambda *arguments: (right(*arguments)[0] + next(errors), 0))
    gpu_whole.whole(gpu_run.Run(tmp_path, 60, True))
    statuses = [row["status"] for row in rows_of(tmp_path / "whole.csv")]
    assert statuses[:2] == ["WRONG", "WRONG"] and statuses[2].startswith("Unavailable: ")


@pytest.mark.bench
def test_headline_and_compile_stages(finished):
    """Every provider of every item has a row of `hubert-fast bench`, or a row with the reason why it could not run."""
    out, _ = finished
    rows = rows_of(out / "models.csv")
    assert [(row["stage"], row["protocol"], row["provider"]) for row in rows] == [
        ("headline", "model", "ours"), ("headline", "model", "ours-graphs"), ("headline", "model", "hf-sdpa-sorted"),
        ("headline", "model", "hf-flash"), ("headline", "leaderboard", "ours"), ("headline", "leaderboard", "accelerate"),
        ("headline", "leaderboard", "hf-sdpa"), ("compile", "model", "ours-graphs"), ("compile", "model", "hf-compile-graphs"),
    ]  # fmt: skip
    reasons = {row["provider"]: row["status"] for row in rows if row["status"] != "ok"}
    assert reasons.keys() == {"ours-graphs", "hf-flash", "hf-compile-graphs"}
    for name in ("ours-graphs", "hf-compile-graphs"):
        assert reasons[name] == "cannot run: CUDA graphs need a CUDA device, but the device is cpu"
    (best,) = (row for row in rows_of(out / "ceilings.csv") if (row["kind"], row["name"]) == ("burst", "float32"))
    for row in (row for row in rows if row["status"] == "ok"):
        assert float(row["rtfx"]) == pytest.approx(float(row["audio_seconds"]) / float(row["p50_s"]), rel=1e-2)
        assert float(row["max_error"]) < 1e-4 and float(row["share_of_ceiling"]) > 0
        assert float(row["ceiling_tflops"]) == pytest.approx(float(best["value"]), rel=1e-3)
        assert row["ceiling"] == f"burst float32 64x64x64: {best['value']} TFLOP/s"


def test_shares_refer_to_sustained_rates(bench, tmp_path):
    gpu_run = bench("gpu.run")
    run, table = gpu_run.Run(tmp_path, 60, True), gpu_run.Table(tmp_path / "ceilings.csv", "kind name shape value unit status")
    assert gpu_run.sustained_or_burst(run, torch.bfloat16) == (None, "")
    for kind, name, value, status in (
        ("burst", "bfloat16", 790.0, "ok"), ("sustained", "bfloat16 qkv", 600.0, "ok"), ("burst", "float16", 700.0, "ok"),
        ("sustained", "bfloat16", 640.0, "ok"), ("sustained", "float16", 0.0, "RuntimeError"),
    ):  # fmt: skip
        table.add(kind=kind, name=name, shape="8192x8192x8192", value=value, unit="TFLOP/s", status=status)
    expected = "sustained bfloat16 8192x8192x8192: 640 TFLOP/s"
    assert gpu_run.sustained_or_burst(run, torch.bfloat16) == (6.4e14, expected)
    assert gpu_run.sustained_or_burst(run, torch.float16)[0] == 7e14


@pytest.mark.bench
def test_ops_stage(finished):
    """Our kernels and both sides of decisions give right answers. Rows of libraries that cannot run here give the reason."""
    rows = rows_of(finished[0] / "ops.csv")
    ours = [row for row in rows if row["provider"] == "ours" or row["op"].startswith("decision")]
    assert [row for row in ours if row["status"] != "ok"] == []
    assert {row["op"] for row in rows if row["provider"] == "ours"} == OPS
    assert {row["expected"] for row in rows if row["op"] in OPS} == {"definition in float32"}
    assert any(row["provider"].startswith("library") and row["status"] == "ok" for row in rows)
    for row in (row for row in rows if row["status"] == "ok"):
        assert float(row["p20_ms"]) <= float(row["p50_ms"]) <= float(row["p80_ms"])
        assert float(row["tflops"]) == pytest.approx(float(row["flop"]) / float(row["p50_ms"]) / 1e9, rel=1e-2)
        best = float(row["ceiling"].rpartition(": ")[2].split()[0])
        rate = row["gb_per_second"] if row["ceiling"].startswith("burst copy") else row["tflops"]
        assert float(row["share"]) == pytest.approx(float(rate) / best, rel=1e-2)


def layer_norm_case(bench):
    gpu_cases, gpu_ops = bench("gpu.cases"), bench("gpu.op_cases")
    case = gpu_ops.layer_norm(gpu_cases.TINY, [3], Where(torch.float32, torch.device("cpu")))
    return gpu_cases, case


def test_wrong_and_failing_providers_are_not_timed(bench, tmp_path):
    """The definition decides which answers are right, even for our own kernel."""
    gpu_run, gpu_times = bench("gpu.run"), bench("gpu.times")
    gpu_cases, case = layer_norm_case(bench)
    case.launcher = gpu_cases.plain(lambda x, weight, bias: 1.01 * case.definition(x, weight, bias))
    case.libraries = {
        "right": gpu_cases.plain(case.definition),
        "nothing": gpu_cases.plain(lambda x, weight, bias: torch.empty_like(x)),
        "broken": gpu_cases.plain(lambda *arguments: torch.zeros(2) @ torch.zeros(3)),
    }
    gpu_times.time_case(gpu_run.Run(tmp_path, 60, True), gpu_run.Table(tmp_path / "ops.csv", gpu_times.COLUMNS), case)
    timed = {row["provider"]: row for row in rows_of(tmp_path / "ops.csv")}
    assert timed["right"]["status"] == "ok" and float(timed["right"]["max_error"]) == 0
    for name in ("ours", "nothing"):
        assert timed[name]["status"].startswith("not timed: wrong") and not timed[name]["p50_ms"]
    assert timed["broken"]["status"].startswith("RuntimeError")


def test_a_library_replaces_a_definition_that_runs_out_of_memory(bench, monkeypatch, tmp_path):
    gpu_run, gpu_times = bench("gpu.run"), bench("gpu.times")
    gpu_cases, case = layer_norm_case(bench)
    definition = case.definition

    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(case, "definition", full)
    case.libraries = {
        "library: first": gpu_cases.plain(definition),
        "other": gpu_cases.plain(lambda *arguments: -definition(*arguments)),
    }
    table = gpu_run.Table(tmp_path / "ops.csv", gpu_times.COLUMNS)
    gpu_times.time_case(gpu_run.Run(tmp_path, 60, True), table, case)
    rows = rows_of(tmp_path / "ops.csv")
    assert [(row["provider"], row["expected"]) for row in rows] == [
        ("ours", "library: first"), ("library: first", "library: first"), ("other", "library: first"),
    ]  # fmt: skip
    assert [row["status"].partition(":")[0] for row in rows] == ["ok", "ok", "not timed"]
    case.libraries = {}
    gpu_times.time_case(gpu_run.Run(tmp_path, 60, True), table, case)  # our own kernel never provides the expected answer
    assert rows_of(tmp_path / "ops.csv")[-1]["status"].startswith("OutOfMemoryError")


def test_the_largest_error_can_be_in_any_part(bench, monkeypatch):
    monkeypatch.setattr(tolerances, "PART", 4)
    difference = bench("gpu.run").difference
    expected = torch.arange(-5.0, 5.0).view(2, 5)
    actual = expected.t().contiguous().t().clone()
    assert difference(actual, expected) == 0
    actual[1, 4] += 0.5
    assert difference((actual, expected), (expected, expected)) == pytest.approx(0.1)
    actual[0, 1] = torch.nan
    assert difference(actual, expected) == difference(actual[0], expected) == float("inf")
    assert difference(actual[:0], expected[:0]) == 0


@pytest.mark.bench
def test_profile_stage(finished):
    wall, *kernels = rows_of(finished[0] / "profile.csv")
    assert wall["kernel"] == "wall, without the profiler" and float(wall["total_ms"]) > 0
    times = [float(row["total_ms"]) for row in kernels]
    assert times == sorted(times, reverse=True) and "aten::addmm" in {row["kernel"] for row in kernels}
    for row in (wall, *kernels):
        expected = 1e3 * float(row["total_ms"]) / float(row["audio_seconds"])
        assert float(row["us_per_audio_second"]) == pytest.approx(expected, rel=1e-3) and len(row["kernel"]) <= 120


@pytest.mark.bench
def test_a_crash_or_hang_only_ends_its_stage(bench, monkeypatch, tmp_path, capsys):
    """Of four stages, one has a process that aborts after a row, one hangs, one fails, and one succeeds."""
    gpu, gpu_run = bench("gpu.__main__"), bench("gpu.run")
    right, table = gpu.commands_of, tmp_path / "values.csv"
    python = [sys.executable, "-c"]
    row = f"open({str(table)!r}, 'a').write('op,status\\nconv_gelu,pass\\n')"
    wrong = {
        "values": [[*python, f"import os; {row}; print('conv_gelu [3]', flush=True); os.abort()"], [*python, ""]],
        "repeat": [[*python, "import signal; print('attention [9]', flush=True); signal.pause()"]],
        "whole": [[*python, "import sys; print('base', flush=True); sys.exit('the device is lost: CUDA error')"]],
    }
    monkeypatch.setattr(gpu, "commands_of", lambda stage, *arguments: wrong.get(stage) or right(stage, *arguments))
    monkeypatch.setattr(gpu, "limit_of", lambda stage, left, tiny: 1.0 if stage == "repeat" else left)
    monkeypatch.setattr(gpu, "LEAST_SECONDS", 0.5)
    arguments = ["--out", str(tmp_path), "--tiny", "--stage", "ops", *wrong, "--ops", "layer_norm"]
    table_of_stages = tmp_path / "stages.csv"
    assert gpu.main(arguments) == 1
    stages = [(row["stage"], row["status"], row["exit_code"], row["reason"]) for row in rows_of(table_of_stages)]
    assert stages == [
        ("values", "crashed: SIGABRT", "-6", "while measuring conv_gelu [3]"),
        ("values", "ok", "0", ""),
        ("repeat", "killed: took longer than its limit", "-9", "while measuring attention [9]"),
        ("whole", "failed", "1", "the device is lost: CUDA error, while measuring base"),
        ("ops", "ok", "0", ""),
    ]
    assert rows_of(table) == [{"op": "conv_gelu", "status": "pass"}]  # rows written before the crash remain
    timed = rows_of(tmp_path / "ops.csv")
    assert {row["op"] for row in timed} == {"layer_norm", "add_layer_norm"} and {row["status"] for row in timed} == {"ok"}
    assert {row["share"] for row in timed} == {""}  # no ceilings were measured
    assert "crashed: SIGABRT while measuring conv_gelu [3]" in capsys.readouterr().out
    assert gpu_run.LEFT_OUT == LEFT_OUT


@pytest.mark.bench
def test_several_processes_append_whole_rows(tmp_path):
    code = (
        "import sys; sys.path[:0] = sys.argv[1:2]; from gpu.run import Table; from pathlib import Path\n"
        "for number in range(50): Table(Path(sys.argv[2]), 'process number status').add(process=sys.argv[3], number=number)"
    )
    path = tmp_path / "rows.csv"
    children = [subprocess.Popen([sys.executable, "-c", code, str(FOLDER), str(path), name]) for name in "ab"]
    assert [child.wait() for child in children] == [0, 0]
    written = sorted((row["process"], int(row["number"])) for row in rows_of(path))
    assert written == list(itertools.product("ab", range(50)))


@pytest.mark.parametrize(
    "error, lost",
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), False),
        (RuntimeError("Triton Error [CUDA]: out of memory"), False),
        (ValueError("expected 3 rows"), False),
    ],
)
def test_a_lost_device_ends_the_process(bench, tmp_path, error, lost):
    gpu_run = bench("gpu.run")
    table = gpu_run.Table(tmp_path / "rows.csv", "op status")

    def fail():
        with table.reasons(op="attention"):
            raise error

    assert is_device_lost(error) == lost
    if lost:
        with pytest.raises(gpu_run.DeviceLost, match="an illegal memory access was encountered, at attention"):
            fail()
    else:
        fail()
    (row,) = rows_of(tmp_path / "rows.csv")
    assert row == {"op": "attention", "status": f"{type(error).__name__}: {error}"}


@pytest.mark.bench
def test_a_bare_checkout_without_time_leaves_out_every_stage(tmp_path):
    """Only the libraries are installed: `-S` ignores the .pth file that links this package."""
    for name in ("hubert_fast", "kernels", "bench"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    program, out = tmp_path / "bench/gpu", tmp_path / "out"
    libraries = sysconfig.get_path("purelib")
    child = script("-S", program, "--out", out, "--tiny", "--seconds", "0", PYTHONPATH=libraries)
    assert child.returncode == 1, child.stderr
    rows = rows_of(out / "stages.csv")
    assert [(row["stage"], row["status"]) for row in rows] == [(stage, LEFT_OUT) for stage in STAGES]
    assert "stages: 8 rows, 8 not ok" in (out / "summary.txt").read_text()
    stage = ("-S", program / "stage.py", "repeat", "--out", out, "--tiny", "--until", "0")
    child = script(*stage, PYTHONPATH=libraries)
    assert child.returncode == 0, child.stderr
    assert {row["status"] for row in rows_of(out / "repeat.csv")} == {LEFT_OUT}


def test_results_of_two_runs_are_not_mixed(bench, tmp_path, capsys):
    (tmp_path / "models.csv").write_text("stage\nheadline\n")
    assert bench("gpu.__main__").main(["--out", str(tmp_path), "--tiny", "--stage", "compile"]) == 2
    assert "already has a models.csv: name another folder" in capsys.readouterr().err
    assert (tmp_path / "models.csv").read_text() == "stage\nheadline\n"
    (tmp_path / "environment.csv").write_text("key,value\ndevice,another chip\n")
    gpu_ceilings, gpu_run = bench("gpu.ceilings"), bench("gpu.run")
    with pytest.raises(ValueError, match=r"has results of another chip, but this is .*: name another folder"):
        gpu_ceilings.environment(gpu_run.Run(tmp_path, 60, True), "")


@pytest.mark.bench
@torch.inference_mode()
def test_when_providers_capture_and_replay_graphs(captures, monkeypatch):
    """ours-graphs captures while a batch is prepared, so that each of its timed calls is a replay."""
    monkeypatch.setattr("hubert_fast.benchmark.ours.check_graphs", lambda subject: None)
    subject = Subject.random("tiny", torch.device("cpu"), torch.float32)
    waveforms = [np.random.default_rng(count).standard_normal(count).astype(np.float32) for count in (900, 401)]
    names = "ours-graphs", "ours-no-graphs", "ours"
    graphs, none, ours = (providers.provider(name, subject).forward(waveforms).run for name in names)
    assert captures == ["captured", "replayed"]
    expected = none()
    assert captures == ["captured", "replayed"]
    for count in range(1, 3):
        torch.testing.assert_close(graphs(), expected)
        assert captures == ["captured", *["replayed"] * (count + 1)]
    for count in range(3):  # by default, the second call captures and later calls replay
        torch.testing.assert_close(ours(), expected)
        assert captures.count("captured") == (2 if count else 1) and captures.count("replayed") == 3 + count


@pytest.mark.bench
@torch.inference_mode()
@pytest.mark.parametrize("name", ["tiny-large", "tiny"])
def test_whole_models_under_graphs(bench, captures, monkeypatch, tmp_path, name):
    gpu_whole, gpu_run = bench("gpu.whole"), bench("gpu.run")
    subject = Subject.random(name, torch.device("cpu"), torch.float32)
    monkeypatch.setenv("HUBERT_FAST_BACKEND", "triton")
    table = gpu_run.Table(tmp_path / "whole.csv", "model dtype provider max_error tolerance status")
    gpu_whole.under_graphs(table, {"model": name, "dtype": "float32"}, subject, [(0.3,), (0.1, 0.05)])
    rows = rows_of(tmp_path / "whole.csv")
    assert [row["provider"] for row in rows] == [
        f"ours, CUDA graphs, {batch} s{after}" for after in ("", ", after NaN") for batch in ("0.3", "0.1 + 0.05")
    ]
    assert {row["status"] for row in rows} == {"ok"} and all(float(row["max_error"]) < 1e-5 for row in rows)
    assert captures == ["captured", *["replayed"] * 5]
    assert subject.ours.hubert.fast_path.cuda_graphs.replays == 0  # its own cache is not used
    monkeypatch.setattr("hubert_fast.packed.kernel_graph.graphs_can_run", lambda device: False)
    gpu_whole.under_graphs(table, {"model": name, "dtype": "float32"}, subject, [(0.05,)])
    statuses = [row["status"] for row in rows_of(tmp_path / "whole.csv")][len(rows) :]
    assert statuses == ["ok", "WRONG: no graph was replayed"]


@pytest.mark.parametrize("program", ["gpu.__main__", "tune"])
def test_programs_need_a_gpu(bench, monkeypatch, tmp_path, capsys, program):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = ["--csv", str(tmp_path / "tune.csv")] if program == "tune" else ["--out", str(tmp_path)]
    assert bench(program).main(arguments) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_values_detect_unwritten_memory(bench, monkeypatch, tmp_path):
    gpu_run, gpu_values = bench("gpu.run"), bench("gpu.values")
    _, case = layer_norm_case(bench)
    monkeypatch.setattr(gpu_values, "value_cases", lambda run: [case])
    monkeypatch.setattr(case, "public", lambda x, weight, bias: torch.empty(x.shape))
    gpu_values.values(gpu_run.Run(tmp_path, 60, True))
    assert [row["status"] for row in rows_of(tmp_path / "values.csv")] == ["fail: NaN"]


def test_tune_writes_the_fastest_candidates(bench, monkeypatch, tmp_path):
    """Each measurement is 3 % faster than the one before, so that the last candidate wins."""
    tune = bench("tune")
    from hubert_fast.kernels import tuning

    table, times = tmp_path / "tuned.py", itertools.count()
    existing = ("attention", (12, 0), 64, 2)
    monkeypatch.setattr(tuning, "TUNED", {existing: {"BLOCK_M": 64}})
    monkeypatch.setattr(tune.Run, "times_ms", lambda run, calls, seconds: [0.97 ** next(times)])
    try:
        csv_path = tmp_path / "tune.csv"
        assert tune.main(["--tiny", "--write", "--table", str(table), "--csv", str(csv_path)]) == 0
        spec = importlib.util.spec_from_file_location("tuned", table)
        written = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(written)
        assert max(map(len, table.read_text().splitlines())) <= 128 and written.TUNED[existing] == {"BLOCK_M": 64}
        monkeypatch.setattr(tuning, "TUNED", written.TUNED)
        for rule in (tuning.linear, tuning.attention, tuning.conv_positional):
            rule.cache_clear()
        ours = [(key, entry) for key, entry in written.TUNED.items() if key != existing]
        blocks, choices = {"linear", "attention", "conv_positional"}, {"linear_gelu_by_library", "linear_add_by_library"}
        assert {key[0] for key, _ in ours} == blocks | choices  # no norm_in_convolution: the last candidate is the rule's
        for (op, capability, *key), entry in ours:
            assert capability == tuning.SMALL
            chosen = getattr(tuning, op)(*key, capability)
            assert entry.items() <= chosen.items() if isinstance(chosen, dict) else chosen == bool(next(iter(entry.values())))
        assert {row["status"] for row in rows_of(csv_path)} == {"ok"}
    finally:
        for rule in (tuning.linear, tuning.attention, tuning.conv_positional):
            rule.cache_clear()


def test_tune_without_time_keeps_existing_entries(bench, monkeypatch, tmp_path):
    tune = bench("tune")
    from hubert_fast.kernels import tuning

    kept = {("attention", tuning.SMALL, 16, 2): {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 1, "num_stages": 1}}
    monkeypatch.setattr(tuning, "TUNED", dict(kept))
    table, csv_path = tmp_path / "tuned.py", tmp_path / "tune.csv"
    arguments = ["--tiny", "--write", "--budget-seconds", "0", "--table", str(table), "--csv", str(csv_path)]
    assert tune.main(arguments) == 0
    tuning.attention.cache_clear()
    assert kept == tuning.TUNED and {row["status"] for row in rows_of(csv_path)} == {LEFT_OUT}

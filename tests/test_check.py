"""Test the kernels' self-check: it names wrong kernels, survives crashes, and its verdict decides what `auto` uses."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch

import hubert_fast
from hubert_fast import dispatch, ops
from hubert_fast.check import cases, parallel, process, selections, values, verdicts
from hubert_fast.cli import main

CPU = torch.device("cpu")
ROW = {"op": "attention", "shape": "large", "dtype": "float16"}
FAILED = {**ROW, "status": "fail", "relative_error": 0.25, "tolerance": 2e-3}


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """Give the verdicts an empty folder, and forget those of this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(verdicts, "_known", {})
    return tmp_path / "cache/hubert_fast/checks"


def stub_rows(monkeypatch, *rows):
    """Make each check return these rows; return a list to which each check adds its dtype."""
    checked_dtypes = []

    def checked_in_parallel(device, dtypes, few, limit_seconds, processes):
        checked_dtypes.extend(dtypes)
        return iter(rows)

    monkeypatch.setattr(verdicts, "checked_in_parallel", checked_in_parallel)
    return checked_dtypes


def changed_package(folder, name, right, wrong):
    """Copy the package and change a line of one of its kernels; return the folder to import it from."""
    package = Path(hubert_fast.__file__).parent
    kernels = Path(next(iter(sys.modules["hubert_fast.kernels"].__path__)))
    shutil.copytree(package, folder / "hubert_fast", ignore=shutil.ignore_patterns("__pycache__", "recordings", "kernels"))
    shutil.copytree(kernels, folder / "hubert_fast/kernels", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "hubert_fast/kernels" / name
    source = file.read_text()
    assert source.count(right) == 1
    file.write_text(source.replace(right, wrong))
    return folder


def test_a_wrong_kernel_is_detected_and_not_used(tmp_path):
    """The bias of a norm is subtracted: the command names the op, and `auto` warns once and uses plain PyTorch."""
    from hubert_fast.kernels import layer_norm  # noqa: F401

    root = changed_package(tmp_path / "wrong", "layer_norm.py", "+ bias[None, :]", "- bias[None, :]")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(root), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "hubert_fast", "check", "--device", "cpu", "--short", "--dtype", "float32"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert run.returncode == 1, run.stdout + run.stderr
    failing = [line.split()[0] for line in run.stdout.splitlines() if line.endswith("FAIL")]
    assert failing == ["conv_gelu", "layer_norm", "model"]  # the other two use this kernel for their norms
    assert "fail: relative error" in run.stdout and "(layer_norm, odd [20, 52], float32)" in run.stdout
    (saved,) = (json.loads(file.read_text()) for file in (tmp_path / "cache/hubert_fast/checks").glob("*.json"))
    assert saved["dtype"] == "float32" and saved["verdict"].startswith("fail: relative error")

    script = (
        "import json, torch, warnings\nfrom hubert_fast.check import verdicts\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    reasons = [verdicts.why_not_proven(torch.device('cpu'), torch.float32) for _ in range(2)]\n"
        "print(json.dumps([reasons, [str(warning.message) for warning in seen]]))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path)
    reasons, seen = json.loads(run.stdout)
    assert reasons == [saved["verdict"]] * 2
    (warning,) = seen
    assert warning.startswith("kernels failed their check on interpreter with torch") and saved["verdict"] in warning
    assert "HUBERT_FAST_CHECK=0" in warning


def test_correct_kernels_pass(cache, monkeypatch):
    """The check runs in a child process, as on first use, and the next process reads its verdict."""
    assert verdicts.why_not_proven(CPU, torch.float16) is None
    (file,) = cache.glob("*.json")
    assert json.loads(file.read_text())["verdict"] == "pass"
    monkeypatch.setattr(verdicts, "_known", {})
    checked_dtypes = stub_rows(monkeypatch, FAILED)
    assert verdicts.why_not_proven(CPU, torch.float16) is None and checked_dtypes == []


def test_the_command_line_announces_the_check_once(cache, monkeypatch, caplog):
    stub_rows(monkeypatch, {**ROW, "status": "pass"})
    assert main(["info"]) == 0
    for _ in range(2):
        assert verdicts.why_not_proven(CPU, torch.float32) is None
    (message,) = caplog.messages
    assert message.startswith(
        "compiling and checking kernels in float32 on interpreter, which takes 10 to 60 seconds, once per"
    )


def test_changed_kernels_are_checked_again(cache, monkeypatch):
    checked_dtypes = stub_rows(monkeypatch, {**ROW, "status": "pass"})
    assert verdicts.why_not_proven(CPU, torch.float32) is None
    for sources in ("another", "a third"):
        monkeypatch.setattr(verdicts, "_known", {})
        monkeypatch.setattr(verdicts, "_sources", lambda sources=sources: sources)
        assert verdicts.why_not_proven(CPU, torch.float32) is None
    assert checked_dtypes == ["float32"] * 3 and len(list(cache.glob("*.json"))) == 3


def test_uncertain_verdicts_are_not_saved(cache, monkeypatch):
    checked_dtypes = stub_rows(monkeypatch, {**ROW, "status": "pass"}, {**ROW, "status": "not checked: CUDA out of memory"})
    for _ in range(2):
        monkeypatch.setattr(verdicts, "_known", {})
        with pytest.warns(RuntimeWarning, match="could not be checked on interpreter.*plain PyTorch.*out of memory"):
            assert verdicts.why_not_proven(CPU, torch.float32).startswith("not checked: CUDA")
    assert checked_dtypes == ["float32"] * 2 and list(cache.glob("*.json")) == []


@pytest.mark.parametrize("kind", ["a file in the way", "half a file"])
def test_an_unusable_cache_is_ignored(cache, monkeypatch, kind):
    checked_dtypes = stub_rows(monkeypatch, {**ROW, "status": "pass"})
    if kind == "half a file":
        file = verdicts._file(CPU, "float32")
        file.parent.mkdir(parents=True)
        file.write_text('{"verdict": ')
    else:
        cache.parent.parent.mkdir()
        cache.parent.write_text("")
    assert verdicts.why_not_proven(CPU, torch.float32) is None and checked_dtypes == ["float32"]
    assert verdicts.why_not_proven(CPU, torch.float32) is None and checked_dtypes == ["float32"]


def test_concurrent_callers_check_once(cache, monkeypatch):
    """Threads stand in for processes here: each opens the lock file itself."""
    barrier, checked_dtypes = threading.Barrier(4), []

    def checked_in_parallel(device, dtypes, few, limit_seconds, processes):
        checked_dtypes.extend(dtypes)
        yield {**ROW, "status": "pass"}

    monkeypatch.setattr(verdicts, "checked_in_parallel", checked_in_parallel)
    reasons = []

    def call():
        barrier.wait()
        reasons.append(verdicts._load_or_check(CPU, "float32"))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reasons == [None] * 4 and checked_dtypes == ["float32"]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["pass", "pass"], "pass"),
        (["pass", "not checked: killed", "fail: NaN"], "fail: NaN (attention, large, float16)"),
        (["pass", "not checked: killed"], "not checked: killed (attention, large, float16)"),
        ([], "not checked: the check returned nothing"),
    ],
)
def test_verdict(statuses, expected):
    assert verdicts.verdict({**ROW, "status": status} for status in statuses) == expected


def test_description_of_a_row():
    assert verdicts.described(FAILED) == (
        "fail: relative error 2.5e-01, but 0.002 is allowed (attention, large, float16)"
    )  # fmt: skip


BEGIN = f"import os, sys, json, time, signal; print({json.dumps(json.dumps({'begins': ROW}))}, flush=True); "


@pytest.mark.parametrize(
    ("code", "op", "status"),
    [
        (BEGIN + "os.abort()", "attention", "fail: crashed: SIGABRT"),
        (BEGIN + "time.sleep(600)", "attention", "fail: took longer than 2 s"),
        (BEGIN + "os.kill(os.getpid(), signal.SIGKILL)", "attention", "not checked: the process was killed"),
        (BEGIN + "sys.exit(3)", "attention", "not checked: the check stopped here, since the device was lost"),
        ("raise ValueError('no such GPU')", "start", "not checked: ValueError: no such GPU"),
        ("import time; time.sleep(600)", "start", "not checked: took longer than 2 s"),
        ("import os; os.abort()", "start", "not checked: crashed: SIGABRT"),
    ],
    ids=["abort", "hang", "kill", "device lost", "error at start", "hang at start", "abort at start"],
)
def test_a_child_that_dies_or_hangs_gives_a_row(monkeypatch, code, op, status):
    monkeypatch.setattr(process, "CODE", code)
    (row,) = process.checked(CPU, "float16", True, 2.0)
    assert (row["op"], row["status"]) == (op, status)


def test_a_child_that_cannot_start_gives_a_row(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    (row,) = process.checked(CPU, "float16", True, 2.0)
    assert row["status"].startswith("not checked: no process could be started: ")


def test_a_case_that_raises_gives_a_row(monkeypatch, capfd):
    def raising(kind, words):
        def run():
            print("noise of a library")
            raise kind(words)

        return process.Task("linear_add", words, run, words)

    tasks = [
        raising(RuntimeError, "out of resource: shared memory"),
        raising(torch.OutOfMemoryError, "CUDA out of memory"),
        raising(RuntimeError, "Triton Error [CUDA]: an illegal memory access"),
        raising(RuntimeError, "never reached"),
    ]
    monkeypatch.setattr(process, "tasks", lambda device, dtype, few: tasks)
    monkeypatch.setattr(os, "dup2", lambda *descriptors: None)  # or this test could not capture the output
    status = process.main("cpu", "float32", True, 0, 1)
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{")]
    assert status == process.DEVICE_LOST
    assert [line["status"] for line in lines if "status" in line] == [
        "fail: RuntimeError: out of resource: shared memory",
        "not checked: OutOfMemoryError: CUDA out of memory",
        "fail: RuntimeError: Triton Error [CUDA]: an illegal memory access",
    ]


@pytest.mark.parametrize("shards", [1, 5, 40])
def test_processes_share_the_tasks_but_never_a_kernel(shards):
    selected = process.tasks(torch.device("meta"), torch.bfloat16, True)
    parts = [process.part_of(selected, shard, shards) for shard in range(shards)]
    assert sorted(map(id, itertools.chain(*parts))) == sorted(map(id, selected))
    places = [{task.kernels for task in part} for part in parts]
    assert sum(map(len, places)) == len(set().union(*places))
    repeats = [task for task in selected if task.shape.endswith(" times")]
    assert repeats and all(sum(task.kernels == other.kernels for other in selected) == 2 for task in repeats)


@pytest.mark.parametrize(
    ("free_gigabytes", "processors", "dtypes", "count"),
    [(140, 16, 1, 12), (140, 16, 3, 4), (14, 16, 1, 4), (2, 64, 1, 1), (140, 1, 1, 1)],
)
def test_processes_fit_the_processors_and_the_gpu_memory(monkeypatch, free_gigabytes, processors, dtypes, count):
    monkeypatch.setattr(parallel, "available", lambda: processors)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free_gigabytes << 30, 150 << 30))
    assert parallel.process_count(torch.device("cuda:0"), dtypes) == count
    assert parallel.process_count(CPU, dtypes) == 1


def test_rows_of_parallel_checks_arrive_and_an_early_end_kills_the_children(monkeypatch):
    monkeypatch.setattr(process, "CODE", BEGIN + "time.sleep(600)")
    start = time.monotonic()
    rows = list(parallel.checked_in_parallel(CPU, ["float16", "float32"], True, 1.0, 2))
    assert sorted(row["dtype"] for row in rows) == ["float16"] * 4  # BEGIN names the task
    assert all(row["status"] == "fail: took longer than 1 s" for row in rows)
    monkeypatch.setattr(process, "CODE", BEGIN.replace("begins", "unknown") + "time.sleep(600)")
    next(rows := parallel.checked_in_parallel(CPU, ["float16"], True, 600.0, 3))
    rows.close()
    assert time.monotonic() - start < 60


class OnCuda:
    is_cuda, dtype, device, requires_grad = True, torch.bfloat16, torch.device("cuda:1"), False


@pytest.fixture
def fake_gpu(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(dispatch, "_missing_build_tool", lambda compiler, path: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


def test_auto_follows_the_verdict(fake_gpu, monkeypatch):
    queries = []

    def why_not_proven(device, dtype):
        queries.append((device, dtype))
        return None if dtype == torch.bfloat16 else "fail"

    monkeypatch.setattr(verdicts, "why_not_proven", why_not_proven)
    assert dispatch.use_triton(OnCuda())
    assert not dispatch.use_triton(OnCuda(), dtype=torch.float32)  # the model may compute in another dtype than its waveforms
    assert queries == [(torch.device("cuda:1"), torch.bfloat16), (torch.device("cuda:1"), torch.float32)]
    assert not dispatch.use_triton(OnCuda(), of_waveforms=True) and queries.pop() == (torch.device("cuda:1"), None)
    assert dispatch.use_triton(OnCuda(), dtype=torch.float32, backend="triton")  # forced: the verdict is not needed
    monkeypatch.setenv("HUBERT_FAST_CHECK", "0")
    assert dispatch.use_triton(OnCuda(), dtype=torch.float32)
    assert len(queries) == 2
    monkeypatch.setenv("HUBERT_FAST_CHECK", "no")
    with pytest.raises(ValueError, match="HUBERT_FAST_CHECK must be 0 or 1, but is 'no'"):
        dispatch.use_triton(OnCuda())


def test_torch_compile_treats_the_verdict_as_a_constant(monkeypatch):
    queries = []
    monkeypatch.setattr(verdicts, "why_not_proven", lambda device, dtype: queries.append(dtype) or "fail")
    monkeypatch.setattr(dispatch, "why_not", dispatch.constant(lambda backend: None))
    monkeypatch.setattr(dispatch, "_why_not_on", lambda tensors, also: None)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    x, weight, bias = torch.randn(3, 8), torch.randn(8), torch.randn(8)
    torch.compiler.reset()
    compiled = torch.compile(lambda x: ops.layer_norm(x, weight, bias), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), ops.layer_norm_eager(x, weight, bias))
    assert queries == [torch.float32]


def test_an_old_triton_is_refused(fake_gpu, monkeypatch):
    monkeypatch.setattr(dispatch, "triton_version", lambda: "3.3.1")
    dispatch._old_triton.cache_clear()
    try:
        expected = "kernels need triton 3.4 or newer, as with torch 2.8 and newer, but this is triton 3.3.1"
        assert dispatch.why_not("triton") == expected
        monkeypatch.setattr(dispatch, "triton_version", lambda: "3.10.0+git1234")
        dispatch._old_triton.cache_clear()
        assert dispatch.why_not("triton") is None
    finally:
        dispatch._old_triton.cache_clear()


@pytest.mark.parametrize(
    ("options", "interpret", "message"),
    [
        (["--device", "cpu"], "0", "kernels need a CUDA device, but the device is cpu"),
        (["--device", "tpu"], "0", "device must be auto, cpu, cuda or cuda:N, but is 'tpu'"),
        (["--device", "cpu", "--dtype", "float8"], "1", "dtype must be all, or some of float32, bfloat16, float16"),
        (["--device", "cpu", "--dtype", "bfloat16"], "1", "check bfloat16 on a GPU"),
    ],
)
def test_the_check_command_says_why_it_cannot_run(monkeypatch, capsys, options, interpret, message):
    monkeypatch.setenv("TRITON_INTERPRET", interpret)
    assert main(["check", *options]) == 2
    assert message in capsys.readouterr().err


def test_differing_detects_one_bit():
    numbers = iter([0.0, 0.0, -0.0, 0.0])
    assert values.differing(lambda: torch.tensor([next(numbers), float("nan")]), 3) == 1


def test_cases_cover_every_op_in_production_blocks():
    names = {name for name in ops.__all__ if not name.endswith("_eager")}
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        at = cases.Where(dtype, torch.device("meta"))
        few, every = list(selections.few_cases(at)), list(selections.every_case(at))
        assert {case.op for case in few} == {case.op for case in every} == names
        rows = sum(selections.LITTLE_MEMORY)
        assert rows == sum(selections.PRODUCTION) >= 4096
        large = {case.op for case in few if case.shape.startswith(f"large [{rows}, ")}
        assert {"linear_gelu", "linear_add", "attention", "layer_norm", "add_layer_norm", "conv_positional"} <= large
        assert any(case.shape.endswith("int16") for case in few)
        assert any(case.op == "window_statistics" and case.dtype == torch.float32 for case in few)
        assert len(few) < 30 < len(every)


def test_waveform_ops_accept_a_check_in_any_dtype(cache, monkeypatch):
    """Waveforms are normalised alike for models of any dtype, so that a check that passed in one dtype suffices."""
    checked_dtypes = stub_rows(monkeypatch, {**ROW, "status": "pass"})
    assert verdicts.why_not_proven(CPU, torch.float16) is None and checked_dtypes == ["float16"]
    assert verdicts.why_not_proven(CPU, None) is None and checked_dtypes == ["float16"]
    monkeypatch.setattr(verdicts, "_known", {})
    assert verdicts.why_not_proven(CPU, None) is None and checked_dtypes == ["float16", "bfloat16"]


def test_a_failed_check_warns_once(cache, monkeypatch):
    stub_rows(monkeypatch, FAILED)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(3):
            assert verdicts.why_not_proven(CPU, torch.float32) == verdicts.described(FAILED)
    assert len(seen) == 1

"""Test the kit for a bare GPU machine: its contents, its run.sh, and that it has the kernels that a GPU needs."""

import ast
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import pytest

import hubert_fast

ROOT = Path(hubert_fast.__file__).parent.parent
FOLDER = ROOT / "bench"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="bench/ is not beside the package under test")

# A stand-in for bench/gpu that records how it was called, and then waits or pretends to have compiled a kernel.
GPU = """
import json, os, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
out = Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir()
cache = Path(os.environ["TRITON_CACHE_DIR"])
names = ("HF_HUB_OFFLINE", "PYTHONUNBUFFERED", "PYTHONPATH")
call = {"arguments": sys.argv[1:], "cache": sorted(path.name for path in cache.iterdir())}
call.update((name, os.environ[name]) for name in names)
(out / "call.json").write_text(json.dumps(call))
print("measuring", flush=True)
if "--wait" in sys.argv:
    time.sleep(60)
for name in ("__grp___new_kernel.json", "__grp__triton_of_inductor.json"):
    (cache / "NEW").mkdir(exist_ok=True)
    (cache / "NEW" / name).write_text("{}")
(out / "summary.txt").write_text("fast")
sys.exit(1)
"""


@pytest.fixture
def gpu_kit(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}  # run() changes them
    yield importlib.import_module("gpu.kit")
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for name in [name for name in sys.modules if name == "gpu" or name.startswith("gpu.")]:
        sys.modules.pop(name)


@pytest.fixture
def kit(tmp_path):
    """Make a kit of one kernel, with the stand-in as its bench/gpu."""
    kit, triton = tmp_path / "kit", pytest.importorskip("triton").__version__
    (kit / "source/bench/gpu").mkdir(parents=True)
    (kit / "source/bench/gpu/__main__.py").write_text(GPU)
    (kit / "kit.json").write_text(json.dumps({"commit": "abc1234", "triton": triton, "stamp": "unpacked-1"}))
    (tmp_path / "A").mkdir()
    (tmp_path / "A/__grp___old_kernel.json").write_text("{}")
    with tarfile.open(kit / "triton_cache.tar.gz", "w:gz") as file:
        file.add(tmp_path / "A", "A")
    return kit


def rows_of(archive, name):
    with tarfile.open(archive) as file:
        return file.extractfile(f"rows/{name}").read().decode()


def test_run_passes_options_and_kernels(gpu_kit, kit, tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    out, cache = tmp_path / "out", tmp_path / "cache"
    assert gpu_kit.run(kit, cache, out, ["--seconds", "9", "--stage", "ops"]) == 1  # the exit status of bench/gpu
    call = json.loads(rows_of(out / "rows.tar.gz", "call.json"))
    assert call.pop("arguments")[2:] == [
        *("--archive", str(out / "rows.tar.gz"), "--commit", "abc1234", "--seconds", "9", "--stage", "ops")
    ]
    assert call == {
        "cache": ["A", "unpacked-1"], "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(kit / "source"),
    }  # fmt: skip
    assert rows_of(out / "rows.tar.gz", "summary.txt") == (out / "summary.txt").read_text() == "fast"
    assert sorted(path.name for path in out.iterdir()) == ["rows.tar.gz", "summary.txt"]
    printed = capfd.readouterr().out
    assert printed.endswith("kernels that were not in the kit: 1\n")  # not counting those of the kit and of torch.compile
    assert "unpacked the kernels" in printed and "compiled again" not in printed
    with pytest.raises(SystemExit, match=r"out already has a rows.tar.gz: name another folder"):
        gpu_kit.run(kit, cache, out, [])
    assert rows_of(out / "rows.tar.gz", "summary.txt") == "fast"


def test_kernels_are_unpacked_once_and_completely(gpu_kit, kit, tmp_path, capfd):
    cache = tmp_path / "cache"
    kernel = cache / "A/__grp___old_kernel.json"
    gpu_kit.unpack(kit, cache, "unpacked-1")
    assert "unpacked" in capfd.readouterr().out and kernel.read_text() == "{}"
    kernel.write_text("incomplete")
    gpu_kit.unpack(kit, cache, "unpacked-1")
    assert kernel.read_text() == "incomplete" and not capfd.readouterr().out
    gpu_kit.unpack(kit, cache, "unpacked-2")  # another kit
    assert kernel.read_text() == "{}"
    (cache / "unpacked-2").unlink()  # as after an interruption
    kernel.write_text("incomplete")
    gpu_kit.unpack(kit, cache, "unpacked-2")
    assert kernel.read_text() == "{}"
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"only work in .*file, but cannot be unpacked there: .*exists"):
        gpu_kit.unpack(kit, tmp_path / "file", "unpacked-1")


def test_run_reports_missing_and_different_packages(gpu_kit, kit, tmp_path, capfd, monkeypatch):
    (kit / "kit.json").write_text(json.dumps({"commit": "abc1234", "triton": "1.2", "stamp": "unpacked-1"}))
    assert gpu_kit.run(kit, tmp_path / "cache", tmp_path / "out", []) == 1
    assert "not 1.2: every kernel will be compiled again" in capfd.readouterr().out
    monkeypatch.setattr(gpu_kit, "find_spec", lambda name: None if name in ("torch", "triton") else name)
    with pytest.raises(SystemExit, match=r"bench/gpu needs torch and triton, but .* has no such package"):
        gpu_kit.run(kit, tmp_path / "cache", tmp_path / "other", [])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["interrupted", "terminated"])
def test_an_interruption_keeps_the_rows(kit, tmp_path, number):
    arguments = f"Path({str(kit)!r}), Path({str(tmp_path / 'cache')!r}), Path({str(tmp_path / 'out')!r}), ['--wait']"
    program = f"import sys; from pathlib import Path; from gpu import kit; sys.exit(kit.run({arguments}))"
    child = subprocess.Popen([sys.executable, "-c", program], cwd=FOLDER, stdout=subprocess.PIPE, text=True)
    assert "measuring\n" in iter(child.stdout.readline, "")
    child.send_signal(number)
    assert "not in the kit: 0" in child.communicate(timeout=300)[0] and child.returncode == 143
    assert "--wait" in json.loads(rows_of(tmp_path / "out/rows.tar.gz", "call.json"))["arguments"]


@pytest.fixture
def tree(gpu_kit, tmp_path, monkeypatch):
    """Commit a small tree in place of this one, whose setup.py and compilation take no time."""
    files = {
        "setup.py": "open('hubert_fast/_ctc.cpython-312.so', 'w').close(); import os; os.mkdir('build')",
        "bench/gpu/kit.py": """
            import json, os, sys
            from pathlib import Path
            assert sys.argv[1] == "--compile" and len(sys.argv) == 3
            wrong = [name for name in os.environ if name.startswith("TRITON_") and name != "TRITON_CACHE_DIR"]
            assert not wrong and os.environ["PYTHONPATH"] == f"{Path(sys.argv[0]).parents[2]}:/before"
            for folder in ("OLD", "USED"):
                (cache := Path(os.environ["TRITON_CACHE_DIR"]) / folder).mkdir()
                for name in ("__grp__k.json", "k.json", "k.cubin", "k.ptx", "k.source"):
                    (cache / name).write_text(name)
            Path(sys.argv[2]).write_text(json.dumps(["USED"]))
        """,
        "hubert_fast/model.py": "here = 1", "tests/test_model.py": "", "bench/results/large.csv": "",
        "bench/gpu/__main__.py": "",
    }  # fmt: skip
    root = tmp_path / "tree"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(textwrap.dedent(text))
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "c"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(gpu_kit, "ROOT", root)
    monkeypatch.setattr(gpu_kit, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("PYTHONPATH", "/before")
    return root


def test_the_kit_holds_the_committed_tree(gpu_kit, tree, tmp_path, capfd):
    (tree / "hubert_fast/model.py").write_text("here = 2")
    kit = tmp_path / "kit"
    gpu_kit.prepare(kit)
    assert sorted(str(path.relative_to(kit)) for path in kit.rglob("*") if path.is_file()) == [
        "kit.json", "run.sh", "source/bench/gpu/__main__.py", "source/bench/gpu/kit.py",
        "source/hubert_fast/_ctc.cpython-312.so", "source/hubert_fast/model.py", "source/setup.py", "triton_cache.tar.gz",
    ]  # fmt: skip
    assert (kit / "source/hubert_fast/model.py").read_text() == "here = 1"
    head = subprocess.run(["git", "-C", tree, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    about = json.loads((kit / "kit.json").read_text())
    assert head.startswith(about["commit"]) and len(about["commit"]) >= 7
    assert about["triton"] == pytest.importorskip("triton").__version__
    with tarfile.open(kit / "triton_cache.tar.gz") as file:
        assert file.getnames() == ["USED/__grp__k.json", "USED/k.cubin", "USED/k.json"]
    printed = capfd.readouterr().out
    assert "not committed, so the kit lacks them:\n M hubert_fast/model.py\n" in printed
    assert f"commit {about['commit']}, 1 kernels, 0.0 MB." in printed
    assert printed.splitlines()[-1] == f"bash {os.path.relpath(kit)}/run.sh $OUT --seconds 315"
    gpu_kit.unpack(kit, tmp_path / "there", about["stamp"])
    assert (tmp_path / "there/USED/k.cubin").read_text() == "k.cubin"


def test_a_kit_that_is_too_large_or_not_built_is_refused(gpu_kit, tree, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_kit, "MOST_BYTES", 100)
    with pytest.raises(SystemExit, match=r"the kit is 0\.0 MB, more than 0\.0001: is a large file committed\?"):
        gpu_kit.prepare(tmp_path / "kit")
    (tree / "setup.py").write_text("")
    subprocess.run(["git", "-C", tree, "-c", "user.name=a", "-c", "user.email=b", "commit", "-qam", "c"], check=True)
    with pytest.raises(SystemExit, match=r"the C\+\+ extension was not built: is there a C\+\+ compiler\?"):
        gpu_kit.prepare(tmp_path / "kit")


def python_of(folder, version):
    """Make a python3 that reports another version. Return a PATH on which it comes first."""
    folder.mkdir()
    numbers = ", ".join(version.split("."))
    (folder / "python3").write_text(
        f'#!/bin/sh\n[ "$1" = -c ] || exec {sys.executable} "$@"\n'
        f"exec {sys.executable} -c \"import sys; sys.version_info = ({numbers}); sys.version = '{version} (x)'\n$2\"\n"
    )
    (folder / "python3").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_run_sh_and_make_refuse_other_pythons(gpu_kit, tmp_path):
    kit = tmp_path / "a kit"
    (kit / "source/bench/gpu").mkdir(parents=True)
    (kit / "run.sh").write_text(gpu_kit.RUN)
    shutil.copy(FOLDER / "gpu/kit.py", kit / "source/bench/gpu")

    def run(version, *command):
        path = python_of(tmp_path / version, version) if version else os.environ["PATH"]
        return subprocess.run([*map(str, command)], capture_output=True, text=True, env={**os.environ, "PATH": path}, cwd=ROOT)

    child = run("3.9.1", "bash", kit / "run.sh", tmp_path / "out")
    assert child.returncode == 2 and "this kit needs Python 3.12, but python3 is 3.9.1: put" in child.stderr
    for number, arguments in enumerate(([], ["--seconds", "9"])):
        child = run(f"3.12.{number}", "bash", kit / "run.sh", *arguments)
        assert child.returncode == 1 and child.stderr.startswith("usage: bash run.sh OUT [options of bench/gpu]")
    assert not (tmp_path / "out").exists()
    if shutil.which("make"):
        child = run("", "make", "gpu-kit", "GPU_PYTHON=no-such-python")
        assert child.returncode == 2 and "there is no no-such-python: name one with GPU_PYTHON=" in child.stderr
        child = run("3.10.2", "make", "gpu-kit", "GPU_PYTHON=python3")
        assert child.returncode == 2 and "make gpu-kit needs Python 3.12, but python3 is 3.10.2\n" in child.stderr


LAUNCHES = """
import sys
import torch
from gpu import launches, models, op_cases, whole
from pathlib import Path
from hubert_fast import ops
from hubert_fast.check.cases import SIZES, Size, Where
launches.stand_in()

def calls(device, *shapes):
    for build, size, lengths in shapes:
        case = build(size, lengths, Where(torch.bfloat16, torch.device(device)))
        yield case.op, lambda case=case: case.public(*case.make())

def names(compilations):
    return sorted(launch.args[0].__name__ for launch in compilations)

if sys.argv[2] == "all":
    odd = Size("odd", hidden=52, heads=4, inner=77, groups=4, kernel=5, conv=24, vocabulary=31)
    shapes = [(build, odd, [1, 0, 7, 12]) for build in op_cases.BUILDERS]
    meta, real = list(calls("meta", *shapes)), list(calls("cpu", *shapes))
    print(names(launches.launches_of(meta)))
    print(names(launches.launches_of([*real, *meta])))
    whole.models = lambda tiny: iter([("tiny-large", torch.bfloat16)])
    whole.GRAPH_SECONDS = ((3.01,),)
    models.HEADLINE, models.COMPILED = models.TINY_HEADLINE, models.TINY_COMPILED
    forwards = [call for call in launches.model_calls() if call[0].startswith("tiny")]
    print([description for description, _ in forwards])
    print(names(launches.launches_of(forwards)))

shapes = [(op_cases.layer_norm, SIZES["base"], lengths) for lengths in ([300], [301], [4097])]
wrong = "wrong", lambda: ops.layer_norm(*(torch.empty(size, device="meta") for size in (4, 5, 5)), backend="triton")
compilations = launches.launches_of([*calls("meta", *shapes), wrong])
launches.compile_all(compilations, Path(sys.argv[1]), 2)
"""


@pytest.mark.bench
@pytest.mark.skipif(sys.platform != "linux", reason="triton compiles on Linux")
def test_the_kit_compiles_the_kernels_that_a_gpu_needs(tmp_path):
    """Tensors without memory need the same kernels as real ones, and a process in another folder finds the compiled kernels."""
    pytest.importorskip("triton")
    cache, copy = tmp_path / "cache", tmp_path / "elsewhere"
    cache.mkdir()
    ignored = shutil.ignore_patterns("results", "recordings", "model.safetensors", "__pycache__", "*.so")
    for name in ("hubert_fast", "kernels", "bench"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("TRITON_", "HUBERT_FAST_"))}
    variables |= {"TRITON_CACHE_DIR": str(cache), "HUBERT_FAST_BACKEND": "triton", "HUBERT_FAST_CUDA_GRAPHS": "1"}

    def printed(root, mode):
        environment = {**variables, "PYTHONPATH": f"{root}:{root / 'bench'}"}
        command = [sys.executable, "-c", LAUNCHES, cache, mode]
        child = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert child.returncode == 0, child.stdout + child.stderr
        return child.stdout.splitlines()

    meta, both, descriptions, models, *compiled = printed(ROOT, "all")
    assert meta == both  # odd sizes give odd addresses, for which triton compiles other kernels
    meta, descriptions, models = map(ast.literal_eval, (meta, descriptions, models))
    assert [f"_{name}_kernel" for name in (
        "add_layer_norm", "attention", "attention", "conv_first_product", "conv_positional", "ctc_argmax", "layer_norm",
        "linear", "linear", "linear_layer_norm", "moments", "normalize", "unit_argmin", "window_sums",
    )] == meta  # fmt: skip
    assert [description.rpartition(" ")[2] for description in descriptions] == [
        *("ours", "ours-padded", "accelerate"), "s", *["ours"] * 2, *["ours-graphs"] * 2, *["ours"] * 2, *["accelerate"] * 2,
        *["ours-graphs"] * 2,
    ]  # fmt: skip
    # one kernel is used for outputs in float32, and one by no model
    assert set(models) == (set(meta) | {"_conv_first_kernel"}) - {"_unit_argmin_kernel"}
    assert models.count("_add_layer_norm_kernel") == 3 and models.count("_attention_kernel") == 2
    assert compiled[0].startswith("cannot run here: wrong: ValueError: weight and bias must be [4] for x [4]")
    assert compiled[-1] == f"2 kernels: 2 compiled, 0 already in {cache}"
    *_, last = printed(copy, "compilation")
    assert last == f"2 kernels: 0 compiled, 2 already in {cache}"

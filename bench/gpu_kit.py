"""Prepare one folder with everything that a bare GPU machine needs to run ``gpu.py``: ``make gpu-kit GPU_PYTHON=python3.12``.

source/              the committed tree, with the C++ extension for Python 3.12, without which CTC takes 54 ms a batch
triton_cache.tar.gz  the kernels that ``gpu.py`` launches, compiled for sm_90: H100 and H200, of 132 multiprocessors
run.sh, kit.json     unpack the kernels and run ``gpu.py`` of source/; what the kit is

Kernels are compiled without a GPU, from the launches of all stages on tensors without memory. Triton's cache holds absolute
paths, so it is filled here and unpacked there at one path, CACHE. What triton builds with gcc when it first starts a kernel
is left to the GPU machine: it links with the driver's libcuda.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path("/tmp/hubert_fast_triton_cache")
ARCH = 90
MOST_BYTES = 40_000_000
LEFT_OUT = (":(exclude)tests", ":(exclude)bench/results")  # of the tree
KERNELS = "*/__grp___*.json"  # one of each kernel of ours in the cache
LOADED = (".json", ".cubin")  # what triton reads of a compiled kernel; other files are stages of its compilation
RUN = """#!/usr/bin/env bash
# Run bench/gpu.py on a GPU machine: bash run.sh OUT [options of bench/gpu.py]. OUT gets rows.tar.gz and summary.txt.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12) and "this kit needs Python 3.12, but python3 is " +
    sys.version.split()[0] + ": put a Python 3.12 first on PATH")' || exit 2
exec python3 "$here/source/bench/gpu_kit.py" --run "$@"
"""


def stand_in() -> None:
    """Have this process take tensors without memory for those of a GPU, in the package and the benchmark.

    Ops then run the launchers of their kernels, and graphs are run and not captured.
    """
    import gpu_ops
    import torch

    from hubert_fast import cuda_graphs, dispatch, ops, packed_kernels, paths
    from hubert_fast.benchmark import providers

    def run_graph(self: Any, key: Any, places: Any, device: Any, prepare: Any, inputs: Any, rows: int) -> None:
        call, static = prepare()
        call(*static)

    def counts_and_starts(cu_seqlens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.arange(len(cu_seqlens) - 1)  # no kernel depends on the lengths
        return torch.full_like(index, 64), 64 * index

    dispatch.interpreting = lambda: True  # so that it takes tensors of any device; kernels do not ask it by this name
    paths.DEVICES = (*paths.DEVICES, "meta")
    packed_kernels.graphs_can_run = lambda device: True
    cuda_graphs.GraphCache.run = run_graph
    torch.autocast = lambda *arguments, **options: contextlib.nullcontext()  # there is none without memory
    torch.is_autocast_enabled = lambda *arguments: False
    gpu_ops.counts_and_starts = counts_and_starts
    providers.greedy_decode = lambda *arguments, **options: []
    for path in Path(ops.__file__).parent.glob("[a-z]*.py"):
        module = import_module(f"hubert_fast.ops.{path.stem}")
        for name, value in list(vars(module).items()):
            if hasattr(value, "_init_fn"):  # a torch.library.custom_op, which would only say what its result looks like
                setattr(module, name, value._init_fn)


def op_calls() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield what the stages values, repeat and ops call, each with a name."""
    import gpu_repeat
    import gpu_run
    import gpu_times
    import gpu_values
    import torch

    run = gpu_run.Run(Path(), 0.0, False)
    run.device = torch.device("meta")
    for case in gpu_values.value_cases(run):
        yield f"{case.op} {case.shape} {case.dtype}", lambda case=case: case.public(*case.make())
    size, lengths = gpu_repeat.SIZES["large"], run.utterance_frames(gpu_repeat.FRAMES)
    where = [gpu_repeat.Where(dtype, run.device) for dtype in (torch.bfloat16, torch.float16)]
    cases = [build(size, lengths, at) for at in where for build in gpu_repeat.BUILDERS]
    for case in (*cases, *gpu_times.op_cases(run)):
        for name, provider in case.providers().items():
            if not name.startswith("library:"):
                what = f"{case.op} {case.shape} {case.dtype}, {name}"
                yield what, lambda case=case, prepare=provider.prepare: prepare(*case.make())()


def model_calls() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield forwards of ours, packed and padded, as the stages whole, headline, profile and compile call them."""
    import gpu_models
    import gpu_profile
    import gpu_whole
    import numpy as np
    import torch

    from hubert_fast.benchmark import measure, protocols, providers
    from hubert_fast.benchmark.subject import Subject
    from hubert_fast.benchmark.work import Work
    from hubert_fast.paths import encode_padded

    class Padded(providers.Provider):
        def forward(self, waveforms: list[np.ndarray]) -> providers.Forward:
            lengths = torch.tensor([len(waveform) for waveform in waveforms])
            rows = torch.empty(len(lengths), int(lengths.max()), dtype=self.subject.dtype, device=self.subject.device)
            mask = None if lengths.min() == lengths.max() else torch.arange(rows.shape[1]) < lengths[:, None]
            return providers.Forward(lambda: encode_padded(self.subject.ours.hubert, rows, mask, False), lambda out: out)

        def text(self, waveforms: list[np.ndarray]) -> list[str]:
            self.forward(waveforms).run()
            return [""] * len(waveforms)

    ours = dict.fromkeys(("ours", "ours-graphs", "ours-no-graphs"), providers.Ours)
    kinds = {**ours, "ours-padded": Padded, "accelerate": Padded}
    item, most = gpu_models.Item, round(16000 * measure.CHECKED_SECONDS)
    whole = [item(name, " ".join(gpu_whole.PROVIDERS), audio_seconds=30.0, rounds=0, dtype=dtype)
             for name, dtype in gpu_whole.models(False)]  # fmt: skip
    profile = [item(name, "ours", audio_seconds=gpu_profile.BATCH_SECONDS) for name in ("large", "base")]
    for one in (*whole, *gpu_models.HEADLINE, *gpu_models.COMPILED, *profile):
        subject = Subject.random(one.model, torch.device("meta"), one.dtype)
        work = Work.of(one.lengths, one.audio_seconds)
        checked = [waveform[:most] for waveform in work.waveforms[: measure.CHECKED_UTTERANCES]]
        for name in (name for name in one.providers.split() if name in kinds):
            provider, what = kinds[name](subject), f"{one.model} {one.dtype} {one.case}, {name}"
            yield what, lambda provider=provider, checked=checked: provider.forward(checked).run()
            if one.rounds:  # the stage whole times nothing
                plan = one.protocol, provider, work, one.batch_seconds, one.batch_utterances
                yield what, lambda plan=plan: protocols.prepare(*plan)()
        for batch in () if one.rounds or one.model == "xlarge" or one.dtype != torch.bfloat16 else gpu_whole.GRAPH_SECONDS:
            waveforms = [np.zeros(round(16000 * seconds), np.float32) for seconds in batch]
            forward = partial(providers.Ours(subject).forward, waveforms)
            yield f"{one.model}, graph of {batch} s", lambda forward=forward: forward().run()


def launches_of(calls: Iterable[tuple[str, Callable[[], Any]]]) -> list[partial]:
    """Return what compiles each kernel that calls would launch, once, and run nothing on a device.

    A call that cannot run here is printed, as its kernels will be compiled on the GPU machine.
    """
    import torch
    from compile_kernels import compiled
    from triton import knobs
    from triton.runtime.jit import JITFunction

    found: dict[tuple, partial] = {}
    run_of_triton = JITFunction.run

    def run(function: Any, *arguments: Any, **options: Any) -> Any:
        def note(*, key: str, fn: Any, **_: Any) -> bool:
            found.setdefault((fn.module, fn.name, key), partial(run_of_triton, function, *arguments, **options))
            return True  # so that it is not compiled yet

        knobs.runtime.jit_cache_hook = note
        return run_of_triton(function, *arguments, **options)

    JITFunction.run = run
    try:
        with torch.inference_mode():
            for what, call in calls:
                try:
                    compiled(ARCH, call)
                except Exception as error:
                    print(f"cannot run here: {what}: {type(error).__name__}: {str(error)[:200]}", flush=True)
    finally:
        JITFunction.run, knobs.runtime.jit_cache_hook = run_of_triton, None
    return list(found.values())


def compile_all(launches: list[partial], cache: Path, processes: int) -> list[str]:
    """Compile kernels in so many processes, and return their folders in the cache."""
    there, folders, begin = set(os.listdir(cache)), set(), time.monotonic()
    global LAUNCHES
    LAUNCHES = launches  # which forked processes have, as they cannot be sent
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        for number, (folder, name) in enumerate(pool.imap_unordered(_compiled, range(len(launches))), 1):
            if folder:
                folders.add(folder)
            else:
                print(f"does not compile: {name}", flush=True)
            if number % 20 == 0 or number == len(launches):
                print(f"{number} of {len(launches)} launches, {time.monotonic() - begin:.0f} s", flush=True)
    print(f"{len(folders)} kernels: {len(folders - there)} compiled, {len(folders & there)} were in {cache}", flush=True)
    return sorted(folders)


def _compiled(index: int) -> tuple[str, str]:
    """Compile a kernel; return its folder in the cache and its name, or nothing and the reason."""
    launch = LAUNCHES[index]
    try:
        return Path(next(iter(launch().metadata_group.values()))).parent.name, launch.args[0].__name__
    except Exception as error:
        return "", f"{launch.args[0].__name__}: {type(error).__name__}: {str(error)[:200]}"


def snapshot(folder: Path) -> str:
    """Unpack the committed tree into a folder, without what gpu.py does not need, and return its commit."""

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, stdout=subprocess.PIPE).stdout

    if changed := git("status", "--porcelain").decode().rstrip():
        print(f"warning: these changes are not committed, and not in the kit:\n{changed}", flush=True)
    with tarfile.open(fileobj=io.BytesIO(git("archive", "HEAD", ".", *LEFT_OUT))) as file:
        file.extractall(folder, filter="data")
    return git("rev-parse", "--short", "HEAD").decode().strip()


def prepare(folder: Path) -> None:
    """Make the kit. Raises ``SystemExit`` with the reason where that cannot be."""
    shutil.rmtree(folder, ignore_errors=True)
    source, archive, about = folder / "source", folder / "triton_cache.tar.gz", folder / "kit.json"
    source.mkdir(parents=True)
    commit = snapshot(source)
    built = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"], cwd=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if not list(source.glob("hubert_fast/_ctc.*.so")):
        sys.exit(f"{built.stdout.decode()}\nthe C++ extension was not built: is there a C++ compiler?")
    shutil.rmtree(source / "build", ignore_errors=True)
    CACHE.mkdir(exist_ok=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRITON_", "HUBERT_FAST_"))}
    clean |= {"PYTHONDONTWRITEBYTECODE": "1", "HUBERT_FAST_BACKEND": "triton", "HUBERT_FAST_CUDA_GRAPHS": "1"}
    command = [sys.executable, str(source / "bench/gpu_kit.py"), "--compile", str(about)]
    subprocess.run(command, check=True, env=clean | environment(source, CACHE))
    folders = json.loads(about.read_text())
    with tarfile.open(archive, "w:gz") as file:
        for path in sorted(path for one in folders for path in (CACHE / one).iterdir() if path.suffix in LOADED):
            file.add(path, path.relative_to(CACHE))
    stamp = "unpacked-" + hashlib.sha256(archive.read_bytes()).hexdigest()[:16]
    about.write_text(json.dumps({"commit": commit, "triton": import_module("triton").__version__, "stamp": stamp}))
    (folder / "run.sh").write_text(RUN)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MOST_BYTES:
        sys.exit(f"the kit is {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:g}: is a large file committed?")
    print(f"commit {commit}, {len(folders)} kernels, {size / 1e6:.1f} MB. To type on the GPU machine, from this folder:\n"
          f"bash {os.path.relpath(folder)}/run.sh $OUT --seconds 315")  # fmt: skip


def environment(source: Path, cache: Path) -> dict[str, str]:
    """Return what has a program take this package and this cache, whatever is installed, and no network."""
    path = os.pathsep.join(filter(None, (str(source), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "TRITON_CACHE_DIR": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


def unpack(kit: Path, cache: Path, stamp: str) -> None:
    """Unpack the kernels of a kit, unless a file ``stamp`` says that they are there. Raises ``SystemExit``."""
    if (cache / stamp).exists():
        return
    begin = time.monotonic()
    try:
        cache.mkdir(exist_ok=True)
        with tarfile.open(kit / "triton_cache.tar.gz") as file:
            file.extractall(cache, filter="data")
        (cache / stamp).touch()  # last, so that what was interrupted is done anew
    except OSError as error:
        sys.exit(f"the kernels can only be used in {cache}, but cannot be unpacked there: {error}")
    print(f"unpacked the kernels in {time.monotonic() - begin:.1f} s", flush=True)


def run(kit: Path, cache: Path, out: Path, options: list[str]) -> int:
    """Run gpu.py of a kit and return its exit status. Its rows lie elsewhere and come into ``out`` as one archive.

    However it ends, the archive has all rows that there are. Raises ``SystemExit`` where it cannot begin.
    """
    from gpu import pack

    about, archive = json.loads((kit / "kit.json").read_text()), out / "rows.tar.gz"
    if archive.exists():
        sys.exit(f"{out} has a rows.tar.gz already: name another folder")
    if missing := [name for name in ("torch", "triton", "transformers", "numpy") if find_spec(name) is None]:
        sys.exit(f"gpu.py needs {' and '.join(missing)}, but {sys.executable} has no such package")
    if (found := import_module("triton").__version__) != about["triton"]:
        print(f"triton is {found}, not {about['triton']}: every kernel will be compiled anew", flush=True)
    unpack(kit, cache, about["stamp"])
    out.mkdir(parents=True, exist_ok=True)
    before = set(cache.glob(KERNELS))
    with tempfile.TemporaryDirectory() as place:
        rows = Path(place) / "rows"
        command = [sys.executable, str(kit / "source/bench/gpu.py"), "--out", str(rows), "--archive", str(archive)]
        command += ["--commit", about["commit"], *options]
        child = subprocess.Popen(command, env=os.environ | environment(kit / "source", cache), start_new_session=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: child.terminate())  # it then ends the processes of its stage
        code = child.wait()
        if rows.exists():
            pack(rows, archive)
        if (rows / "summary.txt").exists():
            shutil.copy(rows / "summary.txt", out)
    print(f"kernels that were not in the kit: {len(set(cache.glob(KERNELS)) - before)}")
    return code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", type=Path, metavar="FILE",
                        help="only compile kernels of this tree into TRITON_CACHE_DIR, and list their folders")  # fmt: skip
    parser.add_argument("--run", nargs=argparse.REMAINDER, metavar="OUT", help="run gpu.py of the kit: OUT [options of gpu.py]")
    options = parser.parse_args()
    if options.run is not None:
        if not options.run or options.run[0].startswith("-"):
            sys.exit("usage: bash run.sh OUT [options of bench/gpu.py]; OUT gets rows.tar.gz and summary.txt")
        sys.exit(run(ROOT.parent, CACHE, Path(options.run[0]), options.run[1:]))
    if options.compile is None:
        prepare(ROOT / "build/gpu-kit")
        return
    stand_in()
    launches = launches_of(chain(op_calls(), model_calls()))
    folders = compile_all(launches, Path(os.environ["TRITON_CACHE_DIR"]), os.cpu_count() or 1)
    options.compile.write_text(json.dumps(folders))


if __name__ == "__main__":
    main()

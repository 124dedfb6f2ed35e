"""Prepare one folder with everything that a bare GPU machine needs to run `bench/gpu`: `make gpu-kit`.

source/              the committed tree, with the C++ extension built for Python 3.12, without which CTC takes 54 ms per batch
triton_cache.tar.gz  the kernels that `bench/gpu` launches, compiled for sm_90 (H100 and H200, 132 multiprocessors)
run.sh               the script that unpacks the kernels and runs `bench/gpu` from source/
kit.json             the kit's commit and triton version

Kernels are compiled without a GPU: all stages launch them on tensors without memory. Triton's cache contains absolute paths, so
it is filled and unpacked at the same path, CACHE, on both machines. The launcher that triton builds with gcc for the first
kernel is left to the GPU machine, because it links with the driver's libcuda.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path("/tmp/hubert_fast_triton_cache")
MOST_BYTES = 40_000_000
LEFT_OUT = (":(exclude)tests", ":(exclude)bench/results")  # parts of the tree that the kit does not need
KERNELS = "*/__grp___*.json"  # one file for each kernel of this package in the cache
LOADED = (".json", ".cubin")  # the files that triton loads; the others are intermediate stages of the compilation
RUN = """#!/usr/bin/env bash
# Run bench/gpu on a GPU machine: bash run.sh OUT [options of bench/gpu]. OUT gets rows.tar.gz and summary.txt.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12) and "this kit needs Python 3.12, but python3 is " +
    sys.version.split()[0] + ": put a Python 3.12 first on PATH")' || exit 2
exec python3 "$here/source/bench/gpu/kit.py" --run "$@"
"""


def snapshot(folder: Path) -> str:
    """Unpack the committed tree into a folder, without LEFT_OUT, and return its commit."""

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, stdout=subprocess.PIPE).stdout

    if changed := git("status", "--porcelain").decode().rstrip():
        print(f"warning: these changes are not committed, so the kit lacks them:\n{changed}", flush=True)
    with tarfile.open(fileobj=io.BytesIO(git("archive", "HEAD", ".", *LEFT_OUT))) as file:
        file.extractall(folder, filter="data")
    return git("rev-parse", "--short", "HEAD").decode().strip()


def prepare(folder: Path) -> None:
    """Make the kit. Raises `SystemExit` with the reason if that fails."""
    shutil.rmtree(folder, ignore_errors=True)
    source, archive, about = folder / "source", folder / "triton_cache.tar.gz", folder / "kit.json"
    source.mkdir(parents=True)
    commit = snapshot(source)
    build = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"], cwd=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if not list(source.glob("hubert_fast/_ctc.*.so")):
        sys.exit(f"{build.stdout.decode()}\nthe C++ extension was not built: is there a C++ compiler?")
    shutil.rmtree(source / "build", ignore_errors=True)
    CACHE.mkdir(exist_ok=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRITON_", "HUBERT_FAST_"))}
    clean |= {"PYTHONDONTWRITEBYTECODE": "1", "HUBERT_FAST_BACKEND": "triton", "HUBERT_FAST_CUDA_GRAPHS": "1"}
    command = [sys.executable, str(source / "bench/gpu/kit.py"), "--compile", str(about)]
    subprocess.run(command, check=True, env=clean | environment(source, CACHE))
    folders = json.loads(about.read_text())
    with tarfile.open(archive, "w:gz") as file:
        for path in sorted(path for name in folders for path in (CACHE / name).iterdir() if path.suffix in LOADED):
            file.add(path, path.relative_to(CACHE))
    stamp = "unpacked-" + hashlib.sha256(archive.read_bytes()).hexdigest()[:16]
    about.write_text(json.dumps({"commit": commit, "triton": import_module("triton").__version__, "stamp": stamp}))
    (folder / "run.sh").write_text(RUN)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MOST_BYTES:
        sys.exit(f"the kit is {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:g}: is a large file committed?")
    print(f"commit {commit}, {len(folders)} kernels, {size / 1e6:.1f} MB. Run on the GPU machine, from this folder:\n"
          f"bash {os.path.relpath(folder)}/run.sh $OUT --seconds 315")  # fmt: skip


def environment(source: Path, cache: Path) -> dict[str, str]:
    """Return variables that make a program use this package and cache, whatever is installed, and no network."""
    path = os.pathsep.join(filter(None, (str(source), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "TRITON_CACHE_DIR": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


def unpack(kit: Path, cache: Path, stamp: str) -> None:
    """Unpack the kernels of a kit, unless the file `stamp` marks them as unpacked. Raises `SystemExit` if that fails."""
    if (cache / stamp).exists():
        return
    begin = time.monotonic()
    try:
        cache.mkdir(exist_ok=True)
        with tarfile.open(kit / "triton_cache.tar.gz") as file:
            file.extractall(cache, filter="data")
        (cache / stamp).touch()  # last, so that an interrupted run is repeated
    except OSError as error:
        sys.exit(f"the kernels only work in {cache}, but cannot be unpacked there: {error}")
    print(f"unpacked the kernels in {time.monotonic() - begin:.1f} s", flush=True)


def run(kit: Path, cache: Path, out: Path, options: list[str]) -> int:
    """Run bench/gpu from a kit and return its exit status.

    Its rows go to a temporary folder, and from there into `out` as one archive, which holds all rows written so far however
    the run ends. Raises `SystemExit` when the run cannot start.
    """
    from gpu.__main__ import pack

    about, archive = json.loads((kit / "kit.json").read_text()), out / "rows.tar.gz"
    if archive.exists():
        sys.exit(f"{out} already has a rows.tar.gz: name another folder")
    if missing := [name for name in ("torch", "triton", "transformers", "numpy") if find_spec(name) is None]:
        sys.exit(f"bench/gpu needs {' and '.join(missing)}, but {sys.executable} has no such package")
    if (version := import_module("triton").__version__) != about["triton"]:
        print(f"triton is {version}, not {about['triton']}: every kernel will be compiled again", flush=True)
    unpack(kit, cache, about["stamp"])
    out.mkdir(parents=True, exist_ok=True)
    before = set(cache.glob(KERNELS))
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows"
        command = [sys.executable, str(kit / "source/bench/gpu"), "--out", str(rows), "--archive", str(archive)]
        command += ["--commit", about["commit"], *options]
        child = subprocess.Popen(command, env=os.environ | environment(kit / "source", cache), start_new_session=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: child.terminate())  # it then kills the processes of its stage
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
                        help="only compile kernels into TRITON_CACHE_DIR, and write their folders to FILE")  # fmt: skip
    parser.add_argument("--run", nargs=argparse.REMAINDER, metavar="OUT", help="run this kit: OUT [options of bench/gpu]")
    options = parser.parse_args()
    if options.run is not None:
        if not options.run or options.run[0].startswith("-"):
            sys.exit("usage: bash run.sh OUT [options of bench/gpu]; OUT gets rows.tar.gz and summary.txt")
        sys.exit(run(ROOT.parent, CACHE, Path(options.run[0]), options.run[1:]))
    if options.compile is None:
        prepare(ROOT / "build/gpu-kit")
        return
    from gpu.launches import compile_all, launches_of, model_calls, op_calls, stand_in

    stand_in()
    launches = launches_of(chain(op_calls(), model_calls()))
    folders = compile_all(launches, Path(os.environ["TRITON_CACHE_DIR"]), os.cpu_count() or 1)
    options.compile.write_text(json.dumps(folders))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "bench"))  # this package and the programs beside it
    sys.path.append(str(ROOT))  # hubert_fast, where it is not installed
    main()

"""Prepare one folder with everything that a bare GPU machine needs to run ``bench/gpu``: ``make gpu-kit``.

source/              the committed tree, with the C++ extension for Python 3.12, without which CTC takes 54 ms a batch
triton_cache.tar.gz  the kernels that ``bench/gpu`` launches, compiled for sm_90: H100 and H200, of 132 multiprocessors
run.sh, kit.json     unpack the kernels and run ``bench/gpu`` of source/; what the kit is

Kernels are compiled without a GPU, from the launches of all stages on tensors without memory. Triton's cache holds absolute
paths, so it is filled here and unpacked there at one path, CACHE. What triton builds with gcc when it first starts a kernel
is left to the GPU machine: it links with the driver's libcuda.
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
LEFT_OUT = (":(exclude)tests", ":(exclude)bench/results")  # of the tree
KERNELS = "*/__grp___*.json"  # one of each kernel of ours in the cache
LOADED = (".json", ".cubin")  # what triton reads of a compiled kernel; other files are stages of its compilation
RUN = """#!/usr/bin/env bash
# Run bench/gpu on a GPU machine: bash run.sh OUT [options of bench/gpu]. OUT gets rows.tar.gz and summary.txt.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12) and "this kit needs Python 3.12, but python3 is " +
    sys.version.split()[0] + ": put a Python 3.12 first on PATH")' || exit 2
exec python3 "$here/source/bench/gpu/kit.py" --run "$@"
"""


def snapshot(folder: Path) -> str:
    """Unpack the committed tree into a folder, without what bench/gpu does not need, and return its commit."""

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
    command = [sys.executable, str(source / "bench/gpu/kit.py"), "--compile", str(about)]
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
    """Run bench/gpu of a kit and return its exit status. Its rows lie elsewhere and come into ``out`` as one archive.

    However it ends, the archive has all rows that there are. Raises ``SystemExit`` where it cannot begin.
    """
    from gpu.__main__ import pack

    about, archive = json.loads((kit / "kit.json").read_text()), out / "rows.tar.gz"
    if archive.exists():
        sys.exit(f"{out} has a rows.tar.gz already: name another folder")
    if missing := [name for name in ("torch", "triton", "transformers", "numpy") if find_spec(name) is None]:
        sys.exit(f"bench/gpu needs {' and '.join(missing)}, but {sys.executable} has no such package")
    if (found := import_module("triton").__version__) != about["triton"]:
        print(f"triton is {found}, not {about['triton']}: every kernel will be compiled anew", flush=True)
    unpack(kit, cache, about["stamp"])
    out.mkdir(parents=True, exist_ok=True)
    before = set(cache.glob(KERNELS))
    with tempfile.TemporaryDirectory() as place:
        rows = Path(place) / "rows"
        command = [sys.executable, str(kit / "source/bench/gpu"), "--out", str(rows), "--archive", str(archive)]
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

"""Run one stage of `bench/gpu`, which starts this program as a process of its own.

Standard output names the case that is being measured; standard error says why the process failed. The process ends when CUDA
reports that the device is lost.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from importlib import import_module
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
FUNCTIONS = {  # stage -> module, function that takes a Run
    "ceilings": ("ceilings", "ceilings"),
    "values": ("values", "values"),
    "repeat": ("repeat", "repeat"),
    "whole": ("whole", "whole"),
    "headline": ("models", "headline"),
    "ops": ("times", "time_ops"),
    "profile": ("profiler", "profile"),
    "compile": ("models", "compiled"),
}
DEVICE_LOST = 3  # exit status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=FUNCTIONS, help="stage to run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the CSV files")
    parser.add_argument(
        "--until", type=float, required=True, help="reading of the monotonic clock after which nothing new starts"
    )
    parser.add_argument(
        "--shard", type=int, nargs=2, default=(0, 1), metavar=("I", "N"), help="run part I, from 0, of N (default: 0 1)"
    )
    parser.add_argument("--ops", default="", help="time only ops whose name contains this (default: all ops)")
    parser.add_argument("--commit", default="", help="commit recorded in environment.csv (default: the commit that git names)")
    parser.add_argument("--tiny", action="store_true", help="run tiny shapes, interpreted on the CPU")
    options = parser.parse_args()
    os.environ["HUBERT_FAST_BACKEND"] = "triton"  # also for whole models: when kernels cannot run, a row gives the reason
    os.environ["HF_HUB_OFFLINE"] = "1"
    if options.tiny:
        os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton

    import torch

    from gpu.ceilings import environment
    from gpu.run import DeviceLost, Run

    torch.backends.cudnn.allow_tf32 = False  # convolutions in full float32, as matrix products are
    if options.tiny:
        torch.set_num_threads(1)  # the interpreter runs on one thread
    run = Run(options.out, options.until - time.monotonic(), options.tiny)
    if options.shard[0] == 0:
        environment(run, options.commit)
    module, function = FUNCTIONS[options.stage]
    arguments = {"values": options.shard, "whole": options.shard, "ops": (options.ops,)}.get(options.stage, ())
    try:
        getattr(import_module(f"gpu.{module}"), function)(run, *arguments)
    except DeviceLost as error:
        print(f"the device is lost: {error}", file=sys.stderr)
        return DEVICE_LOST
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(BENCH))  # this package and the programs beside it
    sys.path.append(str(BENCH.parent))  # hubert_fast, where it is not installed
    sys.exit(main())

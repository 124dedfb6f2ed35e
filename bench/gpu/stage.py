"""One stage of ``bench/gpu`` in a process of its own, which bench/gpu starts.

Standard output says what is being measured, standard error why the process failed. After a lost device nothing more runs here.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from importlib import import_module
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
FUNCTIONS = {  # of each stage: a module and a function of it, which take a Run
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
    parser.add_argument("stage", choices=FUNCTIONS, help="name of a stage of bench/gpu")
    parser.add_argument("--out", type=Path, required=True, help="folder of the CSV files")
    parser.add_argument("--until", type=float, required=True, help="monotonic clock's reading from which nothing more begins")
    parser.add_argument("--shard", type=int, nargs=2, default=(0, 1), metavar=("I", "N"), help="run the I-th of N parts")
    parser.add_argument("--ops", default="", help="part of the name of the ops to time")
    parser.add_argument("--commit", default="", help="commit to write into environment.csv")
    parser.add_argument("--tiny", action="store_true", help="run interpreted on the CPU")
    options = parser.parse_args()
    os.environ["HUBERT_FAST_BACKEND"] = "triton"  # whole models too, or a row with the reason
    os.environ["HF_HUB_OFFLINE"] = "1"
    if options.tiny:
        os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton

    import torch

    from gpu.ceilings import environment
    from gpu.run import DeviceLost, Run

    torch.backends.cudnn.allow_tf32 = False  # as for products: float32 means float32
    if options.tiny:
        torch.set_num_threads(1)  # the interpreter serves one thread
    run = Run(options.out, options.until - time.monotonic(), options.tiny)
    if options.shard[0] == 0:
        environment(run, options.commit)
    module, function = FUNCTIONS[options.stage]
    more = {"values": options.shard, "ops": (options.ops,)}.get(options.stage, ())
    try:
        getattr(import_module(f"gpu.{module}"), function)(run, *more)
    except DeviceLost as error:
        print(f"the device is lost: {error}", file=sys.stderr)
        return DEVICE_LOST
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(BENCH))  # this package and the programs beside it
    sys.path.append(str(BENCH.parent))  # hubert_fast, where it is not installed
    sys.exit(main())

"""Compile every kernel for real chips on a machine without one, and report the resources that each uses.

    python bench/compile_kernels.py [--arch 80 90 100] [--dtype bf16 ...] [--op attention ...] [--csv bench/results/compile.csv]

The launchers run as in production, but on tensors without memory and under a driver that compiles and launches nothing, so
blocks and specialisations are those of a GPU. Each row holds what `cuobjdump` reports: registers, stack (bytes spilled),
shared memory and the number of tensor-core instructions.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "0"  # before anything imports triton

sys.path.append(str(Path(__file__).resolve().parent.parent))  # hubert_fast, where it is not installed

import torch
import triton
from hubert_fast.kernels import (
    add_layer_norm,
    attention,
    conv_first,
    conv_positional,
    ctc_argmax,
    layer_norm,
    linear,
    tuning,
    unit_argmin,
    waveforms,
    window_statistics,
)
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from hubert_fast.benchmark.rows import append

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
ARCHS = (80, 86, 90, 100, 120)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# largest shared memory of one program, in bytes: CUDA C++ Programming Guide, technical specifications by compute capability
MOST_SHARED = {80: 163 << 10, 86: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
# wgmma on Hopper, tcgen05 on Blackwell, mma on every chip since Ampere
TENSOR_CORES = re.compile(r"\b(HGMMA|UTC[A-Z]*MMA|HMMA)\b")
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,5}\*/\s", re.MULTILINE)
PRODUCTS = (  # kernels that must use tensor cores
    *("attention", "conv_positional", "conv_first_product", "linear", "linear_persistent", "linear_layer_norm", "ctc_argmax"),
)
EXACT_PRODUCTS = ("unit_argmin",)  # kernels that must use none, since they multiply in true float32
SMALL_PRODUCTS = ("conv_first_product",)  # kernels whose blocks are too small for wgmma and tcgen05
FRAMES, SAMPLES = 15_000, 4_800_000  # five minutes in a batch


class CompilingDriver:
    """A driver that describes a chip that this machine does not have."""

    def __init__(self, arch: int):
        self.target = GPUTarget("cuda", arch, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch

    def get_current_stream(self, device: int) -> int:
        return 0


def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def cases(dtype: torch.dtype) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Yield the op, a description of the shape, and the launch, for the shapes of base, large and xlarge."""

    def half(*shape: int) -> torch.Tensor:
        return empty(*shape, dtype=dtype)

    def full(*shape: int) -> torch.Tensor:
        return empty(*shape, dtype=torch.float32)

    def whole(*shape: int) -> torch.Tensor:
        return empty(*shape, dtype=torch.int32)

    vector = half
    for channels in (512, 768, 1024, 1280):
        yield "layer_norm", f"{channels}", lambda c=channels: layer_norm.launch(half(FRAMES, c), vector(c), vector(c), 1e-5)
    yield "layer_norm", "1024, float32", lambda: layer_norm.launch(full(FRAMES, 1024), vector(1024), vector(1024), 1e-5, dtype)
    yield "layer_norm, gelu", "512", lambda: layer_norm.launch(half(FRAMES, 512), vector(512), vector(512), 1e-5, None, True)
    for channels in (768, 1024, 1280):
        for post in (False, True):
            yield (
                "add_layer_norm",
                f"{channels}{' post' if post else ''}",
                lambda c=channels, post=post: add_layer_norm.launch(
                    full(FRAMES, c), half(FRAMES, c), vector(c), vector(c), vector(c), 1e-5, dtype, post
                ),
            )
    for channels, inner in ((768, 3072), (1024, 4096), (1280, 5120)):
        for rows in (FRAMES, 300):
            yield (
                "linear_gelu",
                f"{rows} x {channels} x {inner}",
                lambda r=rows, c=channels, i=inner: linear.launch_gelu(half(r, c), half(i, c), vector(i)),
            )
        yield (
            "linear_add",
            f"{FRAMES} x {inner} x {channels}",
            lambda c=channels, i=inner: linear.launch_add(half(FRAMES, i), half(c, i), vector(c), full(FRAMES, c)),
        )
    for kernel in (3, 2):
        for normed in (False, True):
            yield (
                "conv_gelu, layer norm" if normed else "conv_gelu",
                f"512 x {kernel}",
                lambda k=kernel, normed=normed: linear.launch_convolution(
                    half(100_000, 512), half(512, k * 512), vector(512), *(vector(512) if normed else None,) * 2, 2, 1e-5
                ),
            )
    yield (
        "conv_gelu, layer norm inside",
        "128 x 2",
        lambda: linear.launch_convolution(half(100_000, 128), half(512, 256), *(vector(512),) * 3, 2, 1e-5),
    )
    for head_dim in (32, 48, 64, 80, 96, 128):
        qkv = half(FRAMES, 3, 16, head_dim)
        for masked in (False, True) if head_dim in (64, 80) else (False,):
            yield (
                "attention, key mask" if masked else "attention",
                f"head dim {head_dim}",
                lambda qkv=qkv, masked=masked: attention.launch(
                    *qkv.unbind(1), whole(200, 4), empty(FRAMES, dtype=torch.bool) if masked else None
                ),
            )
    for channels in (48, 64, 80):
        yield (
            "conv_positional",
            f"16 x {channels} x 128",
            lambda c=channels: conv_positional.launch(
                half(FRAMES, 16 * c),
                half(16, 128, c, c),
                vector(16 * c),
                whole(4000, 3),
                half(FRAMES, 16 * c),
                dtype=torch.float32,
            ),
        )
    yield "conv_first", "512 x 10, none", lambda: first(dtype, full(10, 512), vector(512), None)
    yield "conv_first", "512 x 10, layer norm", lambda: first(dtype, full(10, 512), vector(512), vector(512))
    yield (
        "conv_first",
        "512 x 10, group norm",
        lambda: first(dtype, full(8, 10, 512), full(512), None, full(8, 10), whole(SAMPLES // 320), 64),
    )
    for vocabulary in (32, 1000):
        yield (
            "ctc_argmax",
            f"1024 x {vocabulary}",
            lambda v=vocabulary: ctc_argmax.launch(half(FRAMES, 1024), half(v, 1024), vector(v)),
        )
    if dtype == torch.bfloat16:  # kernels that do not depend on the dtype: listed once
        for channels, centroids in ((768, 100), (768, 500), (1024, 2000), (1280, 1000)):
            yield (
                "unit_argmin",
                f"{channels} x {centroids}",
                lambda c=channels, k=centroids: unit_argmin.launch(half(FRAMES, c), full(k, c)),
            )
        for kind in (torch.int16, torch.float32):
            yield (
                "normalize_waveforms",
                str(kind).removeprefix("torch."),
                lambda kind=kind: waveforms.launch(
                    empty(SAMPLES, dtype=kind), empty(300, 4, dtype=torch.int64), 1 / 32768, 1e-7
                ),
            )
        yield (
            "window_statistics",
            "10",
            lambda: window_statistics.launch(full(SAMPLES), empty(300, 2, dtype=torch.int64), 10, 5),
        )


def first(
    dtype: torch.dtype,
    weight: torch.Tensor,
    bias: torch.Tensor,
    norm: torch.Tensor | None,
    means: torch.Tensor | None = None,
    utterances: torch.Tensor | None = None,
    frames_per_hop: int = 1,
) -> torch.Tensor:
    """Launch the first convolution on a float32 waveform."""
    samples = empty(SAMPLES, dtype=torch.float32)
    return conv_first.launch(samples, weight, bias, norm, norm, means, utterances, frames_per_hop, 5, 1e-5, dtype)


def compiled(arch: int, launch: Callable[[], Any]) -> list[tuple[Any, dict[str, Any]]]:
    """Run a launcher for a chip. Return each kernel that it would have launched, compiled, with its constants."""
    kernels = []

    def run(function: JITFunction, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        constants = {name: value for name, value in options.items() if name.isupper() or name.startswith("num_")}
        kernels.append((run_of_triton(function, *arguments, grid=grid, warmup=True, **options), constants))

    run_of_triton, capability = JITFunction.run, tuning.capability_of
    driver.set_active(CompilingDriver(arch))
    JITFunction.run = run
    tuning.capability_of = lambda device: (arch // 10, arch % 10)
    try:
        launch()
    finally:
        JITFunction.run, tuning.capability_of = run_of_triton, capability
    return kernels


def measure(cubin: bytes) -> dict[str, Any]:
    """Return what `cuobjdump` reports: registers, stack, tensor-core instructions and the number of instructions."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, sass = (
            subprocess.run([CUOBJDUMP, option, file.name], check=True, capture_output=True, text=True).stdout
            for option in ("-res-usage", "-sass")
        )
    registers, stack = (int(re.search(rf"{field}:(\d+)", usage).group(1)) for field in ("REG", "STACK"))
    tensor_cores = TENSOR_CORES.findall(sass)
    return {
        "registers": registers,
        "stack_bytes": stack,
        "tensor_cores": "HGMMA" if "HGMMA" in tensor_cores else tensor_cores[0] if tensor_cores else "",
        "tensor_core_instructions": len(tensor_cores),
        "instructions": len(INSTRUCTION.findall(sass)),
    }


def rows(archs: list[int], dtypes: list[str], ops: list[str], short: bool) -> Iterator[dict[str, Any]]:
    """Yield a row for each kernel of each case. With `short`, run only the last and most demanding case of each op."""
    for arch in archs:
        for name in dtypes:
            chosen = [case for case in cases(DTYPES[name]) if not ops or case[0].partition(",")[0] in ops]
            for op, shape, launch in {op: (op, *rest) for op, *rest in chosen}.values() if short else chosen:
                for kernel, constants in compiled(arch, launch):
                    blocks = " ".join(
                        f"{key}={value}"
                        for key, value in constants.items()
                        if key.startswith(("BLOCK", "D_", "FRAMES", "RELOAD", "num_"))
                    )
                    yield {
                        "kernel": kernel.metadata.name.removeprefix("_").removesuffix("_kernel"),
                        "op": op,
                        "shape": shape,
                        "arch": f"sm_{arch}",
                        "dtype": name,
                        "precision": constants.get("PRECISION", "") if name == "fp32" else "",
                        "blocks": blocks,
                        **measure(kernel.asm["cubin"]),
                        "shared_bytes": kernel.metadata.shared,
                    }


def faults(row: dict[str, Any]) -> list[str]:
    """Return the faults of a row: a spill, too much shared memory, tensor cores that are missing or must not be used."""
    arch, faults = int(row["arch"][3:]), []
    if int(row["stack_bytes"]):
        faults.append(f"{row['stack_bytes']} bytes spill")
    if int(row["shared_bytes"]) > MOST_SHARED[arch]:
        faults.append(f"{row['shared_bytes']} bytes of shared memory, of {MOST_SHARED[arch]}")
    if row["kernel"] in PRODUCTS:
        newest = row["dtype"] != "fp32" and row["kernel"] not in SMALL_PRODUCTS
        expected = {90: "HGMMA", 100: "UTC"}.get(arch, "HMMA") if newest else "MMA"
        if expected not in row["tensor_cores"] and row["precision"] != "ieee":
            faults.append(f"tensor cores: {row['tensor_cores'] or 'none'}, where {expected} was expected")
    if row["kernel"] in EXACT_PRODUCTS and row["tensor_cores"]:
        faults.append(f"tensor cores: {row['tensor_cores']}, where none was expected")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--arch", type=int, nargs="+", default=list(ARCHS), choices=ARCHS,
                        help="compute capabilities to compile for (default: all)")  # fmt: skip
    parser.add_argument("--dtype", nargs="+", default=list(DTYPES), choices=list(DTYPES), help="dtypes (default: all)")
    parser.add_argument("--op", nargs="+", default=[], help="ops to compile (default: all)")
    parser.add_argument("--short", action="store_true", help="compile only one case of each op")
    parser.add_argument("--csv", type=Path, help="append the rows to this file (default: write no file)")
    options = parser.parse_args()
    compiled_rows = []
    for row in rows(options.arch, options.dtype, options.op, options.short):
        compiled_rows.append(row)
        wrong = "; ".join(faults(row))
        print(f"{row['arch']:6} {row['dtype']} {row['op']:30} {row['shape']:22} {row['registers']:4} registers "
              f"{row['shared_bytes']:7} shared {row['tensor_cores']:8} {wrong}", flush=True)  # fmt: skip
    if options.csv is not None:
        append(options.csv, {"triton": triton.__version__}, compiled_rows)
    bad = sum(bool(faults(row)) for row in compiled_rows)
    print(f"{len(compiled_rows)} kernels, {bad} with a fault")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

"""Test kernels compiled for absent GPUs: no spills, no more shared memory than there is, tensor cores in every product.

This process runs kernels in the interpreter, so each architecture compiles in its own process. These tests compile one case of
each op. The table of all dtypes and shapes is committed, and its rows must pass the same checks.
"""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hubert_fast import dispatch

triton = pytest.importorskip("triton", reason="triton is not installed (it exists for Linux only)")

PROGRAM = Path(__file__).parents[1] / "bench/compile_kernels.py"
TABLE = PROGRAM.parent / "results/compile.csv"
NAMES = {
    *("layer_norm", "add_layer_norm", "linear", "linear_layer_norm", "attention", "conv_positional", "conv_first"),
    *("conv_first_product", "linear_persistent", "ctc_argmax", "moments", "normalize", "window_sums", "unit_argmin"),
}
# one version for each torch from 2.8 to 2.15, of which 2.10 and 2.11 share one
TRITONS = ("3.4.0", "3.5.1", "3.6.0", "3.7.0", "3.7.1", "3.8.0", "3.9.0")


@pytest.fixture
def program(bench_program):
    return bench_program("compile_kernels")


def compile_all(tmp_path, *options):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, PROGRAM, "--csv", tmp_path / "rows.csv", *options]
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr
    with open(tmp_path / "rows.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("arch", ["90", *(pytest.param(arch, marks=pytest.mark.slow) for arch in ("80", "100"))])
def test_kernels_spill_nothing_fit_shared_memory_and_use_tensor_cores(arch, tmp_path, program):
    rows = compile_all(tmp_path, "--arch", arch, "--dtype", "bf16", "--short")
    # only float32 uses the first convolution without tensor cores, and only Hopper the persistent product
    unused = {"conv_first"} if arch == "90" else {"conv_first", "linear_persistent"}
    assert {row["kernel"] for row in rows} == NAMES - unused
    assert not [(row, faults) for row in rows if (faults := program.faults(row))]


@pytest.mark.slow
def test_the_float32_kernels_nearest_to_spilling(tmp_path, program):
    rows = compile_all(tmp_path, "--arch", "80", "--dtype", "fp32", "--short", "--op", "attention", "conv_positional")
    assert {row["precision"] for row in rows} == {"ieee", "tf32x3"}
    assert not [(row, faults) for row in rows if (faults := program.faults(row))]


def test_the_committed_table(program):
    with open(TABLE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(dict.fromkeys(row["triton"] for row in rows)) == TRITONS
    assert TRITONS[0].startswith(".".join(map(str, dispatch.MIN_TRITON)))
    for version in TRITONS:
        compiled = [row for row in rows if row["triton"] == version]
        cases = {(row["arch"], row["dtype"], row["op"], row["shape"]) for row in compiled}
        assert {(arch, dtype) for arch, dtype, *_ in cases} == {
            (f"sm_{arch}", dtype) for arch in program.ARCHS for dtype in program.DTYPES
        }
        assert len(compiled) == 710 and len(cases) == 665
        assert {row["kernel"] for row in compiled} == NAMES
    assert not [(row, faults) for row in rows if (faults := program.faults(row))]


@pytest.mark.parametrize("version", TRITONS)
def test_gelu_in_16_bits_takes_few_instructions(version):
    """With erf, GELU took 4,680 of the 5,478 instructions of fc1, during which tensor cores were idle."""
    with open(TABLE, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["arch"], row["triton"]) == ("sm_90", version)]
    fc1 = {row["dtype"]: row for row in rows if (row["op"], row["shape"]) == ("linear_gelu", "15000 x 1024 x 4096")}
    assert {dtype: fc1[dtype]["kernel"] for dtype in fc1} == {
        "bf16": "linear_persistent", "fp16": "linear_persistent", "fp32": "linear",
    }  # fmt: skip
    assert int(fc1["bf16"]["instructions"]) < 2400 and int(fc1["fp16"]["instructions"]) < 2400
    norms = [row for row in rows if row["op"] == "layer_norm, gelu" and row["dtype"] != "fp32"]
    assert len(norms) == 2 and all(int(row["instructions"]) < 900 for row in norms)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"stack_bytes": "8"}, "8 bytes spill"),
        ({"shared_bytes": "300000"}, "300000 bytes of shared memory, of 232448"),
        ({"tensor_cores": ""}, "tensor cores: none, where HGMMA was expected"),
        ({"tensor_cores": "HMMA"}, "tensor cores: HMMA, where HGMMA was expected"),
    ],
)
def test_faults_of_a_row(program, change, fault):
    row = {"arch": "sm_90", "dtype": "bf16", "kernel": "linear", "precision": ""}
    row |= {"stack_bytes": "0", "shared_bytes": "1", "tensor_cores": "HGMMA"}
    assert program.faults(row) == [] and program.faults(row | change) == [fault]


def test_products_in_true_float32_must_not_use_tensor_cores(program):
    """For sm_100, triton 3.4 to 3.7 compile an "ieee" product to tf32 if the kernel converts its left operand to float32."""
    row = {"arch": "sm_100", "dtype": "bf16", "kernel": "unit_argmin", "precision": ""}
    row |= {"stack_bytes": "0", "shared_bytes": "1", "tensor_cores": ""}
    assert program.faults(row) == []
    assert program.faults(row | {"tensor_cores": "UTCHMMA"}) == ["tensor cores: UTCHMMA, where none was expected"]

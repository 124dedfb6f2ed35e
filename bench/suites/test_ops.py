"""Every op at the shapes of published models: its definition, the library's calls and, on a GPU, our kernel.

With all care, in all dtypes and against the machine's ceilings kernels are measured by ``bench/gpu.py``.
"""

from __future__ import annotations

from functools import cache

import gpu_ops
import pytest
import torch
from gpu_cases import TINY as TINY_SIZE
from gpu_cases import Case, Provider, plain
from gpu_run import difference
from sizes import TINY

from hubert_fast.benchmark.measure import SAME
from hubert_fast.check.cases import SIZES, Where

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
LENGTHS = [4, 5] if TINY else [150, 300, 450]  # frames
CASES = {
    f"{builder.__name__}-{size.name}": builder(size, LENGTHS, Where(DTYPE, DEVICE))
    for size in ([TINY_SIZE] if TINY else [SIZES["base"], SIZES["large"]])
    for builder in gpu_ops.BUILDERS
}


def providers(case: Case) -> dict:
    made = {"definition": Provider(plain(case.definition).prepare, case.finish), **case.providers()}
    if DEVICE.type != "cuda":  # kernels do not run there
        made = {name: one for name, one in made.items() if name != "ours" and not name.startswith("candidate")}
    return made


@cache
def arguments(name: str) -> tuple:
    torch.manual_seed(0)
    return CASES[name].make()


@pytest.mark.parametrize("name, provider", [(name, provider) for name, case in CASES.items() for provider in providers(case)])
def test_op(benchmark, name, provider):
    case = CASES[name]
    benchmark.group = f"{name}, {case.shape}, {DTYPE}, {DEVICE.type}"
    made = providers(case)
    call = made[provider].prepare(*arguments(name))
    if provider.startswith("library"):
        try:
            call()
        except (RuntimeError, NotImplementedError) as error:
            pytest.skip(f"{provider} does not run on {DEVICE.type}: {error}")
    expected = made["definition"].finish(made["definition"].prepare(*arguments(name))())
    assert difference(made[provider].finish(call()), expected) <= SAME[DTYPE]

    def run() -> None:
        call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    with torch.no_grad():  # nested tensors know no inference mode
        benchmark.pedantic(run, rounds=2 if TINY else 20, warmup_rounds=1)

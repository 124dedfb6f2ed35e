"""Time every op at the shapes of published models, with library calls that compute the same."""

from __future__ import annotations

import gc
from typing import Any

import torch
from torch import Tensor

from gpu import op_cases
from gpu.cases import TINY, Case
from gpu.decisions import decisions
from gpu.run import NAMES, Run, Table, difference, percentiles_ms, sustained_or_burst
from hubert_fast import ops
from hubert_fast.benchmark.rows import read
from hubert_fast.check.cases import SIZES, Where
from hubert_fast.check.values import poisoned, tensors
from hubert_fast.devices import is_out_of_memory
from hubert_fast.tolerances import OP_TOLERANCES

FRAMES, SECONDS = 60_000, 0.12  # frames in a batch, seconds of timing per provider
CACHED_BYTES, MOST_INPUTS = 200_000_000, 8  # several inputs take turns, so that no cache holds the next one
COLUMNS = "op shape dtype provider p20_ms p50_ms p80_ms bytes flop tflops gb_per_second share ceiling max_error expected status"


def timed_cases(run: Run) -> list[Case]:
    """Return the cases, large first.

    Layers before the projection get a quarter of the frames, about as many as a slice of the packed graph has.
    """
    lengths = [4, 5] if run.tiny else run.utterance_frames(FRAMES)
    some = lengths if run.tiny else lengths[: len(lengths) // 4]
    at = Where(torch.float32 if run.tiny else torch.bfloat16, run.device)
    large, base = (TINY, TINY._replace(name="tiny base", pre_norm=False)) if run.tiny else (SIZES["large"], SIZES["base"])
    cases = [
        op_cases.linear_gelu(large, lengths, at),
        op_cases.attention(large, lengths, at),
        op_cases.add_layer_norm(large, lengths, at),
        op_cases.conv_first(large, some, at),
        op_cases.conv_gelu(large, some, at),
        op_cases.conv_gelu(large, some, at, 2),
        op_cases.conv_positional(large, lengths, at),
        op_cases.layer_norm(large, lengths, at),
        op_cases.linear_add(large, lengths, at),
        op_cases.ctc_argmax(large, lengths, at),
        # in float32, whose tolerance a product in tf32 fails
        op_cases.unit_argmin(large, lengths, at._replace(dtype=torch.float32)),
        op_cases.normalize_waveforms(large, some, at),
        op_cases.attention_padded(large, some, at),
        *decisions(large, lengths, at),
        op_cases.linear_gelu(base, lengths, at),
        op_cases.attention(base, lengths, at),
        op_cases.conv_first_by_utterance(base, some, at),
        op_cases.conv_gelu(base, some, at),
        op_cases.conv_positional(base, lengths, at),
        op_cases.add_layer_norm(base, lengths, at),
        op_cases.window_statistics(base, some, at),
        *([] if run.tiny else decisions(base, lengths, at)),
    ]
    return list({(case.op, case.shape): case for case in cases}.values())


def time_ops(run: Run, containing: str = "") -> None:
    """Write ops.csv, for ops whose name contains `containing`."""
    table = Table(run.out / "ops.csv", COLUMNS)
    for case in timed_cases(run):
        if containing in case.op:
            time_case(run, table, case)
            gc.collect()


def time_case(run: Run, table: Table, case: Case) -> None:
    """Time the providers of a case on the same inputs, each only if its result is correct."""
    row = {"op": case.op, "shape": case.shape, "dtype": NAMES[case.dtype]}
    if not table.is_due(run, **row):
        return
    inputs: list[tuple] = []
    with table.reasons(**row):
        torch.manual_seed(0)
        inputs.append(case.make())
        expected, reference = expected_of(case, inputs[0])
        size = _bytes(inputs[0])
        inputs += [case.make() for _ in range(0 if run.tiny else min(MOST_INPUTS - 1, CACHED_BYTES // size))]
        for name, provider in case.providers().items():
            provider_row = {**row, "provider": name, "expected": reference}
            with table.reasons(**provider_row):
                calls = [provider.prepare(*arguments) for arguments in inputs]
                with poisoned():
                    raw = calls[0]()
                moved, error = size + _bytes(raw), difference(case.compare(provider.finish(raw), *inputs[0]), expected)
                del raw
                tolerance = OP_TOLERANCES[case.dtype].value
                if not error <= tolerance:
                    status = f"not timed: wrong, {error:.1e} from the expected values, more than {tolerance:.1e}"
                    table.add(**provider_row, max_error=error, status=status)
                    continue
                times = percentiles_ms(run.times_ms(calls, SECONDS))
                rates = rates_of(run, case, moved, times["p50_ms"])
                table.add(**provider_row, **times, bytes=moved, flop=case.flop, **rates, max_error=error, status="ok")


def expected_of(case: Case, arguments: tuple) -> tuple[Any, str]:
    """Return the expected result of a case, and the name of its source.

    It comes from the op's definition in float32 on the same inputs, or from a library call if the definition does not fit into
    memory. A decision has no definition: its first provider gives the expected result.
    """
    if not hasattr(ops, case.op):
        name, provider = next(iter(case.providers().items()))
        return provider.finish(provider.prepare(*arguments)()), name
    try:
        options = {"dtype": torch.float32} if "dtype" in case.options else {}
        result = case.finish(case.definition(*map(_in_float32, arguments), **options))
        return case.compare(result, *arguments), "definition in float32"
    except Exception as error:
        if not is_out_of_memory(error) or not case.libraries:
            raise
    gc.collect()
    torch.cuda.empty_cache()
    name, provider = next(iter(case.libraries.items()))
    return case.compare(provider.finish(provider.prepare(*arguments)()), *arguments), name


def _in_float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _bytes(values: Any) -> int:
    return sum(x.numel() * x.element_size() for x in tensors(values))


def rates_of(run: Run, case: Case, moved_bytes: int, time_ms: float) -> dict[str, Any]:
    """Return the rates of a call, and the larger of their shares of this machine's best rates in products and in copies."""
    rates = {"tflops": 1e-9 * case.flop / time_ms, "gb_per_second": 1e-6 * moved_bytes / time_ms}
    products, name = sustained_or_burst(run, case.dtype)
    copies = [float(row["value"]) for row in read(run.out / "ceilings.csv") if (row["name"], row["status"]) == ("copy", "ok")]
    if products is None or not copies:
        return rates
    by_products, by_copies = 1e12 * rates["tflops"] / products, rates["gb_per_second"] / copies[0]
    name = name if by_products > by_copies else f"burst copy: {copies[0]:.4g} GB/s"
    return {**rates, "share": max(by_products, by_copies), "ceiling": name}

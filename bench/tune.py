"""Time candidate blocks of kernels on a GPU, and the choices between library and Triton: `python bench/tune.py --write`.

With `--write`, candidates that are at least 2 % faster than the rules of `kernels/tuning.py` go into `kernels/tuned.py`.
Every measurement becomes a row of `results/tune.csv`. Candidates run through the launchers of production, and are timed only
if they give the same answer as the rule's own blocks. `--tiny` runs a few of them on a CPU, interpreted, as a test.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).resolve().parent.parent))  # hubert_fast, where it is not installed

import torch
from gpu import op_cases
from gpu.cases import TINY, Case, Provider, rule
from gpu.decisions import norm_in_convolution, residual_add
from gpu.run import LEFT_OUT, NAMES, ROOT, DeviceLost, Run, difference, percentiles_ms

from hubert_fast.benchmark.measure import is_device_lost
from hubert_fast.benchmark.rows import append, device_columns
from hubert_fast.check.cases import SIZES, Where
from hubert_fast.check.values import tensors
from hubert_fast.tolerances import OP_TOLERANCES

FASTER = 0.98  # share of the rule's time below which a candidate wins: smaller gains are noise
SECONDS = 0.1  # for which one candidate is timed
BLOCKS_SHARE = 0.85  # share of the time spent on blocks; the rest goes to decisions, which depend on the blocks
OPS = ("linear", "attention", "conv_positional", "decisions")
HEADER = (
    '"""Block sizes measured by `bench/tune.py --write`, by (op, capability, shape...). '
    'Empty until that has run on a GPU."""\n\n'
)


class Target(NamedTuple):
    """An entry of the table: its key without the capability, and the case on which it is timed."""

    op: str
    key: tuple[int, ...]
    case: Case
    candidates: list[dict[str, int]]


def linear_blocks(n_out: int) -> list[dict[str, int]]:
    """Return candidates. An accumulator of 128 x 256 or 256 x 128 fills half of the registers of eight warps."""
    names = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages")
    shapes = (
        (128, 256, 64, 8, 3), (128, 256, 64, 8, 4), (128, 256, 32, 8, 4), (256, 128, 64, 8, 3), (256, 128, 64, 8, 4),
        (128, 128, 64, 8, 3), (128, 128, 64, 4, 3), (128, 128, 64, 4, 4), (128, 128, 32, 4, 4), (64, 256, 64, 4, 3),
        (64, 256, 64, 8, 3), (64, 128, 64, 4, 4), (64, 64, 64, 4, 4), (64, 64, 32, 4, 5),
    )  # fmt: skip
    return [dict(zip(names, shape), GROUP_M=8) for shape in shapes if shape[1] <= max(n_out, 64)]


def attention_blocks() -> list[dict[str, int]]:
    return [
        {"BLOCK_M": block_m, "BLOCK_N": block_n, "num_warps": warps, "num_stages": stages}
        for (block_m, warps), block_n, stages in product(((128, 8), (64, 4), (128, 4)), (64, 128, 32), (2, 3))
    ]


def conv_positional_blocks(channels: int, kernel: int) -> list[dict[str, int]]:
    return [
        {"FRAMES": max(1, min(block_n // channels, kernel)), "BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k,
         "num_warps": warps, "num_stages": stages}
        for (block_m, warps), block_n, block_k, stages in product(((128, 8), (64, 4)), (256, 128), (64, 32), (3, 4))
    ]  # fmt: skip


def block_targets(run: Run, at: Where) -> Iterator[Target]:
    """Yield the entries to tune: for five minutes of audio in a batch, then for one utterance."""
    from hubert_fast.kernels import tuning

    itemsize = at.dtype.itemsize
    sizes = [TINY] if run.tiny else list(SIZES.values())
    many, one = ([4, 5], [3]) if run.tiny else (run.utterance_frames(15_000), [300])

    def linear(case: Case, rows: int, n_in: int, n_out: int) -> Target:
        return Target("linear", (tuning.next_power_of_2(rows), n_in, n_out, itemsize), case, linear_blocks(n_out))

    for size, lengths in product(sizes, (many, one)):
        yield linear(op_cases.linear_gelu(size, lengths, at), sum(lengths), size.hidden, size.inner)
    for scale, kernel in ((1, 3), (2, 3), (4, 3), (1, 2), (2, 2)):  # the six strided convolutions, outermost last
        lengths, conv = [scale * length for length in many], sizes[0].conv
        case = op_cases.conv_gelu(sizes[0], lengths, at, kernel, norm=False)
        yield linear(case, ((8 if kernel == 3 else 2) * sum(lengths) - kernel) // 2 + 1, kernel * conv, conv)
    for head_dim, size in {size.hidden // size.heads: size for size in sizes}.items():
        yield Target("attention", (head_dim, itemsize), op_cases.attention(size, many, at), attention_blocks())
    for size in sizes:
        channels = size.hidden // size.groups
        candidates = conv_positional_blocks(channels, size.kernel)
        yield Target("conv_positional", (channels, size.kernel, itemsize), op_cases.conv_positional(size, many, at), candidates)
    for size, lengths in product(sizes, (many, one)):  # last, because the rule leaves these products to the library
        for n_in in (size.inner, size.hidden):
            case = op_cases.linear_add(size._replace(inner=n_in), lengths, at)
            yield linear(case, sum(lengths), n_in, size.hidden)


class Decision(NamedTuple):
    """A choice between the first two providers of a case, with the table entry for each."""

    rule: str
    key: tuple[int, ...]
    case: Case
    entries: tuple[dict[str, int], dict[str, int]]


def decisions(run: Run, at: Where) -> Iterator[Decision]:
    """Yield the choices. The choice for five minutes of audio holds for all lengths."""
    itemsize, by_library = at.dtype.itemsize, ({"library": 0}, {"library": 1})
    sizes, lengths = ([TINY], [4, 5]) if run.tiny else (list(SIZES.values()), run.utterance_frames(15_000))
    for size in sizes:
        c, inner = size.hidden, size.inner
        yield Decision("linear_gelu_by_library", (c, inner, itemsize), op_cases.linear_gelu(size, lengths, at), by_library)
        for n_in in (c, inner) if size.pre_norm else ():
            case = residual_add(size, lengths, at, n_in)
            yield Decision("linear_add_by_library", (n_in, c, itemsize), case, by_library[::-1])
    for kernel in (3, 2):
        case, conv = norm_in_convolution(sizes[0], lengths, at, kernel), sizes[0].conv
        yield Decision("norm_in_convolution", (kernel * conv, conv, itemsize), case, ({"fused": 0}, {"fused": 1}))


class Tuner:
    """Measure candidates, keep the winners in the table of this process, and write a row for each measurement."""

    def __init__(self, run: Run, csv: Path):
        from hubert_fast.kernels import tuning

        self.run, self.csv, self.tuning = run, csv, tuning
        self.table, self.capability = tuning.TUNED, tuning.capability_of(run.device)
        self.columns = device_columns(run.device)

    def row(self, **values: Any) -> None:
        names = ("op", "key", "shape", "dtype", "candidate", "p20_ms", "p50_ms", "p80_ms", "share_of_rule", "status")
        append(self.csv, self.columns, [dict.fromkeys(names, "") | values])

    def put(self, key: tuple, entry: dict[str, int] | None) -> None:
        """Make the rules return `entry`, or their own choice if it is `None`."""
        self.table.pop(key, None)
        if entry is not None:
            self.table[key] = dict(entry)
        for blocks_of in (self.tuning.linear, self.tuning.attention, self.tuning.conv_positional):
            blocks_of.cache_clear()

    def inputs(self, case: Case) -> list[tuple]:
        torch.manual_seed(0)
        size = sum(x.numel() * x.element_size() for x in tensors(case.make()))
        return [case.make() for _ in range(1 if self.run.tiny else 1 + min(7, 200_000_000 // size))]

    def measure(
        self, case: Case, provider: Provider, inputs: list[tuple], expected: Any, rule_ms: float | None, **row: Any
    ) -> tuple[Any, float]:
        """Return the result and the median milliseconds, and write a row.

        If nothing could be measured, return `None` and `inf`; the row gives the reason.
        """
        if not self.run.time_left():
            self.row(**row, status=LEFT_OUT)
            return None, float("inf")
        try:
            calls = [provider.prepare(*arguments) for arguments in inputs]
            answer = provider.finish(calls[0]())
            if expected is not None and difference(answer, expected) > OP_TOLERANCES[case.dtype].value:
                raise ValueError(f"the result differs by {difference(answer, expected):.1e} from the expected result")
            times = percentiles_ms(self.run.times_ms(calls, SECONDS))
        except Exception as error:
            reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:200]
            self.row(**row, status=reason)
            if is_device_lost(error):
                raise DeviceLost(reason) from error
            return None, float("inf")
        self.row(**row, **times, share_of_rule="" if rule_ms is None else times["p50_ms"] / rule_ms, status="ok")
        return answer, times["p50_ms"]

    def tune(self, target: Target) -> None:
        """Try each candidate in place of the rule's blocks, and keep the best if it is fast enough."""
        key, case = (target.op, self.capability, *target.key), target.case
        kept = self.table.get(key)
        row = {"op": target.op, "key": target.key, "shape": case.shape, "dtype": NAMES[case.dtype]}
        inputs, provider = self.inputs(case), case.providers()["ours"]
        self.put(key, None)
        expected, rule_ms = self.measure(case, provider, inputs, None, None, **row, candidate="rule")
        if expected is None:  # nothing to compare candidates with
            self.put(key, kept)
            return
        best, best_ms = None, FASTER * rule_ms
        try:
            for blocks in [kept, *target.candidates] if kept else target.candidates:
                self.put(key, blocks)
                p50_ms = self.measure(case, provider, inputs, expected, rule_ms, **row, candidate=blocks)[1]
                if p50_ms < best_ms:
                    best, best_ms = blocks, p50_ms
        finally:
            self.put(key, best)
        print(f"{target.op} {target.key}: {best or 'the rule'}, {best_ms if best else rule_ms:.3f} ms", flush=True)

    def decide(self, decision: Decision) -> None:
        """Time both choices, and add an entry if the one that the rule rejects is faster."""
        key, case = (decision.rule, self.capability, *decision.key), decision.case
        kept = self.table.get(key)
        self.put(key, None)
        rule = getattr(self.tuning, decision.rule)
        by_rule = int(rule(*decision.key, self.capability))
        inputs, expected, times = self.inputs(case), None, {}
        for (name, provider), entry in zip(list(case.providers().items())[:2], decision.entries):
            row = {"op": decision.rule, "key": decision.key, "shape": case.shape, "dtype": NAMES[case.dtype]}
            measured = self.measure(case, provider, inputs, expected, None, **row, candidate=name)
            answer, times[next(iter(entry.values()))] = measured
            expected = answer if expected is None else expected
        (name,) = decision.entries[0]
        if float("inf") in times.values():  # one choice could not be measured
            self.put(key, kept)
        elif times[1 - by_rule] < FASTER * times[by_rule]:
            self.put(key, {name: 1 - by_rule})
        print(f"{decision.rule} {decision.key}: {name} {self.table.get(key, {name: by_rule})[name]}, {times}", flush=True)


def source_of(table: dict[tuple, dict[str, int]]) -> str:
    """Return the source of `kernels/tuned.py` with the entries of `table`."""
    if not table:
        return HEADER + "TUNED: dict[tuple, dict[str, int]] = {}\n"
    lines = [HEADER + "TUNED: dict[tuple, dict[str, int]] = {"]
    for key in sorted(table):
        written, entry = (str(value).replace("'", '"') for value in (key, table[key]))
        line = f"    {written}: {entry},"
        lines += [line] if len(line) <= 128 else [f"    {written}: {{", f"        {entry[1:-1]},", "    },"]
    return "\n".join(lines) + "\n}  # fmt: skip\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the winners into the table")
    parser.add_argument(
        "--table", type=Path, default=ROOT / "kernels/tuned.py", help="file that --write replaces (default: kernels/tuned.py)"
    )
    parser.add_argument("--csv", type=Path, default=Path(__file__).parent / "results/tune.csv",
                        help="file for the measurements (default: bench/results/tune.csv)")  # fmt: skip
    parser.add_argument("--op", nargs="+", default=OPS, choices=OPS, help="what to tune (default: everything)")
    parser.add_argument(
        "--budget-seconds", type=float, default=540, help="seconds after which nothing new starts (default: 540)"
    )
    parser.add_argument("--tiny", action="store_true", help="test this program with a few candidates, interpreted on the CPU")
    options = parser.parse_args(arguments)
    if options.tiny:
        os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton
    elif not torch.cuda.is_available():
        print("there is no CUDA device: use --tiny to test this program on the CPU", file=sys.stderr)
        return 2
    run = Run(options.csv.parent, options.budget_seconds, options.tiny)
    tuner = Tuner(run, options.csv)
    at = Where(torch.float16 if options.tiny else torch.bfloat16, run.device)  # the interpreter computes bf16 products wrongly
    try:
        run.share = BLOCKS_SHARE
        for target in block_targets(run, at):
            if target.op not in options.op:
                continue
            with rule("tuning", "is_persistent", False):  # the persistent kernel has other blocks
                tuner.tune(target._replace(candidates=target.candidates[-2:]) if options.tiny else target)
        run.share = 1.0
        for decision in decisions(run, at) if "decisions" in options.op else ():
            tuner.decide(decision)
    except DeviceLost as error:
        print(f"the device is lost: {error}")
    if options.write:
        options.table.write_text(source_of(tuner.table), encoding="utf-8")
        print(f"{options.table}: {len(tuner.table)} entries")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What ``bench/gpu`` launches on an H100 or H200, found and compiled where there is none: the kernels of a kit of ``kit.py``.

Stages call ops and models on tensors without memory, and triton compiles what they would launch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compile_kernels import compiled
from triton import knobs
from triton.runtime.jit import JITFunction

from gpu import models, op_cases, profiler, repeat, times, values, whole
from gpu.run import Run
from hubert_fast import cuda_graphs, dispatch, ops, packed_kernels, paths
from hubert_fast.benchmark import measure, protocols, providers
from hubert_fast.benchmark.subject import Subject
from hubert_fast.benchmark.work import Work

ARCH = 90


def stand_in() -> None:
    """Have this process take tensors without memory for those of a GPU, in the package and the benchmark.

    Ops then run the launchers of their kernels, and graphs are run and not captured.
    """

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
    op_cases.counts_and_starts = counts_and_starts
    providers.greedy_decode = lambda *arguments, **options: []
    for path in Path(ops.__file__).parent.glob("[a-z]*.py"):
        module = import_module(f"hubert_fast.ops.{path.stem}")
        for name, value in list(vars(module).items()):
            if hasattr(value, "_init_fn"):  # a torch.library.custom_op, which would only say what its result looks like
                setattr(module, name, value._init_fn)


def op_calls() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield what the stages values, repeat and ops call, each with a name."""
    run = Run(Path(), 0.0, False)
    run.device = torch.device("meta")
    for case in values.value_cases(run):
        yield f"{case.op} {case.shape} {case.dtype}", lambda case=case: case.public(*case.make())
    for case in (*repeat.repeat_cases(run), *times.timed_cases(run)):
        for name, provider in case.providers().items():
            if not name.startswith("library:"):
                what = f"{case.op} {case.shape} {case.dtype}, {name}"
                yield what, lambda case=case, prepare=provider.prepare: prepare(*case.make())()


def model_calls() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield forwards of ours, packed and padded, as the stages whole, headline, profile and compile call them."""

    class Padded(providers.Provider):
        def forward(self, waveforms: list[np.ndarray]) -> providers.Forward:
            lengths = torch.tensor([len(waveform) for waveform in waveforms])
            rows = torch.empty(len(lengths), int(lengths.max()), dtype=self.subject.dtype, device=self.subject.device)
            mask = None if lengths.min() == lengths.max() else torch.arange(rows.shape[1]) < lengths[:, None]
            return providers.Forward(lambda: paths.encode_padded(self.subject.ours.hubert, rows, mask, False), lambda out: out)

        def text(self, waveforms: list[np.ndarray]) -> list[str]:
            self.forward(waveforms).run()
            return [""] * len(waveforms)

    ours = dict.fromkeys(("ours", "ours-graphs", "ours-no-graphs"), providers.Ours)
    kinds = {**ours, "ours-padded": Padded, "accelerate": Padded}
    item, most = models.Item, round(16000 * measure.CHECKED_SECONDS)
    checks = [item(name, " ".join(whole.PROVIDERS), audio_seconds=30.0, rounds=0, dtype=dtype)
              for name, dtype in whole.models(False)]  # fmt: skip
    profiles = [item(name, "ours", audio_seconds=profiler.BATCH_SECONDS) for name in ("large", "base")]
    for one in (*checks, *models.HEADLINE, *models.COMPILED, *profiles):
        subject = Subject.random(one.model, torch.device("meta"), one.dtype)
        work = Work.of(one.lengths, one.audio_seconds)
        checked = [waveform[:most] for waveform in work.waveforms[: measure.CHECKED_UTTERANCES]]
        for name in (name for name in one.providers.split() if name in kinds):
            provider, what = kinds[name](subject), f"{one.model} {one.dtype} {one.case}, {name}"
            yield what, lambda provider=provider, checked=checked: provider.forward(checked).run()
            if one.rounds:  # the stage whole times nothing
                plan = one.protocol, provider, work, one.batch_seconds, one.batch_utterances
                yield what, lambda plan=plan: protocols.prepare(*plan)()
        for batch in () if one.rounds or one.model == "xlarge" or one.dtype != torch.bfloat16 else whole.GRAPH_SECONDS:
            waveforms = [np.zeros(round(16000 * seconds), np.float32) for seconds in batch]
            forward = partial(providers.Ours(subject).forward, waveforms)
            yield f"{one.model}, graph of {batch} s", lambda forward=forward: forward().run()


def launches_of(calls: Iterable[tuple[str, Callable[[], Any]]]) -> list[partial]:
    """Return what compiles each kernel that calls would launch, once, and run nothing on a device.

    A call that cannot run here is printed, as its kernels will be compiled on the GPU machine.
    """
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

"""Find and compile the kernels that `bench/gpu` launches on an H100 or H200, on a machine without one, for `kit.py`.

The stages call ops and models on tensors without memory, and triton compiles the kernels that they would launch.
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
from gpu.models import Item
from gpu.run import Run
from hubert_fast import dispatch, ops
from hubert_fast.benchmark import measure, protocols, providers
from hubert_fast.benchmark import ours as implementations
from hubert_fast.benchmark.subject import Subject
from hubert_fast.benchmark.work import Work
from hubert_fast.packed import cuda_graphs, kernel_graph, run_padded, serve

ARCH = 90


def stand_in() -> None:
    """Make the package and the benchmark treat tensors without memory as tensors of a GPU, in this process.

    Ops then run the launchers of their kernels, and graphs run without being captured.
    """

    def run_graph(self: Any, key: Any, addresses: Any, device: Any, prepare: Any, inputs: Any, rows: int) -> None:
        call, static = prepare()
        call(*static)

    def counts_and_starts(cu_seqlens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.arange(len(cu_seqlens) - 1)  # kernels do not depend on the lengths
        return torch.full_like(index, 64), 64 * index

    dispatch.interpreting = lambda: True  # so that tensors of any device are accepted; kernels import it under another name
    serve.DEVICES = (*serve.DEVICES, "meta")
    kernel_graph.graphs_can_run = lambda device: True
    cuda_graphs.GraphCache.run = run_graph
    torch.autocast = lambda *arguments, **options: contextlib.nullcontext()  # it does not support tensors without memory
    torch.is_autocast_enabled = lambda *arguments: False
    op_cases.counts_and_starts = counts_and_starts
    implementations.greedy_decode = lambda *arguments, **options: []
    for path in Path(ops.__file__).parent.glob("[a-z]*.py"):
        module = import_module(f"hubert_fast.ops.{path.stem}")
        for name, value in list(vars(module).items()):
            if hasattr(value, "_init_fn"):  # a torch.library.custom_op, which would only describe its result
                setattr(module, name, value._init_fn)


def op_calls() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield a description and the call for everything that the stages values, repeat and ops run."""
    run = Run(Path(), 0.0, False)
    run.device = torch.device("meta")
    for case in values.value_cases(run):
        yield f"{case.op} {case.shape} {case.dtype}", lambda case=case: case.public(*case.make())
    for case in (*repeat.repeat_cases(run), *times.timed_cases(run)):
        for name, provider in case.providers().items():
            if not name.startswith("library:"):
                description = f"{case.op} {case.shape} {case.dtype}, {name}"
                yield description, lambda case=case, prepare=provider.prepare: prepare(*case.make())()


def model_calls() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield a description and the call for our forwards, packed and padded, in the stages whole, headline, profile, compile."""

    class Padded(providers.Provider):
        def forward(self, waveforms: list[np.ndarray]) -> providers.Forward:
            lengths = torch.tensor([len(waveform) for waveform in waveforms])
            rows = torch.empty(len(lengths), int(lengths.max()), dtype=self.subject.dtype, device=self.subject.device)
            mask = None if lengths.min() == lengths.max() else torch.arange(rows.shape[1]) < lengths[:, None]
            hubert = self.subject.ours.hubert
            return providers.Forward(lambda: run_padded(hubert, rows, mask, hubert.encoder.select(False)), lambda out: out)

        def text(self, waveforms: list[np.ndarray]) -> list[str]:
            self.forward(waveforms).run()
            return [""] * len(waveforms)

    ours = dict.fromkeys(("ours", "ours-graphs", "ours-no-graphs"), providers.Ours)
    kinds = {**ours, "ours-padded": Padded, "accelerate": Padded}
    most_samples = round(16000 * measure.CHECKED_SECONDS)
    checks = [Item(name, " ".join(whole.PROVIDERS), audio_seconds=30.0, rounds=0, dtype=dtype)
              for name, dtype in whole.models(False)]  # fmt: skip
    profiles = [Item(name, "ours", audio_seconds=profiler.BATCH_SECONDS) for name in ("large", "base")]
    for item in (*checks, *models.HEADLINE, *models.COMPILED, *profiles):
        subject = Subject.random(item.model, torch.device("meta"), item.dtype)
        work = Work.of(item.lengths, item.audio_seconds)
        checked = [waveform[:most_samples] for waveform in work.waveforms[: measure.CHECKED_UTTERANCES]]
        for name in (name for name in item.providers.split() if name in kinds):
            provider, description = kinds[name](subject), f"{item.model} {item.dtype} {item.case}, {name}"
            yield description, lambda provider=provider, checked=checked: provider.forward(checked).run()
            if item.rounds:  # the stage whole times nothing
                plan = item.protocol, provider, work, item.batch_seconds, item.batch_utterances
                yield description, lambda plan=plan: protocols.prepare(*plan)()
        for batch in () if item.rounds or item.model == "xlarge" or item.dtype != torch.bfloat16 else whole.GRAPH_SECONDS:
            waveforms = [np.zeros(round(16000 * seconds), np.float32) for seconds in batch]
            forward = partial(providers.Ours(subject).forward, waveforms)
            yield f"{item.model}, graph of {batch} s", lambda forward=forward: forward().run()


def launches_of(calls: Iterable[tuple[str, Callable[[], Any]]]) -> list[partial]:
    """Return a call for each kernel that `calls` would launch, which compiles it, and run nothing on a device.

    Calls that cannot run here are printed: their kernels will be compiled on the GPU machine.
    """
    compilations: dict[tuple, partial] = {}
    run_of_triton = JITFunction.run

    def run(function: Any, *arguments: Any, **options: Any) -> Any:
        def note(*, key: str, fn: Any, **_: Any) -> bool:
            compilations.setdefault((fn.module, fn.name, key), partial(run_of_triton, function, *arguments, **options))
            return True  # do not compile it yet

        knobs.runtime.jit_cache_hook = note
        return run_of_triton(function, *arguments, **options)

    JITFunction.run = run
    try:
        with torch.inference_mode():
            for description, call in calls:
                try:
                    compiled(ARCH, call)
                except Exception as error:
                    print(f"cannot run here: {description}: {type(error).__name__}: {str(error)[:200]}", flush=True)
    finally:
        JITFunction.run, knobs.runtime.jit_cache_hook = run_of_triton, None
    return list(compilations.values())


def compile_all(launches: list[partial], cache: Path, processes: int) -> list[str]:
    """Compile kernels in several processes, and return their folders in the cache."""
    present, folders, begin = set(os.listdir(cache)), set(), time.monotonic()
    global LAUNCHES
    LAUNCHES = launches  # forked processes inherit it: launches cannot be pickled
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        for number, (folder, name) in enumerate(pool.imap_unordered(_compiled, range(len(launches))), 1):
            if folder:
                folders.add(folder)
            else:
                print(f"does not compile: {name}", flush=True)
            if number % 20 == 0 or number == len(launches):
                print(f"{number} of {len(launches)} launches, {time.monotonic() - begin:.0f} s", flush=True)
    print(f"{len(folders)} kernels: {len(folders - present)} compiled, {len(folders & present)} already in {cache}", flush=True)
    return sorted(folders)


def _compiled(index: int) -> tuple[str, str]:
    """Compile a kernel. Return its folder in the cache and its name, or an empty string and the reason if that fails."""
    launch = LAUNCHES[index]
    try:
        return Path(next(iter(launch().metadata_group.values()))).parent.name, launch.args[0].__name__
    except Exception as error:
        return "", f"{launch.args[0].__name__}: {type(error).__name__}: {str(error)[:200]}"

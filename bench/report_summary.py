"""Write the README's headline and table: the main comparisons with transformers, with large gains and small ones."""

from __future__ import annotations

from pathlib import Path

from report_cpu import ALIKE_TEXTS, ONE, texts_in_batches
from report_gpu import COMPILED, EAGER, MIXED, environment, ours_and_theirs, rate, ratio, timed
from report_gpu import ONE as ONE_ON_GPU
from report_rows import Row, bench, device, fastest, newest, shown, table

from hubert_fast.benchmark.providers import SINGLE, SORTED
from hubert_fast.benchmark.rows import read

CPU_MODEL = {"model": "large", "dtype": "bfloat16"}


def headline(results: Path) -> str:
    """State how many times as fast hubert-large is as transformers on a GPU, and how that was measured."""
    machine = environment(results)
    ours, theirs = ours_and_theirs(timed(results, model="large", lengths=MIXED, stage=EAGER))
    batch_seconds = float(ours["batch"].removesuffix(" s"))
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "triton", "transformers"))
    return (
        f"On one {machine['device']} in bfloat16, **hubert-large runs {ratio(ours, theirs)} times as fast as in "
        f"transformers**: {rate(ours)} seconds of audio per second against {rate(theirs)}, which is transformers' best "
        f"configuration in the same run (SDPA attention, utterances sorted by length, no `torch.compile`). That is the "
        f"forward pass alone, with random weights, utterance lengths distributed as in LibriSpeech and {batch_seconds:,.0f} s "
        f"of audio in a batch ({versions}, {machine['utc'][:10]}).\n"
    )


def summary(results: Path) -> str:
    """Tabulate the speed of this package and of transformers' fastest configuration, in times real time."""
    gpu = environment(results)["device"] + ", bfloat16"
    lines = []
    for model in ("large", "base"):
        pair = ours_and_theirs(timed(results, model=model, lengths=MIXED, stage=EAGER))
        lines.append([gpu, f"hubert-{model}: forward pass, mixed lengths", *cells(*pair)])
    pair = ours_and_theirs(timed(results, model="large", lengths=ONE_ON_GPU, stage=EAGER))
    lines.append([gpu, "hubert-large: forward pass, one utterance of 5 s at a time", *cells(*pair)])
    if compiled := timed(results, model="large", lengths=ONE_ON_GPU, stage=COMPILED):
        work = "the same, with transformers under `torch.compile` with CUDA graphs"
        lines.append([gpu, f"hubert-large: {work}", *cells(*ours_and_theirs(compiled, "ours-graphs"))])

    mixed = of_the_model(texts_in_batches(results, "librispeech"))
    cpu = f"{mixed[0]['threads']} CPU cores ({device(mixed[0])}), bfloat16"
    unsorted = [row for row in mixed if not row["provider"].endswith((SORTED, SINGLE))]
    alike = of_the_model(texts_in_batches(results, ALIKE_TEXTS))
    single = of_the_model(bench(results, protocol="model", lengths=ONE[0], batch=ONE[1]))
    for work, rows in (
        ("waveforms to text, mixed lengths in batches of 8", unsorted),
        ("the same, with transformers free to sort by length or to take one at a time", mixed),
        ("waveforms to text, equal lengths in batches of 8", alike),
        ("forward pass, one utterance of 5 s at a time", single),
    ):
        lines.append([cpu, f"hubert-large: {work}", *cells(*ours_and_theirs(rows))])
    ours, *others = [row for row in single if row["provider"] == "ours" or row["provider"].startswith("openvino")]
    if others:
        work = "the same, with OpenVINO in place of transformers"
        lines.append([cpu, f"hubert-large: {work}", *cells(ours, fastest(others))])

    rows = [row for row in newest(read(results / "transcribe_speed.csv"), "dtype") if row["dtype"] == "float32"]
    ours = next(row for row in rows if row["provider"] == "hubert_fast, files to text")
    theirs = max((row for row in rows if row["provider"].startswith("transformers")), key=lambda row: float(row["rtfx"]))
    cpu = cpu.replace("bfloat16", "float32")
    lines.append([cpu, f"demo model: {int(ours['files']):,} files on disk to text", *cells(ours, theirs)])
    return table(["machine", "work", "transformers", "hubert_fast", "ratio"], lines)


def of_the_model(rows: list[Row]) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in CPU_MODEL.items())]


def cells(ours: Row, theirs: Row) -> list[str]:
    """Return the speeds of transformers and of this package, in times real time, and their ratio."""
    speeds = [rate(row) if float(row["rtfx"]) >= 1000 else shown(row["rtfx"]) for row in (theirs, ours)]
    ratio = float(ours["rtfx"]) / float(theirs["rtfx"])
    return [*speeds, f"{ratio:.1f}x" if ratio >= 2 else f"{ratio:.2f}x"]

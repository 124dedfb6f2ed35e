"""From rows to the README's tables and plots: ``make report``, or ``python bench/report.py [--check]``.

What stands in README.md between ``<!-- rows: NAME -->`` and ``<!-- end of rows -->`` is written by the function of that name,
from the CSV files in results/. ``--check`` writes nothing, and fails when the README says otherwise than the rows.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # hubert_fast, where it is not installed

from report_gpu import gpu, gpu_claim, gpu_ops
from report_plots import draw
from report_rows import Row, bench, best_of_theirs, newest, shown, table

from hubert_fast.benchmark.providers import SINGLE, SORTED
from hubert_fast.benchmark.rows import read
from hubert_fast.benchmark.work import librispeech_seconds, until

RESULTS = Path(__file__).resolve().parent / "results"
README = RESULTS.parent.parent / "README.md"
BLOCK = re.compile(r"(<!-- rows: ([\w-]+) -->\n)(.*?)(<!-- end of rows -->)", re.DOTALL)
TWO, ONE = ("fixed:10", "20 s"), ("fixed:5", "5 s")
ALIKE_TEXTS = "fixed:6"
TEST_CLEAN = 2620  # utterances


def models_of(rows: list[Row]) -> list[tuple[str, str]]:
    order = {"base": 0, "large": 1, "xlarge": 2}
    return sorted({(row["model"], row["dtype"]) for row in rows}, key=lambda key: (order.get(key[0], 9), key[1] != "float32"))


def by_provider(rows: list[Row]) -> str:
    """Times real time of each provider, a column for each model and dtype, and ours against the best of theirs."""
    columns = models_of(rows)
    cells: dict[str, list[str]] = {}
    for provider in dict.fromkeys(row["provider"] for row in rows):
        for model, dtype in columns:
            same = [row for row in rows if (row["model"], row["dtype"]) == (model, dtype)]
            found = next((row for row in same if row["provider"] == provider), None)
            text = "" if found is None else "cannot run"
            if found and found["rtfx"]:
                ratio = float(found["rtfx"]) / float(best_of_theirs(same)["rtfx"])
                text = f"{shown(found['rtfx'])} ({ratio:.2f}x)"
                text = f"**{text}**" if provider == "ours" else text
            cells.setdefault(provider, []).append(text)
    return table(["", *(f"{model}, {dtype}" for model, dtype in columns)], ([f"`{name}`", *cells[name]] for name in cells))


def percent(number: str) -> str:
    return f"{float(number):.2%}" if number else ""


def where(row: Row) -> str:
    threads = "" if row.get("driver") else f", {row['threads']} cores"
    return f"{row['device']}{threads}, torch {row['torch']}, transformers {row['transformers']}, {row['utc'][:10]}"


def claim(results: Path) -> str:
    mixed, alike = texts_in_batches(results, "librispeech"), texts_in_batches(results, ALIKE_TEXTS)
    unsorted = [row for row in mixed if not row["provider"].endswith((SORTED, SINGLE))]
    sizes = join([f"hubert-{model} in {dtype}" for model, dtype in models_of(mixed)])
    return (
        f"From waveforms to text, in batches of eight as the Open ASR Leaderboard times it, **{times_theirs(unsorted)} times "
        f"the speed** of transformers' fastest configuration with utterances as they come, {times_theirs(mixed)} times when it "
        f"may sort them by length or take them one by one, {times_theirs(alike)} times when all have one length and nothing is "
        f"padded ({sizes}; answers compared first). Measured at LibriSpeech's lengths on {where(mixed[0])}.\n"
    )


def texts_in_batches(results: Path, lengths: str) -> list[Row]:
    """Return the rows of the protocol *leaderboard* with random weights."""
    return [row for row in bench(results, protocol="leaderboard", lengths=lengths) if row["model"] != "demo"]


def times_theirs(rows: list[Row]) -> str:
    """Tell how many times as fast ours is as the best of theirs, over models and dtypes: the least and the most."""
    ratios = []
    for key in models_of(rows):
        same = [row for row in rows if (row["model"], row["dtype"]) == key]
        ours = next(row for row in same if row["provider"] == "ours")
        ratios.append(float(ours["rtfx"]) / float(best_of_theirs(same)["rtfx"]))
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def join(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def padding(results: Path) -> str:
    """What sorting is worth: arithmetic on the lengths of :func:`leaderboard` and on more of them; and rows without padding."""
    totals = {float(row["audio_seconds"]) for row in texts_in_batches(results, "librispeech")}
    if len(totals) != 1:
        raise ValueError(f"rows of the protocol leaderboard must be of the same work, but are of {sorted(totals)} s of audio")
    few = until(librispeech_seconds(), totals.pop())
    many = list(islice(librispeech_seconds(), TEST_CLEAN))
    few_texts, many_texts = ([f"{padded(each):.0%}" for each in (found, sorted(found))] for found in (few, many))
    return (
        f"Of these {len(few)} utterances, batches of eight add {few_texts[0]} of padding as they come and {few_texts[1]} "
        f"sorted by length; of {TEST_CLEAN:,}, as many as LibriSpeech's test-clean has, {many_texts[0]} and {many_texts[1]}. "
        f"So the more there is to sort, the nearer transformers' best comes to this, eight of 6 s at a time:\n\n"
    ) + by_provider(texts_in_batches(results, ALIKE_TEXTS))


def padded(seconds: list[float], utterances: int = 8) -> float:
    """Return how much padding batches have, as a share of the audio."""
    made = (seconds[start : start + utterances] for start in range(0, len(seconds), utterances))
    return sum(len(batch) * max(batch) for batch in made) / sum(seconds) - 1


def providers(results: Path) -> str:
    return by_provider(bench(results, protocol="model", lengths="librispeech", whole="True"))


def leaderboard(results: Path) -> str:
    rows = texts_in_batches(results, "librispeech")
    return f"{by_provider(rows)}\n{timed(rows)}"


def timed(rows: list[Row]) -> str:
    """Tell how often each provider was timed."""
    rounds = {(row["model"], row["dtype"]): row["rounds"] for row in rows if row["rtfx"]}
    told = [f"{model} in {dtype} {number}" for (model, dtype), number in sorted(rounds.items())]
    return f"Rounds timed, of each provider in turn: {join(told)}.\n"


def files(results: Path) -> str:
    return by_provider([row for row in bench(results, protocol="files") if row["model"] != "demo"])


def unpadded(results: Path) -> str:
    lines = []
    for (lengths, batch), text in ((TWO, "two of 10 s at a time"), (ONE, "one of 5 s at a time")):
        rows = bench(results, protocol="model", lengths=lengths, batch=batch)
        for model, dtype in models_of(rows):
            same = {row["provider"]: row for row in rows if (row["model"], row["dtype"]) == (model, dtype)}
            theirs = same["hf-sdpa"]
            cells = [f"{float(theirs['latency_p50_ms']):.0f} ms"]
            for name in ("ours", "ours-padded"):
                ratio = float(same[name]["rtfx"]) / float(theirs["rtfx"])
                cells.append(f"{float(same[name]['latency_p50_ms']):.0f} ms, {ratio:.2f}x")
            lines.append([f"{model}, {dtype}", text, *cells])
    return table(["", "batch", "`hf-sdpa`", "`ours`", "`ours-padded`"], lines)


def recognition(results: Path) -> str:
    rows = [row for row in bench(results, model="demo") if row["protocol"] != "model" and row["rtfx"]]
    lines = (
        [f"`{row['provider']}`, {row['dtype']}", row["protocol"], shown(row["rtfx"]), row["texts_equal"], percent(row["wer"])]
        for row in rows
    )
    return table(["demo model", "protocol", "times real time", "texts equal to float32's", "WER"], lines)


def wer(results: Path) -> str:
    rows = newest(read(results / "accuracy_wer.csv"), "dtype", "backend")
    lines = (
        [row["backend"], row["dtype"], row["recordings"], percent(row["wer"]), percent(row["cer"]), row["status"]]
        for row in rows
    )
    return table(["backend", "dtype", "recordings", "WER", "CER", ""], lines)


def layers(results: Path) -> str:
    rows = newest(read(results / "accuracy_layers.csv"), "model", "dtype")
    keys = list(dict.fromkeys((row["model"], row["dtype"], row["provider"]) for row in rows))
    last = {key: [row for row in rows if (row["model"], row["dtype"], row["provider"]) == key] for key in keys}
    lines = []
    for (model, dtype, provider), found in last.items():
        picked = [found[0], found[len(found) // 2], found[-2], found[-1]]
        lines.append([f"{model}, {dtype}", f"`{provider}`", *(f"{float(row['relative_error']):.1e}" for row in picked)])
    return table(["", "", "before layer 1", "in the middle", "after the last", "logits"], lines)


def transcription(results: Path) -> str:
    rows = newest(read(results / "transcribe_speed.csv"), "dtype")
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    lines = []
    for provider in dict.fromkeys(row["provider"] for row in rows):
        line = [provider]
        for dtype in dtypes:
            same = {row["provider"]: row for row in rows if row["dtype"] == dtype}
            text = shown(same[provider]["rtfx"])
            if provider.startswith("transformers"):
                ratio = float(same["hubert_fast, files to text"]["rtfx"]) / float(same[provider]["rtfx"])
                text += f": ours is {ratio:.1f}x as fast"
            elif provider == "hubert_fast, files to text":
                text = f"**{text}**, {float(same[provider]['share_of_model_alone']):.0%} of the model alone"
            line.append(text)
        lines.append(line)
    return table(["times real time", *dtypes], lines)


def texts(results: Path) -> str:
    """How the rows of :func:`transcription` were measured, and what they say of texts."""
    rows = newest(read(results / "transcribe_speed.csv"), "dtype")
    found = {(row["dtype"], row["provider"]): row for row in rows}

    def other(dtype: str, provider: str) -> int:
        return int(found[dtype, provider]["other_text_than_one_by_one"])

    ours, theirs = "hubert_fast, files to text", "transformers pipeline, batch 8"
    row = found["float32", ours]
    files = int(row["files"])
    equal = "all" if not other("float32", ours) else f"{files - other('float32', ours)} of"
    rounds = {name: found["float32", name]["rounds"] for name in (ours, theirs)}
    return (
        f"Medians of {counted(rounds[ours], 'round')} in turn, {counted(rounds[theirs], 'round')} of transformers "
        f"({where(row)}). In float32 {equal} {files:,} texts are those that transformers gives for each file by itself; its "
        f"batches of 8 give "
        f"other texts for {other('float32', theirs)} of them ({other('float32', f'{theirs}, sorted by length')} when sorted), "
        f"since it reads letters out of the padding. In bfloat16 {other('bfloat16', ours)} of ours are other than "
        f"its one by one, which roundings decide.\n"
    )


def counted(number: str, noun: str) -> str:
    return f"{number} {noun}" if number == "1" else f"{number} {noun}s"


def products(results: Path) -> str:
    """How much of our time is matrix products, and how near they are to the machine's best."""
    rows = newest(read(results / "packed_profile.csv"), "model", "dtype", "case")
    rows = [row for row in rows if row["operations"] == "matrix products" and row["model"] in ("base", "large")]

    def span(name: str) -> str:
        values = sorted(float(row[name]) for row in rows)
        return f"{100 * values[0]:.0f} to {values[-1]:.0%}"

    return (
        f"What stands between: {span('share')} of our time is matrix products, which run at {span('share_of_ceiling')} of the "
        f"best that this machine does at all (`bench/results/packed_profile.csv`), and most of the rest PyTorch's attention, "
        f"the same that transformers calls.\n"
    )


def bounded(results: Path) -> str:
    rows = newest(read(results / "transcribe_memory.csv"), "dtype")
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    lines = []
    for case in dict.fromkeys(row["case"] for row in rows):
        same = {row["dtype"]: row for row in rows if row["case"] == case}
        hours = float(same[dtypes[0]]["audio_seconds"]) / 3600
        lines.append([case, f"{hours:.1f} h", *(f"{same[dtype]['peak_megabytes']} MB" for dtype in dtypes)])
    return table(["", "audio", *(f"peak, {dtype}" for dtype in dtypes)], lines)


def seams(results: Path) -> str:
    rows = newest(read(results / "transcribe_seams.csv"), "dtype")
    rows = [row for row in rows if row["dtype"] == "float32"]
    lines = []
    for row in rows:
        rates = [percent(row[name]) for name in ("wer", "wer_against_whole", "wer_against_files_alone")]
        lines.append([f"{float(row['chunk_seconds']):g} s", f"{float(row['overlap_seconds']):g} s", row["seams"], *rates])
    whole, alone = (percent(rows[0][name]) for name in ("wer_of_whole", "wer_of_files_alone"))
    lines += [["in one piece", "", "0", whole, "", ""], ["its files, each alone", "", "", alone, "", ""]]
    return table(["pieces of", "overlap", "seams", "WER", "against one piece", "against the files alone"], lines)


BLOCKS: dict[str, Callable[[Path], str]] = {
    one.__name__: one
    for one in (
        claim, providers, leaderboard, padding, files, unpadded, products, recognition, wer, layers, transcription, texts,
        bounded, seams, gpu_claim, gpu, gpu_ops,
    )
}  # fmt: skip


def filled(text: str, results: Path) -> str:
    """Return a README with its blocks made anew. Raises ``ValueError`` for a block that there is not."""

    def block(match: re.Match) -> str:
        if match[2] not in BLOCKS:
            raise ValueError(f"there is no block {match[2]!r}: {', '.join(BLOCKS)}")
        return f"{match[1]}{BLOCKS[match[2]](results)}{match[4]}"

    return BLOCK.sub(block, text)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 when the README is not as the rows are"
    )
    options = parser.parse_args(arguments)
    before = options.readme.read_text(encoding="utf-8")
    after = filled(before, options.results)
    if options.check:
        return int(after != before)
    options.readme.write_text(after, encoding="utf-8")
    draw(options.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

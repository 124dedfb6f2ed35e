"""Write the blocks on speed and accuracy, from rows measured on CPUs and with the demo model."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from report_rows import Row, bench, best_of_theirs, best_peer, fastest, join, newest, percent, shown, table, where

from hubert_fast.__main__ import SPIN_COUNT
from hubert_fast.benchmark.providers import SINGLE, SORTED
from hubert_fast.benchmark.rows import read
from hubert_fast.benchmark.work import librispeech_seconds, until

ONE, FIVE = ("fixed:5", "5 s"), ("five_utterances.txt", "24 s")  # lengths and batch
LIBRARIES = "hf-", "openvino", "onnxruntime"
ALIKE_TEXTS = "fixed:6"
TEST_CLEAN = 2620  # utterances


def models_of(rows: list[Row]) -> list[tuple[str, str]]:
    order = {"base": 0, "large": 1, "xlarge": 2}
    return sorted({(row["model"], row["dtype"]) for row in rows}, key=lambda key: (order.get(key[0], 9), key[1] != "float32"))


def by_provider(rows: list[Row]) -> str:
    """Tabulate each provider's times real time and its ratio to the best of another library, by model and dtype."""
    columns = models_of(rows)
    cells: dict[str, list[str]] = {}
    for provider in dict.fromkeys(row["provider"] for row in rows):
        for model, dtype in columns:
            same = [row for row in rows if (row["model"], row["dtype"]) == (model, dtype)]
            row = next((row for row in same if row["provider"] == provider), None)
            text = "not run" if row is None else "cannot run"
            if row and row["rtfx"]:
                ratio = float(row["rtfx"]) / float(best_peer(same)["rtfx"])
                text = f"{shown(row['rtfx'])} ({ratio:.2f}x)"
                text = f"**{text}**" if provider == "ours" else text
            cells.setdefault(provider, []).append(text)
    return table(["", *(f"{model}, {dtype}" for model, dtype in columns)], ([f"`{name}`", *cells[name]] for name in cells))


def claim(results: Path) -> str:
    mixed, alike = texts_in_batches(results, "librispeech"), texts_in_batches(results, ALIKE_TEXTS)
    unsorted = [row for row in mixed if not row["provider"].endswith((SORTED, SINGLE))]
    sizes = join([f"hubert-{model} in {dtype}" for model, dtype in models_of(mixed)])
    return (
        f"hubert_fast runs from waveforms to text at **{times_theirs(unsorted)} times the speed** of transformers' fastest "
        f"configuration when batches of eight are formed in the order in which utterances arrive. The ratio is "
        f"{times_theirs(mixed)} when transformers may also sort utterances by length or take them one at a time, and "
        f"{times_theirs(alike)} when all utterances are of equal length, so that nothing is padded. The ranges cover {sizes}. "
        f"Measured at LibriSpeech's lengths on {where(mixed[0])}.\n"
    )


def texts_in_batches(results: Path, lengths: str) -> list[Row]:
    """Return the rows of the protocol *leaderboard* with random weights."""
    return [row for row in bench(results, protocol="leaderboard", lengths=lengths) if row["model"] != "demo"]


def times_theirs(rows: list[Row]) -> str:
    """Return the smallest and the largest ratio of our speed to transformers' best, over models and dtypes."""
    ratios = []
    for key in models_of(rows):
        same = [row for row in rows if (row["model"], row["dtype"]) == key]
        ours = next(row for row in same if row["provider"] == "ours")
        ratios.append(float(ours["rtfx"]) / float(best_of_theirs(same)["rtfx"]))
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def padding(results: Path) -> str:
    """State how much padding sorting saves, on the lengths of `leaderboard` and on more of them; and tabulate equal lengths."""
    totals = {float(row["audio_seconds"]) for row in texts_in_batches(results, "librispeech")}
    if len(totals) != 1:
        raise ValueError(f"rows of the protocol leaderboard must be of the same work, but are of {sorted(totals)} s of audio")
    few = until(librispeech_seconds(), totals.pop())
    many = list(islice(librispeech_seconds(), TEST_CLEAN))
    few_texts, many_texts = ([f"{padded(each):.0%}" for each in (lengths, sorted(lengths))] for lengths in (few, many))
    return (
        f"Batches of eight pad these {len(few)} utterances by {few_texts[0]} of their audio in the order in which they arrive, "
        f"and by {few_texts[1]} when they are sorted by length. With {TEST_CLEAN:,} utterances, as many as LibriSpeech's "
        f"test-clean has, it is {many_texts[0]} and {many_texts[1]}: the more utterances there are to sort, the less padding "
        f"remains. The limit is a batch without padding, here eight utterances of 6 s:\n\n"
    ) + by_provider(texts_in_batches(results, ALIKE_TEXTS))


def padded(seconds: list[float], utterances: int = 8) -> float:
    """Return how much padding batches have, as a share of the audio."""
    batches = (seconds[start : start + utterances] for start in range(0, len(seconds), utterances))
    return sum(len(batch) * max(batch) for batch in batches) / sum(seconds) - 1


def providers(results: Path) -> str:
    return by_provider(bench(results, protocol="model", lengths="librispeech", whole="True"))


def leaderboard(results: Path) -> str:
    rows = texts_in_batches(results, "librispeech")
    return f"{by_provider(rows)}\n{timed(rows)}"


def timed(rows: list[Row]) -> str:
    """State how often each provider was timed."""
    rounds = {(row["model"], row["dtype"]): row["rounds"] for row in rows if row["rtfx"]}
    counts = [f"{model} in {dtype}: {number}" for (model, dtype), number in sorted(rounds.items())]
    return f"Timed rounds per provider: {', '.join(counts)}.\n"


def files(results: Path) -> str:
    return by_provider([row for row in bench(results, protocol="files") if row["model"] != "demo"])


def unpadded(results: Path) -> str:
    """Tabulate the milliseconds of this package and of each library at its best, on utterances that need no padding."""
    lines = []
    for (lengths, batch), text in ((ONE, "one utterance of 5 s"), (FIVE, "five utterances of 1.9 to 8 s")):
        rows = bench(results, protocol="model", lengths=lengths, batch=batch)
        for model, dtype in models_of(rows):
            same = [row for row in rows if (row["model"], row["dtype"]) == (model, dtype)]
            packed, unpacked = (
                fastest(row for row in same if row["provider"].removesuffix(SINGLE) == name)
                for name in ("ours", "ours-unpacked")
            )
            libraries = [[row for row in same if row["provider"].startswith(name) and row["rtfx"]] for name in LIBRARIES]
            best = [fastest(each) if each else None for each in libraries]
            ratios = [f" ({float(packed['rtfx']) / float(row['rtfx']):.2f}x)" if row else "" for row in best]
            cells = [f"{milliseconds(row)}{ratio}" if row else "cannot run" for row, ratio in zip(best, ratios)]
            lines.append([f"{model}, {dtype}", text, f"**{milliseconds(packed)}**", milliseconds(unpacked), *cells])
    return table(["model", "work", "hubert_fast", "without packed weights", "transformers", "OpenVINO", "ONNX Runtime"], lines)


def milliseconds(row: Row) -> str:
    return f"{1e3 * float(row['p50_s']):.0f} ms"


def cpu_memory(results: Path) -> str:
    """Tabulate the memory above the weights, at the peak and after calls, with and without packed weights."""
    rows = newest(read(results / "cpu_memory.csv"), "model", "dtype", "packed", "seconds")
    lines = []
    for model, dtype in models_of(rows):
        same = {(row["packed"], float(row["seconds"])): row for row in rows if (row["model"], row["dtype"]) == (model, dtype)}
        seconds = sorted({length for _, length in same})
        cells = [megabytes(same["True", seconds[0]]["weights_bytes"])]
        for packed in ("True", "False"):
            cells.append(megabytes(same[packed, seconds[0]]["held_bytes"]))
            cells += [megabytes(same[packed, length]["peak_bytes"]) for length in seconds]
        lines.append([f"{model}, {dtype}", *cells])
    names = "held", *(f"peak, {length:g} s" for length in seconds)
    header = [f"{name}{way}" for way in ("", ", not packed") for name in names]
    return table(["MB", "weights", *header], lines)


def megabytes(number: str) -> str:
    return f"{float(number) / 1e6:,.0f}"


def products(results: Path) -> str:
    """State the share of our time in matrix products, and how close their rate is to the machine's best."""
    rows = newest(read(results / "packed_profile.csv"), "model", "dtype", "case")
    rows = [row for row in rows if row["operations"] == "matrix products" and row["model"] in ("base", "large")]

    def span(name: str) -> str:
        values = sorted(float(row[name]) for row in rows)
        return f"{100 * values[0]:.0f} to {values[-1]:.0%}"

    return (
        f"The reason is that {span('share')} of our time is matrix products and convolutions, which run at "
        f"{span('share_of_ceiling')} of the best rate measured on this machine (`bench/results/packed_profile.csv`).\n"
    )


def contention(results: Path) -> str:
    """Tabulate the time of an utterance where CPUs are shared, with and without PyTorch's default spinning."""
    rows = newest(read(results / "contention.csv"), "model", "dtype", "seconds", "case", "provider", "spin_count")
    setups = {("ours", "default"): "`ours`, PyTorch's default", ("ours", str(SPIN_COUNT)): "`ours`, in a command"}
    setups |= {("openvino", ""): "`openvino`"}
    cells: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for row in rows:
        time = f"{shown(row['median_ms'])} ms" if row["median_ms"] else row["status"].partition(":")[0]
        model = f"{row['model']}, {row['dtype']}, {float(row['seconds']):g} s"
        cells.setdefault((model, row["case"]), {})[row["provider"], row["spin_count"]] = time
    lines = ([*key, *(times.get(setup, "not run") for setup in setups)] for key, times in cells.items())
    ours = [row for row in rows if row["provider"] == "ours"][-1]
    return (
        f"{table(['model, utterance', 'case', *setups.values()], lines)}\n"
        f"Times are medians of {ours['repeats']} calls with random weights, on {where(ours)} (OpenVINO {ours['openvino']}).\n"
    )


def recognition(results: Path) -> str:
    rows = [row for row in bench(results, model="demo") if row["protocol"] != "model" and row["rtfx"]]
    lines = (
        [f"`{row['provider']}`, {row['dtype']}", row["protocol"], shown(row["rtfx"]), row["texts_equal"], percent(row["wer"])]
        for row in rows
    )
    return table(["provider", "protocol", "times real time", "texts equal to float32's", "WER"], lines)


def padded_texts(results: Path) -> str:
    rows = [row for row in newest(read(results / "padded_texts.csv"), "provider", "batch") if row["batch"] != "1"]
    names = list(dict.fromkeys(row["provider"] for row in rows))
    ways = [
        ("audio", "False", "frames of audio"),
        ("all", "False", "all frames"),
        ("audio", "True", "frames of audio, `skip_special_tokens=True`"),
        ("all", "True", "all frames, `skip_special_tokens=True`"),
    ]
    rates = {(row["provider"], row["frames"], row["skip_special_tokens"]): percent(row["wer"]) for row in rows}
    lines = ([way, *(rates[name, frames, skips] for name in names)] for frames, skips, way in ways)
    return table(["decoded", *(f"`{name}`" for name in names)], lines)


def wer(results: Path) -> str:
    rows = newest(read(results / "accuracy_wer.csv"), "dtype", "backend")
    lines = (
        [row["backend"], row["dtype"], row["recordings"], percent(row["wer"]), percent(row["cer"]), row["status"]]
        for row in rows
    )
    return table(["backend", "dtype", "recordings", "WER", "CER", "status"], lines)


def layers(results: Path) -> str:
    rows = newest(read(results / "accuracy_layers.csv"), "model", "dtype")
    keys = list(dict.fromkeys((row["model"], row["dtype"], row["provider"]) for row in rows))
    last = {key: [row for row in rows if (row["model"], row["dtype"], row["provider"]) == key] for key in keys}
    lines = []
    for (model, dtype, provider), depths in last.items():
        picked = [depths[0], depths[len(depths) // 2], depths[-2], depths[-1]]
        lines.append([f"{model}, {dtype}", f"`{provider}`", *(f"{float(row['relative_error']):.1e}" for row in picked)])
    return table(["model", "provider", "before layer 1", "after the middle layer", "after the last layer", "logits"], lines)

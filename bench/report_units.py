"""Write the blocks on units: speed from files to units, the learning of centroids, and memory by the number of files."""

from __future__ import annotations

from pathlib import Path

from report_rows import Row, device, join, newest, shown, table, where
from report_transcribe import counted

from hubert_fast.benchmark.rows import read

OURS, FULL = "hubert_fast", "hubert_fast, all layers"
JOB, COMMAND = "hubert_fast, job with journal", "hubert-fast units, whole process"
THEIRS, PADDED = "transformers", "transformers, cut off + scikit-learn, batches of 8"
COUNTS = ("rows", "missing", "doubled", "differing")  # columns
NO_ROWS = "Not measured yet.\n"


def rows_of(results: Path, stage: str, *names: str) -> list[Row]:
    """Return the rows of a stage, from the last run of those that agree in `names`."""
    return newest((row for row in read(results / "units.csv") if row["stage"] == stage), *names)


def units(results: Path) -> str:
    """Tabulate the speed of each provider and the ratios of ours to it, and state how units were compared."""
    rows = rows_of(results, "speed", "model", "dtype")
    if not rows:
        return NO_ROWS
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    lines = []
    for provider, layer in dict.fromkeys((row["provider"], row["layer"]) for row in rows):
        cells = [cell(rows, provider, layer, dtype) for dtype in dtypes]
        lines.append([provider, layer, *(text for pair in cells for text in pair)])
    header = [text for dtype in dtypes for text in (f"times real time, {dtype}", "hubert_fast relative to it")]
    first = rows[0]
    return (
        f"{table(['files to units', 'layer', *header], lines)}\n"
        f"{compared(rows)}\n"
        f"Medians of {counted(first['rounds'], 'round')}, in turn, over {counted(first['files'], 'file')} with "
        f"{float(first['audio_seconds']):.0f} s of audio at LibriSpeech's lengths: hubert-{first['model']} with random weights "
        f"and {first['clusters']} centroids ({where(first)}, scikit-learn {first['scikit_learn']}).\n"
    )


def cell(rows: list[Row], provider: str, layer: str, dtype: str) -> tuple[str, str]:
    """Return the times real time of a provider, and the ratio of `encode_many` for the same layer to it.

    The full pass has no other to be compared with; the rows of `encode_many` are compared with it.
    """
    speeds = {(row["provider"], row["layer"]): row["rtfx"] for row in rows if row["dtype"] == dtype}
    if (provider, layer) not in speeds:
        return "not run", ""
    speed = speeds[provider, layer]
    if provider == FULL:
        return shown(speed), ""
    ours = float(speeds[OURS, layer])
    if provider == OURS:
        full = float(next(value for (name, _), value in speeds.items() if name == FULL))
        return f"**{shown(speed)}**", f"{ours / full:.2f}x all layers"
    return shown(speed), f"{ours / float(speed):.2f}x"


def compared(rows: list[Row]) -> str:
    """State how many units differ from those of transformers in float32 and scikit-learn, by dtype."""
    texts = []
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        same = [row for row in rows if row["dtype"] == dtype]
        parts = []
        for who, chosen in (
            ("of hubert_fast", [row for row in same if not row["provider"].startswith(THEIRS)]),
            (
                "of transformers file by file",
                [row for row in same if row["provider"].startswith(THEIRS) and row["provider"] != PADDED],
            ),
            ("of transformers in padded batches", [row for row in same if row["provider"] == PADDED]),
        ):
            if chosen:
                parts.append(f"{share(chosen)} {who}")
        texts.append(f"in {dtype}, {join(parts)}")
    return (
        f"Units that differ from those of transformers in float32, each file alone, and scikit-learn's `predict`: "
        f"{'; '.join(texts)}.\n"
    )


def share(rows: list[Row]) -> str:
    """Return how many units of these rows differ, and how many of them by more than rounding explains."""
    other, wrong, frames = (sum(int(row[name]) for row in rows) for name in ("other_units", "beyond_rounding", "frames"))
    if not other:
        return f"none of {frames:,}"
    beyond = f"{wrong:,} of them by more than rounding" if wrong else "all within rounding"
    return f"{other:,} of {frames:,} ({other / frames:.2%}, {beyond})"


def unit_kmeans(results: Path) -> str:
    """Tabulate the time and the memory of learning centroids."""
    rows = rows_of(results, "kmeans", "frames", "clusters")
    if not rows:
        return NO_ROWS
    lines = []
    for whole in (row for row in rows if row["provider"].endswith("whole process")):
        epoch = next((row for row in rows if row["utc"] == whole["utc"] and row is not whole), None)
        seconds = "" if epoch is None else f"{shown(epoch['p50_s'])} s"
        lines.append([f"{int(whole['frames']):,}", whole["clusters"], seconds, f"{shown(whole['p50_s'])} s", megabytes(whole)])
    lines.sort(key=lambda line: int(line[0].replace(",", "")))
    text = table(["frames", "centroids", "an epoch", "whole command", "peak memory"], lines)
    return f"{text}\nFloat16 frames of 768 channels on {where(rows[-1])}, scikit-learn {rows[-1]['scikit_learn']}.\n"


def unit_memory(results: Path) -> str:
    """Tabulate the peak memory of `hubert-fast features` by the number of files."""
    rows = rows_of(results, "memory", "files")
    if not rows:
        return NO_ROWS
    lines = [[f"{int(row['files']):,}", f"{shown(row['p50_s'])} s", megabytes(row)] for row in rows]
    lines.sort(key=lambda line: int(line[0].replace(",", "")))
    text = table(["files of 1 s", "whole command", "peak memory"], lines)
    return f"{text}\nThe demo model in float32 on {device(rows[-1])}, {rows[-1]['threads']} cores, {rows[-1]['utc'][:10]}.\n"


def unit_kills(results: Path) -> str:
    """Tabulate what is lost or doubled when jobs are killed."""
    rows = newest(read(results / "kills.csv"), "command", "format")
    if not rows:
        return NO_ROWS
    lines = []
    for row in rows:
        kills = f"{row['kills']} ({row['kills_with_progress']})"
        frames = f"{int(row['frames']):,}" + (
            "" if row["frames_in_files"] == row["frames"] else f" of {row['frames_in_files']}"
        )
        lines.append([f"{row['command']} --format {row['format']}", kills, *(row[name] for name in COUNTS), frames])
    header = ["hubert-fast", "kills (of runs that completed inputs)", "rows", *COUNTS[1:], "frames"]
    first = rows[0]
    return (
        f"{table(header, lines)}\n{int(first['files']):,} inputs: the bundled recordings under many names; the demo model "
        f"({device(first)}, {first['utc'][:10]}). *Differing* inputs have other frames or units than their recording alone.\n"
    )


def megabytes(row: Row) -> str:
    return f"{float(row['process_peak_bytes']) / 1e6:,.0f} MB"

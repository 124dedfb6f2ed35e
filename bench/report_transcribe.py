"""Write the blocks on transcription: speed from files to text, memory, and seams between chunks."""

from __future__ import annotations

from pathlib import Path

from report_rows import newest, percent, shown, table, where

from hubert_fast.benchmark.rows import read


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
                text += f" (hubert_fast: {ratio:.1f}x)"
            elif provider == "hubert_fast, files to text":
                text = f"**{text}**, {float(same[provider]['share_of_model_alone']):.0%} of the model alone"
            line.append(text)
        lines.append(line)
    return table(["times real time", *dtypes], lines)


def texts(results: Path) -> str:
    """State how the rows of `transcription` were measured, and how many texts differ."""
    rows = newest(read(results / "transcribe_speed.csv"), "dtype")
    by_case = {(row["dtype"], row["provider"]): row for row in rows}

    def differing(dtype: str, provider: str) -> int:
        return int(by_case[dtype, provider]["other_text_than_one_by_one"])

    ours, theirs = "hubert_fast, files to text", "transformers pipeline, batch 8"
    row = by_case["float32", ours]
    files = int(row["files"])
    equal = "all" if not differing("float32", ours) else f"{files - differing('float32', ours)} of"
    rounds = {name: by_case["float32", name]["rounds"] for name in (ours, theirs)}
    return (
        f"Medians of {counted(rounds[ours], 'round')} in turn, and of {counted(rounds[theirs], 'round')} for transformers "
        f"({where(row)}). In float32, {equal} {files:,} texts equal those that transformers gives for each file alone. In its "
        f"batches of 8, transformers itself gives other texts for {differing('float32', theirs)} of the files "
        f"({differing('float32', f'{theirs}, sorted by length')} when sorted by length), because it decodes the padding too. "
        f"In bfloat16, {differing('bfloat16', ours)} of our texts differ from those of transformers for each file alone, "
        f"because of rounding.\n"
    )


def counted(number: str, noun: str) -> str:
    return f"{number} {noun}" if number == "1" else f"{number} {noun}s"


def bounded(results: Path) -> str:
    rows = newest(read(results / "transcribe_memory.csv"), "dtype")
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    lines = []
    for case in dict.fromkeys(row["case"] for row in rows):
        same = {row["dtype"]: row for row in rows if row["case"] == case}
        hours = float(same[dtypes[0]]["audio_seconds"]) / 3600
        lines.append([case, f"{hours:.1f} h", *(f"{same[dtype]['peak_megabytes']} MB" for dtype in dtypes)])
    return table(["work", "audio", *(f"peak, {dtype}" for dtype in dtypes)], lines)


def seams(results: Path) -> str:
    rows = newest(read(results / "transcribe_seams.csv"), "dtype")
    rows = [row for row in rows if row["dtype"] == "float32"]
    lines = []
    for row in rows:
        rates = [percent(row[name]) for name in ("wer", "wer_against_whole", "wer_against_files_alone")]
        lines.append([f"{float(row['chunk_seconds']):g} s", f"{float(row['overlap_seconds']):g} s", row["seams"], *rates])
    whole, alone = (percent(rows[0][name]) for name in ("wer_of_whole", "wer_of_files_alone"))
    lines += [["one chunk", "", "0", whole, "", ""], ["the short files, each alone", "", "", alone, "", ""]]
    return table(["chunk", "overlap", "seams", "WER", "difference from one chunk", "difference from the files alone"], lines)

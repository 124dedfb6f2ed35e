"""Write the block on the speed of the TensorFlow models."""

from __future__ import annotations

from pathlib import Path

from report_rows import device, newest, shown, table

from hubert_fast.benchmark.rows import read

CASE = "model", "work", "mode"
NAMES = {"eager": "eager", "graph": "`tf.function`", "xla": "XLA"}


def tensorflow(results: Path) -> str:
    rows = newest(read(results / "tensorflow.csv"), "model")
    lines = []
    for ours in (row for row in rows if row["provider"] == "ours"):
        case = [ours[name] for name in CASE]
        theirs = next(row for row in rows if row["provider"] == "transformers" and [row[name] for name in CASE] == case)
        ratio = float(theirs["p50"]) / float(ours["p50"])
        lines.append([case[0], case[1], NAMES[case[2]], shown(theirs["rtfx"]), shown(ours["rtfx"]), f"{ratio:.2f}x"])
    first = rows[0]
    return (
        "Seconds of audio per second: forward pass in float32 with random weights, medians of calls in turn. *Five utterances* "
        "are one padded batch of 1.9 to 8 s with a mask; its audio is counted without padding.\n\n"
        + table(["model", "work", "call", f"transformers {first['transformers']}", "hubert_fast", "ratio"], lines)
        + f"\n{device(first)}, {first['threads']} cores; transformers on TensorFlow {first['their_tensorflow']}, hubert_fast "
        f"on {first['tensorflow']}; {first['utc'][:10]}.\n"
    )

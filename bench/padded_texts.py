"""Measure what padding and decoding do to texts: `python bench/padded_texts.py`. Rows go to results/padded_texts.csv.

The demo model reads the bundled recordings in float32, alone and in padded batches. transformers' processor decodes its logits
in four ways: with the frames of padding or without them, and with `skip_special_tokens=True` or without it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # hubert_fast, where it is not installed

import torch

from hubert_fast import demo
from hubert_fast.benchmark.providers import Padded, provider
from hubert_fast.benchmark.rows import append, device_columns
from hubert_fast.benchmark.subject import Subject
from hubert_fast.benchmark.work import Work
from hubert_fast.transcribe.scoring import score

RESULTS = Path(__file__).resolve().parent / "results"
PROVIDERS = ("ours-padded", "accelerate", "hf-sdpa")
UTTERANCES = (1, 8)  # in a batch; 8 as in the protocol leaderboard


@torch.inference_mode()
def tokens(model: Padded, waveforms: list[Any], utterances: int) -> tuple[list[list[int]], list[int]]:
    """Return the best token of every frame of each utterance, padding included, and the number of frames that are audio."""
    ids: list[list[int]] = []
    for start in range(0, len(waveforms), utterances):
        inputs = model.subject.their_processor(
            waveforms[start : start + utterances],
            sampling_rate=16000,
            padding="longest",
            return_tensors="pt",
            return_attention_mask=True,
        )
        ids += model.model(inputs["input_values"], attention_mask=inputs["attention_mask"]).logits.argmax(-1).tolist()
    return ids, model.subject.ours.frame_counts(torch.tensor([len(waveform) for waveform in waveforms])).tolist()


def measure(subject: Subject, work: Work) -> list[dict[str, Any]]:
    """Return a row for each provider, size of batches and way of decoding."""
    rows = []
    for name in PROVIDERS:
        model = provider(name, subject)
        assert isinstance(model, Padded) and work.references is not None
        for utterances in UTTERANCES:
            ids, counts = tokens(model, list(work.waveforms), utterances)
            for frames in ("audio", "all"):
                shown = [row[:count] if frames == "audio" else row for row, count in zip(ids, counts)]
                for skips in (False, True):
                    texts = subject.their_processor.batch_decode(shown, skip_special_tokens=skips)
                    errors = [score(reference, text) for reference, text in zip(work.references, texts)]
                    row = {"provider": name, "batch": utterances, "frames": frames, "skip_special_tokens": skips}
                    row |= {"words": sum(error.words for error in errors)}
                    row |= {"word_errors": sum(error.word_errors for error in errors)}
                    rows.append(row | {"wer": row["word_errors"] / row["words"]})
                    print(rows[-1], flush=True)
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the CSV file (default: bench/results)")
    options = parser.parse_args(arguments)
    device = torch.device("cpu")
    subject = Subject.pretrained(str(demo.MODEL), device, torch.float32)
    append(options.out / "padded_texts.csv", device_columns(device), measure(subject, Work.of("demo", 0)))


if __name__ == "__main__":
    main()

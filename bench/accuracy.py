"""Measure accuracy: `python bench/accuracy.py wer|layers`. Rows go to results/accuracy_*.csv.

wer     word and character error rates of the demo model in every dtype on every backend, on the bundled recordings or on a
        corpus from `transcribe_corpus.py`
layers  distance from float64 after each layer, for this package and transformers, with the same weights and audio
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # hubert_fast, where it is not installed

import torch

from hubert_fast import PackedAudio, demo, dispatch
from hubert_fast.benchmark.rows import append, device_columns
from hubert_fast.benchmark.subject import CONFIGS, Subject, Unavailable
from hubert_fast.benchmark.work import Work
from hubert_fast.devices import DTYPES, resolve_device
from hubert_fast.transcribe import Inputs, Transcriber, Utterance
from hubert_fast.transcribe.scoring import score

RESULTS = Path(__file__).resolve().parent / "results"
LAYER_SECONDS = 10.0


def utterances(corpus: Path | None, files: int | None) -> list[Utterance]:
    if corpus is None:
        items = [Utterance(str(item.path), str(item.path), reference=item.reference) for item in demo.recordings()]
    else:
        items = list(Inputs([corpus / "manifest.jsonl"]))
    return items[:files]


def wer(device: torch.device, items: list[Utterance]) -> list[dict[str, Any]]:
    rows = []
    for backend in ("eager", "triton"):
        for dtype in DTYPES:
            row = {"device": device.type, "backend": backend, "dtype": dtype, "recordings": len(items)}
            os.environ["HUBERT_FAST_BACKEND"] = backend
            try:
                reason = dispatch.why_not(backend)
                if backend == "triton" and device.type != "cuda":
                    reason = "there is no CUDA device"  # interpreted kernels are only for tests
                if reason is not None:
                    raise Unavailable(reason)
                transcriber = Transcriber.from_pretrained(demo.MODEL, device=str(device), dtype=dtype)
                results = list(transcriber.transcribe_many(items))
            except (Unavailable, RuntimeError) as error:
                rows.append(row | {"wer": "", "cer": "", "status": f"cannot run: {error}"})
                continue
            finally:
                del os.environ["HUBERT_FAST_BACKEND"]
            failures = [result.error for result in results if result.error is not None]
            if failures:
                raise SystemExit(failures[0])
            errors = [score(result.utterance.reference, result.transcripts[0].text) for result in results]
            words, characters = sum(error.words for error in errors), sum(error.characters for error in errors)
            row["wer"] = sum(error.word_errors for error in errors) / words
            row["cer"] = sum(error.character_errors for error in errors) / characters
            rows.append(row | {"status": "ok"})
            print(rows[-1], flush=True)
    return rows


@torch.inference_mode()
def layers(model: str, dtype: torch.dtype, device: torch.device, seconds: float) -> list[dict[str, Any]]:
    """Return the error after each layer for one utterance.

    The float64 model has weights and a waveform rounded to `dtype`, so that only arithmetic makes a difference.
    """
    subject = Subject.random(model, device, dtype)
    (waveform,) = Work.of(f"fixed:{seconds:g}", seconds).waveforms
    samples = torch.from_numpy((waveform - waveform.mean()) / waveform.std()).to(device, dtype)
    packed = PackedAudio.from_waveforms([samples.float().cpu()]).to(device)
    theirs = subject.theirs("sdpa")
    providers = {
        "ours": states(subject.ours.hubert.forward_packed(packed, output_hidden_states=True), subject.ours.lm_head),
        "hf-sdpa": states(theirs.hubert(samples[None], output_hidden_states=True), theirs.lm_head),
    }
    exact_model = theirs.double()
    exact = states(exact_model.hubert(samples[None].double(), output_hidden_states=True), exact_model.lm_head)
    rows = []
    for provider, outputs in providers.items():
        for index, (state, expected) in enumerate(zip(outputs, exact)):
            error = ((state.double() - expected).norm() / expected.norm()).item()
            name = "logits" if index == len(exact) - 1 else str(index)
            row = {"model": model, "dtype": str(dtype).removeprefix("torch."), "provider": provider, "after_layer": name}
            rows.append(row | {"relative_error": error})
        print(f"{model} {dtype}: {provider}: logits {rows[-1]['relative_error']:.1e} from float64", flush=True)
    return rows


def states(out: Any, head: torch.nn.Module) -> list[torch.Tensor]:
    """Return the output of each layer, `[T, C]`, the last one after the final norm, and then the logits."""
    # versions of transformers differ in whether hidden_states[-1] is before or after the norm
    layers = [*out.hidden_states[:-1], out.last_hidden_state]
    return [state.reshape(-1, state.shape[-1]) for state in [*layers, head(out.last_hidden_state)]]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=["wer", "layers"], help="what to measure: see above")
    parser.add_argument("--device", default="auto", help="device to run on (default: CUDA if available, else the CPU)")
    parser.add_argument("--corpus", type=Path, help="folder from transcribe_corpus.py (default: the bundled recordings)")
    parser.add_argument("--files", type=int, help="number of files to use, from the first (default: all)")
    parser.add_argument(
        "--models",
        nargs="+",
        default=["base", "large"],
        choices=CONFIGS,
        help="models of the section layers (default: base large)",
    )
    parser.add_argument(
        "--dtypes",
        nargs="+",
        default=["float32", "bfloat16"],
        choices=DTYPES,
        help="dtypes of the section layers (default: float32 bfloat16)",
    )
    parser.add_argument(
        "--seconds", type=float, default=LAYER_SECONDS, help="length of the utterance of the section layers (default: 10)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the CSV files (default: bench/results)")
    options = parser.parse_args(arguments)
    device = resolve_device(options.device)
    columns = device_columns(device)
    if options.section == "wer":
        append(options.out / "accuracy_wer.csv", columns, wer(device, utterances(options.corpus, options.files)))
        return
    for model in options.models:
        for dtype in options.dtypes:
            append(options.out / "accuracy_layers.csv", columns, layers(model, DTYPES[dtype], device, options.seconds))


if __name__ == "__main__":
    main()

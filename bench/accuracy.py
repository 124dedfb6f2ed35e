"""How right the answers are: ``python bench/accuracy.py wer|layers``. Rows go to results/accuracy_*.csv.

wer     word and character errors of the demo model in every dtype on every backend, on the bundled recordings or on a corpus of
        ``transcribe_corpus.py``.
layers  distance from float64 after each layer, ours and transformers', on the same weights and audio.
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
        found = [Utterance(str(one.path), str(one.path), reference=one.reference) for one in demo.recordings()]
    else:
        found = list(Inputs([corpus / "manifest.jsonl"]))
    return found[:files]


def wer(device: torch.device, listed: list[Utterance]) -> list[dict[str, Any]]:
    made = []
    for backend in ("eager", "triton"):
        for dtype in DTYPES:
            row = {"device": device.type, "backend": backend, "dtype": dtype, "recordings": len(listed)}
            os.environ["HUBERT_FAST_BACKEND"] = backend
            try:
                reason = dispatch.why_not(backend)
                if backend == "triton" and device.type != "cuda":
                    reason = "there is no CUDA device"  # interpreted, kernels are for tests
                if reason is not None:
                    raise Unavailable(reason)
                transcriber = Transcriber.from_pretrained(demo.MODEL, device=str(device), dtype=dtype)
                results = list(transcriber.transcribe_many(listed))
            except (Unavailable, RuntimeError) as error:
                made.append(row | {"wer": "", "cer": "", "status": f"cannot run: {error}"})
                continue
            finally:
                del os.environ["HUBERT_FAST_BACKEND"]
            failed = [found.error for found in results if found.error is not None]
            if failed:
                raise SystemExit(failed[0])
            errors = [score(found.utterance.reference, found.transcripts[0].text) for found in results]
            words, characters = sum(error.words for error in errors), sum(error.characters for error in errors)
            row["wer"] = sum(error.word_errors for error in errors) / words
            row["cer"] = sum(error.character_errors for error in errors) / characters
            made.append(row | {"status": "ok"})
            print(made[-1], flush=True)
    return made


@torch.inference_mode()
def layers(model: str, dtype: torch.dtype, device: torch.device, seconds: float) -> list[dict[str, Any]]:
    """One utterance; weights and waveform are rounded to ``dtype`` for float64 too: what is left is arithmetic."""
    subject = Subject.random(model, device, dtype)
    (waveform,) = Work.of(f"fixed:{seconds:g}", seconds).waveforms
    samples = torch.from_numpy((waveform - waveform.mean()) / waveform.std()).to(device, dtype)
    packed = PackedAudio.from_waveforms([samples.float().cpu()]).to(device)
    theirs = subject.theirs("sdpa")
    found = {
        "ours": states(subject.ours.hubert.forward_packed(packed, output_hidden_states=True), subject.ours.lm_head),
        "hf-sdpa": states(theirs.hubert(samples[None], output_hidden_states=True), theirs.lm_head),
    }
    exact_model = theirs.double()
    exact = states(exact_model.hubert(samples[None].double(), output_hidden_states=True), exact_model.lm_head)
    made = []
    for provider, those in found.items():
        for index, (state, expected) in enumerate(zip(those, exact)):
            error = ((state.double() - expected).norm() / expected.norm()).item()
            name = "logits" if index == len(exact) - 1 else str(index)
            row = {"model": model, "dtype": str(dtype).removeprefix("torch."), "provider": provider, "after_layer": name}
            made.append(row | {"relative_error": error})
        print(f"{model} {dtype}: {provider}: logits {made[-1]['relative_error']:.1e} from float64", flush=True)
    return made


def states(out: Any, head: torch.nn.Module) -> list[torch.Tensor]:
    """Return what each layer gives ``[T, C]``, the last one after the final norm, and the logits."""
    every = [*out.hidden_states[:-1], out.last_hidden_state]  # before or after the norm: versions of transformers differ
    return [state.reshape(-1, state.shape[-1]) for state in [*every, head(out.last_hidden_state)]]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=["wer", "layers"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--corpus", type=Path, help="folder that transcribe_corpus.py made (default: the bundled recordings)")
    parser.add_argument("--files", type=int, help="only the first")
    parser.add_argument("--models", nargs="+", default=["base", "large"], choices=CONFIGS)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=DTYPES)
    parser.add_argument("--seconds", type=float, default=LAYER_SECONDS, help="of the utterance, for layers")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the CSV files")
    options = parser.parse_args(arguments)
    device = resolve_device(options.device)
    columns = device_columns(device)
    if options.section == "wer":
        made = wer(device, utterances(options.corpus, options.files))
        append(options.out / "accuracy_wer.csv", columns, made)
        return
    for model in options.models:
        for dtype in options.dtypes:
            append(options.out / "accuracy_layers.csv", columns, layers(model, DTYPES[dtype], device, options.seconds))


if __name__ == "__main__":
    main()

"""Transcribe audio files with code written for transformers. Only the import has changed."""

import argparse

import torch

from hubert_fast import HubertForCTC, HubertProcessor, audio, demo  # was: from transformers import HubertForCTC, ...


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", help="audio files (default: the bundled recordings)")
    parser.add_argument("--model", default=str(demo.MODEL), help="hub name or folder (default: the bundled demo model)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: a GPU if there is one"
    )
    options = parser.parse_args(arguments)
    files = options.files or [str(recording.path) for recording in demo.recordings()]

    processor = HubertProcessor.from_pretrained(options.model)
    model = HubertForCTC.from_pretrained(options.model).to(options.device)
    waveforms = [audio.load(file) for file in files]
    batch = processor(waveforms, sampling_rate=16000, padding=True, return_tensors="pt").to(options.device)
    with torch.no_grad():
        logits = model(**batch).logits  # [files, frames, vocabulary]
    for file, text in zip(files, processor.batch_decode(logits.argmax(-1))):
        print(f"{file}\t{text}")


if __name__ == "__main__":
    main()

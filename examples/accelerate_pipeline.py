"""Accelerate the model inside a transformers pipeline, and compare texts and speed before and after."""

import argparse
import time

import transformers

import hubert_fast
from hubert_fast import audio, demo


def transcribe(pipeline: transformers.Pipeline, waveforms: list, batch_size: int) -> tuple[list[str], float]:
    """Transcribe waveforms at 16 kHz; return their texts and the time taken in seconds."""
    start = time.perf_counter()
    inputs = ({"raw": waveform, "sampling_rate": 16000} for waveform in waveforms)
    texts = [result["text"] for result in pipeline(inputs, batch_size=batch_size)]
    return texts, time.perf_counter() - start


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", help="audio files (default: the bundled recordings)")
    parser.add_argument("--model", default=str(demo.MODEL), help="hub name or folder (default: the bundled demo model)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--batch-size", type=int, default=4, help="files in a batch (default: 4)")
    options = parser.parse_args(arguments)
    files = options.files or [str(recording.path) for recording in demo.recordings()]
    waveforms = [audio.load(file) for file in files]
    seconds = sum(map(len, waveforms)) / 16000

    pipeline = transformers.pipeline("automatic-speech-recognition", model=options.model, device=options.device)
    if options.device == "cpu":
        pipeline.model.float()  # the checkpoint may be float16, which is slow on a CPU
    transcribe(pipeline, waveforms[:1], 1)  # warm up
    before, seconds_before = transcribe(pipeline, waveforms, options.batch_size)
    hubert_fast.accelerate(pipeline.model)
    transcribe(pipeline, waveforms[:1], 1)
    after, seconds_after = transcribe(pipeline, waveforms, options.batch_size)

    for file, text, earlier in zip(files, after, before):
        print(f"{file}\t{text}" + ("" if text == earlier else f"\t(transformers: {earlier})"))
    print(f"transformers: {seconds / seconds_before:.0f} times real time, accelerated: {seconds / seconds_after:.0f}")


if __name__ == "__main__":
    main()

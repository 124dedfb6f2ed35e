"""Transcribe a folder of audio files from Python into a CSV file, with a row for each file or the reason why it failed."""

import argparse
import csv

from hubert_fast import demo
from hubert_fast.transcribe import Transcriber


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=str(demo.RECORDINGS), help="folder (default: the bundled recordings)")
    parser.add_argument("output", nargs="?", default="transcripts.csv", help="CSV file to write (default: transcripts.csv)")
    parser.add_argument("--model", default=str(demo.MODEL), help="hub name or folder (default: the bundled demo model)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, or cuda:0,1 for several (default: auto)")
    parser.add_argument("--batch-seconds", type=float, help="seconds of audio in a batch (default: chosen for the device)")
    options = parser.parse_args(arguments)

    transcriber = Transcriber.from_pretrained(options.model, device=options.device)
    with open(options.output, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "seconds", "confidence", "text", "error"])
        for result in transcriber.transcribe_many(options.folder, batch_seconds=options.batch_seconds, ordered=True):
            if result.error is not None:
                rows.writerow([result.utterance.id, "", "", "", result.error])
            for transcript in result.transcripts:
                seconds = f"{transcript.duration_seconds:.2f}"
                rows.writerow([result.utterance.id, seconds, transcript.confidence, transcript.text, ""])
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()

"""Define the options of the commands that process audio in jobs: `transcribe`, `features` and `units`.

This module must not import torch, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
from typing import Any

from .jobs.formats import FolderFormat, FormatTable
from .transcribe import normalizers
from .transcribe.formats import TABLE as TRANSCRIPTS
from .units.formats import FEATURES, UNITS

EXIT_STATUS = (
    "Exit status: 0 if all inputs were {0}, 1 if some or all were not, 2 if the command could not run or continue, 130 if "
    "interrupted, 143 if terminated, 141 if the reader of standard output closed it."
)
RESUME = (
    "Run the same command again to process whatever is still missing or has changed. A file that cannot be {0} is reported on "
    "standard error and in OUT.errors.jsonl, and does not stop the others."
)


def add_job_commands(commands: Any) -> None:
    """Add the parsers of the commands to the subparsers of `hubert-fast`."""
    transcribe = commands.add_parser(
        "transcribe",
        help="transcribe audio files",
        description="Transcribe audio files (WAV, FLAC, OGG, MP3, ...; any sampling rate). Without -o, each file's text goes "
        "to standard output on one line, after its name and a tab (the name is left out for a single file). With -o, texts go "
        "to a file or folder. " + RESUME.format("transcribed"),
        epilog=EXIT_STATUS.format("transcribed"),
    )
    _add_inputs(transcribe, "model (default: the demo model)")
    output = _add_output(transcribe, TRANSCRIPTS, "OUT.jsonl")
    output.add_argument(
        "--normalizer", choices=normalizers.NORMALIZERS, default=normalizers.DEFAULT,
        help="how texts are normalized before word errors are counted, for inputs with a reference text: none, basic (ignores "
        "case, punctuation and symbols) or english (Whisper's EnglishTextNormalizer, needs transformers) "
        f"(default: {normalizers.DEFAULT})",
    )  # fmt: skip
    _add_audio(transcribe)
    _add_work(transcribe)
    transcribe.set_defaults(command="transcribe")

    features = commands.add_parser(
        "features",
        help="write the hidden states of some layers for audio files",
        description="Run audio files through a HuBERT up to the highest of some layers, and write the states of these layers: "
        "50 frames for each second of audio. " + RESUME.format("encoded"),
        epilog=EXIT_STATUS.format("encoded"),
    )
    _add_inputs(features, "model, with or without a head (default: the demo model)")
    _add_encoder(
        features, "layers whose states are written: 9 or several as 6,9; 9 means the state after the 9th block, as in fairseq, "
        "s3prl and transformers, 0 the input of the first block, -1 the last layer", is_required=True,
    )  # fmt: skip
    output = _add_output(features, FEATURES, "OUT")
    output.add_argument(
        "--frame-dtype", choices=["float32", "float16"], default="float16", help="number format of frames (default: float16)"
    )
    output.add_argument(
        "--pool", choices=["frames", "mean"], default="frames",
        help="frames: write all frames; mean: write their mean over each file (default: frames)",
    )  # fmt: skip
    output.add_argument(
        "--shard-megabytes", type=float, default=1000.0, metavar="MB",
        help="size from which another file is begun, with --format shards (default: 1000)",
    )  # fmt: skip
    output.add_argument(
        "--sample-frames", type=_count, metavar="N",
        help="draw inputs at random until they have about this many frames, such as 5e6 (default: write those of all inputs)",
    )  # fmt: skip
    output.add_argument("--seed", type=int, default=0, metavar="N", help="seed of --sample-frames (default: 0)")
    _add_audio(features)
    _add_work(features)
    features.set_defaults(command="features")

    kmeans = commands.add_parser(
        "kmeans",
        help="learn the centroids of discrete units",
        description="Learn k-means centroids from frames, which need not fit in memory, with scikit-learn's MiniBatchKMeans. "
        "The file also names the model, layer and normalisation of the frames, so that units of others are refused. Run the "
        "same command again to continue after an interruption.",
        epilog="Exit status: 0 if the file was written, 2 if not, 130 if interrupted, 143 if terminated.",
    )
    kmeans.add_argument(
        "frames_paths", nargs="+", metavar="FRAMES",
        help="folders that hubert-fast features wrote, .npy files of frames [N, C], or folders of such files (fairseq's too)",
    )  # fmt: skip
    kmeans.add_argument("-o", "--output", required=True, metavar="OUT.safetensors", help="file to write")
    kmeans.add_argument("--clusters", type=int, default=500, metavar="K", help="number of centroids (default: 500)")
    kmeans.add_argument(
        "--frames", type=_count, metavar="N", help="frames to learn from, chosen at random, such as 5e6 (default: all)"
    )
    kmeans.add_argument("--layer", type=int, metavar="L", help="layer, if the folder has several (default: its only one)")
    kmeans.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all random choices (default: 0)")
    kmeans.add_argument(
        "--epochs", type=int, default=20, metavar="N",
        help="most passes over the frames; learning ends earlier if it no longer improves (default: 20)",
    )  # fmt: skip
    kmeans.add_argument("--overwrite", action="store_true", help="replace OUT if it exists, and begin anew")
    kmeans.add_argument("--quiet", action="store_true", help="print no progress to standard error")
    kmeans.set_defaults(command="kmeans")

    units = commands.add_parser(
        "units",
        help="write discrete units for audio files",
        description="Run audio files through a HuBERT up to a layer, and write the number of the nearest k-means centroid of "
        "each frame: 50 units for each second of audio. Without -o, the units of each file go to standard output on one line, "
        "after its name and a tab (the name is left out for a single file). " + RESUME.format("encoded"),
        epilog=EXIT_STATUS.format("encoded"),
    )
    _add_inputs(units, "model, with or without a head (default: the one that the file of centroids names, else the demo model)")
    units.add_argument(
        "--kmeans", required=True, metavar="FILE",
        help="file with centroids: as hubert-fast kmeans writes it, or in joblib, pickle (scikit-learn, fairseq, textlesslib), "
        "torch.save (hubert-soft, so-vits-svc), .npy, .npz, safetensors or faiss format",
    )  # fmt: skip
    units.add_argument("--speaker", metavar="NAME", help="speaker, for a file with centroids of several (default: none)")
    _add_encoder(units, "layer whose states are compared with the centroids (default: the one that the file names)")
    output = _add_output(units, UNITS, "OUT.jsonl")
    output.add_argument(
        "--merge", action="store_true", help="merge runs of equal units, and write their durations in frames (default: do not)"
    )
    _add_audio(units)
    _add_work(units)
    units.set_defaults(command="units")
    _add_label_command(commands)


def _add_label_command(commands: Any) -> None:
    label = commands.add_parser(
        "label",
        help="write labels for pre-training: features of a sample, k-means, and the units of everything",
        description="Write the labels on which a HuBERT is pre-trained: the frames of a random sample of the inputs, k-means "
        "centroids learnt from them, and the units of all inputs. Run the same command again to continue at whichever step it "
        "was interrupted, or to label inputs that were added. A file that cannot be encoded is reported on standard error and "
        "in OUT/labels.FORMAT.errors.jsonl, and does not stop the others.",
        epilog=EXIT_STATUS.format("encoded"),
    )
    _add_inputs(label, "model, with or without a head (default: the demo model)")
    _add_encoder(label, "layer whose states are clustered, see hubert-fast features", is_required=True)
    output = label.add_argument_group("output")
    output.add_argument(
        "-o", "--output", metavar="OUT", required=True,
        help="folder for the labels (labels.jsonl, labels.tsv or labels.km), the centroids (kmeans.safetensors) and the frames "
        "of the sample (sample/)",
    )  # fmt: skip
    output.add_argument(
        "--format", choices=list(UNITS.formats), default=UNITS.default,
        help=f"format of the labels: {UNITS.listed()}; km also writes fairseq's dict.km.txt (default: {UNITS.default})",
    )  # fmt: skip
    output.add_argument("--merge", action="store_true", help="merge runs of equal units, and write their durations in frames")
    output.add_argument("--clusters", type=int, default=500, metavar="K", help="number of centroids (default: 500)")
    output.add_argument(
        "--frames", type=_count, default=5_000_000, metavar="N",
        help="frames in the sample: 5e6 are 28 hours of audio, and 8 GB on disk for a base model (default: 5e6)",
    )  # fmt: skip
    output.add_argument("--epochs", type=int, default=20, metavar="N", help="most passes over the sample (default: 20)")
    output.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all random choices (default: 0)")
    output.add_argument("--keep-sample", action="store_true", help="keep the frames of the sample (default: delete them)")
    output.add_argument("--ordered", action="store_true", help="write labels in the order of the inputs")
    output.add_argument("--overwrite", action="store_true", help="begin anew if OUT exists")
    output.add_argument("--retry-failed", action="store_true", help="retry inputs that failed in earlier runs")
    output.add_argument("--quiet", action="store_true", help="print no progress, notes or summary to standard error")
    _add_audio(label)
    _add_work(label)
    label.set_defaults(command="label")


def _layers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected layer numbers such as 9 or 6,9, but got {text!r}") from None


def _count(text: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 1 <= number < 1e15 or number != int(number):
        raise argparse.ArgumentTypeError(f"expected a whole number of frames such as 5e6, but got {text!r}")
    return int(number)


def _actors(text: str) -> tuple[int, int]:
    """Parse a number of actors, or the least and the greatest number."""
    parts = text.split(",")
    if len(parts) <= 2 and all(part.strip().isdecimal() for part in parts):
        numbers = [int(part) for part in parts]
        if 1 <= numbers[0] <= numbers[-1]:
            return numbers[0], numbers[-1]
    raise argparse.ArgumentTypeError(
        f"expected a number of actors such as 4, or the least and most such as 1,8, but got {text!r}"
    )


def _gpus(text: str) -> float:
    """Parse a number of GPUs: a share of one, or a whole number."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not (0 < number <= 1 or (number > 1 and number == int(number))):
        raise argparse.ArgumentTypeError(f"expected a share of a GPU such as 0.5, or a whole number, but got {text!r}")
    return number


def _add_encoder(parser: argparse.ArgumentParser, layer_help: str, is_required: bool = False) -> None:
    encoder = parser.add_argument_group("encoder")
    encoder.add_argument("--layer", type=_layers, required=is_required, metavar="L", help=layer_help)
    encoder.add_argument(
        "--final-norm", choices=["auto", "yes", "no"], default="auto",
        help="whether states are taken after the final norm of a pre-LN model such as large: yes, no (as in fairseq), or auto "
        "(only that of the last layer, as in transformers 4.34.1; for units as the file of centroids says) (default: auto)",
    )  # fmt: skip
    encoder.add_argument(
        "--normalize", choices=["auto", "yes", "no"], default="auto",
        help="whether waveforms are scaled to zero mean and unit variance: yes, no, or auto (as the file of centroids says, or "
        "else preprocessor_config.json) (default: auto)",
    )  # fmt: skip
    encoder.add_argument(
        "--project",
        action="store_true",
        help="apply the model's final_proj to the states, as for ContentVec (default: as the file of centroids says, or not)",
    )


def _add_inputs(parser: argparse.ArgumentParser, model: str) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="audio files, folders to search for them, 'patterns/**/*.wav', lists (.json, .jsonl, .csv, .tsv, .txt with a "
        "path on each line, .m3u, Kaldi's wav.scp, LibriSpeech's .trans.txt; also compressed), .zip and .tar archives, or - "
        "for audio or a list on standard input; local paths or URLs that fsspec supports",
    )
    parser.add_argument("--model", metavar="ID_OR_DIR", help=f"Hugging Face hub name or local folder of the {model}")
    add_device_options(parser)


def _add_output(parser: argparse.ArgumentParser, table: FormatTable, metavar: str) -> Any:
    output = parser.add_argument_group("output")
    streams, each = table.on_standard_output is not None, table.names_with_file_each()
    if isinstance(table.formats[table.default], FolderFormat):
        where = f"folder to write; with {each} and a single input, the file"
    else:
        where = "file to write" + (f"; for formats with a file for each input ({each}), the folder for them" if each else "")
    output.add_argument(
        "-o", "--output", metavar=metavar, required=not streams,
        help=f"{where} (default: standard output)" if streams else where,
    )  # fmt: skip
    on_stream = f"; {table.on_standard_output} on standard output" if streams else ""
    output.add_argument(
        "--format", choices=list(table.formats),
        help=f"output format: {table.listed()} (default: the suffix of OUT, or {table.default} if it has none{on_stream})",
    )  # fmt: skip
    output.add_argument(
        "--ordered", action="store_true", help="write results in the order of the inputs (default: in the order they finish)"
    )
    output.add_argument(
        "--overwrite",
        action="store_true",
        help="replace OUT if it exists (default: process only the inputs that it lacks)",
    )
    output.add_argument("--retry-failed", action="store_true", help="retry inputs that failed in earlier runs")
    output.add_argument(
        "--per-shard", action="store_true",
        help="write a file for each input to the folder OUT, which may be a URL such as s3://bucket/out/: for inputs that hold "
        "many utterances, such as tar archives, Parquet files and lists (default: only if OUT is a URL)",
    )  # fmt: skip
    output.add_argument("--quiet", action="store_true", help="print no progress, notes or summary to standard error")
    return output


def _add_audio(parser: argparse.ArgumentParser) -> None:
    audio = parser.add_argument_group("audio")
    audio.add_argument(
        "--channels", choices=["mix", "each"], default="mix",
        help="mix: average the channels of a file; each: process every channel separately (default: mix)",
    )  # fmt: skip
    audio.add_argument(
        "--chunk-seconds", type=float, default=40.0, metavar="S",
        help="cut audio longer than this many seconds into overlapping chunks of this length (default: 40)",
    )  # fmt: skip
    audio.add_argument(
        "--overlap-seconds", type=float, default=4.0, metavar="S",
        help="seconds of audio that consecutive chunks share (default: 4)",
    )  # fmt: skip
    audio.add_argument(
        "--keep-truncated",
        action="store_true",
        help="process what is left of truncated files (default: such files fail)",
    )
    audio.add_argument(
        "--stdin-format",
        metavar="FORMAT",
        help="read standard input (-) as raw samples without a header: ENCODING:RATE or ENCODING:RATE:CHANNELS, such as "
        "s16le:16000; encodings are s8, u8, s16le, s24le, s32le, f32le, f64le, their big-endian variants (s16be and so on), "
        "mulaw and alaw (default: detect the format from the first bytes)",
    )
    audio.add_argument(
        "--audio-column",
        metavar="NAME",
        help="column of Parquet and Arrow files that holds the audio, as bytes or paths (default: the only one with Hugging "
        "Face's Audio feature, or else with a struct of bytes and path, or else with a usual name such as audio)",
    )
    audio.add_argument(
        "--allow-pipes",
        action="store_true",
        help="run the shell commands that Kaldi's wav.scp and Lhotse's lists may contain instead of file names (default: such "
        "rows fail)",
    )


def _add_work(parser: argparse.ArgumentParser) -> None:
    work = parser.add_argument_group("work")
    work.add_argument(
        "--batch-seconds",
        type=float,
        metavar="S",
        help="seconds of audio in a batch (default: 64 on a CPU; on a GPU 16 for each GiB of its memory, at most 1280)",
    )
    work.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="threads that decode audio (default: one for each CPU that this process may use, at most 16)",
    )
    work.add_argument(
        "--readers", type=int, default=4, metavar="N",
        help="inputs that a process works on at a time, with --per-shard: what a kill costs, at most (default: 4)",
    )  # fmt: skip
    work.add_argument(
        "--engine", choices=["local", "ray"], default="local",
        help="where the model runs: local (in this process) or ray (on a Ray cluster) (default: local)",
    )  # fmt: skip
    work.add_argument(
        "--ray-address", "--address", metavar="ADDRESS",
        help="address of the Ray cluster, with --engine ray (default: the one on this machine, or a new local one)",
    )  # fmt: skip
    work.add_argument(
        "--ray-actors", "--actors", type=_actors, metavar="N|MIN,MAX",
        help="number of Ray actors, each with its own model, with --engine ray; with MIN,MAX, such as 1,8, Ray Data starts and "
        "stops actors as there is work and room for them (default: one for each GPU of the cluster, or for every four cores if "
        "it has none)",
    )  # fmt: skip
    work.add_argument(
        "--gpus-per-actor", type=_gpus, default=1.0, metavar="X",
        help="GPUs that Ray reserves for each actor, such as 0.5 for two actors on each GPU, with --engine ray (default: 1)",
    )  # fmt: skip
    work.add_argument(
        "--shard", metavar="I/N",
        help="process only the I-th of N parts of the inputs, and insert I-of-N into the name of the output: out.jsonl "
        "becomes out.2-of-16.jsonl (default: process all inputs)",
    )  # fmt: skip


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose where a model runs, and in which number format."""
    parser.add_argument(
        "--device", default="auto", help="auto (CUDA if available), cpu, cuda, cuda:N or several as cuda:0,1 (default: auto)"
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        help="number format of the model: auto (whichever is fast on the device), float32, bfloat16 or float16 (default: auto)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads that compute on a CPU (default: as many as PyTorch chooses, but no more than the CPUs that this process "
        "may use, by its affinity and the CPU quota of its container)",
    )

"""Parse the command line `hubert-fast`. Text and tables go to standard output, everything else to standard error."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence

from . import __version__
from .console import EXIT_CANNOT_RUN, EXIT_READER_GONE, CannotRunError
from .transcribe import formats, normalizers  # neither imports torch


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hubert-fast", description="Transcribe speech with HuBERT models; convert, check and benchmark them."
    )
    parser.add_argument("--version", action="version", version=f"hubert_fast {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    transcribe = commands.add_parser(
        "transcribe",
        help="transcribe audio files",
        description="Transcribe audio files (WAV, FLAC, OGG, MP3, ...; any sampling rate). Without -o, each file's text goes "
        "to standard output on one line, after its name and a tab (the name is left out for a single file). With -o, texts go "
        "to a file or folder; run the same command again to transcribe whatever is still missing or has changed. A file that "
        "cannot be transcribed is reported on standard error and in OUT.errors.jsonl, and does not stop the others.",
        epilog="Exit status: 0 if all inputs were transcribed, 1 if some or all were not, 2 if the command could not run or "
        "continue, 130 if interrupted, 143 if terminated, 141 if the reader of standard output closed it.",
    )
    _add_transcribe_options(transcribe)
    transcribe.set_defaults(command="transcribe")

    convert = commands.add_parser(
        "convert",
        help="convert fairseq and s3prl checkpoints to the Hugging Face format",
        description="Convert a fairseq HuBERT (pre-trained or CTC-fine-tuned; base, large, xlarge) or an s3prl DistilHuBERT "
        "to a folder that from_pretrained and --model can read. Needs neither library and runs no code from the file.",
        epilog="Exit status: 0 if converted, 2 if not.",
    )
    convert.add_argument("checkpoint", metavar="CHECKPOINT.pt", help="checkpoint file written by fairseq or s3prl")
    convert.add_argument(
        "folder", metavar="OUT_DIR", help="new or empty folder to write (config.json, model.safetensors and so on)"
    )
    convert.add_argument(
        "--dict",
        dest="dictionary",
        metavar="dict.ltr.txt",
        help="file with the symbols of a fine-tuned model (default: the symbols in the checkpoint)",
    )
    convert.add_argument(
        "--keep-final-proj",
        action="store_true",
        help="also keep the head used in pre-training: final_proj and, if present, label_embs_concat and target_glu",
    )
    convert.set_defaults(command="convert")

    check = commands.add_parser(
        "check",
        help="check that the kernels compute correct results on this GPU",
        description="Compare every kernel with its definition in float64, on this GPU with the installed torch and triton, at "
        "the shapes of published models; compare small models, packed and padded, with plain PyTorch; and check that the same "
        "inputs give the same bits. A shorter check runs by itself, once, before kernels are first used. Results are kept "
        "under ~/.cache/hubert_fast, and kernels that fail are not used.",
        epilog="Exit status: 0 if all checks passed, 1 if some did not, 2 if the command could not run.",
    )
    check.add_argument("--device", default="cuda", help="device to check: cuda or cuda:N (default: cuda)")
    check.add_argument(
        "--dtype",
        default="all",
        metavar="A,B",
        help="dtypes to check: all, or some of float32, bfloat16 and float16, separated by commas (default: all)",
    )
    check.add_argument("--short", action="store_true", help="run only the shorter check, which takes seconds")
    check.set_defaults(command="check")

    info = commands.add_parser(
        "info",
        help="show versions, devices, and which backends can run here",
        description="Show the versions of this package and its dependencies, the devices, the results of kernel checks on "
        "them, which backends can run here, and why the others cannot. Bug reports should include this.",
    )
    info.set_defaults(command="info")

    bench = commands.add_parser(
        "bench",
        help="compare speed with transformers on this machine",
        description="Time this package and transformers alternately, in one process, on the same audio. Before timing, results "
        "are compared with float32; a provider that cannot run, or gives different results, gets a row with the reason.",
        epilog="Exit status: 0 if all providers were timed, 1 if some were not, 2 if the command could not run.",
    )
    _add_bench_options(bench)
    bench.set_defaults(command="bench")

    demo = commands.add_parser(
        "demo",
        help="transcribe the bundled recordings and count the word errors",
        description="Transcribe the bundled recordings with the bundled demo model, which knows synthetic voices and ninety "
        "words. Print each text beside the reference, then the word error rate and the speed.",
    )
    _add_device_options(demo)
    demo.set_defaults(command="run_demo")
    return parser


def _add_transcribe_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="audio files, folders to search for them, 'patterns/**/*.wav', lists (.json, .jsonl, .csv, .tsv, .txt with a "
        "path on each line, .m3u, Kaldi's wav.scp, LibriSpeech's .trans.txt; also compressed), .zip and .tar archives, or - "
        "for audio or a list on standard input; local paths or URLs that fsspec supports",
    )
    parser.add_argument(
        "--model", metavar="ID_OR_DIR", help="Hugging Face hub name or local folder of the model (default: the demo model)"
    )
    _add_device_options(parser)

    output = parser.add_argument_group("output")
    output.add_argument(
        "-o", "--output", metavar="OUT.jsonl",
        help="file to write; for formats with a file for each input "
        f"({formats.names_with_file_each()}), the folder for them (default: standard output)",
    )  # fmt: skip
    output.add_argument(
        "--format", choices=list(formats.FORMATS),
        help="output format: "
        + ", ".join(f"{name} ({format.description})" for name, format in formats.FORMATS.items())
        + f" (default: the suffix of OUT, or {formats.DEFAULT} if it has none; {formats.DEFAULT_ON_STANDARD_OUTPUT} on "
        "standard output)",
    )  # fmt: skip
    output.add_argument(
        "--normalizer", choices=normalizers.NORMALIZERS, default=normalizers.DEFAULT,
        help="how texts are normalized before word errors are counted, for inputs with a reference text: none, basic (ignores "
        "case, punctuation and symbols) or english (Whisper's EnglishTextNormalizer, needs transformers) "
        f"(default: {normalizers.DEFAULT})",
    )  # fmt: skip
    output.add_argument(
        "--ordered", action="store_true", help="write results in the order of the inputs (default: in the order they finish)"
    )
    output.add_argument(
        "--overwrite",
        action="store_true",
        help="replace OUT if it exists (default: transcribe only the inputs that it lacks)",
    )
    output.add_argument("--retry-failed", action="store_true", help="retry inputs that failed in earlier runs")
    output.add_argument("--quiet", action="store_true", help="print no progress, notes or summary to standard error")

    audio = parser.add_argument_group("audio")
    audio.add_argument(
        "--channels", choices=["mix", "each"], default="mix",
        help="mix: average the channels of a file; each: transcribe every channel separately (default: mix)",
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
        help="transcribe what is left of truncated files (default: such files fail)",
    )
    audio.add_argument(
        "--stdin-format",
        metavar="FORMAT",
        help="read standard input (-) as raw samples without a header: ENCODING:RATE or ENCODING:RATE:CHANNELS, such as "
        "s16le:16000; encodings are s8, u8, s16le, s24le, s32le, f32le, f64le, their big-endian variants (s16be and so on), "
        "mulaw and alaw (default: detect the format from the first bytes)",
    )
    audio.add_argument(
        "--allow-pipes",
        action="store_true",
        help="run the shell commands that Kaldi's wav.scp and Lhotse's lists may contain instead of file names (default: such "
        "rows fail)",
    )

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
        "--engine", choices=["local", "ray"], default="local",
        help="where the model runs: local (in this process) or ray (on a Ray cluster) (default: local)",
    )  # fmt: skip
    work.add_argument(
        "--ray-address", metavar="ADDRESS",
        help="address of the Ray cluster, with --engine ray (default: the one on this machine, or a new local one)",
    )  # fmt: skip
    work.add_argument(
        "--ray-actors", type=int, metavar="N",
        help="number of Ray actors, each with its own model, with --engine ray (default: one for each GPU of the cluster, or "
        "for every four cores if it has none)",
    )  # fmt: skip
    work.add_argument(
        "--shard", metavar="I/N",
        help="transcribe only the I-th of N parts of the inputs, and insert I-of-N into the name of the output: out.jsonl "
        "becomes out.2-of-16.jsonl (default: transcribe all inputs)",
    )  # fmt: skip


def _add_bench_options(parser: argparse.ArgumentParser) -> None:
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--model", metavar="ID_OR_DIR", help="HuBERT-CTC checkpoint to time: Hugging Face hub name or local folder"
    )
    model.add_argument(
        "--config", default="base", choices=["base", "large", "xlarge", "tiny", "tiny-large"],
        help="size of a model with random weights, timed if there is no --model; the tiny sizes are for tests (default: base)",
    )  # fmt: skip
    _add_device_options(parser)
    parser.add_argument(
        "--providers", default="ours,hf-sdpa,hf-sdpa-sorted", metavar="A,B,...",
        help="implementations to time: ours, ours-graphs, ours-no-graphs, ours-unpacked, ours-padded, accelerate, hf-sdpa, "
        "hf-eager, hf-flash, hf-compile, hf-compile-layers, hf-compile-graphs, and on a CPU openvino, openvino-static, "
        "onnxruntime; append -sorted to a name to sort utterances by length before batching, or -single to run each "
        "utterance as its own batch (default: ours,hf-sdpa,hf-sdpa-sorted)",
    )  # fmt: skip
    parser.add_argument(
        "--protocol", default="model", metavar="A,B,...",
        help="what to time: model (the forward pass only), leaderboard (waveforms to text, as the Open ASR Leaderboard times "
        "it), files (files on disk to text) (default: model)",
    )  # fmt: skip
    parser.add_argument(
        "--lengths", default="librispeech", metavar="L",
        help="lengths of the utterances: librispeech (distributed as in its test sets), fixed:10 (10 seconds each), demo (the "
        "bundled recordings, whose text is known), a .txt file with seconds on each line, or a list or folder of audio files "
        "(default: librispeech)",
    )  # fmt: skip
    parser.add_argument(
        "--audio-seconds", type=float, metavar="S",
        help="seconds of audio to run in each pass (default: 120 on a CPU, 3600 on a GPU)",
    )  # fmt: skip
    parser.add_argument(
        "--batch-seconds", type=float, metavar="S",
        help="seconds of audio in a batch, for the protocol model (default: 20 on a CPU, 640 on a GPU)",
    )  # fmt: skip
    parser.add_argument(
        "--batch-utterances", type=int, metavar="N",
        help="utterances in a batch, for the protocol leaderboard (default: 8 on a CPU; 64 on a GPU, as the leaderboard does)",
    )  # fmt: skip
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="timed passes over the audio, after one warm-up pass (default: 3)"
    )
    parser.add_argument(
        "--dollars-per-hour", type=float, metavar="D",
        help="price of this machine in dollars per hour; adds a column of audio hours per dollar (default: no such column)",
    )  # fmt: skip
    parser.add_argument("--csv", metavar="FILE", help="append a row for each provider to this CSV file (default: write none)")
    parser.add_argument(
        "--plot", metavar="FILE", help="draw a bar chart of speeds to this .svg, .png or .pdf file (default: draw none)"
    )


def _add_device_options(parser: argparse.ArgumentParser) -> None:
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


def _show_warning(message: Warning | str, *args: object, **kwargs: object) -> None:
    """Print a warning in the form of the command's other messages, without the line of code that issued it."""
    print(f"hubert-fast: {message}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, run the command and return the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        from . import commands  # on demand: it imports torch, which --help and --version do not need

        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return getattr(commands, options.command)(options)
    except CannotRunError as error:
        print(f"hubert-fast: {error}", file=sys.stderr)
        return EXIT_CANNOT_RUN
    except KeyboardInterrupt as stopped:
        (number,) = stopped.args or (signal.SIGINT,)  # our own handler passes the signal's number
        print(f"hubert-fast: {'terminated' if number == signal.SIGTERM else 'interrupted'}", file=sys.stderr)
        return 128 + number
    except BrokenPipeError:  # the reader of standard output, such as `head`, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_READER_GONE

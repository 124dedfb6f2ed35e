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
from .job_options import add_device_options, add_job_commands


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hubert-fast",
        description="Transcribe speech with HuBERT models, or turn it into features and units; convert, check and benchmark "
        "the models.",
    )
    parser.add_argument("--version", action="version", version=f"hubert_fast {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    add_job_commands(commands)

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
    add_device_options(demo)
    demo.set_defaults(command="run_demo")
    return parser


def _add_bench_options(parser: argparse.ArgumentParser) -> None:
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--model", metavar="ID_OR_DIR", help="HuBERT-CTC checkpoint to time: Hugging Face hub name or local folder"
    )
    model.add_argument(
        "--config", default="base", choices=["base", "large", "xlarge", "tiny", "tiny-large"],
        help="size of a model with random weights, timed if there is no --model; the tiny sizes are for tests (default: base)",
    )  # fmt: skip
    add_device_options(parser)
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

"""The command ``hubert-fast``: text and tables on standard output, everything else on standard error."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence

from . import __version__

EXIT_OK, EXIT_SOME_FAILED, EXIT_CANNOT_RUN = 0, 1, 2
EXIT_READER_GONE = 128 + signal.SIGPIPE


class CannotRunError(Exception):
    """The command cannot do anything of what was asked; the message is the one line to show."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hubert-fast", description="HuBERT speech encoders: transcription, conversion, diagnosis."
    )
    parser.add_argument("--version", action="version", version=f"hubert_fast {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    transcribe = commands.add_parser(
        "transcribe",
        help="audio files to text",
        description="Write what is said in audio files (WAV, FLAC, OGG, MP3, ...; any sampling rate). Text goes to standard "
        "output: one line per file, after its name and a tab (the name is left out for a single file). With -o it goes to a "
        "file or a folder: run the same command again to transcribe what is missing or has changed. A file that "
        "cannot be transcribed is reported on standard error and in OUT.errors.jsonl, and does not stop the others.",
        epilog="Exit status: 0 all transcribed, 1 some or all not, 2 cannot run (on), 130 interrupted, 143 terminated, "
        "141 the reader left.",
    )
    _add_transcribe_options(transcribe)
    transcribe.set_defaults(command="transcribe")

    convert = commands.add_parser(
        "convert",
        help="fairseq and s3prl checkpoints to the Hugging Face format",
        description="Turn a fairseq HuBERT (pre-trained or CTC-fine-tuned; base, large, xlarge) or an s3prl DistilHuBERT "
        "into a folder that from_pretrained and --model read. Needs neither library, and runs no code from the file.",
        epilog="Exit status: 0 converted, 2 not.",
    )
    convert.add_argument("checkpoint", metavar="CHECKPOINT.pt", help="the file that fairseq or s3prl wrote")
    convert.add_argument("folder", metavar="OUT_DIR", help="a new or empty folder for config.json, model.safetensors, ...")
    convert.add_argument(
        "--dict", dest="dictionary", metavar="dict.ltr.txt", help="a fine-tuned model's symbols, when the checkpoint lacks them"
    )
    convert.add_argument(
        "--keep-final-proj",
        action="store_true",
        help="also keep the pre-training's head: final_proj and, where they are there, label_embs_concat and target_glu",
    )
    convert.set_defaults(command="convert")

    check = commands.add_parser(
        "check",
        help="whether the kernels answer rightly on this GPU",
        description="Hold every kernel to its definition in float64 on this GPU with the installed torch and triton, at the "
        "shapes of published models; compare small models, packed and padded, with plain PyTorch; and see whether the same "
        "inputs give the same bits. Without this command a shorter check runs once, before kernels are used the first time. "
        "The verdict is kept below ~/.cache/hubert_fast; kernels that fail are not used.",
        epilog="Exit status: 0 all passed, 1 some did not, 2 cannot run.",
    )
    check.add_argument("--device", default="cuda", help="cuda or cuda:N (default: cuda)")
    check.add_argument(
        "--dtype", default="all", metavar="A,B", help="float32, bfloat16, float16, some of them or all (default: all)"
    )
    check.add_argument("--short", action="store_true", help="run only the shorter check, which takes seconds")
    check.set_defaults(command="check")

    info = commands.add_parser("info", help="versions, devices, and which backends can run here")
    info.set_defaults(command="info")

    bench = commands.add_parser(
        "bench",
        help="speed beside transformers', on this machine",
        description="Time this package and transformers in turn, in one process, on the same audio. Answers are compared with "
        "float32 before anything is timed; what cannot run, or answers otherwise, is a row with its reason.",
        epilog="Exit status: 0 all were timed, 1 some were not, 2 cannot run.",
    )
    _add_bench_options(bench)
    bench.set_defaults(command="bench")

    demo = commands.add_parser("demo", help="transcribe the bundled recordings and count the errors")
    _add_device_options(demo)
    demo.set_defaults(command="run_demo")
    return parser


def _add_transcribe_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="audio files, folders to search for them, 'patterns/**/*.wav', lists (.json, .jsonl, .csv, .tsv, .txt with a "
        "path on each line, .m3u, Kaldi's wav.scp, LibriSpeech's .trans.txt; compressed too), .zip and .tar archives, - for "
        "audio or a list on standard input; local or URLs that fsspec knows",
    )
    parser.add_argument("--model", metavar="ID_OR_DIR", help="Hugging Face hub name or folder (default: the demo model)")
    _add_device_options(parser)

    output = parser.add_argument_group("output")
    output.add_argument(
        "-o", "--output", metavar="OUT.jsonl", help="write to this file or, for srt, vtt and textgrid, a file for each input "
        "to this folder"
    )  # fmt: skip
    output.add_argument(
        "--format", choices=["jsonl", "txt", "tsv", "csv", "json", "ctm", "srt", "vtt", "textgrid"],
        help="format of the output (default: the one that the output's name ends in; jsonl for a name without an ending; txt "
        "on standard output)",
    )  # fmt: skip
    output.add_argument(
        "--normalizer", choices=["none", "basic", "english"], default="basic",
        help="how texts are made alike before word errors are counted, where manifests have the text: none, basic (case, "
        "punctuation and symbols do not count), english (Whisper's EnglishTextNormalizer, needs transformers) (default: basic)",
    )  # fmt: skip
    output.add_argument(
        "--ordered",
        action="store_true",
        help="write rows in the order of the inputs (default: in the order in which they are done)",
    )
    output.add_argument(
        "--overwrite", action="store_true", help="if OUT exists, begin anew (default: transcribe what is missing in it)"
    )
    output.add_argument("--retry-failed", action="store_true", help="try inputs again that failed in an earlier run")
    output.add_argument("--quiet", action="store_true", help="keep progress, notes and summary off standard error")

    audio = parser.add_argument_group("audio")
    audio.add_argument(
        "--channels",
        choices=["mix", "each"],
        default="mix",
        help="mix: average the channels; each: transcribe every channel by itself (default: mix)",
    )
    audio.add_argument(
        "--chunk-seconds",
        type=float,
        default=40.0,
        metavar="S",
        help="longest audio in one piece, in seconds; longer audio is cut into chunks (default: 40)",
    )
    audio.add_argument(
        "--overlap-seconds",
        type=float,
        default=4.0,
        metavar="S",
        help="seconds of audio that consecutive chunks share (default: 4)",
    )
    audio.add_argument(
        "--keep-truncated",
        action="store_true",
        help="transcribe the part that is there of files that are cut off (default: such files fail)",
    )
    audio.add_argument(
        "--stdin-format",
        metavar="FORMAT",
        help="read standard input (-) as samples without a header: ENCODING:RATE or ENCODING:RATE:CHANNELS, as s16le:16000; "
        "encodings are s8, u8, s16le, s24le, s32le, f32le, f64le, the same with be, mulaw and alaw (default: what its first "
        "bytes say)",
    )
    audio.add_argument(
        "--allow-pipes",
        action="store_true",
        help="run the shell commands that Kaldi's wav.scp and Lhotse's lists name in place of files (default: such rows fail)",
    )

    work = parser.add_argument_group("work")
    work.add_argument(
        "--batch-seconds",
        type=float,
        metavar="S",
        help="seconds of audio in a batch (default: 64 on a CPU, 16 for each GiB of a GPU)",
    )
    work.add_argument(
        "--workers", type=int, metavar="N", help="threads that decode audio (default: one for each core, at most 16)"
    )
    work.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="what does the work: local is this process, ray is a Ray cluster (default: local)",
    )
    work.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="address of the Ray cluster (default: the one that runs here, or a new local one)",
    )
    work.add_argument(
        "--ray-actors",
        type=int,
        metavar="N",
        help="actors of the Ray cluster that transcribe (default: one for each GPU, or for each four cores)",
    )
    work.add_argument("--shard", metavar="I/N", help="transcribe only the I-th of N parts of the inputs, into OUT.I-of-N.jsonl")


def _add_bench_options(parser: argparse.ArgumentParser) -> None:
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", metavar="ID_OR_DIR", help="a HuBERT-CTC checkpoint, hub name or folder")
    model.add_argument(
        "--config", default="base", choices=["base", "large", "xlarge", "tiny", "tiny-large"],
        help="or random weights in such a size (default: base; tiny ones are for tests)",
    )  # fmt: skip
    _add_device_options(parser)
    parser.add_argument(
        "--providers", default="ours,hf-sdpa,hf-sdpa-sorted", metavar="A,B,...",
        help="ours, ours-graphs, ours-no-graphs, ours-padded, accelerate, hf-sdpa, hf-eager, hf-flash, hf-compile, "
        "hf-compile-graphs; with -sorted behind one its utterances are sorted by length before they are put into batches, with "
        "-single each is a batch of its own (default: ours,hf-sdpa,hf-sdpa-sorted)",
    )  # fmt: skip
    parser.add_argument(
        "--protocol", default="model", metavar="A,B,...",
        help="model: forward only; leaderboard: waveforms to text as the Open ASR Leaderboard times it; files: files on disk "
        "to text (default: model)",
    )  # fmt: skip
    parser.add_argument(
        "--lengths", default="librispeech", metavar="L",
        help="librispeech, fixed:10 (seconds), demo (the bundled recordings, whose text is known), or a file: seconds a line "
        "(.txt), or a manifest or folder of audio (default: librispeech)",
    )  # fmt: skip
    parser.add_argument("--audio-seconds", type=float, metavar="S", help="how much (default: 120 on a CPU, 3600 on a GPU)")
    parser.add_argument("--batch-seconds", type=float, metavar="S", help="for model: audio in a batch (default: 20, GPU 640)")
    parser.add_argument("--batch-utterances", type=int, metavar="N", help="for leaderboard (default: 8, GPU 64 as theirs)")
    parser.add_argument("--rounds", type=int, default=3, help="through all of it, after one untimed (default: 3)")
    parser.add_argument("--dollars-per-hour", type=float, metavar="D", help="of this machine: adds audio hours per dollar")
    parser.add_argument("--csv", metavar="FILE", help="append a row for each provider")
    parser.add_argument("--plot", metavar="FILE", help="draw times real time (.svg, .png, .pdf)")


def _add_device_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, several as cuda:0,1 (default: auto)")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (default: auto)")


def _show_warning(message: Warning | str, *where: object, **named: object) -> None:
    """Write a warning as the command's other messages, without the line of code that gave it."""
    print(f"hubert-fast: {message}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("hubert_fast.check").setLevel(logging.INFO)  # a check takes a while
    try:
        from . import commands  # on demand: --help and --version need no torch

        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return getattr(commands, options.command)(options)
    except CannotRunError as error:
        print(f"hubert-fast: {error}", file=sys.stderr)
        return EXIT_CANNOT_RUN
    except KeyboardInterrupt as stopped:
        (number,) = stopped.args or (signal.SIGINT,)  # a handler of our own says which signal came
        print(f"hubert-fast: {'terminated' if number == signal.SIGTERM else 'interrupted'}", file=sys.stderr)
        return 128 + number
    except BrokenPipeError:  # the reader of standard output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_READER_GONE

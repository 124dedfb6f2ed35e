"""What each ``hubert-fast`` command does. Each takes the parsed options and returns the exit status."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TextIO

import torch
from tqdm import tqdm

from . import __version__, audio, ctc, demo, dispatch
from .cli import EXIT_OK, EXIT_SOME_FAILED, CannotRunError
from .hub import CheckpointError, first_line
from .modeling import HubertForCTC
from .paths import is_on_kernels
from .transcribe import Transcriber, Transcript


def _say(message: str) -> None:
    """Write a line to standard error, above the progress bar when there is one."""
    with tqdm.external_write_mode(file=sys.stderr):
        print(f"hubert-fast: {message}", file=sys.stderr)


def _load(options: argparse.Namespace, model: str | Path) -> Transcriber:
    if not os.path.isdir(model):
        from huggingface_hub.utils import logging as hub_logging

        _say(f"{model} is not a folder here: looking on the Hugging Face hub and in its cache")
        hub_logging.set_verbosity_error()  # its retries; what comes of them is ours to say
    try:
        dispatch.asked()  # before anything is loaded
        transcriber = Transcriber.from_pretrained(model, device=options.device, dtype=options.dtype)
    except (CheckpointError, ValueError) as error:
        raise CannotRunError(str(error)) from None
    except (MemoryError, RuntimeError) as error:  # RuntimeError: PyTorch's out of memory
        raise CannotRunError(f"{model} cannot be loaded: {first_line(error)}") from None
    encoder = transcriber.model.hubert
    try:
        is_on_kernels(encoder, torch.empty(0, device=encoder.device))
    except RuntimeError as error:  # a backend that was asked for cannot run
        raise CannotRunError(str(error)) from None
    dtype = str(transcriber.model.dtype).removeprefix("torch.")
    _say(f"running on {transcriber.model.device} in {dtype}")
    return transcriber


@contextlib.contextmanager
def _opened(path: str | None, overwrite: bool, inputs: list[Path]) -> Iterator[TextIO]:
    """Open the output, standard output for ``None``. Names that are no UTF-8 pass through, in JSON as its own escapes."""
    if path is None:
        sys.stdout.reconfigure(errors="surrogateescape")
        yield sys.stdout
        return
    regular = not os.path.exists(path) or os.path.isfile(path)  # /dev/stdout and pipes are written to, never replaced
    if regular and os.path.exists(path) and any(os.path.samefile(path, file) for file in inputs):
        raise CannotRunError(f"{path} is an input, and would be overwritten")
    mode = "w" if not regular else "a" if overwrite else "x"
    try:
        file = open(path, mode, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    except FileExistsError:
        raise CannotRunError(f"{path} exists already; --overwrite replaces it") from None
    except OSError as error:
        raise CannotRunError(f"{path} cannot be written: {error.strerror}") from None
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # every row was flushed, and a failure reported, when it was written
            file.close()
        if mode == "x" and os.path.getsize(path) == 0:
            os.unlink(path)  # nothing came of it: the same command may be given again


def transcribe(options: argparse.Namespace) -> int:
    """``hubert-fast transcribe``: each file's text, as it is known; the failures one by one, and at the end counted."""
    files, errors = audio.find(options.paths)
    for error in errors:
        _say(str(error))
    failed = len(errors)
    if files:
        if options.model is None:
            _say("no --model given: using the bundled demo model (synthetic voices, closed vocabulary of 90 words)")
        with _opened(options.output, options.overwrite, files) as output:
            transcriber = _load(options, demo.MODEL if options.model is None else options.model)
            if options.output is not None and output.mode == "a":
                output.truncate(0)  # not before there is a model to fill it again
            failed += _transcribe_files(transcriber, files, output, as_json=options.output is not None, named=_named(options))
    if failed:
        _say(f"{failed} of {len(files) + len(errors)} inputs could not be transcribed")
    return EXIT_SOME_FAILED if failed else EXIT_OK


def _named(options: argparse.Namespace) -> bool:
    return len(options.paths) > 1 or Path(options.paths[0]).is_dir()


def _transcribe_files(transcriber: Transcriber, files: list[Path], output: TextIO, as_json: bool, named: bool) -> int:
    """Write a row a file; return how many failed."""
    failed, audio_seconds, start = 0, 0.0, time.perf_counter()
    for file in tqdm(files, unit="file", file=sys.stderr, disable=not sys.stderr.isatty()):
        try:
            transcript = transcriber.transcribe_file(file)
        except audio.AudioError as error:
            _say(str(error))
            failed += 1
            continue
        audio_seconds += transcript.duration_seconds
        row = _json_row(file, transcript) if as_json else f"{file}\t{transcript.text}" if named else transcript.text
        try:
            with tqdm.external_write_mode(file=output):
                print(row, file=output, flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise CannotRunError(f"{output.name} cannot be written: {error.strerror}") from None
    if audio_seconds:
        _say(_speed(audio_seconds, time.perf_counter() - start))
    return failed


def _json_row(file: Path, transcript: Transcript) -> str:
    row = {"audio": str(file), "duration_seconds": round(transcript.duration_seconds, 3), "text": transcript.text}
    return json.dumps(row, ensure_ascii=False)


def run_demo(options: argparse.Namespace) -> int:
    """``hubert-fast demo``: name, reference and text of each bundled recording, word error rate and speed."""
    try:
        import jiwer
    except ImportError:
        raise CannotRunError("the demo counts word errors with jiwer: pip install 'hubert_fast[demo]'") from None
    transcriber = _load(options, demo.MODEL)
    recordings = demo.recordings()
    transcriber.transcribe_file(recordings[0].path)  # the first call pays PyTorch's own set-up
    print("The bundled demo model: synthetic voices, closed vocabulary of 90 words.")
    print("Voices and sentences of these recordings are not in its training set.\n")
    texts, audio_seconds, start = [], 0.0, time.perf_counter()
    for recording in recordings:
        transcript = transcriber.transcribe_file(recording.path)
        audio_seconds += transcript.duration_seconds
        texts.append(transcript.text.lower())
        mark = "" if texts[-1] == recording.reference else "   <- differs"
        print(f"{recording.path.name}  ({recording.voice}, {transcript.duration_seconds:.1f} s)")
        print(f"  said:  {recording.reference}\n  heard: {texts[-1]}{mark}")
    wall_seconds = time.perf_counter() - start
    error = jiwer.wer([recording.reference for recording in recordings], texts)
    print(f"\nword error rate {100 * error:.1f} % over {len(recordings)} recordings")
    print(f"files to text: {_speed(audio_seconds, wall_seconds)}")
    return EXIT_OK


def _speed(audio_seconds: float, wall_seconds: float) -> str:
    return f"{audio_seconds:.1f} s of audio in {wall_seconds:.2f} s, {audio_seconds / wall_seconds:.0f} times real time"


def convert(options: argparse.Namespace) -> int:
    """``hubert-fast convert``: nothing is written before the whole checkpoint has been understood."""
    from .conversion import convert as read

    folder = Path(options.folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise CannotRunError(f"{folder} is not empty: name a folder that is, or a new one")
    try:
        converted = read(options.checkpoint, options.dictionary)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            converted.save_pretrained(unfinished)
            for file in Path(unfinished).iterdir():
                file.rename(folder / file.name)
    except CheckpointError as error:
        raise CannotRunError(str(error)) from None
    except OSError as error:
        raise CannotRunError(f"{folder} cannot be written: {error.strerror or error}") from None
    if converted.left_out:
        _say(f"left out, being of use in training only: {', '.join(converted.left_out)}")
    model = converted.model
    if isinstance(model, HubertForCTC) and converted.tokenizer is None:
        _say("the checkpoint holds no symbols: `transcribe` needs them, so give --dict dict.ltr.txt")
    config = model.config
    print(
        f"{folder}: {type(model).__name__}, {config.num_hidden_layers} layers of {config.hidden_size}, "
        f"{model.num_parameters() / 1e6:.1f} M parameters"
    )
    return EXIT_OK


def info(options: argparse.Namespace) -> int:
    """``hubert-fast info``: everything a bug report should start with."""
    del options
    rows = [("hubert_fast", f"{__version__} ({Path(__file__).parent})")]
    rows += [("Python", f"{platform.python_version()} on {platform.platform()}")]
    rows += [(name, _version(name)) for name in ("torch", "triton", "transformers", "numpy", "safetensors")]
    rows += [(name, _version(name)) for name in ("huggingface_hub", "soundfile", "soxr")]
    rows += [("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")]
    rows += [("cuda", _describe_cuda())]
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        rows.append((f"cuda:{index}", f"{device.name}, sm_{device.major}{device.minor}, {device.total_memory >> 30} GiB"))
    try:
        rows.append(("backend asked", dispatch.asked()))
    except ValueError as error:
        raise CannotRunError(str(error)) from None
    for backend in dispatch.BACKENDS:
        reason = dispatch.why_not(backend)
        rows.append((f"backend {backend}", "can run" if reason is None else f"cannot run: {reason}"))
    reason = ctc.why_not_built()
    rows.append(("C++ extension", "built" if reason is None else f"not built, CTC is decoded in Python: {reason}"))
    for name, value in rows:
        print(f"{name:16s} {value}")
    return EXIT_OK


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _describe_cuda() -> str:
    if torch.version.cuda is None:
        return f"none: torch {torch.__version__} is built without CUDA"
    count = torch.cuda.device_count()
    return f"{torch.version.cuda}, {count} device{'' if count == 1 else 's'}"

"""Define the `hubert-fast` commands: functions that take the parsed options and return the exit status."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch

from . import __version__, cpus, ctc, demo, dispatch, interrupts
from .console import EXIT_OK, CannotRunError, say
from .devices import DTYPES
from .hub import CheckpointError, listed
from .modeling import HubertForCTC
from .packed import cpu_kernels


def transcribe(options: argparse.Namespace) -> int:
    """Run `hubert-fast transcribe`: see `transcribe.command`."""
    from .transcribe import command  # on demand: the other commands need no library that reads audio

    with _threads(options):
        return command.run(options)


def features(options: argparse.Namespace) -> int:
    """Run `hubert-fast features`: see `units.command`."""
    from .units import command

    with _threads(options):
        return command.run_features(options)


def kmeans(options: argparse.Namespace) -> int:
    """Run `hubert-fast kmeans`: see `units.command`."""
    from .units import command

    return command.run_kmeans(options)


def label(options: argparse.Namespace) -> int:
    """Run `hubert-fast label`: see `units.label_command`."""
    from .units.label_command import run_label

    with _threads(options):
        return run_label(options)


def units(options: argparse.Namespace) -> int:
    """Run `hubert-fast units`: see `units.command`."""
    from .units import command

    with _threads(options):
        return command.run_units(options)


@contextlib.contextmanager
def _threads(options: argparse.Namespace) -> Iterator[None]:
    """Set the number of threads with which PyTorch computes on a CPU, and restore it at the end."""
    try:
        count = cpus.thread_count(options.threads)
    except ValueError as error:
        raise CannotRunError(str(error)) from None
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_demo(options: argparse.Namespace) -> int:
    """Run `hubert-fast demo`: print the reference and text of each recording, then the word error rate and speed."""
    with _threads(options):
        return _run_demo(options)


def _run_demo(options: argparse.Namespace) -> int:
    try:
        import jiwer
    except ImportError:
        raise CannotRunError("the demo counts word errors with jiwer: pip install 'hubert_fast[demo]'") from None
    from .transcribe.command import load_transcriber

    transcriber = load_transcriber(demo.MODEL, options.device, options.dtype)
    recordings = demo.recordings()
    transcriber.transcribe_file(recordings[0].path)  # warm-up: the first call includes PyTorch's initialisation
    print("The bundled demo model: synthetic voices, closed vocabulary of 90 words.")
    print("Voices and sentences of these recordings are not in its training set.\n")
    texts, audio_seconds, start = [], 0.0, time.perf_counter()
    for recording in recordings:
        transcript = transcriber.transcribe_file(recording.path)
        audio_seconds += transcript.duration_seconds
        texts.append(transcript.text.lower())
        mark = "" if texts[-1] == recording.reference else "   <- differs"
        print(f"{recording.path.name}  ({recording.voice}, {transcript.duration_seconds:.1f} s)")
        print(f"  said:  {recording.reference}\n  heard: {texts[-1]}{mark}", flush=True)
    wall_seconds = time.perf_counter() - start
    error = jiwer.wer([recording.reference for recording in recordings], texts)
    print(f"\nword error rate {100 * error:.1f} % over {len(recordings)} recordings")
    print(f"files to text: {_speed(audio_seconds, wall_seconds)}")
    return EXIT_OK


def _speed(audio_seconds: float, wall_seconds: float) -> str:
    return f"{audio_seconds:.1f} s of audio in {wall_seconds:.2f} s, {audio_seconds / wall_seconds:.0f} times real time"


def convert(options: argparse.Namespace) -> int:
    """Run `hubert-fast convert`. Nothing is written until the whole checkpoint has been read and converted."""
    from .conversion import convert as read

    folder = Path(options.folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise CannotRunError(f"{folder} is not empty: name a new or empty folder")
    try:
        converted = read(options.checkpoint, options.dictionary, options.keep_final_proj)
        folder.mkdir(parents=True, exist_ok=True)
        with interrupts.keyboard_interrupts(), tempfile.TemporaryDirectory(dir=folder) as unfinished:
            converted.save_pretrained(unfinished)
            for file in Path(unfinished).iterdir():
                file.rename(folder / file.name)
    except CheckpointError as error:
        raise CannotRunError(str(error)) from None
    except OSError as error:
        raise CannotRunError(f"{folder} cannot be written: {error.strerror or error}") from None
    if converted.left_out:
        say(f"left out, as only training uses them: {listed(converted.left_out, 8)}")
    if converted.kept:
        shapes = [f"{name} {list(tensor.shape)}" for name, tensor in converted.kept.items()]
        say(f"also kept, although HubertModel does not use them: {listed(shapes, 8)}")
    model = converted.model
    if isinstance(model, HubertForCTC) and converted.tokenizer is None:
        say("the checkpoint holds no symbols, which `transcribe` needs: pass --dict dict.ltr.txt")
    config = model.config
    print(
        f"{folder}: {type(model).__name__}, {config.num_hidden_layers} layers of {config.hidden_size}, "
        f"{model.num_parameters() / 1e6:.1f} M parameters"
    )
    return EXIT_OK


def bench(options: argparse.Namespace) -> int:
    """Run `hubert-fast bench`: see `benchmark.command`."""
    from .benchmark.command import run

    with _threads(options):
        return run(options)


def check(options: argparse.Namespace) -> int:
    """Run `hubert-fast check`: see `check.command`."""
    from .check.command import run

    return run(options)


def info(options: argparse.Namespace) -> int:
    """Run `hubert-fast info`: print the versions and devices that a bug report should start with."""
    del options
    rows = [("hubert_fast", f"{__version__} ({Path(__file__).parent})")]
    rows += [("Python", f"{platform.python_version()} on {platform.platform()}")]
    rows += [(name, _version(name)) for name in ("torch", "triton", "transformers", "numpy", "safetensors")]
    rows += [(name, _version(name)) for name in ("huggingface_hub", "soundfile", "soxr", "av")]
    rows += [("cpu", _describe_cpu())]
    rows += [("cuda", _describe_cuda())]
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        rows.append((f"cuda:{index}", f"{device.name}, sm_{device.major}{device.minor}, {device.total_memory >> 30} GiB"))
        rows += _verdicts(torch.device("cuda", index))
    try:
        rows.append(("backend setting", dispatch.requested_backend()))
    except ValueError as error:
        raise CannotRunError(str(error)) from None
    for backend in dispatch.BACKENDS:
        reason = dispatch.why_not(backend)
        rows.append((f"backend {backend}", "can run" if reason is None else f"cannot run: {reason}"))
    reason = ctc.why_not_built()
    rows.append(("C++ extension", "built" if reason is None else f"not built, CTC is decoded in Python: {reason}"))
    reason = cpu_kernels.why_not(torch.float32)
    rows.append(("CPU kernels", "can run" if reason is None else f"cannot run, PyTorch computes: {reason}"))
    for name, value in rows:
        print(f"{name:16s} {value}")
    return EXIT_OK


def _verdicts(device: torch.device) -> list[tuple[str, str]]:
    """Return a row with the results of kernel checks on a device, or no row if Triton cannot run."""
    if dispatch.why_not("triton") is not None:
        return []
    from .check.verdicts import known

    verdicts = {dtype: known(device, dtype) for dtype in DTYPES}
    return [("  kernels checked", ", ".join(f"{dtype}: {verdict or 'not yet'}" for dtype, verdict in verdicts.items()))]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _describe_cpu() -> str:
    """Describe the CPU: its cores, the share of them that this process may use, and how many threads commands compute with."""
    limit = cpus.current_quota()
    parts = [
        f"{os.cpu_count()} cores, {cpus.available()} usable",
        "no quota" if limit is None else f"a quota of {limit:g}",
        f"{cpus.thread_count()} threads",
        torch.backends.cpu.get_cpu_capability(),
    ]
    return ", ".join(parts)


def _describe_cuda() -> str:
    if torch.version.cuda is None:
        return f"none: torch {torch.__version__} is built without CUDA"
    count = torch.cuda.device_count()
    return f"{torch.version.cuda}, {count} device{'' if count == 1 else 's'}"

"""Measure providers on the same utterances, in turn: check the output of each, then time it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ctc import greedy_decode
from ..devices import is_out_of_memory
from ..hub import first_line
from ..interrupts import keyboard_interrupts
from ..tolerances import MODEL_TOLERANCES, largest_error
from .arithmetic import flop
from .meters import Energy, Memory
from .protocols import Round, prepare
from .providers import PIPELINE_BATCH, Provider, provider
from .subject import Subject, Unavailable
from .work import Work

CHECKED_UTTERANCES, CHECKED_SECONDS = 4, 10.0
DEVICE_LOST = ("CUDA error", "Triton Error [CUDA]")  # in the messages of torch and of Triton's launcher
OK = "ok"
COLUMNS = (  # of a row, after those of `rows.device_columns`
    "model dtype protocol lengths utterances audio_seconds batch provider rounds p20_s p50_s p80_s rtfx latency_p50_ms "
    "latency_p95_ms share_of_ceiling ceiling_tflops peak_bytes audio_seconds_per_joule audio_hours_per_dollar max_error "
    "texts_equal wer status"
)

Report = Callable[[str], None]  # takes a line for the user


@dataclass
class Entry:
    """A provider and its results so far.

    Attributes:
        name: Its name, as in the options.
        provider: The provider, once it has been created and while it can run.
        round: Runs a timed pass, once it has been prepared and while it can run.
        status: `"ok"`, or the reason why the provider has no time.
        max_error: The largest error of a logit, as a share of the largest logit.
        texts_equal: How many of the checked texts equal those of float32.
        rounds: The timed passes.
        peak_bytes: The peak memory of the warm-up pass.
        joules: The energy of all timed passes.
    """

    name: str
    provider: Provider | None = None
    round: Callable[[], Round] | None = None
    status: str = OK
    max_error: float | None = None
    texts_equal: int | None = None
    rounds: list[Round] = field(default_factory=list)
    peak_bytes: int | None = None
    joules: float | None = None


@dataclass(frozen=True)
class Plan:
    """The settings of a measurement.

    Attributes:
        protocol: A name of `protocols.PROTOCOLS`.
        batch_seconds: Seconds of audio in a batch of the protocol *model*.
        batch_utterances: Utterances in a batch of the protocol *leaderboard*.
        rounds: Timed passes over all utterances, after a warm-up pass.
        ceiling: The highest rate of matrix products on this machine in this dtype, in FLOP per second.
        dollars_per_hour: The price of the machine, if known.
    """

    protocol: str
    batch_seconds: float
    batch_utterances: int
    rounds: int
    ceiling: float
    dollars_per_hour: float | None = None

    @property
    def batch(self) -> str:
        """A description of the size of a batch."""
        return {"model": f"{self.batch_seconds:g} s", "leaderboard": f"{self.batch_utterances} utterances"}.get(
            self.protocol, ""
        )

    def is_one_batch(self, work: Work) -> bool:
        """Return whether a provider that pads puts all utterances into one batch, so that their order does not matter."""
        if self.protocol == "model":
            return work.audio_seconds <= self.batch_seconds
        return len(work.waveforms) <= {"leaderboard": self.batch_utterances, "files": PIPELINE_BATCH}[self.protocol]


@torch.inference_mode()
def measure(subject: Subject, work: Work, names: Sequence[str], plan: Plan, say: Report) -> list[dict[str, Any]]:
    """Measure providers.

    Args:
        subject: The model.
        work: The utterances.
        names: The names of the providers.
        plan: The settings.
        say: Called with progress messages.

    Returns:
        A row for each provider, in the order of `names`. If a provider has no time, its status gives the reason.
    """
    entries = [Entry(name) for name in names]
    energy, memory = Energy(subject.device), Memory(subject.device)
    with contextlib.ExitStack() as stack:
        if plan.protocol == "files":
            stack.enter_context(keyboard_interrupts())
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            try:
                work = work.saved(Path(folder))
            except ImportError as error:  # a library that reads or writes audio is missing
                return [_row(Entry(name, status=f"cannot run: {error}"), subject, work, plan) for name in names]
        reference = Reference(subject, work)
        for entry in entries:
            with _failures(entry, subject.device, say):
                entry.provider = provider(entry.name, subject)
                entry.max_error, entry.texts_equal = reference.compare(entry.provider)
                tolerance = MODEL_TOLERANCES[subject.dtype].value
                if not entry.max_error <= tolerance:
                    entry.status = f"not timed: differs from float32 by {entry.max_error:.1e}, more than {tolerance:.0e}"
                    say(f"{entry.name}: {entry.status}")
        reference.release()
        for entry in _running(entries):
            with _failures(entry, subject.device, say):
                assert entry.provider is not None
                entry.round = prepare(plan.protocol, entry.provider, work, plan.batch_seconds, plan.batch_utterances)
                memory.start()
                entry.round()  # a warm-up: kernels are compiled, caches filled
                entry.peak_bytes = memory.peak_bytes()
        for number in range(plan.rounds):
            running = _running(entries)
            shift = number % max(len(running), 1)  # so that no provider always follows the same one
            for entry in running[shift:] + running[:shift]:
                with _failures(entry, subject.device, say):
                    assert entry.round is not None
                    before = energy.joules()
                    entry.rounds.append(entry.round())
                    after = energy.joules()
                    if before is not None and after is not None:
                        entry.joules = (entry.joules or 0.0) + after - before
                    speed = work.audio_seconds / sum(entry.rounds[-1].seconds)
                    say(f"round {number + 1} of {plan.rounds}: {entry.name}: {speed:.4g} times real time")
    return [_row(entry, subject, work, plan) for entry in entries]


def _running(entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.status == OK]


def is_device_lost(error: BaseException) -> bool:
    """Return whether CUDA refuses all further work in this process after `error`, unlike after an out-of-memory error."""
    return not is_out_of_memory(error) and any(words in str(error) for words in DEVICE_LOST)


@contextlib.contextmanager
def _failures(entry: Entry, device: torch.device, say: Report) -> Iterator[None]:
    """Turn an exception into the status of an entry, which then does not run again."""
    try:
        yield
    except Unavailable as error:
        entry.status = f"cannot run: {error}"
    except Exception as error:  # any library may raise any error; the other providers continue
        if is_device_lost(error):
            raise
        reason = "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {first_line(error)}"
        entry.status = f"failed: {reason}"[:200]
    else:
        return
    entry.provider = entry.round = None
    say(f"{entry.name}: {entry.status}")
    if device.type == "cuda":
        torch.cuda.empty_cache()


class Reference:
    """The output of float32 for a few utterances: one at a time, and in a padded batch, whose padding affects a group norm."""

    def __init__(self, subject: Subject, work: Work):
        self.subject = subject
        max_samples = round(16000 * CHECKED_SECONDS)
        self.waveforms = [waveform[:max_samples] for waveform in work.waveforms[:CHECKED_UTTERANCES]]
        exact = subject.exact
        # our own class then runs its definition, not the fast graph
        options = {"output_attentions": True} if isinstance(exact, type(subject.ours)) else {}
        tokenizer = subject.processor.tokenizer

        def logits(waveforms: list[np.ndarray]) -> Tensor:
            batch = subject.processor(waveforms, sampling_rate=16000, padding=True, return_tensors="pt").to(subject.device)
            output = exact(batch["input_values"], attention_mask=batch.get("attention_mask"), **options).logits
            counts = subject.ours.frame_counts(torch.tensor([len(waveform) for waveform in waveforms]))
            return output[torch.arange(output.shape[1]) < counts[:, None]].double().cpu()

        parts = [logits([waveform]) for waveform in self.waveforms]
        self.alone, self.padded = torch.cat(parts), logits(self.waveforms)
        self.texts = [  # not with random weights, which make all tokens nearly equally likely
            greedy_decode(part.float()[None], None, tokenizer, blank_id=tokenizer.pad_token_id)[0].text
            for part in (parts if subject.folder is not None else ())
        ]

    def compare(self, provider: Provider) -> tuple[float, int]:
        """Return the largest error as a share of the largest logit, and how many texts equal those of float32.

        A provider that takes one utterance at a time is compared in that way. With random weights texts are not compared.
        """
        is_padded = provider.pads and not provider.is_single
        batches = [[waveform] for waveform in self.waveforms] if provider.is_single else [self.waveforms]
        parts = []
        for batch in batches:
            ready = provider.forward(batch)
            parts.append(ready.frames(ready.run()).double().cpu())
        error = largest_error(torch.cat(parts), self.padded if is_padded else self.alone)
        texts = [text for batch in batches for text in provider.text(batch)] if self.texts else []
        equal = sum(text.strip() == reference.strip() for text, reference in zip(texts, self.texts))
        return error, equal

    def release(self) -> None:
        """Free the copy of the model in float32."""
        self.subject.__dict__.pop("exact", None)


def _row(entry: Entry, subject: Subject, work: Work, plan: Plan) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS.split(), "")
    row |= {
        "model": subject.name, "dtype": str(subject.dtype).removeprefix("torch."), "protocol": plan.protocol,
        "lengths": work.name, "utterances": len(work.waveforms), "audio_seconds": work.audio_seconds, "batch": plan.batch,
        "provider": entry.name, "rounds": len(entry.rounds), "status": entry.status,
    }  # fmt: skip
    if entry.max_error is not None:
        checked = min(CHECKED_UTTERANCES, len(work.waveforms))
        row["max_error"] = entry.max_error
        if subject.folder is not None:
            row["texts_equal"] = f"{entry.texts_equal} of {checked}"
    if entry.status != OK:
        return row
    p20, p50, p80 = np.percentile([sum(round_.seconds) for round_ in entry.rounds], [20, 50, 80])
    latencies = 1e3 * np.percentile([second for round_ in entry.rounds for second in round_.seconds], [50, 95])
    rtfx = work.audio_seconds / p50
    needed_flop = flop(subject.config, [len(waveform) for waveform in work.waveforms])
    row |= {
        "p20_s": p20, "p50_s": p50, "p80_s": p80, "rtfx": rtfx, "share_of_ceiling": needed_flop / p50 / plan.ceiling,
        "ceiling_tflops": plan.ceiling / 1e12, "peak_bytes": "" if entry.peak_bytes is None else entry.peak_bytes,
    }  # fmt: skip
    if plan.protocol != "files":  # a single call processes all files
        row |= {"latency_p50_ms": latencies[0], "latency_p95_ms": latencies[1]}
    if entry.joules:
        row["audio_seconds_per_joule"] = work.audio_seconds * len(entry.rounds) / entry.joules
    if plan.dollars_per_hour:
        row["audio_hours_per_dollar"] = rtfx / plan.dollars_per_hour
    texts = entry.rounds[-1].texts
    if texts is not None and work.references is not None:
        row["wer"] = _word_error_rate(work.references, texts)
    return row


def _word_error_rate(references: Sequence[str], texts: Sequence[str]) -> float | str:
    # imported late: libraries that read audio may be missing where only models are timed
    from ..transcribe.scoring import can_score, score

    if not can_score():
        return ""
    errors = [score(reference, text) for reference, text in zip(references, texts)]
    return sum(error.word_errors for error in errors) / max(sum(error.words for error in errors), 1)

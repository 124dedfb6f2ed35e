"""Providers in turn on the same work: answers first, then time."""

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
from ..interrupts import raised_in_here
from .arithmetic import flop
from .meters import Energy, Memory
from .protocols import Round, prepare
from .providers import PIPELINE_BATCH, Provider, provider
from .subject import Subject, Unavailable
from .work import Work

# Of the largest logit: so far may an answer be from float32 before it counts as another one. Sums in another order; roundings
# to 2^-11 and 2^-8 at every layer.
SAME = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
CHECKED_UTTERANCES, CHECKED_SECONDS = 4, 10.0
DEVICE_LOST = ("CUDA error", "Triton Error [CUDA]")  # as torch words it, and as Triton's launcher does
OK = "ok"
COLUMNS = (  # of a row, behind those that say where it is from
    "model dtype protocol lengths utterances audio_seconds batch provider rounds p20_s p50_s p80_s rtfx latency_p50_ms "
    "latency_p95_ms share_of_ceiling ceiling_tflops peak_bytes audio_seconds_per_joule audio_hours_per_dollar max_error "
    "texts_equal wer status"
)

Told = Callable[[str], None]


@dataclass
class Entry:
    """A provider in a run, and what came of it. status: ``"ok"``, or the reason why it has no time."""

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
    """How providers are measured.

    batch_seconds: audio in a batch of the protocol *model*. batch_utterances: of the protocol *leaderboard*. rounds: how often
    each goes through all the work, after once untimed. ceiling: of the machine in this dtype, in FLOP per second.
    """

    protocol: str
    batch_seconds: float
    batch_utterances: int
    rounds: int
    ceiling: float
    dollars_per_hour: float | None = None

    @property
    def batch(self) -> str:
        """How work is divided, in words."""
        return {"model": f"{self.batch_seconds:g} s", "leaderboard": f"{self.batch_utterances} utterances"}.get(
            self.protocol, ""
        )

    def is_one_batch(self, work: Work) -> bool:
        """Whether a padding provider does all the work in one batch, in whichever order."""
        if self.protocol == "model":
            return work.audio_seconds <= self.batch_seconds
        return len(work.waveforms) <= {"leaderboard": self.batch_utterances, "files": PIPELINE_BATCH}[self.protocol]


@torch.inference_mode()
def measure(subject: Subject, work: Work, names: Sequence[str], plan: Plan, told: Told) -> list[dict[str, Any]]:
    """Measure providers and return a row for each, in the order of ``names``, with the reason where there is no time."""
    entries = [Entry(name) for name in names]
    energy, memory = Energy(subject.device), Memory(subject.device)
    with contextlib.ExitStack() as stack:
        if plan.protocol == "files":
            stack.enter_context(raised_in_here())
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            try:
                work = work.saved(Path(folder))
            except ImportError as error:  # what reads and writes audio
                return [_row(Entry(name, status=f"cannot run: {error}"), subject, work, plan) for name in names]
        checked = Checked(subject, work)
        for entry in entries:
            with _reason(entry, subject.device, told):
                entry.provider = provider(entry.name, subject)
                entry.max_error, entry.texts_equal = checked.compare(entry.provider)
                if not entry.max_error <= SAME[subject.dtype]:
                    entry.status = f"not timed: {entry.max_error:.1e} from float32, more than {SAME[subject.dtype]:.0e}"
                    told(f"{entry.name}: {entry.status}")
        checked.release()
        for entry in _running(entries):
            with _reason(entry, subject.device, told):
                entry.round = prepare(plan.protocol, entry.provider, work, plan.batch_seconds, plan.batch_utterances)
                memory.start()
                entry.round()  # warms up: compilation, caches
                entry.peak_bytes = memory.peak_bytes()
        for number in range(plan.rounds):
            running = _running(entries)
            shift = number % max(len(running), 1)  # so that none is always the one after a certain other
            for entry in running[shift:] + running[:shift]:
                with _reason(entry, subject.device, told):
                    before = energy.joules()
                    entry.rounds.append(entry.round())
                    if before is not None:
                        entry.joules = (entry.joules or 0.0) + energy.joules() - before
                    took = sum(entry.rounds[-1].seconds)
                    told(f"round {number + 1} of {plan.rounds}: {entry.name}: {work.audio_seconds / took:.4g} times real time")
    return [_row(entry, subject, work, plan) for entry in entries]


def _running(entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.status == OK]


def is_device_lost(error: BaseException) -> bool:
    """Return whether CUDA refuses all further work of this process after ``error``. It does not after a lack of memory."""
    return not is_out_of_memory(error) and any(words in str(error) for words in DEVICE_LOST)


@contextlib.contextmanager
def _reason(entry: Entry, device: torch.device, told: Told) -> Iterator[None]:
    """Make the reason for a failure the status of an entry, which then runs no more."""
    try:
        yield
    except Unavailable as error:
        entry.status = f"cannot run: {error}"
    except Exception as error:  # theirs and ours: whatever it is, the others go on
        if is_device_lost(error):
            raise
        what = "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {first_line(error)}"
        entry.status = f"failed: {what}"[:200]
    else:
        return
    entry.provider = entry.round = None
    told(f"{entry.name}: {entry.status}")
    if device.type == "cuda":
        torch.cuda.empty_cache()


class Checked:
    """A few utterances and what float32 says of them: alone, and in one padded batch, whose padding a group norm sees."""

    def __init__(self, subject: Subject, work: Work):
        self.subject = subject
        most = round(16000 * CHECKED_SECONDS)
        self.waveforms = [waveform[:most] for waveform in work.waveforms[:CHECKED_UTTERANCES]]
        exact = subject.exact
        own = {"output_attentions": True} if isinstance(exact, type(subject.ours)) else {}  # which takes our definition
        tokenizer = subject.processor.tokenizer

        def logits(waveforms: list[np.ndarray]) -> Tensor:
            batch = subject.processor(waveforms, sampling_rate=16000).to(subject.device)
            found = exact(batch["input_values"], attention_mask=batch.get("attention_mask"), **own).logits
            counts = subject.ours.frame_counts(torch.tensor([len(waveform) for waveform in waveforms]))
            return found[torch.arange(found.shape[1]) < counts[:, None]].double().cpu()

        parts = [logits([waveform]) for waveform in self.waveforms]
        self.alone, self.padded = torch.cat(parts), logits(self.waveforms)
        self.texts = [  # random weights have no text: all tokens are nearly as likely
            greedy_decode(part.float()[None], None, tokenizer, blank_id=tokenizer.pad_token_id)[0].text
            for part in (parts if subject.folder is not None else ())
        ]

    def compare(self, provider: Provider) -> tuple[float, int]:
        """Return the largest error as a share of the largest logit, and how many texts are float32's.

        Texts of random weights are not compared.
        """
        ready = provider.forward(self.waveforms)
        found = ready.frames(ready.run()).double().cpu()
        expected = self.padded if provider.pads else self.alone
        error = (found - expected).abs().max() / expected.abs().max()
        texts = provider.text(self.waveforms) if self.texts else []
        equal = sum(one.strip() == other.strip() for one, other in zip(texts, self.texts))
        return float(error) if error == error else float("inf"), equal

    def release(self) -> None:
        """Give the copy in float32 back."""
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
    p20, p50, p80 = np.percentile([sum(one.seconds) for one in entry.rounds], [20, 50, 80])
    latencies = 1e3 * np.percentile([second for one in entry.rounds for second in one.seconds], [50, 95])
    rtfx = work.audio_seconds / p50
    needed = flop(subject.config, [len(waveform) for waveform in work.waveforms])
    row |= {
        "p20_s": p20, "p50_s": p50, "p80_s": p80, "rtfx": rtfx, "share_of_ceiling": needed / p50 / plan.ceiling,
        "ceiling_tflops": plan.ceiling / 1e12, "peak_bytes": "" if entry.peak_bytes is None else entry.peak_bytes,
    }  # fmt: skip
    if plan.protocol != "files":  # where all files are one call
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
    from ..transcribe.scoring import can_score, score  # on demand: what reads audio may be missing where models are timed

    if not can_score():
        return ""
    errors = [score(reference, text) for reference, text in zip(references, texts)]
    return sum(error.word_errors for error in errors) / max(sum(error.words for error in errors), 1)

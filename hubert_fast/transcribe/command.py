"""Run `hubert-fast transcribe`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..console import CannotRunError, say
from ..jobs import batch_command, command
from ..jobs.target import NORMALIZER
from . import normalizers
from .formats import TABLE
from .scoring import Scorer
from .summary import TranscriptionSummary
from .transcriber import Transcriber


def load_transcriber(model: str | Path, device: str, dtype: str, report: Callable[[str], None] = say) -> Transcriber:
    """Load a transcriber for a command: see `jobs.batch_command.load_runner`."""
    transcriber = batch_command.load_runner(Transcriber.from_pretrained, model, device, dtype, report)
    assert isinstance(transcriber, Transcriber)
    return transcriber


def run(options: argparse.Namespace) -> int:
    """Transcribe the inputs; return the exit status."""
    try:
        normalizers.normalizer(options.normalizer)  # raises if the normalizer cannot run, before a model is loaded
    except ValueError as error:
        raise CannotRunError(str(error)) from None
    scorer = Scorer(options.normalizer)
    return command.run(
        batch_command.BatchCommand(
            TABLE,
            Transcriber.from_pretrained,
            TranscriptionSummary,
            about={"normalizer": options.normalizer},
            settings={NORMALIZER: options.normalizer},
            defaults={NORMALIZER: normalizers.DEFAULT},
            score=scorer,
            finished=partial(_report_unscored, scorer),
        ),
        options,
    )


def _report_unscored(scorer: Scorer, report: Callable[[str], None]) -> None:
    if count := scorer.unscored:
        which = "1 transcript with a reference was" if count == 1 else f"{count} transcripts with a reference were"
        report(f"{which} not scored because jiwer is not installed: pip install 'hubert_fast[wer]'")

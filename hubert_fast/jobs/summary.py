"""The outcome of a run: counts and speed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from .. import __version__
from .journal import Totals
from .sinks import replace


@dataclass
class ShardCounts:
    """The shards of a job with an output for each.

    Attributes:
        total: All shards.
        already_done: Those that were finished in an earlier run.
        done_this_run: Those that were finished in this one.
        failed: Those that could not be read.
        errors: Why not.
    """

    total: int = 0
    already_done: int = 0
    done_this_run: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)


@dataclass
class Summary:
    """The outcome of a run. Counts cover all runs on this output; those that end in `_this_run` cover the last one only.

    Attributes:
        verb: What the job does to an input, for messages: "encode".
        participle: The same as a participle, which also names the counts in JSON: "encoded".
        output: The output's path, `None` for standard output.
        done: Inputs that have a result.
        failed: Inputs that have none.
        already_done: Inputs that were done in an earlier run or named twice.
        changed_this_run: Inputs that were done again because their file had changed.
        with_notes: Inputs with a note, for instance about a wrong header.
        batch_seconds: Seconds of audio in a batch, at the end of the run.
        complete: Whether all inputs were processed.
        shards: The shards, if there is an output for each.
    """

    verb: ClassVar[str] = "encode"
    participle: ClassVar[str] = "encoded"
    output: str | None
    model: str
    device: str
    dtype: str
    done: int = 0
    failed: int = 0
    audio_seconds: float = 0.0
    done_this_run: int = 0
    failed_this_run: int = 0
    already_done: int = 0
    changed_this_run: int = 0
    with_notes: int = 0
    with_notes_this_run: int = 0
    audio_seconds_this_run: float = 0.0
    wall_seconds_this_run: float = 0.0
    times_real_time: float | None = None
    batch_seconds: float = 0.0
    complete: bool = False
    shards: ShardCounts | None = None
    version: str = field(default=__version__)

    def count(self, totals: Totals, wall_seconds: float) -> None:
        """Fill in the totals and the speed."""
        self.with_notes = totals.with_notes
        self.done, self.failed, self.audio_seconds = totals.done, totals.failed, round(totals.audio_seconds, 3)
        self.audio_seconds_this_run = round(self.audio_seconds_this_run, 3)
        self.wall_seconds_this_run = round(wall_seconds, 3)
        if self.audio_seconds_this_run and wall_seconds > 0:
            self.times_real_time = round(self.audio_seconds_this_run / wall_seconds, 2)

    def findings(self) -> list[str]:
        """Return lines about the results themselves, such as error rates, for the report at the end."""
        return []

    def to_dict(self) -> dict[str, Any]:
        """Return the counts by their names in JSON."""
        names = {"done": self.participle, "done_this_run": f"{self.participle}_this_run"}
        values = asdict(self)
        if self.shards is None:
            del values["shards"]
        return {names.get(name, name): value for name, value in values.items()}


def summary_json(summary: Summary) -> str:
    """Return a summary as JSON."""
    return json.dumps(summary.to_dict(), indent=1) + "\n"


def write_summary(path: Path, summary: Summary) -> None:
    """Write a summary as JSON."""
    replace(path, summary_json(summary))

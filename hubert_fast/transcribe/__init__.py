"""Transcribe audio files, from one to a whole archive, with a HuBERT-CTC checkpoint."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..jobs.inputs import Inputs
    from ..jobs.list_text import ManifestError
    from ..jobs.options import Options
    from ..jobs.utterances import Shard, Utterance
    from .results import Result, Transcript
    from .transcriber import Transcriber

# Loaded on first use, so that the command line can read the table of formats without importing torch.
_HOMES = {
    "Inputs": "..jobs.inputs",
    "ManifestError": "..jobs.list_text",
    "Options": "..jobs.options",
    "Result": ".results",
    "Shard": "..jobs.utterances",
    "Transcriber": ".transcriber",
    "Transcript": ".results",
    "Utterance": "..jobs.utterances",
}
__all__ = ["Inputs", "ManifestError", "Options", "Result", "Shard", "Transcriber", "Transcript", "Utterance"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

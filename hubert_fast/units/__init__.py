"""Turn speech into frames, the hidden states of a HuBERT, and into discrete units, the nearest k-means centroids of frames."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .batches import EncodeBatch
    from .centroids import Centroids
    from .codebook import CentroidsError
    from .encoder import Encoder
    from .encodings import Encoding, EncodingResult
    from .frame_files import FrameReader
    from .frame_source import FrameSource

# Loaded on first use, so that the command line need not wait for torch.
_HOMES = {
    "Centroids": ".centroids",
    "CentroidsError": ".codebook",
    "EncodeBatch": ".batches",
    "Encoder": ".encoder",
    "Encoding": ".encodings",
    "EncodingResult": ".encodings",
    "FrameReader": ".frame_files",
    "FrameSource": ".frame_source",
}
__all__ = ["Centroids", "CentroidsError", "EncodeBatch", "Encoder", "Encoding", "EncodingResult", "FrameReader", "FrameSource"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

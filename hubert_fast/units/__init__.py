"""Turn speech into discrete units: learn, store and apply the centroids of HuBERT's frames."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .centroids import Centroids
    from .codebook import CentroidsError
    from .frame_files import FrameReader
    from .frame_source import FrameSource

# Loaded on first use, so that the command line need not wait for torch.
_HOMES = {
    "Centroids": ".centroids",
    "CentroidsError": ".codebook",
    "FrameReader": ".frame_files",
    "FrameSource": ".frame_source",
}
__all__ = ["Centroids", "CentroidsError", "FrameReader", "FrameSource"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

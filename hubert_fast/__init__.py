"""Fast HuBERT speech encoders, with the checkpoints, names and results of Hugging Face transformers."""

import os as _os
from importlib import import_module as _import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:  # type checkers and documentation tools read these; `_HOMES` says the same at run time
    from .config import HubertConfig as HubertConfig
    from .feature_extractor import HubertFeatureExtractor as HubertFeatureExtractor
    from .integrations.transformers import accelerate as accelerate
    from .integrations.transformers import restore as restore
    from .modeling import HubertForCTC as HubertForCTC
    from .modeling import HubertForSequenceClassification as HubertForSequenceClassification
    from .modeling import HubertModel as HubertModel
    from .packed.audio import PackedAudio as PackedAudio
    from .pretrained import HubertPreTrainedModel as HubertPreTrainedModel
    from .processing import HubertProcessor as HubertProcessor
    from .tokenizer import CTCTokenizer as CTCTokenizer

# Public name -> module. Loaded on first use, so that `hubert-fast --version` need not wait for torch.
_HOMES = {
    "CTCTokenizer": "tokenizer",
    "HubertConfig": "config",
    "HubertFeatureExtractor": "feature_extractor",
    "HubertForCTC": "modeling",
    "HubertForSequenceClassification": "modeling",
    "HubertModel": "modeling",
    "HubertPreTrainedModel": "pretrained",
    "HubertProcessor": "processing",
    "PackedAudio": "packed.audio",
    "accelerate": "integrations.transformers",
    "restore": "integrations.transformers",
}
__all__ = list(_HOMES)

# In a wheel, kernels/ lies inside this package. In a checkout and an editable install it lies beside it.
_folder = _os.path.dirname(_os.path.abspath(__file__))
if not _os.path.isdir(_os.path.join(_folder, "kernels")):
    __path__.append(_os.path.dirname(_folder))


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

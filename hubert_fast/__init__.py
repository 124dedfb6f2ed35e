"""HuBERT speech encoders: the checkpoints, names and answers of Hugging Face transformers, built to be fast."""

from pathlib import Path as _Path

from .config import HubertConfig
from .modeling import HubertForCTC, HubertForSequenceClassification, HubertModel
from .processing import HubertProcessor

__version__ = "0.1.0.dev0"
__all__ = ["HubertConfig", "HubertForCTC", "HubertForSequenceClassification", "HubertModel", "HubertProcessor"]

# In a wheel, kernels/ lies inside this package. In a checkout and an editable install it lies beside it.
if not _Path(__file__).with_name("kernels").is_dir():
    __path__.append(str(_Path(__file__).parent.parent))

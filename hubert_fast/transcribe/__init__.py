"""Audio files to text with a HuBERT-CTC checkpoint: one file, or an archive of them."""

from .inputs import Inputs, Shard, Utterance
from .transcriber import Options, Result, Transcriber, Transcript

__all__ = ["Inputs", "Options", "Result", "Shard", "Transcriber", "Transcript", "Utterance"]

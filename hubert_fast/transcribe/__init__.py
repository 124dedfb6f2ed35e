"""Audio files to text with a HuBERT-CTC checkpoint."""

from .transcriber import Transcriber, Transcript

__all__ = ["Transcriber", "Transcript"]

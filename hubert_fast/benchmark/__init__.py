"""Speed of this package beside transformers', in one process, on the same audio: what ``hubert-fast bench`` runs."""

"""Run `hubert-fast bench`: time this package and transformers in one process, on the same audio."""

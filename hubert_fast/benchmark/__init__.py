"""The benchmark `hubert-fast bench`: this package and transformers in one process, on the same audio."""

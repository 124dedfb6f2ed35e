"""Decode CTC greedily: take the best token of each frame, merge runs, drop blanks. Results have text, times and confidence.

Graves et al. 2006, "Connectionist Temporal Classification". Decoding runs in C++ (csrc/ctc_collapse.cpp), or in Python
(fallback.py) where the extension is not built, with equal results.
Axes: B utterances, T frames, N packed frames, V vocabulary.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from .. import cpus
from . import fallback
from .inputs import best_of, spans_of
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from ..tokenizer import CTCTokenizer

BACKENDS = ("auto", "c++", "python")
FRAMES_PER_THREAD = 32_768  # with fewer, starting a thread costs more than it saves


class Token(NamedTuple):
    """A token, its first and last frame (inclusive), and the mean of its log-probability over these frames."""

    id: int
    first_frame: int
    last_frame: int
    log_probability: float


class Word(NamedTuple):
    """A word, from the start of its first token's first frame to the end of its last token's last frame.

    Attributes:
        word: The text of the word.
        start_seconds: The start, from the beginning of the utterance.
        end_seconds: The end, from the beginning of the utterance.
        confidence: The geometric mean of the tokens' probabilities over the frames of the tokens.
    """

    word: str
    start_seconds: float
    end_seconds: float
    confidence: float


@dataclass(frozen=True)
class Transcript:
    """The text of one utterance, decoded from the model's outputs alone.

    `hubert_fast.transcribe.Transcript` is the text of an audio file, with its duration and times within the file.

    Attributes:
        text: The text.
        confidence: The geometric mean of the tokens' probabilities over their frames; NaN without tokens or probabilities.
        words: The words with their times, if requested.
        tokens: The tokens with their frames, if requested.
    """

    text: str
    confidence: float
    words: list[Word] | None = None
    tokens: list[Token] | None = None


def greedy_decode(
    logits_or_ids: torch.Tensor | np.ndarray,
    cu_seqlens_or_lengths: torch.Tensor | np.ndarray | Sequence[int] | None,
    vocabulary: Vocabulary | CTCTokenizer | Sequence[str | None] | Mapping[str, int],
    *,
    blank_id: int,
    frame_seconds: float = 0.02,
    timestamps: str | None = None,
    log_probs: torch.Tensor | np.ndarray | None = None,
    threads: int | None = None,
    backend: str = "auto",
) -> list[Transcript]:
    """Decode a batch of utterances.

    Args:
        logits_or_ids: Logits, floating point `[N, V]` packed or `[B, T, V]` padded, on any device; or the best ids, int64,
            int32, int16 or uint8, `[N]` or `[B, T]`. From logits on a GPU, only the best id and its probability are copied
            to the host.
        cu_seqlens_or_lengths: For packed frames the boundaries between utterances, `[B + 1]`; for padded frames the number of
            frames of each utterance, `[B]`, or `None` if no frame is padding.
        vocabulary: A tokenizer, whose special tokens are left out of the text and whose `unk_token` replaces ids that it lacks.
            Or a list of tokens, or a dictionary from tokens to ids: only the blank is left out, and `|` separates words.
        blank_id: CTC's blank, which is the tokenizer's `pad_token_id` in Hugging Face checkpoints.
        frame_seconds: The time from one frame to the next, in seconds.
        timestamps: `"word"` to return words, `"token"` to return words and tokens.
        log_probs: The log-probabilities of the ids, in the shape of the ids. Without them, the confidences of ids are NaN.
        threads: The largest number of threads; by default the number of CPUs that the process may use, or fewer for short
            batches. Results do not depend on it.
        backend: `"c++"`, `"python"`, or `"auto"`: C++ if it is built, else Python with a warning.

    Returns:
        A `Transcript` for each utterance.

    Raises:
        ValueError: Shapes, lengths or ids do not fit; the message names the value.
        RuntimeError: A requested backend is not available.
    """
    if timestamps not in (None, "word", "token"):
        raise ValueError(f"timestamps must be 'word', 'token' or None, but is {timestamps!r}")
    vocabulary = Vocabulary.of(vocabulary)
    ids, log_probs = best_of(logits_or_ids, log_probs)
    begins, lengths = spans_of(ids.shape, cu_seqlens_or_lengths)
    raw = decode_raw(
        ids,
        begins,
        lengths,
        vocabulary,
        blank_id,
        log_probs=log_probs,
        tokens=timestamps == "token",
        words=timestamps is not None,
        threads=threads,
        backend=backend,
    )
    return _transcripts(raw, frame_seconds, vocabulary.do_lower_case, timestamps == "token", _backend(backend))


def decode_raw(
    ids: np.ndarray,
    begins: np.ndarray,
    lengths: np.ndarray,
    vocabulary: Vocabulary,
    blank_id: int,
    *,
    log_probs: np.ndarray | None = None,
    group: bool = True,
    tokens: bool = False,
    words: bool = False,
    threads: int | None = None,
    backend: str = "auto",
) -> dict[str, Any]:
    """Decode to flat arrays, from which `greedy_decode` and the processor build their results.

    Args:
        ids: The best id of each frame, of any shape.
        begins: The first frame of each utterance among the flattened frames, int64 `[B]`.
        lengths: The number of frames of each utterance, int64 `[B]`.
        vocabulary: The tokens.
        blank_id: CTC's blank.
        log_probs: The log-probabilities of the ids, in their shape.
        group: Whether to merge runs of one id, as CTC does.
        tokens: Whether to return tokens.
        words: Whether to return words.
        threads: As in `greedy_decode`.
        backend: As in `greedy_decode`.

    Returns:
        `texts` (a list, stripped) and `text_means` (float32), `[B]`. If requested, concatenated over utterances:
        `token_ids`, `token_begins`, `token_ends` (exclusive) and `token_means` with `token_counts` `[B]`, and
        `words`, `word_begins`, `word_ends` and `word_means` with `word_counts` `[B]`. Frames are numbered from the
        utterance's first.
    """
    chosen = _backend(backend)
    if not hasattr(blank_id, "__index__") or not 0 <= blank_id < len(vocabulary.tokens):
        raise ValueError(f"blank_id must be a token id below {len(vocabulary.tokens)}, but is {blank_id!r}")
    if threads is None:
        threads = min(cpus.available(), 1 + int(lengths.sum()) // FRAMES_PER_THREAD)
    elif not hasattr(threads, "__index__") or threads < 1:
        raise ValueError(f"threads must be a whole number, 1 or more, but is {threads!r}")
    by_phone = words and vocabulary.phones
    raw = chosen.decode(
        np.ascontiguousarray(vocabulary.named(ids)).reshape(-1),
        np.ascontiguousarray(begins),
        np.ascontiguousarray(lengths),
        vocabulary.table(chosen),
        int(blank_id),
        None if log_probs is None else np.ascontiguousarray(log_probs, dtype=np.float32).reshape(-1),
        group,
        tokens or by_phone,
        words and not by_phone,
        int(threads),
    )
    if by_phone:
        _phones_as_words(raw, vocabulary)
    raw["texts"] = [text.strip() for text in raw["texts"]]
    if vocabulary.do_lower_case:  # on whole texts: lower case may depend on neighbouring letters
        raw["texts"] = [text.lower() for text in raw["texts"]]
    return raw


def _phones_as_words(raw: dict[str, Any], vocabulary: Vocabulary) -> None:
    """Add each token to a backend's result as a word of its own."""
    texts, _ = vocabulary.written()
    raw["words"] = [texts[id] for id in raw["token_ids"].tolist()]
    raw["word_counts"] = raw["token_counts"]
    for name in ("begins", "ends", "means"):
        raw[f"word_{name}"] = raw[f"token_{name}"]


@cache
def why_not_built() -> str | None:
    """Return why the C++ extension cannot be used; `None` when it can."""
    if find_spec("hubert_fast._ctc") is None:
        return "it was not compiled when hubert_fast was installed"
    try:
        from .. import _ctc  # noqa: F401
    except ImportError as error:
        return str(error)
    return None


def _backend(name: str) -> ModuleType:
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, but is {name!r}")
    if name == "python":
        return fallback
    reason = why_not_built()
    if reason is None:
        from .. import _ctc

        return _ctc
    if name == "c++":
        raise RuntimeError(f"the C++ extension of hubert_fast is not built: {reason}")
    _warn_once(reason)
    return fallback


def _warn_once(reason: str) -> None:
    if not _warned:
        _warned.append(reason)
        message = f"hubert_fast decodes CTC in Python, many times slower: its C++ extension is not built ({reason})"
        warnings.warn(message, RuntimeWarning, stacklevel=5)


_warned: list[str] = []


def _transcripts(
    raw: dict[str, Any], frame_seconds: float, lower: bool, with_tokens: bool, backend: ModuleType
) -> list[Transcript]:
    confidences = _confidences(raw["text_means"]).tolist()
    words: Iterable[Any] = itertools.repeat(None)
    if "words" in raw:
        names = [word.lower() for word in raw["words"]] if lower else raw["words"]
        seconds = [raw[name] * float(frame_seconds) for name in ("word_begins", "word_ends")]
        words = backend.rows(Word, raw["word_counts"], names, *seconds, _confidences(raw["word_means"]))
    tokens: Iterable[Any] = itertools.repeat(None)
    if with_tokens:
        means = raw["token_means"].astype(np.float64)
        columns = (raw["token_ids"], raw["token_begins"], raw["token_ends"] - 1, means)
        tokens = backend.rows(Token, raw["token_counts"], *columns)
    return list(map(Transcript, raw["texts"], confidences, words, tokens))


def _confidences(means: np.ndarray) -> np.ndarray:
    return np.exp(means.astype(np.float64))

"""Turn ids or tokens of frames into texts and offsets, as transformers' CTC tokenizers do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .ctc import decode_raw
from .ctc.vocabulary import Vocabulary
from .tokenizer_outputs import CTCTokenizerOutput, flat, offsets

if TYPE_CHECKING:
    from .tokenizer_tokens import TokenTable

# what transformers' clean_up_tokenization replaces, in its order
CLEANED = {
    **{f" {mark}": mark for mark in ".?!,"},
    " ' ": "'",
    **{f" {ending}": ending for ending in ("n't", "'m", "'s", "'ve", "'re")},
}


def decode_batch(
    sequences: torch.Tensor | np.ndarray | Sequence[Iterable[int]],
    vocabulary: Vocabulary,
    blank_id: int,
    *,
    group_tokens: bool,
    chars: bool,
    words: bool,
    spaced: bool = False,
    cleaned: bool = False,
) -> list[str] | CTCTokenizerOutput:
    """Return texts, or a `CTCTokenizerOutput` if offsets are requested.

    Args:
        sequences: The id of each frame: `[B, T]`, or a sequence of sequences of any lengths.
        vocabulary: The tokens.
        blank_id: CTC's blank.
        group_tokens: Whether to merge runs of one id.
        chars: Whether to return the offsets of characters.
        words: Whether to return the offsets of words.
        spaced: Whether to write a space between all tokens.
        cleaned: Whether to remove spaces before punctuation.
    """
    ids, lengths = flat(sequences)
    begins = np.cumsum(lengths) - lengths
    raw = decode_raw(ids, begins, lengths, vocabulary, blank_id, group=group_tokens, tokens=chars or spaced, words=words)
    written = vocabulary.written()[0] if chars or spaced else []
    characters = [written[id] for id in raw["token_ids"].tolist()] if chars or spaced else []
    texts = raw["texts"]
    if spaced:
        ends = np.cumsum(raw["token_counts"]).tolist()
        texts = [" ".join(characters[begin:end]).strip() for begin, end in zip([0, *ends], ends)]
        texts = [text.lower() for text in texts] if vocabulary.do_lower_case else texts
    if cleaned:
        texts = [clean_up(text) for text in texts]
    if not (chars or words):
        return texts
    output = CTCTokenizerOutput(text=texts)
    if chars:
        output.char_offsets = offsets("char", characters, raw["token_begins"], raw["token_ends"], raw["token_counts"])
    if words:
        output.word_offsets = offsets("word", raw["words"], raw["word_begins"], raw["word_ends"], raw["word_counts"])
    return output


def decode_tokens(
    table: TokenTable,
    tokens: Sequence[str],
    *,
    group_tokens: bool,
    chars: bool,
    words: bool,
    spaced: bool,
    with_delimiters: bool,
) -> dict[str, Any]:
    """Return the text and the offsets of the token of each frame. See `CTCTokenizer.convert_tokens_to_string`."""
    distinct = list(dict.fromkeys([table.pad_token, *tokens]))
    ids = {token: id for id, token in enumerate(distinct)}
    lower_case = table.do_lower_case and not table.is_of_phones
    delimiter = None if with_delimiters and table.is_of_phones else table.word_delimiter_token
    replacement = table.replace_word_delimiter_char
    vocabulary = Vocabulary(tuple(distinct), frozenset(), delimiter, replacement, lower_case, None, table.is_of_phones)
    row = [[ids[token] for token in tokens]]
    decoded = decode_batch(row, vocabulary, 0, group_tokens=group_tokens, chars=chars, words=words, spaced=spaced)
    if isinstance(decoded, list):
        decoded = CTCTokenizerOutput(text=decoded)
    requested = {"char_offsets": decoded.char_offsets, "word_offsets": decoded.word_offsets}
    if not len(tokens) and not table.is_of_phones:  # as in transformers
        return {"text": "", "char_offsets": [], "word_offsets": []}
    if table.is_of_phones and not words:
        del requested["word_offsets"]
    return {"text": decoded.text[0], **{name: None if rows is None else rows[0] for name, rows in requested.items()}}


def clean_up(text: str) -> str:
    """Return a text without the spaces before punctuation and `'s` that transformers removes."""
    for spaced, joined in CLEANED.items():
        text = text.replace(spaced, joined)
    return text

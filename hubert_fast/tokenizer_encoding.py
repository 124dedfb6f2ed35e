"""Split text into tokens, and truncate and pad lists of token ids, as transformers' slow tokenizers do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .added_tokens import AddedToken
from .batch_feature import DO_NOT_PAD, MAX_LENGTH, BatchFeature, Padding, as_tensor, check_tensors, columns, kind_of, on_host
from .tokenizer_tokens import TokenTable

TRUNCATIONS = ("longest_first", "only_first")  # the same for a single text


def splitter(table: TokenTable) -> Callable[[str], list[str]]:
    """Return a function that splits a text into tokens.

    Added tokens, which include special tokens and those of several letters, are matched first, longest first. What is left is
    split into letters or, for phones, at spaces.
    """
    added = {token.content: token for token in table.added_tokens_decoder.values()}
    longest_first = sorted(added, key=len, reverse=True)
    pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if added else None
    split_rest = _phones_of if table.is_of_phones else _letters_of

    def split(text: str) -> list[str]:
        parts = pattern.split(text) if pattern else [text]  # text and added tokens alternate
        _strip_neighbours(parts, added)
        tokens: list[str] = []
        for index, part in enumerate(parts):
            tokens += [part] if index % 2 else split_rest(table, part) if part else []
        return tokens

    return split


def _strip_neighbours(parts: list[str], added: Mapping[str, AddedToken]) -> None:
    """Remove the spaces that belong to added tokens from the texts beside them."""
    for index in range(1, len(parts), 2):
        token = added[parts[index]]
        if token.lstrip:
            parts[index - 1] = parts[index - 1].rstrip()
        if token.rstrip:
            parts[index + 1] = parts[index + 1].lstrip()


def _letters_of(table: TokenTable, text: str) -> list[str]:
    text = text.upper() if table.do_lower_case else text
    return list(text if table.word_delimiter_token is None else text.replace(" ", table.word_delimiter_token))


def _phones_of(table: TokenTable, text: str) -> list[str]:
    if table.do_phonemize:
        raise ValueError(
            "do_phonemize is True, but turning words into phones (as transformers does with the package phonemizer) is not "
            "supported: set do_phonemize to False and give phones with spaces between them"
        )
    return [phone for phone in text.strip().split(" ") if phone.strip()]


def texts_in(text: Any) -> list[str]:
    """Return one text or several as a list. Raises `ValueError` for anything else."""
    texts = [text] if isinstance(text, str) else list(text) if isinstance(text, (list, tuple)) else None
    if texts is None or not all(isinstance(entry, str) for entry in texts):
        shown = text if texts is None else next(entry for entry in texts if not isinstance(entry, str))
        raise ValueError(f"text must be a text or a list of texts, but got {shown!r} ({type(shown).__name__})")
    return texts


def one_text(text: Any) -> str:
    """Return a text. Raises `ValueError` for anything else."""
    if not isinstance(text, str):
        raise ValueError(f"expected one text, but got {text!r} ({type(text).__name__}): call the tokenizer for several")
    return text


def encode_batch(
    table: TokenTable,
    text: str | Sequence[str],
    padding: bool | str,
    truncation: bool | str | None,
    max_length: int | None,
    pad_to_multiple_of: int | None,
    padding_side: str | None,
    return_tensors: str | None,
    return_attention_mask: bool | None,
) -> BatchFeature:
    """Return the ids of one or several texts. See `CTCTokenizer.__call__`."""
    check_tensors(return_tensors)
    texts, split = texts_in(text), splitter(table)
    if max_length is not None and padding is False and truncation is None:
        truncation = True  # as in transformers: a limit alone truncates
    layout = layout_of(table, padding, max_length, pad_to_multiple_of, truncation)
    rows = [truncated(table, table._ids_of(split(entry)), layout, truncation) for entry in texts]
    is_single = isinstance(text, str) and return_tensors is None
    return padded(table, rows, None, layout, padding_side, return_attention_mask, return_tensors, is_single)


def layout_of(
    table: TokenTable,
    padding: bool | str,
    max_length: int | None,
    pad_to_multiple_of: int | None,
    truncation: bool | str | None = None,
) -> Padding:
    """Return the padding that the arguments request. Without `max_length`, `model_max_length` counts, if it is set."""
    layout = Padding.of(padding, max_length, pad_to_multiple_of)
    if truncation not in (True, False, None, *TRUNCATIONS, "do_not_truncate"):
        raise ValueError(f"truncation must be True, False or {' or '.join(map(repr, TRUNCATIONS))}, but is {truncation!r}")
    if max_length is None and (layout.strategy == MAX_LENGTH or _truncates(truncation)):
        limit = table.model_max_length if table.model_max_length < 10**20 else None  # transformers' mark for "no limit"
        strategy = DO_NOT_PAD if limit is None and layout.strategy == MAX_LENGTH else layout.strategy
        layout = Padding(strategy, limit, pad_to_multiple_of)
    limit, both = layout.max_length, _truncates(truncation) and layout.strategy != DO_NOT_PAD
    if both and limit is not None and layout.rounded(limit) != limit:
        raise ValueError(
            f"to truncate and pad, max_length must be a multiple of pad_to_multiple_of {pad_to_multiple_of}, but is {limit}"
        )
    return layout


def _truncates(truncation: bool | str | None) -> bool:
    return bool(truncation) and truncation != "do_not_truncate"


def truncated(table: TokenTable, ids: list[int], layout: Padding, truncation: bool | str | None) -> list[int]:
    """Return ids without those beyond `max_length`, on the tokenizer's `truncation_side`."""
    if not _truncates(truncation) or not layout.max_length or len(ids) <= layout.max_length:
        return ids
    return ids[: layout.max_length] if table.truncation_side == "right" else ids[-layout.max_length :]


def padded(
    table: TokenTable,
    rows: list[list[int]],
    masks: list[list[int]] | None,
    layout: Padding,
    padding_side: str | None,
    return_attention_mask: bool | None,
    return_tensors: str | None,
    is_single: bool,
) -> BatchFeature:
    """Return `input_ids` and `attention_mask` of padded rows, as lists, arrays or tensors. See `CTCTokenizer.pad`."""
    side = table.padding_side if padding_side is None else padding_side
    if side not in ("right", "left"):
        raise ValueError(f"padding_side must be 'right' or 'left', but is {side!r}")
    targets = layout.targets([len(row) for row in rows])
    if masks is None and return_attention_mask is not False:
        masks = [[1] * len(row) for row in rows]

    def extended(row: list[int], target: int, value: int) -> list[int]:
        more = [value] * (target - len(row))
        return row + more if side == "right" else more + row

    batch = BatchFeature(input_ids=[extended(row, target, table.pad_token_id) for row, target in zip(rows, targets)])
    if masks is not None:
        batch["attention_mask"] = [extended(mask, target, 0) for mask, target in zip(masks, targets)]
    for name, values in batch.items():
        batch[name] = values[0] if is_single else _integers(name, values, return_tensors)
    return batch


def pad_encoded(
    table: TokenTable,
    encoded_inputs: Any,
    padding: bool | str,
    max_length: int | None,
    pad_to_multiple_of: int | None,
    padding_side: str | None,
    return_tensors: str | None,
    return_attention_mask: bool | None,
) -> BatchFeature:
    """Pad sequences of ids that are already encoded. See `CTCTokenizer.pad`."""
    data = columns(encoded_inputs, "input_ids", ("input_ids", "attention_mask"))
    check_tensors(return_tensors)
    ids = data["input_ids"]
    if not len(ids):
        raise ValueError("expected at least one sequence of ids to pad, but got none")
    kind = return_tensors or kind_of(ids) or kind_of(ids[0])
    rows, masks = _lists(ids), _lists(data["attention_mask"]) if "attention_mask" in data else None
    is_single = not isinstance(rows[0], list)
    if is_single:
        rows, masks = [rows], None if masks is None else [masks]
    if masks is not None and [len(mask) for mask in masks] != [len(row) for row in rows]:
        raise ValueError("each attention_mask must have the length of its input_ids")
    layout = layout_of(table, padding, max_length, pad_to_multiple_of)
    batch = padded(table, rows, masks, layout, padding_side, return_attention_mask, None if is_single else kind, is_single)
    return BatchFeature({name: _integers(name, row, kind) for name, row in batch.items()}) if is_single else batch


def _lists(values: Any) -> list:
    """Return ids as lists of integers, from lists, arrays and tensors."""
    values = on_host(values)
    if isinstance(values, np.ndarray):
        return values.tolist()
    return [on_host(row).tolist() if hasattr(row, "tolist") else list(row) if isinstance(row, tuple) else row for row in values]


def _integers(name: str, values: list, return_tensors: str | None) -> Any:
    """Return ids as the kind of tensor that `return_tensors` names; rows of different lengths as an array of arrays."""
    if return_tensors is None:
        return values
    is_ragged = len({len(row) for row in values if isinstance(row, list)}) > 1
    if is_ragged and return_tensors != "np":
        raise ValueError(f"{name} have different lengths, which do not fit one tensor: pass padding=True")
    if not is_ragged:
        array = np.array(values, np.int64)
        return array if return_tensors == "np" else as_tensor(array, return_tensors)
    array = np.empty(len(values), object)
    array[:] = [np.array(row, np.int64) for row in values]
    return array

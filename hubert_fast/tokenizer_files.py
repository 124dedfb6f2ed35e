"""Read the files of a tokenizer in the formats of transformers: vocabulary, configuration, special and added tokens."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from .hub import CONFIG_NAME, CheckpointError, listed, read_json, read_optional_json, resolve_file

logger = logging.getLogger(__name__)

LETTERS, PHONES = "Wav2Vec2CTCTokenizer", "Wav2Vec2PhonemeCTCTokenizer"
LETTERS_NAMES = {LETTERS, "Wav2Vec2Tokenizer"}  # the latter is its former name
VOCABULARY_NAME = "vocab.json"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
SPECIAL_TOKENS_NAME = "special_tokens_map.json"
ADDED_TOKENS_NAME = "added_tokens.json"

# fields of CTCTokenizer that may be null in the configuration, and fields that are not read from it under their own name
NULLABLE = {"bos_token", "eos_token", "unk_token", "word_delimiter_token", "phone_delimiter_token"}
READ_SEPARATELY = {"vocabulary", "tokens", "additional_special_tokens", "tokenizer_class"}


def read_tokenizer(
    name_or_path: str | Path, fields: set[str], hub_options: dict[str, Any]
) -> tuple[dict[str, int], dict[str, Any]]:
    """Return the vocabulary of a checkpoint, and those `fields` of `CTCTokenizer` that its files define.

    Raises `CheckpointError` when there is no vocabulary, or a file cannot be read.
    """
    vocabulary = read_json(resolve_file(name_or_path, VOCABULARY_NAME, **hub_options))
    special = read_optional_json(name_or_path, SPECIAL_TOKENS_NAME, hub_options)
    config = special | read_optional_json(name_or_path, TOKENIZER_CONFIG_NAME, hub_options)
    if any(isinstance(entry, dict) for entry in vocabulary.values()):  # MMS has a vocabulary for each language
        language = config.get("target_lang")
        if language not in vocabulary:
            raise CheckpointError(
                f"{VOCABULARY_NAME} of {name_or_path} has a vocabulary per language ({listed(list(vocabulary))}), "
                f"but target_lang in {TOKENIZER_CONFIG_NAME} is {language!r}: set it to one of them"
            )
        vocabulary = vocabulary[language]
    added = {entry["content"]: int(id) for id, entry in config.get("added_tokens_decoder", {}).items()}
    added |= read_optional_json(name_or_path, ADDED_TOKENS_NAME, hub_options)
    class_name = config.get("tokenizer_class")
    class_name = class_name or read_optional_json(name_or_path, CONFIG_NAME, hub_options).get("tokenizer_class")
    options: dict[str, Any] = {"tokenizer_class": _supported_class(name_or_path, class_name)}
    if options["tokenizer_class"] == PHONES:
        options["word_delimiter_token"] = None  # the default for phones
    for name in fields:
        value = config.get(name)
        if name in NULLABLE and name in config and value is None:
            options[name] = None  # overrides the default
        if name not in READ_SEPARATELY and value is not None:
            options[name] = _token_text(value)
    more = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    options["additional_special_tokens"] = tuple(map(_token_text, more.values() if isinstance(more, dict) else more))
    return {**vocabulary, **added}, options


def _supported_class(name_or_path: str | Path, name: str | None) -> str:
    """Return `PHONES` or `LETTERS` for the tokenizer class that a checkpoint names."""
    if name == PHONES:
        return PHONES
    if name is not None and name not in LETTERS_NAMES:
        logger.warning(
            "%s: tokenizer_class is %s, which is unknown: decoding as %s, which may be wrong",
            name_or_path,
            str(name)[:80],
            LETTERS,
        )
    return LETTERS


def _token_text(token: str | dict[str, Any]) -> str:
    """Return the text of a token, which a file may store as a dictionary with further properties."""
    return token["content"] if isinstance(token, dict) else token

"""Read and write the files of a tokenizer in the formats of transformers: vocabulary, configuration and added tokens."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .added_tokens import AddedToken, text_of, texts_of
from .hub import CONFIG_NAME, CheckpointError, listed, read_json, read_optional_json, resolve_file, write_json
from .tokenizer_tokens import LETTERS, NO_LIMIT, PHONES, SPECIAL_NAMES, TokenTable

logger = logging.getLogger(__name__)

LETTERS_NAMES = {LETTERS, "Wav2Vec2Tokenizer"}  # the latter is its former name
VOCABULARY_NAME = "vocab.json"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
SPECIAL_TOKENS_NAME = "special_tokens_map.json"
ADDED_TOKENS_NAME = "added_tokens.json"
OF_PHONES = ("phone_delimiter_token", "do_phonemize", "phonemizer_lang", "phonemizer_backend")
OTHER_SPECIAL_TOKENS = ("sep_token", "cls_token", "mask_token")  # of text models; special here, too, but without a name

# fields of CTCTokenizer that may be null in the configuration, and fields that are not read from it under their own name
NULLABLE = {"bos_token", "eos_token", "unk_token", "word_delimiter_token", "phone_delimiter_token"}
NOT_IN_FILES = {"vocabulary", "vocab_file", "tokens"}
READ_SEPARATELY = {*NOT_IN_FILES, "additional_special_tokens", "added_tokens_decoder", "tokenizer_class", "target_lang"}


def read_tokenizer(
    name_or_path: str | Path, fields: Collection[str], own: dict[str, Any], hub_options: dict[str, Any]
) -> tuple[dict[str, int], dict[str, Any]]:
    """Return the vocabulary of a checkpoint, and those `fields` of `CTCTokenizer` that its files or `own` define.

    Args:
        name_or_path: A folder, or a repository of the Hugging Face hub.
        fields: The fields of `CTCTokenizer`.
        own: Values that replace those of the files.
        hub_options: Options of `huggingface_hub`.

    Raises:
        CheckpointError: There is no vocabulary, it lacks the pad token, or a file cannot be read.
    """
    vocabulary = read_json(resolve_file(name_or_path, VOCABULARY_NAME, **hub_options))
    special = read_optional_json(name_or_path, SPECIAL_TOKENS_NAME, hub_options)
    config = special | read_optional_json(name_or_path, TOKENIZER_CONFIG_NAME, hub_options) | own
    if any(isinstance(entry, dict) for entry in vocabulary.values()):  # MMS has a vocabulary for each language
        language = config.get("target_lang")
        if language not in vocabulary:
            raise CheckpointError(
                f"{VOCABULARY_NAME} of {name_or_path} has a vocabulary per language ({listed(list(vocabulary))}), "
                f"but target_lang in {TOKENIZER_CONFIG_NAME} is {language!r}: set it to one of them"
            )
        vocabulary = vocabulary[language]
    class_name = config.get("tokenizer_class")
    class_name = class_name or read_optional_json(name_or_path, CONFIG_NAME, hub_options).get("tokenizer_class")
    options: dict[str, Any] = {"tokenizer_class": _supported_class(name_or_path, class_name)}
    for name in fields:
        value = config.get(name)
        if name in NULLABLE and name in config and value is None:
            options[name] = None  # overrides the default
        if name not in READ_SEPARATELY and value is not None:
            options[name] = text_of(value)
    options |= {name: value for name, value in own.items() if name not in READ_SEPARATELY}
    more = texts_of(config.get("additional_special_tokens") or config.get("extra_special_tokens"))
    more += [text_of(config[name]) for name in OTHER_SPECIAL_TOKENS if config.get(name)]
    options["additional_special_tokens"] = list(dict.fromkeys(more))
    added = {int(id): AddedToken.of(token) for id, token in (config.get("added_tokens_decoder") or {}).items()}
    present = {token.content for token in added.values()}
    for content, id in read_optional_json(name_or_path, ADDED_TOKENS_NAME, hub_options).items():
        if content not in present:
            added[int(id)] = AddedToken(content)
    named = {*(options.get(name) for name in SPECIAL_NAMES), *more}
    options["added_tokens_decoder"] = {
        id: token
        for id, token in added.items()
        if not _is_implied(token, vocabulary.get(token.content) == id, named, options["tokenizer_class"])
    }
    _check_blank(name_or_path, {*vocabulary, *(token.content for token in added.values())}, options.get("pad_token", "<pad>"))
    return vocabulary, options


def _is_implied(token: AddedToken, is_in_vocabulary: bool, special: set[Any], class_name: str) -> bool:
    """Return whether the constructor marks a token of the vocabulary as added, or marking it makes no difference."""
    return is_in_vocabulary and (class_name == LETTERS or token.content in special)


def _check_blank(name_or_path: str | Path, tokens: set[str], pad_token: str | None) -> None:
    if pad_token is not None and pad_token not in tokens:
        raise CheckpointError(
            f"{VOCABULARY_NAME} of {name_or_path} lacks the pad token {pad_token!r}, which is CTC's blank: name the blank with "
            f"pad_token in {TOKENIZER_CONFIG_NAME}, or pass pad_token= to from_pretrained"
        )


def write_tokenizer(table: TokenTable, folder: Path, prefix: str) -> list[str]:
    """Write the files of a tokenizer into a folder, and return their paths.

    Args:
        table: The tokenizer.
        folder: An existing folder.
        prefix: The beginning of all file names.
    """
    config: dict[str, Any] = {name: getattr(table, name) for name in SPECIAL_NAMES} | {
        "word_delimiter_token": table.word_delimiter_token,
        "replace_word_delimiter_char": table.replace_word_delimiter_char,
        "do_lower_case": table.do_lower_case,
        "clean_up_tokenization_spaces": table.clean_up_tokenization_spaces,
        "tokenizer_class": table.tokenizer_class,
        "processor_class": "Wav2Vec2Processor",
    }
    if table.is_of_phones:
        config |= {name: getattr(table, name) for name in OF_PHONES}
    if table.additional_special_tokens:
        config["additional_special_tokens"] = table.additional_special_tokens
    if table.model_max_length != NO_LIMIT:
        config["model_max_length"] = table.model_max_length
    config |= {name: getattr(table, name) for name in ("padding_side", "truncation_side") if getattr(table, name) != "right"}
    beyond = {id: token for id, token in table.added_tokens_decoder.items() if table.vocabulary.get(token.content) != id}
    if beyond:
        flags = {"normalized": False, "single_word": False}
        config["added_tokens_decoder"] = {str(id): asdict(token) | flags for id, token in sorted(beyond.items())}
    files = {
        VOCABULARY_NAME: table.vocabulary,
        TOKENIZER_CONFIG_NAME: config,
        SPECIAL_TOKENS_NAME: {name: getattr(table, name) for name in SPECIAL_NAMES},
    }
    if beyond:
        files[ADDED_TOKENS_NAME] = {token.content: id for id, token in sorted(beyond.items())}
    for name, values in files.items():
        write_json(folder / f"{prefix}{name}", values)
    return [str(folder / f"{prefix}{name}") for name in files]


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

"""Convert between CTC token ids and text, with the tokenizer files of transformers.

Tokens are letters (`Wav2Vec2CTCTokenizer`) or phones (`Wav2Vec2PhonemeCTCTokenizer`). These differ in the separator between
tokens in text, and in the way text is split into tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .batch_feature import BatchFeature
from .ctc.vocabulary import Vocabulary
from .hub import write_json
from .pretrained_options import split_options
from .tokenizer_decoding import decode_batch, decode_tokens
from .tokenizer_encoding import encode_batch, one_text, pad_encoded, splitter
from .tokenizer_files import NOT_IN_FILES, VOCABULARY_NAME, read_tokenizer, write_tokenizer
from .tokenizer_outputs import CTCTokenizerOutput, words_of
from .tokenizer_tokens import TokenTable


@dataclass
class CTCTokenizer(TokenTable):
    """A CTC vocabulary, which converts between token ids and text.

    It takes the arguments of transformers' `Wav2Vec2CTCTokenizer` and has its attributes, such as `pad_token_id`,
    `all_special_tokens` and `vocab_size`. As there, special tokens that the vocabulary lacks are added after it.

    Args:
        vocabulary: The id of each token: a dictionary, or the path of a `vocab.json`. `vocab_file` is another name for it.
        bos_token: A special token, left out by `skip_special_tokens`.
        eos_token: A special token, left out by `skip_special_tokens`.
        unk_token: The token for characters and ids that are not in the vocabulary.
        pad_token: The token that is CTC's blank, and pads labels.
        word_delimiter_token: The token between words, if there is one. Default: `|` for letters, `None` for phones.
        replace_word_delimiter_char: The text for the word delimiter.
        do_lower_case: Decode to lower case, and encode from upper case.
        target_lang: The language to choose from a file with a vocabulary for each language.
        tokenizer_class: `Wav2Vec2CTCTokenizer`; or `Wav2Vec2PhonemeCTCTokenizer`, whose tokens are phones: as in transformers,
            text has a space between phones, no word delimiters, and each phone counts as a word.
        phone_delimiter_token: The separator of phones in transformers' phonemizer. Saved, but not used here.
        do_phonemize: Whether transformers turns words into phones. It must be `False` to encode text here.
        phonemizer_lang: The language of transformers' phonemizer. Saved, but not used here.
        phonemizer_backend: The backend of transformers' phonemizer. Saved, but not used here.
        additional_special_tokens: Further tokens that `skip_special_tokens` leaves out.
        clean_up_tokenization_spaces: Remove spaces before punctuation and `'s` from decoded text by default.
        model_max_length: The number of ids that `truncation` and `padding="max_length"` use without `max_length`.
        padding_side: The side on which labels are padded, `"right"` or `"left"`.
        truncation_side: The side on which labels are cut, `"right"` or `"left"`.
        added_tokens_decoder: Tokens that text is split at first, by id, as `add_tokens` adds them.
        vocab_file: See `vocabulary`.

    Raises:
        ValueError: An id is not an integer, or a value is not supported.
        CheckpointError: The file cannot be read.
    """

    _get_word_offsets = staticmethod(words_of)  # transformers' speech recognition pipelines call it by this name

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> CTCTokenizer:
        """Load a tokenizer from `vocab.json` and, if they exist, the files with its configuration, special and added tokens.

        Args:
            pretrained_model_name_or_path: A folder, or a repository of the Hugging Face hub.
            options: Arguments of the constructor, which replace values of the files; and `revision`, `cache_dir`, `token`,
                `local_files_only` and so on, as in `huggingface_hub`.

        Raises:
            CheckpointError: There is no `vocab.json`, it lacks the pad token, or a file cannot be read.
            TypeError: An option is unknown.
        """
        (own,), hub = split_options(cls.__name__, options, [cls.option_names()])
        vocabulary, values = read_tokenizer(pretrained_model_name_or_path, cls.option_names(), own, hub)
        return cls(vocabulary, **values)

    @classmethod
    def option_names(cls) -> set[str]:
        """Return the arguments of the constructor that `from_pretrained` reads from files and accepts as options."""
        return cls.__dataclass_fields__.keys() - NOT_IN_FILES

    def save_pretrained(self, save_directory: str | Path, filename_prefix: str | None = None) -> list[str]:
        """Write `vocab.json`, `tokenizer_config.json`, `special_tokens_map.json` and, for added tokens, `added_tokens.json`.

        Args:
            save_directory: The folder, which is created if it does not exist.
            filename_prefix: The beginning of all file names, which a hyphen follows.

        Returns:
            The paths of the files.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        return write_tokenizer(self, folder, f"{filename_prefix}-" if filename_prefix else "")

    def save_vocabulary(self, save_directory: str | Path, filename_prefix: str | None = None) -> tuple[str]:
        """Write `vocab.json` alone into an existing folder, and return its path. See `save_pretrained`."""
        path = Path(save_directory, f"{filename_prefix}-{VOCABULARY_NAME}" if filename_prefix else VOCABULARY_NAME)
        write_json(path, self.vocabulary)
        return (str(path),)

    def vocabulary_of(self, skip_special_tokens: bool, with_delimiters: bool = False) -> Vocabulary:
        """Return the vocabulary in the form that `hubert_fast.ctc` takes. It is cached until the tokenizer changes.

        Args:
            skip_special_tokens: Never write special tokens.
            with_delimiters: Write the word delimiter between phones.
        """
        special: frozenset[int] = frozenset(self.special_ids) if skip_special_tokens else frozenset()
        lower_case = self.do_lower_case and not self.is_of_phones
        delimiter = None if with_delimiters and self.is_of_phones else self.word_delimiter_token
        ids = {**self.added_tokens_encoder, **self.vocabulary}
        key = special, delimiter, self.replace_word_delimiter_char, lower_case, self.unk_token, self.is_of_phones
        if self._cached_vocabulary != ids:
            self._cache, self._cached_vocabulary = {}, ids
        vocabulary = self._cache.get(key)
        if vocabulary is None:
            unknown = None if self.unk_token is None else ids[self.unk_token]
            tokens, replacement = Vocabulary.of(ids).tokens, self.replace_word_delimiter_char
            vocabulary = Vocabulary(tokens, special, delimiter, replacement, lower_case, unknown, self.is_of_phones)
            self._cache[key] = vocabulary
        return vocabulary

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        output_char_offsets: bool = False,
        output_word_offsets: bool = False,
        **options: bool,
    ) -> str | CTCTokenizerOutput:
        """Turn the most probable id of each frame, `[T]`, into text. See `batch_decode` for the arguments."""
        if hasattr(token_ids, "__index__") and not getattr(token_ids, "ndim", 0):
            token_ids = [int(token_ids)]
        rows = [token_ids if isinstance(token_ids, (torch.Tensor, np.ndarray)) else list(token_ids)]
        cleaned, chars, words = clean_up_tokenization_spaces, output_char_offsets, output_word_offsets
        decoded = self.batch_decode(rows, skip_special_tokens, cleaned, chars, words, **options)
        if isinstance(decoded, list):
            return decoded[0]
        return CTCTokenizerOutput({name: values[0] for name, values in decoded.items()})

    def batch_decode(
        self,
        sequences: torch.Tensor | np.ndarray | Sequence[Iterable[int]],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        output_char_offsets: bool = False,
        output_word_offsets: bool = False,
        *,
        group_tokens: bool = True,
        spaces_between_special_tokens: bool = False,
        filter_word_delimiter_token: bool = True,
    ) -> list[str] | CTCTokenizerOutput:
        """Turn the most probable ids of a batch into texts.

        As in transformers, an id that is not in the vocabulary becomes `unk_token`: the output layer may have more rows than
        there are tokens.

        Args:
            sequences: The id of each frame: `[B, T]`, or a sequence of sequences of any lengths.
            skip_special_tokens: Leave out special tokens. Unlike in transformers, doubled letters are preserved.
            clean_up_tokenization_spaces: Remove spaces before punctuation and `'s`. Default: the attribute of that name.
            output_char_offsets: Return a `CTCTokenizerOutput` with the frames of each character.
            output_word_offsets: Return a `CTCTokenizerOutput` with the frames of each word.
            group_tokens: Merge runs of one id, as CTC does; `False` for ids that are already merged.
            spaces_between_special_tokens: Write a space between all tokens. Texts of phones always have one.
            filter_word_delimiter_token: Leave out the word delimiter from texts of phones. Letters take `True` only.

        Returns:
            A list of texts, or a `CTCTokenizerOutput` if offsets are requested.

        Raises:
            ValueError: An id is not in the vocabulary, and `unk_token` is `None`.
        """
        if not (filter_word_delimiter_token or self.is_of_phones):
            raise ValueError("filter_word_delimiter_token=False is for tokenizers of phones: letters have delimiters in text")
        cleaned = self.clean_up_tokenization_spaces
        return decode_batch(
            sequences,
            self.vocabulary_of(skip_special_tokens, with_delimiters=not filter_word_delimiter_token),
            self.pad_token_id,
            group_tokens=group_tokens,
            chars=output_char_offsets,
            words=output_word_offsets,
            spaced=spaces_between_special_tokens and not self.is_of_phones,
            cleaned=cleaned if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces,
        )

    def convert_tokens_to_string(
        self,
        tokens: Sequence[str],
        group_tokens: bool = True,
        spaces_between_special_tokens: bool = False,
        output_char_offsets: bool = False,
        output_word_offsets: bool = False,
        *,
        filter_word_delimiter_token: bool = True,
    ) -> dict[str, Any]:
        """Turn the token of each frame into text, as `decode` does with ids.

        Args:
            tokens: The tokens, which need not be in the vocabulary.
            group_tokens: See `batch_decode`.
            spaces_between_special_tokens: See `batch_decode`.
            output_char_offsets: See `batch_decode`.
            output_word_offsets: See `batch_decode`.
            filter_word_delimiter_token: See `batch_decode`.

        Returns:
            `text`, `char_offsets` and, for letters, `word_offsets`; offsets that are not requested are `None`.
        """
        return decode_tokens(
            self,
            tokens,
            group_tokens=group_tokens,
            chars=output_char_offsets,
            words=output_word_offsets,
            spaced=spaces_between_special_tokens and not self.is_of_phones,
            with_delimiters=not filter_word_delimiter_token,
        )

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text. See `__call__`."""
        return splitter(self)(one_text(text))

    def encode(self, text: str, **options: Any) -> Any:
        """Return the `input_ids` of a text. See `__call__` for the options."""
        return self(one_text(text), **options)["input_ids"]

    def __call__(
        self,
        text: str | Sequence[str],
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
    ) -> BatchFeature:
        """Turn text into token ids, the labels of training.

        Tokens of several letters are matched first, longest first, together with the spaces around them. Every other character
        is a token: a space becomes the word delimiter, and a character that is not in the vocabulary `unk_token`. Phones must
        be separated by spaces.

        Args:
            text: A text, or a sequence of texts.
            add_special_tokens: Makes no difference: labels of CTC have no tokens around them.
            padding: `True` or `"longest"` pads to the longest text, `"max_length"` to `max_length` ids, `False` or
                `"do_not_pad"` not at all.
            truncation: `True`, `"longest_first"` or `"only_first"` cuts ids to `max_length`. `None` does so if `max_length` is
                given without padding.
            max_length: The length of `"max_length"`, and the limit of truncation. Default: `model_max_length`, if it was set.
            is_split_into_words: `False`: join words with spaces instead.
            pad_to_multiple_of: Round the padded length up to a multiple of this number.
            padding_side: `"right"` or `"left"`. Default: the attribute of the same name.
            return_tensors: `"pt"` or `"tf"` for tensors, `"np"` for arrays, `None` for lists.
            return_attention_mask: `False` leaves the mask out.

        Returns:
            `input_ids` and `attention_mask`: lists of integers, or one such list for each text. As tensors they are int64
            `[B, L]`, also for one text.

        Raises:
            ValueError: Neither a character nor `unk_token` is in the vocabulary, `do_phonemize` is set, or ids of different
                lengths should become a tensor.
        """
        if is_split_into_words:
            raise ValueError("is_split_into_words=True is not supported, as versions of transformers differ: join the words")
        more = padding_side, return_tensors, return_attention_mask
        return encode_batch(self, text, padding, truncation, max_length, pad_to_multiple_of, *more)

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Pad label sequences to a batch.

        Args:
            encoded_inputs: A sequence of `{"input_ids": ids}`, or one such dictionary with one or several label sequences. An
                `attention_mask` beside them is padded, too.
            padding: See `__call__`. Here the default is to pad to the longest.
            max_length: See `__call__`.
            pad_to_multiple_of: See `__call__`.
            padding_side: See `__call__`.
            return_attention_mask: See `__call__`.
            return_tensors: `"pt"`, `"tf"` or `"np"`. Default: the kind of the ids: lists, arrays or tensors.

        Returns:
            `input_ids` and `attention_mask`. As tensors they are int64 `[B, L]`. Padded ids are `pad_token_id`.

        Raises:
            ValueError: There are other entries, which cannot be padded, or sequences of different lengths should become a
                tensor without padding.
        """
        more = padding_side, return_tensors, return_attention_mask
        return pad_encoded(self, encoded_inputs, padding, max_length, pad_to_multiple_of, *more)

"""Hold the tokens of a CTC tokenizer: the vocabulary, the special tokens, the added tokens and their ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, InitVar, dataclass, field
from pathlib import Path
from typing import Any

from .added_tokens import AddedToken, TokenId
from .ctc.vocabulary import Vocabulary
from .hub import listed, read_json

LETTERS, PHONES = "Wav2Vec2CTCTokenizer", "Wav2Vec2PhonemeCTCTokenizer"
DEFAULT_DELIMITER = "<by tokenizer_class>"  # | for letters, none for phones
NO_LIMIT = int(1e30)  # as in transformers, which saves this number
SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")  # in the order in which transformers adds them


@dataclass
class TokenTable:
    """The tokens of a CTC tokenizer. See `hubert_fast.CTCTokenizer` for the arguments."""

    vocabulary: dict[str, int] = None  # type: ignore[assignment]  # a path becomes its content, None that of vocab_file
    bos_token: str | None = "<s>"
    eos_token: str | None = "</s>"
    unk_token: str | None = "<unk>"
    pad_token: str = "<pad>"
    word_delimiter_token: str | None = DEFAULT_DELIMITER
    replace_word_delimiter_char: str = " "
    do_lower_case: bool = False
    target_lang: str | None = field(default=None, compare=False)
    _: KW_ONLY
    tokenizer_class: str = LETTERS
    phone_delimiter_token: str | None = " "
    do_phonemize: bool = True
    phonemizer_lang: str = "en-us"
    phonemizer_backend: str = "espeak"
    additional_special_tokens: list[str] = field(default_factory=list)
    clean_up_tokenization_spaces: bool = False
    model_max_length: int = NO_LIMIT
    padding_side: str = "right"
    truncation_side: str = "right"
    added_tokens_decoder: dict[int, AddedToken] = field(default_factory=dict, repr=False)
    vocab_file: InitVar[str | Path | None] = None
    tokens: dict[int, str] = field(init=False, repr=False)

    pad_token_id = TokenId()
    unk_token_id = TokenId()
    bos_token_id = TokenId()
    eos_token_id = TokenId()
    word_delimiter_token_id = TokenId()
    phone_delimiter_token_id = TokenId()

    def __post_init__(self, vocab_file: str | Path | None) -> None:
        self._cache: dict[Any, Vocabulary] = {}
        self._cached_vocabulary: dict[str, int] | None = None  # the tokens that _cache was filled for
        self.model_input_names = ["input_ids", "attention_mask"]
        self.vocabulary = _vocabulary_from(self.vocabulary if vocab_file is None else vocab_file, self.target_lang)
        self.additional_special_tokens = [str(token) for token in self.additional_special_tokens]
        if self.tokenizer_class not in (LETTERS, PHONES):
            raise ValueError(f"tokenizer_class must be {LETTERS} or {PHONES}, but is {self.tokenizer_class!r}")
        if self.word_delimiter_token == DEFAULT_DELIMITER:
            self.word_delimiter_token = None if self.is_of_phones else "|"
        for name in ("padding_side", "truncation_side"):
            if getattr(self, name) not in ("right", "left"):
                raise ValueError(f"{name} must be 'right' or 'left', but is {getattr(self, name)!r}")
        if self.pad_token is None:
            raise ValueError("pad_token must be the token that is CTC's blank, but is None")
        for name in SPECIAL_NAMES:
            if getattr(self, name) is not None:
                setattr(self, name, str(getattr(self, name)))
        self.added_tokens_decoder = {int(id): AddedToken.of(token) for id, token in self.added_tokens_decoder.items()}
        self.tokens = {id: token for token, id in self.vocabulary.items()}
        for id, token in self.added_tokens_decoder.items():
            self.tokens.setdefault(id, token.content)
        present = self.added_tokens_encoder
        for content in self.all_special_tokens:
            if content not in present:
                self._add(AddedToken(content, special=True))
        if not self.is_of_phones:  # spaces around letters that form one token belong to it
            for content in self.vocabulary:
                if len(content) > 1:
                    self._add(AddedToken(content, lstrip=True, rstrip=True))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SPECIAL_NAMES and "tokens" in self.__dict__:  # the constructor adds missing tokens, an assignment does not
            if value is None and name == "pad_token":
                raise ValueError("pad_token must be the token that is CTC's blank, but is None")
            value = None if value is None else str(value)
            if value is not None and value not in self.get_vocab():
                raise ValueError(f"{name} must be in the vocabulary, but {value!r} is not: add_special_tokens adds it")
        super().__setattr__(name, value)

    @property
    def is_of_phones(self) -> bool:
        """Whether tokens are phones, which are separated by spaces in text."""
        return self.tokenizer_class == PHONES

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens, in the order of transformers 4.34.1, which does not count the word delimiter among them."""
        named = [getattr(self, name) for name in SPECIAL_NAMES]
        return list(dict.fromkeys(token for token in (*named, *self.additional_special_tokens) if token is not None))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`."""
        return self.convert_tokens_to_ids(self.all_special_tokens)

    @property
    def special_ids(self) -> set[int]:
        """The ids that `skip_special_tokens` leaves out. The word delimiter is not one of them, even if it is special."""
        return {*self.convert_tokens_to_ids([token for token in self.all_special_tokens if token != self.word_delimiter_token])}

    @property
    def special_tokens_map(self) -> dict[str, Any]:
        """The special tokens by the names of their attributes."""
        named = {name: getattr(self, name) for name in SPECIAL_NAMES if getattr(self, name) is not None}
        more = {"additional_special_tokens": list(self.additional_special_tokens)} if self.additional_special_tokens else {}
        return named | more

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        """The ids of `additional_special_tokens`."""
        return self.convert_tokens_to_ids(self.additional_special_tokens)

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """The ids of the tokens that text is split at first: special, added and of several letters. Sorted by id."""
        return {token.content: id for id, token in sorted(self.added_tokens_decoder.items())}

    @property
    def vocab_size(self) -> int:
        """The number of tokens without those that were added to the vocabulary. `len(tokenizer)` counts these, too."""
        return len(self.vocabulary)

    def __len__(self) -> int:
        return len(self.get_vocab())

    def get_vocab(self) -> dict[str, int]:
        """Return the id of each token, those of added tokens included."""
        return {**self.vocabulary, **self.added_tokens_encoder}

    def get_added_vocab(self) -> dict[str, int]:
        """Return `added_tokens_encoder`."""
        return self.added_tokens_encoder

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Add tokens, which text is then never split inside of. New ones get the next ids: resize the output layer for them.

        Args:
            new_tokens: A token or a sequence of tokens: text, or `AddedToken` of the package tokenizers.
            special_tokens: Make them special, so that `skip_special_tokens` leaves them out.

        Returns:
            The number of tokens that the vocabulary did not have.
        """
        if not new_tokens:
            return 0
        count = 0
        for token in new_tokens if isinstance(new_tokens, (list, tuple)) else [new_tokens]:
            added = AddedToken.of(token)
            content = added.content
            if self.do_lower_case and not self.is_of_phones and getattr(token, "normalized", False) and not added.special:
                content = content.lower()  # as in transformers
            added = AddedToken(content, added.lstrip, added.rstrip, added.special or special_tokens)
            if content:
                count += self._add(added)
                if added.special and content not in self.all_special_tokens:
                    self.additional_special_tokens = [*self.additional_special_tokens, content]
        return count

    def add_special_tokens(self, special_tokens_dict: Mapping[str, Any], replace_additional_special_tokens: bool = True) -> int:
        """Set special tokens, and add those that the vocabulary lacks.

        Args:
            special_tokens_dict: Tokens by the names `bos_token`, `eos_token`, `unk_token` and `pad_token`, and a list of
                tokens as `additional_special_tokens`, or under its new name `extra_special_tokens`.
            replace_additional_special_tokens: Replace the additional special tokens, rather than extend them.

        Returns:
            The number of tokens that the vocabulary did not have.

        Raises:
            ValueError: A name is unknown.
        """
        lists = ("additional_special_tokens", "extra_special_tokens")
        if unknown := [name for name in special_tokens_dict if name not in (*SPECIAL_NAMES, *lists)]:
            raise ValueError(f"a CTC tokenizer has {', '.join((*SPECIAL_NAMES, *lists))}, but no {', '.join(unknown)}")
        count = 0
        for name, value in special_tokens_dict.items():
            tokens = [AddedToken.of(token) for token in (value if name in lists else [value])]
            count += sum(self._add(AddedToken(str(token), token.lstrip, token.rstrip, special=True)) for token in tokens)
            if name not in lists:
                setattr(self, name, tokens[0].content)
            else:
                old = [] if replace_additional_special_tokens and tokens else self.additional_special_tokens
                self.additional_special_tokens = list(dict.fromkeys([*old, *map(str, tokens)]))
        return count

    def _add(self, token: AddedToken) -> bool:
        """Mark a token as added, with the next id if it is new, and return whether it is."""
        id = self.get_vocab().get(token.content)
        is_new = id is None
        if id is None:
            id = max(self.tokens, default=-1) + 1
            self.tokens[id] = token.content
        self.added_tokens_decoder[id] = token
        return is_new

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the id of a token, or a list with the id of each of several tokens.

        A token that is not in the vocabulary has the id of `unk_token`.

        Raises:
            ValueError: Neither a token nor `unk_token` is in the vocabulary. An added `unk_token` stands for no other token,
                since models have no output for it.
        """
        ids = self._ids_of([tokens] if isinstance(tokens, str) else tokens)
        return ids[0] if isinstance(tokens, str) else ids

    def _ids_of(self, tokens: Iterable[str]) -> list[int]:
        vocabulary = self.get_vocab()
        unknown = None if self.unk_token is None else self.vocabulary.get(self.unk_token)
        ids = []
        for token in tokens:
            id = vocabulary.get(token, unknown)
            if id is None:
                raise ValueError(f"{token!r} is not in the vocabulary, and neither is the unknown token {self.unk_token!r}")
            ids.append(id)
        return ids

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or a list with the token of each of several ids. An id without a token is `unk_token`.

        Args:
            ids: An id, or a sequence, array or tensor of ids.
            skip_special_tokens: Leave special tokens out of a list.
        """
        if hasattr(ids, "__index__") and not getattr(ids, "ndim", 0):
            return self.tokens.get(int(ids), self.unk_token)
        skipped = {*self.all_special_ids} if skip_special_tokens else set()
        return [self.tokens.get(int(id), self.unk_token) for id in ids if int(id) not in skipped]


def _vocabulary_from(source: Any, target_lang: str | None) -> dict[str, int]:
    """Return the ids of tokens from a dictionary or the path of a `vocab.json`, which may hold one for each language."""
    if source is None:
        raise TypeError("a tokenizer needs vocabulary (or vocab_file): a dictionary from tokens to ids, or the path of one")
    vocabulary = dict(source) if isinstance(source, Mapping) else read_json(source)
    if any(isinstance(entry, Mapping) for entry in vocabulary.values()) and target_lang not in vocabulary:
        raise ValueError(f"there is a vocabulary per language ({listed(list(vocabulary))}): target_lang is {target_lang!r}")
    if target_lang is not None and isinstance(vocabulary.get(target_lang), Mapping):
        vocabulary = dict(vocabulary[target_lang])
    for token, id in vocabulary.items():
        if type(id) is not int:
            raise ValueError(f"the vocabulary must map tokens to integers, but maps {token!r} to {id!r}")
    return vocabulary

"""Describe tokens with properties, as `AddedToken` of the package tokenizers does, and ids of tokens as attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AddedToken:
    """A token that text is split at before anything else.

    Attributes:
        content: The token.
        lstrip: Whether spaces before the token belong to it.
        rstrip: Whether spaces after the token belong to it.
        special: Whether the token was added as a special one.
    """

    content: str
    lstrip: bool = False
    rstrip: bool = False
    special: bool = False

    def __str__(self) -> str:
        return self.content

    @classmethod
    def of(cls, token: Any) -> AddedToken:
        """Return an added token from text, from a dictionary in a file, or from an `AddedToken` of the package tokenizers.

        Raises:
            ValueError: The token must be a word of its own (`single_word`), which is not supported.
            TypeError: It is none of these.
        """
        if isinstance(token, str):
            return cls(token)
        read = token.get if isinstance(token, Mapping) else lambda name, default=None: getattr(token, name, default)
        content = read("content", None)
        if not isinstance(content, str):
            raise TypeError(f"a token must be text or an AddedToken, but is {token!r}")
        if read("single_word", False):
            raise ValueError(f"the token {content!r} has single_word=True, which is not supported: leave it out")
        return cls(content, *(bool(read(name, False)) for name in ("lstrip", "rstrip", "special")))


class TokenId:
    """The id of a token that an attribute of the tokenizer names; `None` if it names none. Setting it names another token."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.token_name = name.removesuffix("_id")

    def __get__(self, tokenizer: Any, owner: type | None = None) -> Any:
        if tokenizer is None:
            return self
        token = getattr(tokenizer, self.token_name)
        return None if token is None else tokenizer.convert_tokens_to_ids(token)

    def __set__(self, tokenizer: Any, id: int | None) -> None:
        if id is not None and id not in tokenizer.tokens:
            raise ValueError(f"{self.token_name}_id must be the id of a token, but is {id!r}")
        setattr(tokenizer, self.token_name, None if id is None else tokenizer.tokens[id])


def text_of(token: str | Mapping[str, Any]) -> str:
    """Return the text of a token, which a file may store as a dictionary with further properties."""
    return token["content"] if isinstance(token, Mapping) else token


def texts_of(tokens: Sequence[Any] | Mapping[str, Any] | None) -> list[str]:
    """Return the texts of several tokens, which a file may store as a list or as a dictionary."""
    return [text_of(token) for token in (tokens.values() if isinstance(tokens, Mapping) else tokens or [])]

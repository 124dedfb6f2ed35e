"""Sort the options of `from_pretrained` of processors into values to replace and options of the hub."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .hub import HUB_OPTIONS


def split_options(
    owner: str, options: Mapping[str, Any], parts: Sequence[Collection[str]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the options that each part knows, and the options of the hub.

    Args:
        owner: The name of the class, for messages.
        options: The keyword arguments of `from_pretrained`.
        parts: The names that each part knows. A name that several know goes to each of them.

    Raises:
        TypeError: An option is neither in a part nor an option of the hub. The message names it.
    """
    known = {*HUB_OPTIONS, *(name for part in parts for name in part)}
    if unknown := [name for name in options if name not in known]:
        public = sorted(name for name in known if not name.startswith("_"))
        raise TypeError(f"{owner}.from_pretrained got unknown options: {', '.join(unknown)}. It takes {', '.join(public)}")
    hub = {name: value for name, value in options.items() if name in HUB_OPTIONS}
    return [{name: value for name, value in options.items() if name in part} for part in parts], hub

"""Temporary: replaced by the merge."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from . import kinds


class Found(NamedTuple):
    url: str
    name: str


def find(source: str) -> Iterator[Found]:
    if os.path.isdir(source):
        for folder, _, names in sorted(os.walk(source)):
            for name in sorted(names):
                path = os.path.join(folder, name)
                if kinds.is_shard(path):
                    yield Found(path, os.path.relpath(path, source).split(".")[0])
        return
    yield Found(source, kinds.name_of(source).split(".")[0])

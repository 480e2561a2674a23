"""How every key is spelled: one function, so that no two different things ever share one.

A key names what is cached, or what is remembered of it: an object at an origin, a variant, a
compressed or packaged form, the file of an extent, an origin itself. It is made of parts that come
from anywhere (a path, a header field, an ETag), so no character can stand between them: each part
has its length in front. Keys are made by ``join_key`` alone. Pure.
"""

from __future__ import annotations

import re

_LENGTH = re.compile(r"(\d+):", re.ASCII)


def join_key(*parts: str) -> str:
    """The key of these parts in this order: "3:abc0:1:x" of "abc", "" and "x"."""
    return "".join([f"{len(part)}:{part}" for part in parts])


def split_key(key: str) -> tuple[str, ...]:
    """The parts of a key. Raises ValueError for what ``join_key`` has not made."""
    parts: list[str] = []
    at = 0
    while at < len(key):
        length = _LENGTH.match(key, at)
        if length is None:
            raise ValueError("this is no key")
        start = length.end()
        at = start + int(length[1])
        if at > len(key):
            raise ValueError("this key is cut off")
        parts.append(key[start:at])
    return tuple(parts)


def key_bytes(key: str) -> bytes:
    """A key as bytes, for digests: of two keys never the same, lone surrogates included."""
    return key.encode("utf-8", "surrogatepass")

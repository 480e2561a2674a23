"""Builds cache keys so that two different things never share one.

A key names a cached thing: an object at an origin, a variant, a compressed or packaged form, an
extent's file, an origin. Its parts come from anywhere (a path, a header field, an ETag), so no
separator is safe: each part is preceded by its length. Only ``join_key`` builds keys. Pure.
"""

from __future__ import annotations

import re

_LENGTH = re.compile(r"(\d+):", re.ASCII)


def join_key(*parts: str) -> str:
    """The key of these parts in this order: "3:abc0:1:x" of "abc", "" and "x"."""
    return "".join([f"{len(part)}:{part}" for part in parts])


def split_key(key: str) -> tuple[str, ...]:
    """The parts of a key. Raises ValueError for text that ``join_key`` did not build."""
    parts: list[str] = []
    at = 0
    while at < len(key):
        length = _LENGTH.match(key, at)
        if length is None:
            raise ValueError("not a key")
        start = length.end()
        at = start + int(length[1])
        if at > len(key):
            raise ValueError("the key is truncated")
        parts.append(key[start:at])
    return tuple(parts)


def key_bytes(key: str) -> bytes:
    """A key as bytes, for digests. Injective, lone surrogates included."""
    return key.encode("utf-8", "surrogatepass")

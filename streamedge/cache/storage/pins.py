"""Pinned objects: eviction leaves their files in the cache.

    pins/<hex>   an empty file for each pinned asset, named like its record

A pin is of an asset, not of a version: it holds for a later version too. It does not keep an object
fresh, and it does not survive a purge of the cache folder.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

PINS_MAX = 10_000
_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_digest(text: str) -> bool:
    """Whether a text may be the name of a record's file."""
    return _DIGEST.fullmatch(text) is not None


def pin(root: Path, digest: str) -> None:
    """Pins an asset by the name of its record's file. Raises OSError."""
    folder = root / "pins"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / digest).touch(mode=0o600)


def unpin(root: Path, digest: str) -> None:
    """Removes a pin; does nothing if there is none. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(root / "pins" / digest)


def pinned(root: Path) -> frozenset[str]:
    """The names of the pinned assets' record files. Raises OSError."""
    try:
        return frozenset(name for name in os.listdir(root / "pins") if is_digest(name))
    except FileNotFoundError:
        return frozenset()

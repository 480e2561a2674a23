"""The Lua scripts that run in the engine; each is one step that happens fully or not at all."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, and the SHA-1 digest by which the engine knows it (EVALSHA)."""

    name: str
    text: str
    digest: str


def _script(name: str, *, writes: bool) -> Script:
    folder = resources.files(__package__) / "lua"
    flags = "" if writes else " flags=no-writes"  # may run on a replica
    common, body = ((folder / f"{each}.lua").read_text() for each in ("common", name))
    text = f"#!lua{flags}\n{common}\n{body}"
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


APPEND = _script("append", writes=True)
BEGIN_LINE = _script("begin_line", writes=True)
TRIM = _script("trim", writes=True)
REPORT = _script("report", writes=True)
WITHDRAW = _script("withdraw", writes=True)
READ = _script("read", writes=False)
ENTRY_IDS = _script("entry_ids", writes=False)
BOUNDS = _script("bounds", writes=False)
SNAPSHOT = _script("snapshot", writes=False)
PRESENCES = _script("presences", writes=False)

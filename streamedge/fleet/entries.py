"""Entries of the shared log of a fleet, and their encoding. Pure.

Each entry has a random id. Appending an entry twice is harmless: the engine and every edge keep an
entry with a known id once only. Entries are applied in the order of their positions; verdicts
compare positions, never ``created_s``.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

_ID_BYTES = 16


class EntryKind(StrEnum):
    """The kind of an entry; the members of its body are in brackets."""

    INVALIDATION = "invalidation"  # as a row of the control log (items, soft, revoke)
    RESOURCES = "resources"  # changed documents of the API (resources, see ``control.resources``)
    WRITTEN = "written"  # objects were written through an edge (keys)
    PENDING = "pending"  # a queued write (origin, name, state, etag, size_bytes)
    MEMBER = "member"  # an edge joined, changed or left (see ``members``)
    LINE = "line"  # the engine had lost entries: a new line begins here


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. ``edge``: the name of the edge that made it; ``scope``: a distribution's id or "".

    ``created_s``: seconds since 1970 by the clock of that edge; it is shown and never compared.
    """

    id: str
    kind: EntryKind
    edge: str
    created_s: float
    scope: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)


class PlacedEntry(NamedTuple):
    """An entry at its position in the shared log (see ``position``).

    ``id`` is the entry's id. ``entry`` is None if it cannot be read, because another version of the
    program wrote it; it then counts as an invalidation of everything.
    """

    position: int
    id: str
    entry: Entry | None


def new_entry_id() -> str:
    """A random id: 32 hexadecimal digits."""
    return secrets.token_hex(_ID_BYTES)


def encode_entry(entry: Entry) -> str:
    """The entry as JSON."""
    return json.dumps(
        {
            "id": entry.id,
            "kind": entry.kind.value,
            "edge": entry.edge,
            "created_s": entry.created_s,
            "scope": entry.scope,
            "body": entry.body,
        },
        separators=(",", ":"),
    )


def decode_entry(text: str | bytes) -> Entry | None:
    """The entry in a text; None if it is not one."""
    try:
        members = json.loads(text)
        body = members["body"]
        if not isinstance(body, dict):
            return None
        return Entry(
            id=str(members["id"]),
            kind=EntryKind(members["kind"]),
            edge=str(members["edge"]),
            created_s=float(members["created_s"]),
            scope=str(members["scope"]),
            body=body,
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None

"""An error in a document, and helpers that read a document of any shape.

Values of the wrong type are ignored here: the schema reports them. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from streamedge.config.errors.toml_lines import Key
from streamedge.config.schema.config import Section
from streamedge.config.schema.units import QUOTE_LIMIT_CHARACTERS

LISTED_MAX = 8
# "s4" is still near "s3": one of two letters is equal.
_LIKENESS = 0.5


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong at ``key``, in words that never repeat a secret."""

    key: Key
    text: str


def nearest(name: str, names: tuple[str, ...], otherwise: str) -> str:
    """``did you mean "…"?`` for the name in ``names`` most like ``name``, else ``otherwise``."""
    matches = get_close_matches(name[:QUOTE_LIMIT_CHARACTERS], names, n=1, cutoff=_LIKENESS)
    return f"did you mean {json.dumps(matches[0])}?" if matches else otherwise


def quoted_list(names: tuple[str, ...]) -> str:
    """The first of ``names``, quoted, or "none"."""
    return ", ".join(short(name) for name in names[:LISTED_MAX]) or "none"


def short(value: object) -> str:
    """A name in quotes, cut to a length that keeps the message on one line."""
    return json.dumps(str(value)[:QUOTE_LIMIT_CHARACTERS])


def table(value: object) -> dict[str, object]:
    """``value`` if it is a table, else an empty one."""
    return value if isinstance(value, dict) else {}


def named(document: dict[str, object], name: str) -> Iterator[tuple[Key, dict[str, object]]]:
    """Every table under ``name``, with its key."""
    for key, value in table(document.get(name)).items():
        yield (name, key), table(value)


def entries(holder: dict[str, object], key: Key) -> Iterator[tuple[Key, dict[str, object]]]:
    """Every table of the list at the last part of ``key`` in ``holder``, with its key."""
    value = holder.get(str(key[-1]))
    for index, entry in enumerate(value if isinstance(value, list) else ()):
        yield (*key, index), table(entry)


def strings(holder: dict[str, object], key: str, section: type[Section]) -> tuple[str, ...]:
    """The strings in the list at ``key``, or in the default if the key is omitted."""
    field = section.model_fields[key]
    value = holder.get(key, () if field.is_required() else field.default)
    items = value if isinstance(value, list | tuple) else ()
    return tuple(entry for entry in items if isinstance(entry, str))


def string(holder: dict[str, object], key: str) -> str | None:
    """The string at ``key``, None for anything else."""
    value = holder.get(key)
    return value if isinstance(value, str) else None

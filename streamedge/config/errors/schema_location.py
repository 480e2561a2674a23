"""Maps the location of a pydantic error to a key, section and field of the config.

Pydantic's location has the variants of unions among the keys. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, get_args, get_origin

from pydantic.fields import FieldInfo

from streamedge.config.errors.toml_lines import Key
from streamedge.config.schema.config import Config, Section


@dataclass(frozen=True, slots=True)
class SchemaLocation:
    """What the schema has at ``key``, a key of the document.

    ``section`` is the innermost kind of table round it, None where its ``type`` does not tell.
    ``field`` is the key's own in it, None for what only a table may stand at; ``is_entry``: the key
    is an entry of that field's list. ``variants`` are the kinds of table that may stand at ``key``,
    by their ``type``. ``is_named``: the key holds tables with names of the operator's.
    """

    key: Key
    section: type[Section] | None = Config
    field: FieldInfo | None = None
    is_entry: bool = False
    is_named: bool = False
    variants: dict[str, type[Section]] | None = None


def variants(union: object) -> dict[str, type[Section]]:
    """The sections of a discriminated union, by their ``type``."""
    members = get_args(get_args(union)[0])
    return {get_args(member.model_fields["type"].annotation)[0]: member for member in members}


def contained_section(annotation: object) -> object:
    """The section or union of sections whose tables ``annotation`` holds, by name or in a list.

    None for anything else.
    """
    match get_origin(annotation):
        case origin if origin is dict:
            inner = get_args(annotation)[1]
        case origin if origin is tuple:
            inner = get_args(annotation)[0]
        case _:
            return None
    return inner if is_section(inner) or _is_union(inner) else None


def is_section(annotation: object) -> bool:
    """Whether ``annotation`` is one kind of table."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def value_at(document: object, key: Key) -> object:
    """What stands at ``key`` of ``document``; None where nothing does."""
    value = document
    for part in key:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return None
    return value


def locate(location: tuple[int | str, ...]) -> SchemaLocation:
    """The place of a ``location`` that pydantic gives for ``Config``."""
    found = SchemaLocation(())
    parts = list(location)
    while parts:
        part = parts.pop(0)
        if found.section is None or not isinstance(part, str):
            break
        field = found.section.model_fields.get(part)
        key = (*found.key, part)
        found = SchemaLocation(key, found.section, field)
        if field is None:
            break
        table: object = field.annotation
        held = contained_section(table)
        if held is not None:
            is_named = get_origin(table) is dict
            found = SchemaLocation(key, found.section, field, is_named=is_named)
            if not parts:
                break
            key = (*key, parts.pop(0))
            table = held
        if _is_union(table):
            kinds = variants(table)
            section = kinds.get(str(parts.pop(0))) if parts else None
            found = SchemaLocation(key, section, variants=kinds)
        elif is_section(table) and (held is not None or parts):
            assert isinstance(table, type)
            found = SchemaLocation(key, table)
        elif not is_section(table):
            is_entry = bool(parts) and isinstance(parts[0], int)
            return SchemaLocation(
                (*key, parts[0]) if is_entry else key, found.section, field, is_entry
            )
    return found


def _is_union(annotation: object) -> bool:
    """Whether ``annotation`` is a union of sections discriminated by ``type``."""
    if get_origin(annotation) is not Annotated:
        return False
    members = get_args(get_args(annotation)[0])
    return bool(members) and all(map(is_section, members))

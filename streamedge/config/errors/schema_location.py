"""Maps the location of a pydantic error to a key, section and field of the config.

Pydantic's location has the variants of unions among the keys. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeGuard, get_args, get_origin

from pydantic.fields import FieldInfo

from streamedge.config.errors.toml_lines import Key
from streamedge.config.schema.config import Config, Section


@dataclass(frozen=True, slots=True)
class SchemaLocation:
    """What the schema has at ``key``, a key of the document.

    ``section`` is the innermost table that contains the key; None if that table has no valid
    ``type``. ``field`` is the key's field in it; None where only tables are allowed. ``is_entry``:
    the key is an entry of that field's list. ``is_named``: the key contains tables whose names the
    operator chooses. ``variants`` are the kinds of table that are allowed at ``key``, by ``type``.
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
    """The section, or union of sections, of which ``annotation`` is a table by name or a list.

    None for other types.
    """
    match get_origin(annotation):
        case origin if origin is dict:
            inner = get_args(annotation)[1]
        case origin if origin is tuple:
            inner = get_args(annotation)[0]
        case _:
            return None
    return inner if is_section(inner) or _is_union(inner) else None


def is_section(annotation: object) -> TypeGuard[type[Section]]:
    """Whether ``annotation`` is one kind of table."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def value_at(document: object, key: Key) -> object:
    """The value at ``key`` of ``document``; None if there is none."""
    value = document
    for part in key:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return None
    return value


def locate(error_location: tuple[int | str, ...]) -> SchemaLocation:
    """Locates pydantic's ``loc`` of an error in ``Config``."""
    location = SchemaLocation(())
    parts = list(error_location)
    while parts:
        part = parts.pop(0)
        if location.section is None or not isinstance(part, str):
            break
        field = location.section.model_fields.get(part)
        key = (*location.key, part)
        location = SchemaLocation(key, location.section, field)
        if field is None:
            break
        table: object = field.annotation
        inner = contained_section(table)
        if inner is not None:
            is_named = get_origin(table) is dict
            location = SchemaLocation(key, location.section, field, is_named=is_named)
            if not parts:
                break
            key = (*key, parts.pop(0))
            table = inner
        if _is_union(table):
            kinds = variants(table)
            section = kinds.get(str(parts.pop(0))) if parts else None
            location = SchemaLocation(key, section, variants=kinds)
        elif is_section(table):
            if inner is not None or parts:
                location = SchemaLocation(key, table)
        else:
            is_entry = bool(parts) and isinstance(parts[0], int)
            entry_key = (*key, parts[0]) if is_entry else key
            return SchemaLocation(entry_key, location.section, field, is_entry)
    return location


def _is_union(annotation: object) -> bool:
    """Whether ``annotation`` is a union of sections discriminated by ``type``."""
    if get_origin(annotation) is not Annotated:
        return False
    members = get_args(get_args(annotation)[0])
    return bool(members) and all(map(is_section, members))

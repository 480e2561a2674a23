"""A config as TOML, with all secrets masked. Pure.

What it prints is a config file again, but for the masked secrets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from streamedge.config.describe import field_notation
from streamedge.config.errors.schema_location import contained_section
from streamedge.config.schema.config import Config, Section
from streamedge.config.schema.units import without_password
from streamedge.config.schema.values import HOLDS_SECRET

MASK = "********"
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def config_as_toml(config: Config, *, with_defaults: bool = False) -> str:
    """All tables; keys with their default value only on request, as comments."""
    lines = _table(config, "", with_defaults=with_defaults)
    return "\n".join(lines).strip("\n") + "\n"


def key_values(config: Config, *, with_defaults: bool = False) -> dict[str, str]:
    """The values of keys as TOML, by dotted name; of those with a default only on request."""
    return dict(_leaves(config, "", with_defaults=with_defaults))


def _leaves(section: Section, name: str, *, with_defaults: bool) -> Iterator[tuple[str, str]]:
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        place = f"{name}.{key}" if name else key
        if isinstance(value, Section):
            yield from _leaves(value, place, with_defaults=with_defaults)
        elif _holds_sections(value):
            for inner, table in _named(value):
                yield from _leaves(table, f"{place}.{inner}", with_defaults=with_defaults)
        elif value is not None and _is_shown(field, value, with_defaults=with_defaults):
            yield place, _value(field, value)


def _table(section: Section, header: str, *, with_defaults: bool) -> Iterator[str]:
    tables: list[tuple[str, str, Section]] = []  # header, name, table
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        place = f"{header}.{key}" if header else key
        if isinstance(value, Section):
            tables.append(("", place, value))
        elif _holds_sections(value):
            if isinstance(value, Mapping):
                tables += [("[{}]", f"{place}.{_key(name)}", each) for name, each in value.items()]
            else:
                tables += [("[[{}]]", place, each) for each in value]
        elif value is not None and _is_shown(field, value, with_defaults=with_defaults):
            comment = "" if _is_shown(field, value, with_defaults=False) else "# "
            yield f"{comment}{_key(key)} = {_value(field, value)}"
    for frame, place, table in tables:
        lines = list(_table(table, place, with_defaults=with_defaults))
        if lines or frame:  # a table that the schema has anyway is not shown when it is empty
            yield ""
            yield (frame or "[{}]").format(place)
            yield from lines


def _value(field: FieldInfo, value: object) -> str:
    if isinstance(value, SecretStr):
        return _masked(value)
    if isinstance(value, Mapping):
        entries = [f"{_key(name)} = {_entry(each)}" for name, each in value.items()]
        return f"{{ {', '.join(entries)} }}" if entries else "{}"
    if HOLDS_SECRET in field.metadata:
        return json.dumps(without_password(str(value)))
    if isinstance(value, Path):
        return json.dumps(str(value))
    return field_notation(field).toml(value)


def _entry(value: object) -> str:
    return _masked(value) if isinstance(value, SecretStr) else json.dumps(value)


def _masked(secret: SecretStr) -> str:
    return json.dumps(MASK if secret.get_secret_value() else "")


def _is_shown(field: FieldInfo, value: object, *, with_defaults: bool) -> bool:
    if _is_table_field(field):
        return False  # without tables there is nothing to show
    return with_defaults or field.is_required() or value != field.default


def _is_table_field(field: FieldInfo) -> bool:
    return contained_section(field.annotation) is not None


def _holds_sections(value: object) -> bool:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if not isinstance(value, tuple):
        return False
    return bool(value) and all(isinstance(each, Section) for each in value)


def _named(value: object) -> Iterator[tuple[str, Section]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, tuple):
        for number, each in enumerate(value):
            yield str(getattr(each, "id", number)), each


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name)

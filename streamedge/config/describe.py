"""Describes the schema in words, for error messages and for the config reference.

Types, limits, examples and defaults are read from the schema, so there is one source. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from pydantic import BeforeValidator, SecretStr
from pydantic.fields import FieldInfo

from streamedge.config.errors.schema_location import contained_section, is_section, variants
from streamedge.config.schema.admin import parse_password_hash, parse_token_hash
from streamedge.config.schema.config import (
    AnyDistributionConfig,
    AnyOriginConfig,
    BehaviorConfig,
    BehaviorRules,
    Config,
    DirectoryOriginConfig,
    HttpOriginConfig,
    Section,
    Shape,
)
from streamedge.config.schema.countries import format_country_list, parse_country_list
from streamedge.config.schema.selection import (
    format_header_selection,
    format_selection,
    parse_access_keys,
    parse_failover,
    parse_header_selection,
    parse_headers,
    parse_secret_headers,
    parse_selection,
)
from streamedge.config.schema.units import (
    format_address,
    format_admin_address,
    format_duration_s,
    format_size_bytes,
    parse_address,
    parse_admin_address,
    parse_duration_s,
    parse_ip_address,
    parse_location,
    parse_network,
    parse_path,
    parse_size_bytes,
    without_password,
)
from streamedge.config.schema.values import RESTART

_Table = tuple[str, str, type[Section]]


@dataclass(frozen=True, slots=True)
class Notation:
    """How values of one type are named and written.

    ``singular`` has its article. ``format`` formats a value for prose; in the file it
    has quotes if ``is_string``. ``bounds`` are the limits of a value, or "". ``entry`` is the
    notation of a list's entries.
    """

    singular: str
    plural: str
    format: Callable[[Any], str] = str
    example: str = ""
    is_string: bool = True
    bounds: str = ""
    entry: Notation | None = None

    @property
    def noun(self) -> str:
        """``singular`` without its article."""
        return self.singular.removeprefix("a ").removeprefix("an ")

    def toml(self, value: object) -> str:
        """``value`` as in the file."""
        return _quoted(self.format(value)) if self.is_string else self.format(value)


def _quoted(value: object) -> str:
    return json.dumps(str(value))


def _inline(table: dict[str, object]) -> str:
    """An inline table of TOML."""
    entries = ", ".join(f"{_quoted(name)} = {_quoted(value)}" for name, value in table.items())
    return f"{{ {entries} }}" if entries else "{}"


_BY_PARSER: dict[object, Notation] = {
    parse_size_bytes: Notation("a size", "sizes", format_size_bytes, '"20GiB"'),
    parse_duration_s: Notation("a duration", "durations", format_duration_s, '"90s"'),
    parse_address: Notation("an address", "addresses", format_address, '"127.0.0.1:8080"'),
    parse_admin_address: Notation(
        "an address or unix:PATH",
        "addresses or unix:PATH",
        format_admin_address,
        '"127.0.0.1:9090"',
    ),
    parse_password_hash: Notation("a password's hash", "hashes", lambda _: ""),
    parse_token_hash: Notation("a token's hash", "hashes", lambda _: ""),
    parse_ip_address: Notation("an IP address", "IP addresses", str, '"192.0.2.10"'),
    parse_location: Notation(
        "[latitude, longitude]",
        "locations",
        lambda value: f"[{value[0]:g}, {value[1]:g}]",
        "[50.11, 8.68]",
        is_string=False,
    ),
    parse_network: Notation("a network", "networks", str, '"10.0.0.0/8"'),
    parse_path: Notation("a path", "paths", str, '"var/cache"'),
    parse_failover: Notation(
        'a status (400 to 599) or "connect" or "timeout"',
        'statuses (400 to 599), "connect" or "timeout"',
        json.dumps,
        is_string=False,
    ),
    parse_selection: Notation(
        '"none", "all", { only = […] } or { except = […] }',
        "selections",
        format_selection,
        is_string=False,
    ),
    parse_header_selection: Notation(
        '"none", "all", a list or { except = […] }',
        "selections",
        format_header_selection,
        is_string=False,
    ),
    parse_headers: Notation("a table of headers", "tables", _inline, is_string=False),
    parse_country_list: Notation(
        "{ allow = […] } or { deny = […] }", "tables", format_country_list, is_string=False
    ),
    # A secret's value is never shown; only its default, which is empty.
    parse_access_keys: Notation("a table of keys", "tables", _inline, is_string=False),
    parse_secret_headers: Notation("a table of headers", "tables", _inline, is_string=False),
}
_BY_TYPE: dict[object, Notation] = {
    bool: Notation("true or false", "booleans", lambda value: str(value).lower(), is_string=False),
    int: Notation("a whole number", "whole numbers", is_string=False),
    float: Notation("a number", "numbers", "{:g}".format, is_string=False),
    str: Notation("a string", "strings"),
    # Only the default of a secret is ever shown, and that is empty.
    SecretStr: Notation("a string", "strings", lambda value: str(value.get_secret_value())),
}


ORIGINS = variants(AnyOriginConfig)
DISTRIBUTIONS = variants(AnyDistributionConfig)


def sections() -> Iterator[tuple[str, str, type[Section]]]:
    """Every kind of table that a file may have: its header, dotted name and section."""
    yield from _tables_in(Config, "", "")


def _tables_in(section: type[Section], header: str, name: str) -> Iterator[_Table]:
    """The kinds of table inside a table of ``section``, each before those inside it."""
    for key, field in section.model_fields.items():
        inner_header, dotted = (f"{header}.{key}", f"{name}.{key}") if header else (key, key)
        inner = contained_section(field.annotation)
        table: object = inner or field.annotation
        frame = "[{}]"
        if inner and get_origin(field.annotation) is dict:
            inner_header, dotted = f"{inner_header}.NAME", f"{dotted}.NAME"
        elif inner:
            frame, dotted = "[[{}]]", f"{dotted}[]"
        if is_section(table):
            yield frame.format(inner_header), dotted, table
            yield from _tables_in(table, inner_header, dotted)
        elif inner:
            for kind, member in variants(inner).items():
                yield f'{frame.format(inner_header)} with type = "{kind}"', dotted, member
                yield from _tables_in(member, inner_header, dotted)


def is_inherited(section: type[Section], key: str) -> bool:
    """Whether ``key``, if omitted in ``section``, has the value of the table around it."""
    return issubclass(section, BehaviorConfig) and key in BehaviorRules.model_fields


def restart_keys(section: type[Section]) -> list[str]:
    """The keys of ``section`` that take effect only at a restart, in alphabetical order."""
    fields = section.model_fields.items()
    return sorted(key for key, field in fields if RESTART in field.metadata)


# Tables have their own reference; as a value, only an empty one is ever shown.
_TABLE = Notation("a table", "tables", lambda _: "{}", is_string=False)


def notation(annotation: object, metadata: tuple[object, ...] = ()) -> Notation:
    """The notation of a type of the schema. Raises KeyError for a type without a notation."""
    words = _words(annotation, metadata)
    return replace(words, bounds=_bounds(words, metadata))


def field_notation(field: FieldInfo) -> Notation:
    """The notation of a key's value."""
    return notation(field.annotation, tuple(field.metadata))


def limits(field: FieldInfo) -> str:
    """The limits of a value of ``field``, such as ``"0 to 256"``; "" if there are none."""
    words = field_notation(field)
    if words.entry and words.entry.bounds:
        return f"{words.bounds}, each {words.entry.bounds}"
    return words.bounds


def default(field: FieldInfo) -> str:
    """The default as TOML; "" if the key is required or has no default value."""
    if field.is_required() or field.default is None:
        return ""
    return field_notation(field).toml(field.default)


def expected(field: FieldInfo, *, is_entry: bool = False) -> str:
    """What ``field`` must have, such as ``"expected a size (1KiB to 16MiB), such as "20GiB""``.

    ``is_entry``: for an entry of ``field``, which is a list.
    """
    words = field_notation(field)
    if is_entry and words.entry:
        words = words.entry
    text = f"expected {words.singular}"
    if words.bounds:
        text += f" ({words.bounds})"
    examples = ", ".join(map(_quoted, field.examples or ())) or words.example
    return f"{text}, such as {examples}" if examples else text


def origin_place(origin: AnyOriginConfig) -> str:
    """An origin's location in words, without passwords."""
    if isinstance(origin, DirectoryOriginConfig):
        return str(origin.path / origin.prefix)
    if isinstance(origin, HttpOriginConfig):
        return f"{without_password(origin.url)}/{origin.prefix}".rstrip("/")
    return f"{origin.bucket}/{origin.prefix} at {origin.endpoint or f'AWS {origin.region}'}"


def _words(annotation: object, metadata: tuple[object, ...]) -> Notation:
    for item in metadata:
        if isinstance(item, BeforeValidator) and item.func in _BY_PARSER:
            return _BY_PARSER[item.func]
    arguments = get_args(annotation)
    match get_origin(annotation):
        case origin if origin is Annotated:
            return notation(arguments[0], arguments[1:])
        case origin if origin is Literal:
            choices = " or ".join(map(_quoted, arguments))
            return Notation(choices, choices)
        case origin if origin in {Union, UnionType}:
            members = [notation(argument) for argument in arguments if argument is not NoneType]
            if len(members) == 1:
                return members[0]
            choices = " or ".join(member.singular for member in members)
            return Notation(choices, choices)
        case origin if origin is tuple:
            return _list_words(notation(arguments[0]))
        case origin if origin is dict:
            return _TABLE
        case _ if is_section(annotation):
            return _TABLE
        case _:
            return _BY_TYPE[annotation]


def _list_words(entry: Notation) -> Notation:
    def show(values: tuple[object, ...]) -> str:
        return f"[{', '.join(map(entry.toml, values))}]"

    many = f"a list of {entry.plural}"
    return Notation(many, "lists", show, entry.example, is_string=False, entry=entry)


def _bounds(words: Notation, metadata: tuple[object, ...]) -> str:
    low = high = unit = ""
    for item in metadata:
        match item:
            case Shape(description=shape):
                return shape
            case Gt(gt=bound):
                return f"above {words.format(bound)}"
            case Ge(ge=bound):
                low = words.format(bound)
            case Le(le=bound):
                high = words.format(bound)
            case MinLen(min_length=bound):
                low = str(bound)
            case MaxLen(max_length=bound):
                high = str(bound)
                unit = " entries" if words.entry or words is _TABLE else " characters"
    if low and high:
        return f"{low} to {high}{unit}"
    if high:
        return f"at most {high}{unit}"
    return f"at least {low}{unit}" if low else words.bounds

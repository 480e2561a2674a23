"""The notation of selections (some, all or no names), and of tables of headers and keys.

Takes any TOML value; returns a ``Selection`` or a checked table, or raises ``ValueError`` with the
expected form. No message repeats the value of a header, which may be a secret. Pure.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum

from pydantic import SecretStr

from streamedge.config.schema.field_names import FRAMING_FIELDS
from streamedge.config.schema.units import kind_of, name_type

NAMES_MAX = 256
HEADERS_MAX = 64
ACCESS_KEYS_MAX = 256
NAME_LIMIT_CHARACTERS = 256
HEADER_VALUE_LIMIT_CHARACTERS = 4096
SECRET_LIMIT_CHARACTERS = 1024

# RFC 9110, sections 5.1 and 5.5, without obs-text; spaces at the ends are not part of a value.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_HEADER_VALUE = re.compile(r"[!-~](?:[ \t!-~]*[!-~])?")

_ACCESS_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ACCESS_KEYS_EXPECTED = 'expected a table of keys, such as { AKIAEDGE = "its secret" }'

_SELECTION_EXPECTED = 'expected "none", "all", { only = ["a", "b"] } or { except = ["a", "b"] }'
_HEADER_SELECTION_EXPECTED = 'expected "none", "all", ["A", "B"] or { except = ["A", "B"] }'
_HEADERS_EXPECTED = 'expected a table of headers, such as { "X-Name" = "value" }'
_FAILOVER_EXPECTED = 'expected a status from 400 to 599, "connect" or "timeout"'


class SelectionMode(Enum):
    """Which names are selected."""

    NONE = "none"
    ALL = "all"
    ONLY = "only"
    EXCEPT = "except"


@dataclass(frozen=True, slots=True)
class Selection:
    """Some names of many; ``names`` is empty unless ``mode`` is ONLY or EXCEPT."""

    mode: SelectionMode
    names: tuple[str, ...] = ()


SELECT_NONE = Selection(SelectionMode.NONE)
SELECT_ALL = Selection(SelectionMode.ALL)


def parse_selection(value: object) -> Selection:
    """The selection of ``"none"``, ``"all"``, ``{ only = […] }`` or ``{ except = […] }``."""
    if isinstance(value, Selection):
        return value
    if isinstance(value, dict) and len(value) == 1:
        ((word, names),) = value.items()
        if word in {"only", "except"}:
            return Selection(SelectionMode(word), _names(names, _SELECTION_EXPECTED))
    return _word(value, _SELECTION_EXPECTED)


def parse_header_selection(value: object) -> Selection:
    """The selection of headers of ``"none"``, ``"all"``, ``[…]`` or ``{ except = […] }``."""
    if isinstance(value, Selection):
        return value
    if isinstance(value, list | tuple):
        return Selection(SelectionMode.ONLY, _header_names(value))
    if isinstance(value, dict) and value.keys() == {"except"}:
        return Selection(SelectionMode.EXCEPT, _header_names(value["except"]))
    return _word(value, _HEADER_SELECTION_EXPECTED)


def parse_headers(value: object) -> dict[str, str]:
    """A table of header names and values, unchanged."""
    if not isinstance(value, dict):
        raise ValueError(f"{_HEADERS_EXPECTED}, found {kind_of(value)}")  # noqa: TRY004  # pydantic's
    if len(value) > HEADERS_MAX:
        raise ValueError(f"expected at most {HEADERS_MAX} headers, found {len(value)}")
    seen: set[str] = set()
    for name, text in value.items():
        _check_header(name, text)
        if name.lower() in seen:
            raise ValueError(f"the header {json.dumps(name)} is listed twice")
        seen.add(name.lower())
    return dict(value)


def parse_secret_headers(value: object) -> dict[str, SecretStr]:
    """A table of header names and values; ``repr`` does not show the values."""
    if not isinstance(value, dict):
        raise ValueError(f"{_HEADERS_EXPECTED}, found {kind_of(value)}")  # noqa: TRY004  # pydantic's
    plain = {
        name: text.get_secret_value() if isinstance(text, SecretStr) else text
        for name, text in value.items()
    }
    return {name: SecretStr(text) for name, text in parse_headers(plain).items()}


def parse_access_keys(value: object) -> dict[str, SecretStr]:
    """A table of access key ids and secrets; ``repr`` does not show the secrets."""
    if not isinstance(value, dict):
        raise ValueError(f"{_ACCESS_KEYS_EXPECTED}, found {kind_of(value)}")  # noqa: TRY004  # pydantic's
    if len(value) > ACCESS_KEYS_MAX:
        raise ValueError(f"expected at most {ACCESS_KEYS_MAX} keys, found {len(value)}")
    keys = {}
    for name, secret in value.items():
        if not isinstance(name, str) or not _ACCESS_KEY_ID.fullmatch(name):
            raise ValueError(
                f'{_ACCESS_KEYS_EXPECTED}; a key\'s id has 1 to 128 letters, digits, "_" or "-"'
            )
        text = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
        if not isinstance(text, str) or not 1 <= len(text) <= SECRET_LIMIT_CHARACTERS:
            raise ValueError(
                f"expected 1 to {SECRET_LIMIT_CHARACTERS} characters as the secret of"
                f" {json.dumps(name)}"
            )
        keys[name] = SecretStr(text)
    return keys


def parse_failover(value: object) -> int | str:
    """A status code, ``"connect"`` or ``"timeout"``."""
    if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
        return value
    if isinstance(value, str) and value in {"connect", "timeout"}:
        return value
    raise ValueError(f"{_FAILOVER_EXPECTED}, found {name_type(value)}")


def format_selection(selection: Selection) -> str:
    """``selection`` as TOML, such as ``{ only = ["page"] }``."""
    if selection.mode in {SelectionMode.NONE, SelectionMode.ALL}:
        return json.dumps(selection.mode.value)
    return f"{{ {selection.mode.value} = {json.dumps(list(selection.names))} }}"


def format_header_selection(selection: Selection) -> str:
    """``selection`` of headers as TOML, such as ``["Accept"]``."""
    if selection.mode is SelectionMode.ONLY:
        return json.dumps(list(selection.names))
    return format_selection(selection)


def _word(value: object, expected: str) -> Selection:
    if value == "none":
        return SELECT_NONE
    if value == "all":
        return SELECT_ALL
    raise ValueError(f"{expected}, found {name_type(value)}")


def _names(value: object, expected: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{expected}, found {kind_of(value)} of names")  # noqa: TRY004  # pydantic's
    if not 1 <= len(value) <= NAMES_MAX:
        raise ValueError(f"expected 1 to {NAMES_MAX} names, found {len(value)}")
    for name in value:
        if not isinstance(name, str) or not 1 <= len(name) <= NAME_LIMIT_CHARACTERS:
            text = f"expected names of 1 to {NAME_LIMIT_CHARACTERS} characters"
            raise ValueError(f"{text}, found {name_type(name)}")
    return tuple(value)


def _header_names(value: object) -> tuple[str, ...]:
    names = _names(value, _HEADER_SELECTION_EXPECTED)
    for name in names:
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"expected header names, found {name_type(name)}")
    return names


def _check_header(name: object, text: object) -> None:
    if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
        raise ValueError(
            f"{_HEADERS_EXPECTED}, found {name_type(name)}, which is not a header name"
        )
    if name.lower() in FRAMING_FIELDS:
        raise ValueError(f"the header {json.dumps(name)} is the edge's own and cannot be set")
    if not isinstance(text, str):
        raise ValueError(f"expected text for {json.dumps(name)}, found {kind_of(text)}")  # noqa: TRY004
    if len(text) > HEADER_VALUE_LIMIT_CHARACTERS or not _HEADER_VALUE.fullmatch(text):
        raise ValueError(
            f"expected 1 to {HEADER_VALUE_LIMIT_CHARACTERS} visible ASCII characters for"
            f" {json.dumps(name)}, with no space at either end"
        )

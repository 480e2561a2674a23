"""Reads a config file: returns a valid ``Config``, or reports every mistake with its line.

``schema`` has the types, ``checks`` the rules between keys; this module reads the file, words the
schema's errors and sorts all of them. No message contains a value that could be a secret: only
names, numbers, sizes, durations and addresses are quoted.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from streamedge.config.checks.ciphers import cipher_mistakes
from streamedge.config.checks.files import path_mistakes, with_absolute_paths
from streamedge.config.checks.references import cross_mistakes
from streamedge.config.describe import expected, field_notation
from streamedge.config.errors.mistakes import Mistake, nearest
from streamedge.config.errors.schema_location import (
    SchemaLocation,
    contained_section,
    is_section,
    locate,
    value_at,
)
from streamedge.config.errors.toml_lines import Key
from streamedge.config.include import Documents, read_all
from streamedge.config.schema.config import Config, Section
from streamedge.config.schema.units import QUOTE_LIMIT_CHARACTERS, kind_of, name_type
from streamedge.config.secrets import SecretSources
from streamedge.errors import ConfigError

CONFIG_LIMIT_BYTES = 1 << 20
SYNTAX_LIMIT_CHARACTERS = 200

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_KEY = re.compile(r"\s*([A-Za-z0-9_.-]{1,64})\s*=")
_SYNTAX_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
TABLE_EXAMPLE = "samples"


def load(path: Path) -> Config:
    """The config in ``path``, with relative paths resolved from the file's folder.

    Raises ConfigError with every mistake, each ``FILE:LINE: KEY: what is wrong`` on one line.
    """
    documents = read_all(path, _read, _parse)
    document = documents.document
    folder = path.absolute().parent
    mistakes = [
        *SecretSources(folder, os.environ).resolve(document),
        *cross_mistakes(document),
        *path_mistakes(document, folder),
        *cipher_mistakes(document),
    ]
    config: Config | None = None
    try:
        config = Config.model_validate(document)
    except ValidationError as exc:
        checked = {mistake.key for mistake in mistakes}  # in words that fit better
        schema = (one for one in _schema_mistakes(exc, document) if one.key not in checked)
        mistakes = [*schema, *mistakes]
    if config is None or mistakes or documents.mistakes:
        raise ConfigError(_problems(documents, mistakes))
    return with_absolute_paths(config, folder)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(CONFIG_LIMIT_BYTES + 1)
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise ConfigError((f"{path}: cannot be read: {reason}",)) from exc
    if len(content) > CONFIG_LIMIT_BYTES:
        text = f"{path}: expected at most {CONFIG_LIMIT_BYTES} bytes, found more"
        raise ConfigError((text,))
    try:
        return content.decode("utf-8-sig")  # editors of Windows begin with a mark
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise ConfigError((f"{path}:{line}: not UTF-8, which TOML requires",)) from exc


def _parse(path: Path, text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except RecursionError as exc:
        raise ConfigError((f"{path}:1: not TOML: lists or tables nested too deeply",)) from exc
    except tomllib.TOMLDecodeError as exc:
        message = str(exc)
        line = 1
        if match := _SYNTAX_LINE.search(message):
            line = int(match[1] or text.count("\n") + 1)
            message = _with_name(message[: match.start()], text, line)
        problem = f"{path}:{line}: not TOML: {message[:SYNTAX_LIMIT_CHARACTERS]}"
        raise ConfigError((problem,)) from exc
    except ValueError as exc:  # Python's limit of digits, which tomllib does not handle
        raise ConfigError((f"{path}:1: a number has far too many digits",)) from exc


def _with_name(message: str, text: str, line: int) -> str:
    """The message of tomllib about a name that is there twice, with the name."""
    if message.startswith(("Cannot declare ('distributions',", "Cannot declare ('certificates',")):
        return f"{message}: the header of each is [[{message.split(chr(39))[1]}]]"
    key = _KEY.match(text.split("\n")[line - 1])
    if message == "Cannot overwrite a value" and key is not None:
        return f"{message}: {key[1]} is in this table twice"
    return message


def _problems(documents: Documents, mistakes: list[Mistake]) -> tuple[str, ...]:
    located = [(documents.place_of(mistake.key), mistake) for mistake in mistakes]
    located += documents.mistakes
    located.sort(key=lambda item: documents.order_of(item[0]))
    return tuple(f"{place}: {_dotted(mistake.key)}: {mistake.text}" for place, mistake in located)


def _schema_mistakes(exc: ValidationError, document: dict[str, object]) -> Iterator[Mistake]:
    """One mistake for each key, even if pydantic reports several."""
    reported: set[Key] = set()
    for error in exc.errors(include_url=False, include_input=False):
        mistake = _mistake(error, document)
        if mistake.key not in reported:
            reported.add(mistake.key)
            yield mistake


def _mistake(error: ErrorDetails, document: dict[str, object]) -> Mistake:
    loc = error["loc"]
    if loc[-1] == "[key]":
        text = 'expected a name of 1 to 64 letters, digits, "_" or "-"'
        return Mistake(loc[:-1], text)
    location = locate(loc)
    key, field = location.key, location.field
    value = value_at(document, key)
    match error["type"]:
        case "union_tag_not_found" | "union_tag_invalid":
            return Mistake((*key, "type"), _type_mistake(location.variants or {}, value))
        case "extra_forbidden":
            keys = tuple(location.section.model_fields) if location.section else ()
            advice = nearest(str(key[-1]), keys, f"known here: {', '.join(keys)}")
            return Mistake(key, f"unknown key; {advice}")
        case "too_long" if len(key) == 1:
            return Mistake(key, f"expected at most {error['ctx']['max_length']} of them")
        case "missing" if field:
            return Mistake(key, f"missing; {expected(field)}")
        case "value_error":
            return Mistake(key, str(error["ctx"]["error"]))
    if field is None or is_section(field.annotation) or contained_section(field.annotation):
        return Mistake(key, f"{_table_expected(location)}, found {kind_of(value)}")
    text = expected(field, is_entry=location.is_entry)
    return Mistake(key, text + _actual(field, value, location.is_entry))


def _table_expected(location: SchemaLocation) -> str:
    """What is expected where only tables are allowed."""
    header = _dotted(tuple(part for part in location.key if isinstance(part, str)))
    if location.is_named:
        return f"expected tables, each with a header such as [{header}.{TABLE_EXAMPLE}]"
    if isinstance(location.key[-1], int) or (
        location.field and contained_section(location.field.annotation)
    ):
        return f"expected tables, each with the header [[{header}]]"
    return f"expected a table, [{header}]"


def _actual(field: FieldInfo, value: object, is_entry: bool) -> str:
    """The actual value or its type, unless that adds nothing or could be a secret."""
    if isinstance(value, str):
        # Any text could be a password in the wrong place, so it is never shown.
        return "" if is_entry or field_notation(field).is_string else ", found a string"
    return f", found {kind_of(value) if field.annotation is SecretStr else name_type(value)}"


def _type_mistake(variants: dict[str, type[Section]], table: object) -> str:
    types = tuple(variants)
    value = table.get("type") if isinstance(table, dict) else None
    choices = " or ".join(map(json.dumps, types))
    if value is None:
        return f"missing; expected {choices}"
    if not isinstance(value, str):
        return f"expected {choices}, found {kind_of(value)}"
    if not (advice := nearest(value, types, "")):
        return f"unknown type {_one_line(value)}; expected {choices}"
    return f"unknown type {_one_line(value)}; {advice} (expected {choices})"


def _dotted(key: Key) -> str:
    """``key`` as TOML writes it, indices in brackets."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (_one_line(part) if not _is_bare(part) else part)
    return text


def _is_bare(name: str) -> bool:
    return len(name) <= QUOTE_LIMIT_CHARACTERS and _BARE_KEY.fullmatch(name) is not None


def _one_line(text: str) -> str:
    """``text`` quoted, without characters that break the line or control a terminal."""
    return json.dumps(text[:QUOTE_LIMIT_CHARACTERS])

"""Reading a config file: one valid ``Config``, or every mistake in it at once, each with its line.

Owns the file's reading, the wording of the schema's complaints and the order they come in. What
may be said stands in ``schema``; what contradicts itself, in ``checks``. No message holds a value
that could be a secret: it quotes names, numbers, sizes, durations and addresses, nothing else.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from streamedge.config.checks import Mistake, cross_mistakes, nearest
from streamedge.config.lines import Key, key_lines, line_of
from streamedge.config.schema import Config, DirectoryOriginConfig, Section
from streamedge.config.units import QUOTE_LIMIT_CHARACTERS, found, kind_of
from streamedge.config.wording import DISTRIBUTIONS, ORIGINS, expected, field_notation
from streamedge.errors import ConfigError

CONFIG_LIMIT_BYTES = 1 << 20
SYNTAX_LIMIT_CHARACTERS = 200

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SYNTAX_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_TABLES = {
    "origins": "expected tables, each with a header such as [origins.samples]",
    "distributions": "expected tables, each with the header [[distributions]]",
}


def load(path: Path) -> Config:
    """The config in ``path``, its relative paths made absolute from the file's folder.

    Raises ConfigError with every mistake, each ``FILE:LINE: KEY: what is wrong`` on one line.
    """
    text = _read(path)
    document = _parse(path, text)
    folder = path.absolute().parent
    mistakes = [*cross_mistakes(document), *_path_mistakes(document, folder)]
    config: Config | None = None
    try:
        config = Config.model_validate(document)
    except ValidationError as exc:
        mistakes = [*_schema_mistakes(exc, document), *mistakes]
    if config is None or mistakes:
        raise ConfigError(_problems(path, text, mistakes))
    return _with_absolute_paths(config, folder)


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
        return content.decode()
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise ConfigError((f"{path}:{line}: not UTF-8, as TOML has to be",)) from exc


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
            message = message[: match.start()]
        problem = f"{path}:{line}: not TOML: {message[:SYNTAX_LIMIT_CHARACTERS]}"
        raise ConfigError((problem,)) from exc
    except ValueError as exc:  # tomllib lets Python's own limit of digits through
        raise ConfigError((f"{path}:1: a number in it has far too many digits",)) from exc


def _problems(path: Path, text: str, mistakes: list[Mistake]) -> tuple[str, ...]:
    lines = key_lines(text)
    located = [(line_of(lines, mistake.key), mistake) for mistake in mistakes]
    located.sort(key=lambda item: item[0])
    return tuple(
        f"{path}:{line}: {_dotted(mistake.key)}: {mistake.text}" for line, mistake in located
    )


def _schema_mistakes(exc: ValidationError, document: dict[str, object]) -> Iterator[Mistake]:
    """One mistake for each key that pydantic complains of, however often it does."""
    told: set[Key] = set()
    for error in exc.errors(include_url=False, include_input=False):
        mistake = _mistake(error, document)
        if mistake.key not in told:
            told.add(mistake.key)
            yield mistake


def _mistake(error: ErrorDetails, document: dict[str, object]) -> Mistake:
    location = error["loc"]
    if location[-1] == "[key]":
        text = 'expected a name of 1 to 64 letters, digits, "_" or "-"'
        return Mistake(location[:-1], text)
    key = _document_key(location)
    value = _value(document, key)
    match error["type"]:
        case "union_tag_not_found" | "union_tag_invalid":
            return Mistake((*key, "type"), _type_mistake(key, value))
        case "extra_forbidden":
            section = _section(key[:-1], document)
            known = tuple(section.model_fields) if section else ()
            advice = nearest(str(key[-1]), known, f"known here: {', '.join(known)}")
            return Mistake(key, f"unknown key; {advice}")
        case "too_long" if len(key) == 1:
            return Mistake(key, f"expected at most {error['ctx']['max_length']} of them")
    field = _field(key, document)
    if field is None:
        expectation = _TABLES.get(str(key[0]), f"expected a table, [{_dotted(key)}]")
        return Mistake(key, f"{expectation}, found {kind_of(value)}")
    if error["type"] == "missing":
        return Mistake(key, f"missing; {expected(field)}")
    if error["type"] == "value_error":
        return Mistake(key, str(error["ctx"]["error"]))
    is_entry = isinstance(key[-1], int)
    return Mistake(key, expected(field, is_entry=is_entry) + _found(field, value, is_entry))


def _found(field: FieldInfo, value: object, is_entry: bool) -> str:
    """What was found instead, unless that says nothing new or could be a secret."""
    if isinstance(value, str):
        # Any text could be a password in the wrong place, so it is never shown.
        return "" if is_entry or field_notation(field).is_string else ", found a string"
    return f", found {kind_of(value) if field.annotation is SecretStr else found(value)}"


def _type_mistake(key: Key, table: object) -> str:
    known = tuple(_variants(key))
    value = table.get("type") if isinstance(table, dict) else None
    choices = " or ".join(map(json.dumps, known))
    if value is None:
        return f"missing; expected {choices}"
    if not isinstance(value, str):
        return f"expected {choices}, found {kind_of(value)}"
    return f"unknown type {_one_line(value)}; {nearest(value, known, f'expected {choices}')}"


def _document_key(location: tuple[int | str, ...]) -> Key:
    """``location`` without what pydantic adds: the type of a section, the members of a union."""
    is_tagged = _is_tagged(location)
    path = location[:2] + location[3:] if is_tagged else location
    depth = 3 if is_tagged else 2
    is_entry = len(path) > depth and isinstance(path[depth], int)
    return path[: depth + is_entry]


def _is_tagged(key: Key) -> bool:
    """Whether ``key`` is, or lies in, a section that its own ``type`` chooses."""
    return len(key) >= 2 and key[0] in {"origins", "distributions"}


def _variants(key: Key) -> dict[str, type[Section]]:
    return ORIGINS if key[0] == "origins" else DISTRIBUTIONS


def _value(document: dict[str, object], key: Key) -> object:
    """What stands at ``key``; None where nothing does."""
    value: Any = document
    for part in key:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return None
    return value


def _section(key: Key, document: dict[str, object]) -> type[Section] | None:
    """The section that the table at ``key`` must be, None where ``key`` is no table's."""
    if not key:
        return Config
    if len(key) == 2 and _is_tagged(key):
        kind = _value(document, (*key, "type"))
        return _variants(key).get(kind) if isinstance(kind, str) else None
    field = Config.model_fields.get(str(key[0])) if len(key) == 1 else None
    annotation = field.annotation if field else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def _field(key: Key, document: dict[str, object]) -> FieldInfo | None:
    """The schema of the value at ``key``: for an entry of a list, of the list."""
    depth = 3 if _is_tagged(key) else 2
    section = _section(key[: depth - 1], document) if len(key) >= depth else None
    return section.model_fields.get(str(key[depth - 1])) if section else None


def _path_mistakes(document: dict[str, object], folder: Path) -> Iterator[Mistake]:
    """Folders that have to be there and are not."""
    cache = _value(document, ("edge", "cache"))
    is_taken = isinstance(cache, str) and os.path.lexists(folder / cache)
    if is_taken and not os.path.isdir(folder / str(cache)):
        yield Mistake(("edge", "cache"), "expected a folder, found a file of that name")
    origins = document.get("origins")
    for name, table in origins.items() if isinstance(origins, dict) else ():
        key: Key = ("origins", name, "path")
        path = _value(document, key)
        if not isinstance(path, str) or not path or table.get("type") != "directory":
            continue
        if not os.path.isdir(folder / path):
            what = "a file" if os.path.exists(folder / path) else "nothing"
            yield Mistake(key, f"expected a folder, found {what} at {folder / path}")


def _with_absolute_paths(config: Config, folder: Path) -> Config:
    log = config.edge.log
    edge: dict[str, object] = {"cache": folder / config.edge.cache}
    if isinstance(log, Path):
        edge["log"] = folder / log
    origins = {
        name: origin.model_copy(update={"path": folder / origin.path})
        if isinstance(origin, DirectoryOriginConfig)
        else origin
        for name, origin in config.origins.items()
    }
    update = {"edge": config.edge.model_copy(update=edge), "origins": origins}
    return config.model_copy(update=update)


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
    """``text`` quoted, with nothing in it that could break the line or command a terminal."""
    return json.dumps(text[:QUOTE_LIMIT_CHARACTERS])

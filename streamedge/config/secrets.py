"""Secrets of the config that are kept elsewhere: in the environment, a file or a credential.

Wherever the schema has a secret, a table may stand in place of the text:

    secret_access_key = { env = "NAME" }          a variable of the edge's environment
    secret_access_key = { file = "PATH" }         a file, without the line break at its end
    secret_access_key = { credential = "NAME" }   a file in $CREDENTIALS_DIRECTORY, of systemd

They are read each time that the config file is read. No message contains a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from streamedge.config.errors.mistakes import Mistake, short
from streamedge.config.errors.schema_location import is_section, variants
from streamedge.config.errors.toml_lines import Key
from streamedge.config.schema.config import Config, Section
from streamedge.config.schema.values import HOLDS_SECRET

SECRET_BYTES_MAX = 65_536
_UNREADABLE = "unreadable"  # in place of the secret, so that no other check fails as well
SOURCES = ("env", "file", "credential")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_CREDENTIAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")


class SecretSources:
    """Where secrets are read from. ``folder``: relative files start from it."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = environment

    def resolve(self, document: dict[str, object]) -> list[Mistake]:
        """Replaces the tables in place of secrets by the secrets, in ``document`` itself."""
        mistakes: list[Mistake] = []
        for holder, name, key in _secret_places(document, Config, ()):
            source = holder[name]
            if not isinstance(source, dict):
                continue
            try:
                holder[name] = self._read(source)
            except ValueError as exc:
                holder[name] = _UNREADABLE
                mistakes.append(Mistake(key, str(exc)))
        return mistakes

    def _read(self, source: dict[str, object]) -> str:
        """Raises ValueError, whose text is for the operator."""
        if len(source) != 1 or next(iter(source)) not in SOURCES:
            raise ValueError(
                "expected a string, { env = NAME }, { file = PATH } or { credential = NAME }"
            )
        ((kind, place),) = source.items()
        if not isinstance(place, str) or not place:
            raise ValueError(f"expected a name as a string at {kind}")
        if kind == "env":
            if not _VARIABLE.fullmatch(place):
                raise ValueError("expected the name of a variable: letters, digits and _")
            if not self._environment.get(place):
                raise ValueError(f"the variable {place} is not set in the edge's environment")
            return self._environment[place]
        if kind == "file":
            return _file_text(self._folder / place)
        folder = self._environment.get("CREDENTIALS_DIRECTORY")
        if not _CREDENTIAL.fullmatch(place):
            raise ValueError("expected the name of a credential: letters, digits and _ . -")
        if not folder:
            raise ValueError(
                "there are no credentials: $CREDENTIALS_DIRECTORY is not set; in the systemd unit"
                f" set LoadCredential={place}:PATH"
            )
        return _file_text(Path(folder) / place)


def _file_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(SECRET_BYTES_MAX + 1)
        text = data.decode()
    except (OSError, ValueError) as exc:
        reason = "it is not UTF-8" if isinstance(exc, UnicodeDecodeError) else None
        reason = reason or getattr(exc, "strerror", None) or "not a path"
        raise ValueError(f"cannot read the secret from {short(path)}: {reason}") from None
    if len(data) > SECRET_BYTES_MAX:
        raise ValueError(f"the file {short(path)} has more than {SECRET_BYTES_MAX} bytes")
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise ValueError(f"the file {short(path)} is empty")
    return text


_Place = tuple[dict[str, object], str, Key]
"""A table of the document, and the name in it whose value is a secret; its key."""


def _secret_places(table: object, section: type[Section], key: Key) -> Iterator[_Place]:
    if not isinstance(table, dict):
        return
    for name, field in section.model_fields.items():
        if name in table:
            yield from _places_in(table, name, field.annotation, field, (*key, name))


def _places_in(
    holder: dict[str, object], name: str, annotation: object, field: FieldInfo, key: Key
) -> Iterator[_Place]:
    value = holder[name]
    arguments = get_args(annotation)
    if annotation is SecretStr or HOLDS_SECRET in field.metadata:
        yield holder, name, key
    elif is_section(annotation):
        yield from _secret_places(value, annotation, key)
    elif get_origin(annotation) is Annotated:
        yield from _in_variants(annotation, value, key)
    elif get_origin(annotation) is dict and isinstance(value, dict):
        for each in list(value):
            yield from _places_in(value, each, arguments[1], field, (*key, each))
    elif get_origin(annotation) is tuple and isinstance(value, list):
        for number, each in enumerate(value):
            entry = {"": each}
            yield from _places_in(entry, "", arguments[0], field, (*key, number))


def _in_variants(annotation: object, value: object, key: Key) -> Iterator[_Place]:
    inner = get_args(annotation)[0]
    if is_section(inner):
        yield from _secret_places(value, inner, key)
    elif isinstance(value, dict):
        try:
            sections = variants(annotation)
        except (AttributeError, IndexError, KeyError):
            return
        section = sections.get(str(value.get("type")))
        if section is not None:
            yield from _secret_places(value, section, key)

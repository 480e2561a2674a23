"""Config files that include others: ``include = ["conf.d/*.toml"]`` at the top of the main file.

The files become one document. Each table is in one file only: the same table in two files is a
mistake that names both places. Lists of tables (``[[distributions]]``) go on from file to file: the
main file first, then the others, sorted by name within each pattern. An included file includes
nothing itself; relative paths start from the folder of the main file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import get_origin

from streamedge.config.errors.mistakes import Mistake, short
from streamedge.config.errors.toml_lines import Key, key_lines, line_of
from streamedge.config.schema.config import Config

FILES_MAX = 256
INCLUDE = "include"

_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Place:
    """A file and a line in it."""

    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(slots=True)
class Documents:
    """The document of all files, and where each of its keys is."""

    main: Path
    document: dict[str, object] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    mistakes: list[tuple[Place, Mistake]] = field(default_factory=list)
    _places: dict[Key, Place] = field(default_factory=dict)

    def place_of(self, key: Key) -> Place:
        """Where a key is, or the nearest table that contains it."""
        while key and key not in self._places:
            key = key[:-1]
        return self._places.get(key, Place(self.main, 1))

    def order_of(self, place: Place) -> tuple[int, int]:
        """Sorts places by file and line."""
        return (self.files.index(place.path) if place.path in self.files else 0), place.line

    def add(self, path: Path, text: str, document: dict[str, object]) -> None:
        """Adds a file whose ``text`` is ``document``."""
        self.files.append(path)
        lines = key_lines(text)
        moved: dict[Key, Key] = {}
        for name, value in document.items():
            place = Place(path, line_of(lines, (name,)))
            kind = _kind(name)
            if name not in self.document:
                self.document[name] = value
            elif kind is tuple and _are(list, self.document[name], value):
                present = self.document[name]
                offset = len(present)  # type: ignore[arg-type]
                present.extend(value)  # type: ignore[attr-defined]
                moved |= {(name, number): (name, number + offset) for number in range(len(value))}  # type: ignore[arg-type]
            elif kind is dict and _are(dict, self.document[name], value):
                for inner in self._merge(name, value, path, lines):
                    moved[name, inner] = ()
            else:
                self._add_twice((name,), place)
                moved[name,] = ()
        for key, line in lines.items():
            to = next((moved[key[:end]] for end in (1, 2) if key[:end] in moved), key[:2])
            if to or not key:
                self._places.setdefault((*to, *key[len(to) :]), Place(path, line))

    def _merge(self, name: str, tables: object, path: Path, lines: dict[Key, int]) -> Iterator[str]:
        """Adds tables with names; yields the names that another file has already."""
        present = self.document[name]
        if not isinstance(present, dict) or not isinstance(tables, dict):
            return
        for inner, table in tables.items():
            if inner in present:
                self._add_twice((name, inner), Place(path, line_of(lines, (name, inner))))
                yield inner
            else:
                present[inner] = table

    def _add_twice(self, key: Key, place: Place) -> None:
        first = self.place_of(key)
        text = f"this table is in {first} already; a table is in one file only"
        self.mistakes.append((place, Mistake(key, text)))


def read_all(
    path: Path, read: Callable[[Path], str], parse: Callable[[Path, str], dict[str, object]]
) -> Documents:
    """Reads a file and those that it includes. ``read`` and ``parse`` raise ConfigError."""
    documents = Documents(path)
    text = read(path)
    document = parse(path, text)
    patterns = document.pop(INCLUDE, [])
    documents.add(path, text, document)
    main = Place(path, line_of(key_lines(text), (INCLUDE,)))
    for included in _included(path, patterns, main, documents):
        text = read(included)
        document = parse(included, text)
        if document.pop(INCLUDE, None) is not None:
            place = Place(included, line_of(key_lines(text), (INCLUDE,)))
            mistake = Mistake((INCLUDE,), "only the main file includes others")
            documents.mistakes.append((place, mistake))
        documents.add(included, text, document)
    return documents


def _included(path: Path, patterns: object, place: Place, documents: Documents) -> list[Path]:
    def refuse(text: str) -> None:
        documents.mistakes.append((place, Mistake((INCLUDE,), text)))

    if not isinstance(patterns, list) or not all(isinstance(each, str) for each in patterns):
        refuse('expected a list of paths, such as ["conf.d/*.toml"]')
        return []
    folder = path.parent
    files: list[Path] = []
    for pattern in patterns:
        try:
            matches = sorted(_matches(folder, pattern))
        except OSError as exc:
            refuse(f"{short(pattern)} cannot be read: {exc.strerror}")
            continue
        except (ValueError, NotImplementedError) as exc:
            refuse(f"{short(pattern)} is no path: {exc}")
            continue
        if not matches and not _WILDCARDS & set(pattern):
            refuse(f"there is no file {short(pattern)}")
        files += [match for match in matches if match not in files and match != path]
    if len(files) > FILES_MAX:
        refuse(f"expected at most {FILES_MAX} files, found {len(files)}")
        return []
    return files


def _matches(folder: Path, pattern: str) -> Iterator[Path]:
    relative = Path(pattern)
    if relative.is_absolute():
        folder, pattern = Path(relative.anchor), str(relative.relative_to(relative.anchor))
    fixed = takewhile(lambda part: not _WILDCARDS & set(part), Path(pattern).parts[:-1])
    first = folder.joinpath(*fixed)
    if first.is_dir():
        os.scandir(first).close()  # ``glob`` passes over a folder that may not be read
    return (match for match in folder.glob(pattern) if match.is_file())


def _kind(name: str) -> object:
    """dict for tables by name, tuple for a list of tables, None for one table."""
    schema = Config.model_fields.get(name)
    kind = None if schema is None else get_origin(schema.annotation)
    return kind if kind in {dict, tuple} else None


def _are(kind: type, *values: object) -> bool:
    return all(isinstance(value, kind) for value in values)

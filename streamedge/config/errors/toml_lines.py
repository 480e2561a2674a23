"""The line number of each key in a TOML text, which ``tomllib`` does not report.

It expects text that ``tomllib`` has accepted; for other text the result has no meaning. Keys inside
an inline table or an array have the line of the key that contains it. Pure.
"""

from __future__ import annotations

import re
import tomllib

Key = tuple[str | int, ...]  # names of tables and keys; an int is an index into an array

_STRING = r'"(?:[^"\\\n]|\\.)*"|' r"'[^'\n]*'"
_BLANK = re.compile(r"(?:\s|#[^\n]*)*")
_KEY_TEXT = re.compile(rf"(?:{_STRING}|[^\"'=\]\n])+")
# A multi-line string may end in five quotes, two of which are its own (TOML 1.0, "String").
_VALUE_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")'
    r"|'''.*?'{3,5}(?!')"
    rf"|{_STRING}"
    r"|#[^\n]*"
    r"|(?P<open>[\[{])|(?P<close>[\]}])|(?P<newline>\n)"
    r"""|[^"'#\[\]{}\n]+""",
    re.DOTALL,
)


def key_lines(text: str) -> dict[Key, int]:
    """The line, from 1, where each table and key of ``text`` is first named."""
    lines: dict[Key, int] = {}
    arrays: dict[Key, int] = {}  # arrays of tables, and how many elements each has so far
    table: Key = ()
    position, line = _skip(text, 0, 1)
    while position < len(text):
        is_array = text.startswith("[[", position)
        is_header = is_array or text.startswith("[", position)
        start = position + is_array + is_header
        match = _KEY_TEXT.match(text, start)
        if match is None:
            break
        names = _names(match[0])
        if is_header:
            table = _enter((), names, arrays, lines, line, is_array=is_array)
            end = match.end() + 1 + is_array
        else:
            _enter(table, names, {}, lines, line, is_array=False)
            end = _value_end(text, match.end() + 1)
        position, line = _skip(text, end, line + text.count("\n", position, end))
    return lines


def line_of(lines: dict[Key, int], key: Key) -> int:
    """The line of ``key``, or of the nearest table that contains it; 1 for the file itself."""
    while key and key not in lines:
        key = key[:-1]
    return lines.get(key, 1)


def _skip(text: str, position: int, line: int) -> tuple[int, int]:
    """The position and line after whitespace and comments."""
    match = _BLANK.match(text, position)
    end = match.end() if match else position
    return end, line + text.count("\n", position, end)


def _names(key_text: str) -> list[str]:
    """The parts of a dotted key, unquoted. ``tomllib`` parses them, so there is one grammar."""
    names = []
    table = tomllib.loads(f"{key_text.strip()} = 0")
    while isinstance(table, dict):
        ((name, table),) = table.items()
        names.append(name)
    return names


def _enter(
    key: Key,
    names: list[str],
    arrays: dict[Key, int],
    lines: dict[Key, int],
    line: int,
    *,
    is_array: bool,
) -> Key:
    """Records ``line`` for each part of ``names`` below ``key``; returns the full key."""
    for depth, name in enumerate(names, start=1):
        key = (*key, name)
        lines.setdefault(key, line)
        if is_array and depth == len(names):
            arrays[key] = arrays.get(key, 0) + 1
        if key in arrays:
            key = (*key, arrays[key] - 1)
            lines.setdefault(key, line)
    return key


def _value_end(text: str, position: int) -> int:
    """The end of the statement whose value begins at ``position``: its newline."""
    depth = 0
    while match := _VALUE_TOKEN.match(text, position):
        if match["newline"] and depth == 0:
            return position
        depth += bool(match["open"]) - bool(match["close"])
        position = match.end()
    return len(text)

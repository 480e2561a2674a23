"""A strict parser of Dictionaries of Structured Field Values: RFC 8941 §4.2.2.

Pure: a field's text in, a mapping out. One error makes the whole field unreadable, as RFC 9213
requires for targeted cache control. Parameters are checked and dropped: they have no meaning in the
fields that the edge uses. Time and memory are linear in the text.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error

_KEY = re.compile(r"[a-z*][a-z0-9_\-.*]*")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]*)?")
_INTEGER = re.compile(r"-?[0-9]{1,15}")
_DECIMAL = re.compile(r"-?[0-9]{1,12}\.[0-9]{1,3}")
_STRING = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*+)"')
_TOKEN = re.compile(r"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*")
_BYTES = re.compile(r":([A-Za-z0-9+/=]*):")
_BOOLEAN = re.compile(r"\?([01])")
_SPACES = re.compile(r" *")
_WHITESPACE = re.compile(r"[ \t]*")


class Token(str):
    """An unquoted word, which differs from a quoted string of the same letters (§3.3.4)."""

    __slots__ = ()


BareItem = int | float | str | bytes | bool
Member = BareItem | list[BareItem]


class UnreadableFieldError(ValueError):
    """The text is no Dictionary; the message has the position of the error."""


def parse_dictionary(text: str) -> dict[str, Member]:
    """The members of a Dictionary without their parameters; an inner list as a list.

    ``text`` is the field's lines joined with ", ". Of members with the same key the last counts.
    Raises UnreadableFieldError.
    """
    reader = _Reader(text.strip(" "))
    members: dict[str, Member] = {}
    while not reader.at_end:
        key = reader.take(_KEY)[0]
        if not reader.skip("="):
            members[key] = True
            reader.skip_parameters()
        elif reader.skip("("):
            members[key] = reader.inner_list()
        else:
            members[key] = reader.bare_item()
            reader.skip_parameters()
        reader.take(_WHITESPACE)
        if reader.at_end:
            break
        if not reader.skip(","):
            raise reader.unreadable()
        reader.take(_WHITESPACE)
        if reader.at_end:
            raise reader.unreadable()
    return members


class _Reader:
    """A text and the position of the next character to parse."""

    __slots__ = ("_position", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0

    @property
    def at_end(self) -> bool:
        return self._position == len(self._text)

    def unreadable(self) -> UnreadableFieldError:
        return UnreadableFieldError(f"no Dictionary from character {self._position} on")

    def skip(self, text: str) -> bool:
        if not self._text.startswith(text, self._position):
            return False
        self._position += len(text)
        return True

    def take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self._text, self._position)
        if match is None:
            raise self.unreadable()
        self._position = match.end()
        return match

    def inner_list(self) -> list[BareItem]:
        """The items after an opening parenthesis (§4.2.1.2)."""
        items: list[BareItem] = []
        while True:
            spaces = self.take(_SPACES)[0]
            if self.skip(")"):
                self.skip_parameters()
                return items
            if items and not spaces:
                raise self.unreadable()
            items.append(self.bare_item())
            self.skip_parameters()

    def skip_parameters(self) -> None:
        """Skips parameters (§4.2.3.2)."""
        while self.skip(";"):
            self.take(_SPACES)
            self.take(_KEY)
            if self.skip("="):
                self.bare_item()

    def bare_item(self) -> BareItem:
        """One value; its first character determines its type (§4.2.3.1)."""
        first = self._text[self._position : self._position + 1]
        if first == '"':
            return re.sub(r"\\(.)", r"\1", self.take(_STRING)[1])
        if first == "?":
            return self.take(_BOOLEAN)[1] == "1"
        if first == ":":
            return self._bytes()
        if first.isascii() and (first.isdigit() or first == "-"):
            return self._number()
        return Token(self.take(_TOKEN)[0])

    def _bytes(self) -> bytes:
        try:
            return b64decode(self.take(_BYTES)[1], validate=True)
        except Base64Error as exc:
            raise self.unreadable() from exc

    def _number(self) -> int | float:
        text = self.take(_NUMBER)[0]
        if _INTEGER.fullmatch(text):
            return int(text)
        if _DECIMAL.fullmatch(text):
            return float(text)
        raise self.unreadable()

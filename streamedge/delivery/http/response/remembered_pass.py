"""What was made of an origin's response that is passed through, for the next similar one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from streamedge.cache.reader import CacheResult
from streamedge.delivery.http.policy.response_headers import Field
from streamedge.delivery.http.response.response import ResponseHead
from streamedge.origin import Fields, VariedFields

FIELD_CHARACTERS_MAX = 1024
"""Of the fields of a head that is remembered; the memory of a remembered request includes it."""

_MARK = re.compile("\0(-?\\d+)\0")  # in place of a value: no value has this character
_LENGTH = -1  # stands for the place of Content-Length, which is that of the body
LENGTH_MARK = f"\0{_LENGTH}\0"


class RememberedPass:
    """The response that a viewer got for one template of the origin's heads, to one request.

    It holds for fields of the same template, within the second in which it was made: what is sent
    is the same but for the values that the template leaves out, and Content-Length.
    """

    __slots__ = (
        "_fields",
        "_filled",
        "_filled_for",
        "_since_s",
        "_status",
        "_template",
        "_text",
        "_varied",
        "error",
        "reason",
        "result",
    )

    def __init__(
        self,
        origin_fields: VariedFields,
        now_s: float,
        marked: ResponseHead,
        encode: Callable[[ResponseHead], bytes],
        result: CacheResult,
        reason: str | None,
        error: str,
    ) -> None:
        """``marked``: the head that is made of ``marked_fields`` and ``LENGTH_MARK``; ``encode``
        makes text of it, on a connection that stays open, without an id.
        """
        self._template = origin_fields.template
        self._since_s = now_s
        self._status = marked.status
        self._fields = list(marked.fields)
        self._varied = [
            (index, name, int(mark[1]))
            for index, (name, value) in enumerate(marked.fields)
            if (mark := _MARK.fullmatch(value))
        ]
        text = encode(marked).decode("latin-1").replace("%", "%%")
        self._text = _MARK.sub("%s", text)
        self._filled_for: Fields | None = None  # and the result, of the last ``fill``
        self._filled: tuple[ResponseHead, bytes] | None = None
        self.result = result
        self.reason = reason
        self.error = error

    def holds(self, origin_fields: Fields, now_s: float) -> bool:
        """Whether a response with these fields gets the same head now, but for the values."""
        since_s = self._since_s
        return (
            isinstance(origin_fields, VariedFields)
            and origin_fields.template is self._template
            and since_s <= now_s < int(since_s) + 1
        )

    def fill(self, origin_fields: Fields, body_bytes: int) -> tuple[ResponseHead, bytes]:
        """The head for the values of ``origin_fields``, and its text in HTTP/1.1."""
        if origin_fields is self._filled_for and self._filled is not None:
            return self._filled  # equal heads, with Content-Length, are parsed once
        fields, values = self._fields.copy(), []
        for index, name, place in self._varied:
            value = str(body_bytes) if place == _LENGTH else origin_fields[place][1]
            fields[index] = name, value
            values.append(value)
        text = self._text % tuple(values)
        filled = ResponseHead(self._status, fields), text.encode("latin-1", "replace")
        self._filled_for, self._filled = origin_fields, filled
        return filled


def marked_fields(fields: VariedFields) -> Fields:
    """``fields`` with marks in place of the values that differ."""
    marked = list(fields)
    for place in fields.places:
        marked[place] = marked[place][0], f"\0{place}\0"
    return marked


def is_short(fields: Sequence[Field]) -> bool:
    """Whether the fields of a response are few enough to be remembered."""
    return sum([len(name) + len(value) for name, value in fields]) <= FIELD_CHARACTERS_MAX

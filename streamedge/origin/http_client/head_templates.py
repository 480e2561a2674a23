"""Parses heads that differ only in the values of some fields once.

A dynamic page has another length, ETag and cookie each time, and a site's pages have the same
fields otherwise. A ``HeadTemplate`` is a parsed head; the values of these fields, which change
neither the framing nor the other fields, are replaced by those of the next head. Pure.
"""

from __future__ import annotations

import re
from functools import lru_cache

from streamedge.origin import VariedFields
from streamedge.origin.http_client.response_parser import (
    FieldList,
    Framing,
    ResponseHead,
    has_no_body,
    parse_head,
)

TEMPLATES_MAX = 256
HEADS_MAX = 64  # parsed ones: pages that do not change have equal heads within a second
TEMPLATE_MAX_BYTES = 2048  # of the head that a template is made of

_VARIED_NAME = rb"(?i:etag|last-modified|content-length|set-cookie|x-[!#$%&'*+.^_`|~0-9a-z-]+)"
_VARIED_LINE = re.compile(rb"\r\n(%b):([\t -~\x80-\xff]*)(?=\r\n)" % _VARIED_NAME)
_NAME = re.compile(_VARIED_NAME.decode())
_LENGTH_MAX_DIGITS = 18
_BLANK = b" \t"


class HeadTemplate:
    """A parsed head, and which of its fields have values that may differ."""

    __slots__ = ("_fields", "_has_length", "_head", "_length_index", "_names", "_places")

    def __init__(self, head: ResponseHead, places: tuple[int, ...], *, has_length: bool) -> None:
        """``places``: the indexes of these fields. ``has_length``: Content-Length is the size."""
        self._head = head
        self._fields = VariedFields(head.fields, self, places)
        self._places = places
        self._names = [head.fields[place][0] for place in places]
        lower_names = [name.lower() for name in self._names]
        self._length_index = (
            lower_names.index("content-length") if "content-length" in lower_names else -1
        )
        self._has_length = has_length

    def fill(self, values: list[bytes]) -> ResponseHead | None:
        """The head with these values, as they were received; None: it has to be parsed."""
        head = self._head
        size_bytes = head.size_bytes
        if self._length_index >= 0:
            digits = values[self._length_index].lstrip(_BLANK)
            if not digits.isdigit() or len(digits) > _LENGTH_MAX_DIGITS:
                return None
            if self._has_length:
                size_bytes = int(digits)
        fields = VariedFields(self._fields, self, self._places)
        for place, name, value in zip(self._places, self._names, values, strict=True):
            fields[place] = name, value.strip(_BLANK).decode("latin-1")
        return ResponseHead(
            head.status,
            head.reason,
            head.http_version,
            fields,
            head.framing,
            size_bytes,
            head.closes,
        )


class _Slot:
    """The template of the heads that are equal but for the values; None: there is none yet."""

    __slots__ = ("template",)

    def __init__(self) -> None:
        self.template: HeadTemplate | None = None


@lru_cache(TEMPLATES_MAX)
def _slot(*_method_and_rest: object) -> _Slot:
    return _Slot()


def parse_repeated_head(data: bytes, method: str) -> ResponseHead:
    """As ``parse_head``; the fields are ``VariedFields`` if a template was made of the head.

    The result for equal heads may be the same object, which must not be changed. Raises
    ResponseError.
    """
    if len(data) > TEMPLATE_MAX_BYTES:
        return parse_head(data, method)
    return _parse_short_head(data, method)


@lru_cache(HEADS_MAX)
def _parse_short_head(data: bytes, method: str) -> ResponseHead:
    rest = _VARIED_LINE.split(data)  # each varied line as its name and its value
    values = rest[2::3]
    del rest[2::3]
    slot = _slot(method == "HEAD", *rest)
    head = None if slot.template is None else slot.template.fill(values)
    if head is not None:
        return head
    head = parse_head(data, method)
    slot.template = _template(head, method, rest[1::2], values)
    return head if slot.template is None else slot.template.fill(values) or head


def _template(
    head: ResponseHead, method: str, names: list[bytes], values: list[bytes]
) -> HeadTemplate | None:
    """The template of a head in which these lines were found.

    None if the parser has read them in another way: a folded line, or one that ends with LF alone.
    """
    lines: FieldList = [
        (name.decode("latin-1"), value.strip(_BLANK).decode("latin-1"))
        for name, value in zip(names, values, strict=True)
    ]
    places = [place for place, field in enumerate(head.fields) if _NAME.fullmatch(field[0])]
    if head.is_interim or [head.fields[place] for place in places] != lines:
        return None
    has_length = head.framing is Framing.LENGTH and not has_no_body(method, head.status)
    return HeadTemplate(head, tuple(places), has_length=has_length)

"""Header fields that several layers read: Content-Range, Connection, and the fields of one hop.

Pure: text in, values out. Names of fields are in lower case. Only spaces and tabs may surround a
value (RFC 9110 §5.6.3); with any other character around it, the value is malformed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from streamedge.memo import cache_short_texts
from streamedge.spans import Span

# RFC 9110 §7.6.1, §11.7 and RFC 9111 §3.1; HTTP2-Settings by RFC 7540 §3.2.1. Some are fields of
# requests and some of responses: each is dropped from both.
HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authentication-info"),
        *("proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "http2-settings"),
    }
)

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII | re.IGNORECASE)


def parse_number(text: str, digits_max: int = 18) -> int | None:
    """A number of ASCII digits only; None: the text is none, or longer than ``digits_max``.

    Numbers of 18 digits fit into 64 bits; ``int`` alone takes other digits, signs and spaces.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= digits_max):
        return None
    return int(text)


class ContentRange(NamedTuple):
    """The bytes of a part, and the size of the whole in bytes; None: the sender does not know it.

    The span has at least one byte and ends within the whole.
    """

    span: Span
    size_bytes: int | None


def parse_content_range(value: str) -> ContentRange | None:
    """The value of Content-Range (RFC 9110 §14.4); None: it is no valid range of bytes.

    Also None for the form ``bytes */size`` of a 416, which names no part.
    """
    match = _CONTENT_RANGE.fullmatch(value.strip(" \t"))
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    size_bytes = None if match[3] == "*" else int(match[3])
    if first > last or (size_bytes is not None and last >= size_bytes):
        return None
    return ContentRange(Span(first, last + 1), size_bytes)


def content_range(span: Span, size_bytes: int) -> str:
    """The value of Content-Range for a part of a whole (RFC 9110 §14.4)."""
    return f"bytes {span.start}-{span.end - 1}/{size_bytes}"


@cache_short_texts(256, 64)
def parse_connection(value: str) -> frozenset[str]:
    """The options in the value of Connection, in lower case: names of fields for one hop
    (RFC 9110 §7.6.1). May contain the empty string.
    """
    return frozenset(option.strip(" \t").lower() for option in value.split(","))


def connection_options(fields: Iterable[tuple[str, str]]) -> frozenset[str]:
    """The options of all Connection fields among ``fields``, as ``parse_connection`` gives them."""
    options: frozenset[str] = frozenset()
    for name, value in fields:
        if len(name) == len("connection") and name.lower() == "connection":
            parsed = parse_connection(value)
            options = options | parsed if options else parsed
    return options

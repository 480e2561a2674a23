"""What an Upgrade field means for the request that has it: RFC 9110 §7.8.

The parser takes every request with one for the last of its protocol, and leaves its body to the
next protocol. Only WebSocket is ever taken here; every other Upgrade is ignored, and the body read
by a ``body_parser``.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

import httptools

RawField = tuple[bytes, bytes]


class Upgrade(Enum):
    """What follows the head of a request that the parser takes for an upgrade."""

    NONE = "none"  # the next request
    WITH_BODY = "with body"  # the body, which the parser would skip
    WEBSOCKET = "websocket"  # what the origin decides on
    CONNECT = "connect"  # a tunnel, which nobody gets


_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


def upgrade_of(method: bytes, fields: Sequence[RawField]) -> Upgrade:
    """What a head means that the parser takes for an upgrade; names are in lower case."""
    if method == b"CONNECT":
        return Upgrade.CONNECT
    if any(name in _FRAMING and value.strip(b" \t") != b"0" for name, value in fields):
        return Upgrade.WITH_BODY
    asked = [value.strip(b" \t").lower() for name, value in fields if name == b"upgrade"]
    return Upgrade.WEBSOCKET if method == b"GET" and asked == [b"websocket"] else Upgrade.NONE


class ParserCallbacks(Protocol):
    """What httptools calls."""

    def on_message_begin(self) -> None: ...
    def on_url(self, url: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_headers_complete(self) -> None: ...
    def on_body(self, body: bytes) -> None: ...
    def on_message_complete(self) -> None: ...


def body_parser(
    callbacks: ParserCallbacks, fields: Sequence[RawField]
) -> httptools.HttpRequestParser:
    """A parser that stands behind the head of a request, and goes on with the requests after it.

    ``fields`` are the head's, names in lower case: those that say where the body ends count.
    """
    behind = _BehindHead(callbacks)
    parser = httptools.HttpRequestParser(behind)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
    framing = b"".join(b"%b: %b\r\n" % field for field in fields if field[0] in _FRAMING)
    parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % framing)
    behind.has_begun = True
    return parser


class _BehindHead:
    """The callbacks, of which none is called for the head that the parser is put behind."""

    def __init__(self, callbacks: ParserCallbacks) -> None:
        self._callbacks = callbacks
        self.has_begun = False
        self.on_body = callbacks.on_body
        self.on_message_complete = callbacks.on_message_complete

    def on_message_begin(self) -> None:
        if self.has_begun:
            self._callbacks.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self.has_begun:
            self._callbacks.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.has_begun:
            self._callbacks.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.has_begun:
            self._callbacks.on_headers_complete()

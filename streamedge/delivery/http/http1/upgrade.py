"""Interprets the Upgrade field of a request (RFC 9110 §7.8).

The parser treats every request with an Upgrade field as the last one of its protocol, and leaves
its body to the next protocol. Only WebSocket is accepted here. Every other Upgrade is ignored, and
a ``body_parser`` parses the body.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

import httptools

RawField = tuple[bytes, bytes]


class Upgrade(Enum):
    """What follows the head of a request that the parser treats as an upgrade."""

    NONE = "none"  # the next request
    WITH_BODY = "with body"  # the body, which the parser would skip
    WEBSOCKET = "websocket"  # the origin decides whether to switch
    CONNECT = "connect"  # a tunnel, which is refused


_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


def upgrade_of(method: bytes, fields: Sequence[RawField]) -> Upgrade:
    """What follows a head that the parser treats as an upgrade; names are in lower case."""
    if method == b"CONNECT":
        return Upgrade.CONNECT
    if any(name in _FRAMING and value.strip(b" \t") != b"0" for name, value in fields):
        return Upgrade.WITH_BODY
    tokens = [value.strip(b" \t").lower() for name, value in fields if name == b"upgrade"]
    return Upgrade.WEBSOCKET if method == b"GET" and tokens == [b"websocket"] else Upgrade.NONE


class ParserCallbacks(Protocol):
    """The callbacks of httptools."""

    def on_message_begin(self) -> None: ...
    def on_url(self, url: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_headers_complete(self) -> None: ...
    def on_body(self, body: bytes) -> None: ...
    def on_message_complete(self) -> None: ...


def body_parser(
    callbacks: ParserCallbacks, fields: Sequence[RawField]
) -> httptools.HttpRequestParser:
    """A parser that starts behind the head of a request, and then parses the next requests.

    ``fields`` are the head's, names in lower case; only those that frame the body matter.
    """
    behind = _BehindHead(callbacks)
    parser = httptools.HttpRequestParser(behind)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    framing = b"".join(b"%b: %b\r\n" % field for field in fields if field[0] in _FRAMING)
    parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % framing)
    behind.has_begun = True
    return parser


class _BehindHead:
    """Forwards callbacks, except those for the head that the parser starts behind."""

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

"""Parses responses of origins with httptools: heads, and bodies in chunks (RFC 9112).

Pure. A head is parsed on its own, so the framing of the body behind it is decided here and not by
the parser, which does not know the request. Whatever two recipients could frame in two ways is
refused (RFC 9112 §6.3).
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

import httptools

HEAD_MAX_BYTES = 64 << 10  # a header section, a trailer section, or the line before a chunk

FieldList = list[tuple[str, str]]

_FRAMING_LENGTHS = frozenset(map(len, ("content-length", "transfer-encoding", "connection")))
"""Most fields have names of other lengths, and need not be compared."""

END_OF_HEAD = re.compile(rb"\n\r?\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_FOLD = re.compile(rb"([^\r\n])\r\n[ \t]+")  # obs-fold (RFC 9112 §5.2)
_CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class ResponseError(Exception):
    """The received bytes are no valid HTTP/1.1 response."""


class Framing(Enum):
    """How the end of a response's body is marked (RFC 9112 §6.3)."""

    LENGTH = "length"  # the size is known with the head; 0: there is no body
    CHUNKED = "chunked"
    CLOSE = "close"  # by the end of the connection
    SWITCHED = "switched"  # another protocol follows


class ResponseHead(NamedTuple):
    """The head of a response. ``fields`` are as they were sent, in order.

    ``size_bytes``: of the body, None if it is not announced. ``closes``: whether the origin uses
    the connection for one response only.
    """

    status: int
    reason: str
    http_version: str
    fields: FieldList
    framing: Framing
    size_bytes: int | None
    closes: bool

    @property
    def is_interim(self) -> bool:
        """Whether another response to the request follows (RFC 9110 §15.2)."""
        return self.status < 200 and self.status != 101


class _HeadCallbacks:
    """Receives what the parser reads of one head."""

    __slots__ = ("fields", "is_complete", "reason")

    def __init__(self) -> None:
        self.reason = ""
        self.fields: FieldList = []
        self.is_complete = False

    def on_status(self, reason: bytes) -> None:
        self.reason = reason.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.decode("latin-1"), value.strip(b" \t").decode("latin-1")))

    def on_headers_complete(self) -> None:
        self.is_complete = True


def parse_head(data: bytes, method: str) -> ResponseHead:
    """Parses one head, complete with its empty line, of a response to a ``method`` request.

    Lines may end with LF alone, and field lines may be folded. Raises ResponseError.
    """
    try:
        return _parse_head(data, method)
    except ResponseError:
        start_line, line_end, fields = _BARE_LF.sub(b"\r\n", data).partition(b"\r\n")
        plain = start_line + line_end + _FOLD.sub(rb"\1 ", fields)
        if plain == data:
            raise
    return _parse_head(plain, method)


def has_no_body(method: str, status: int) -> bool:
    """Whether a response has no body, whatever its fields say (RFC 9110 §6.4.1)."""
    return method == "HEAD" or status < 200 or status in {204, 304}


def require_head_start(data: bytes | bytearray) -> None:
    """Raises ResponseError if ``data`` cannot be the beginning of a head."""
    if not data.startswith(b"HTTP/"[: len(data)]):
        raise ResponseError("not a response of HTTP/1.1")
    if len(data) > HEAD_MAX_BYTES:
        raise ResponseError("the header section is too long")


def _parse_head(data: bytes, method: str) -> ResponseHead:
    callbacks = _HeadCallbacks()
    parser = httptools.HttpResponseParser(callbacks)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # a 101; the bytes behind it are not in ``data``
    except httptools.HttpParserError as exc:
        raise ResponseError(str(exc)) from exc
    version = parser.get_http_version()
    if not callbacks.is_complete or version not in {"1.0", "1.1"}:
        raise ResponseError("not a response of HTTP/1.1")
    status, fields = parser.get_status_code(), callbacks.fields
    codings, length, closes = [], None, version == "1.0"
    for name, value in [field for field in fields if len(field[0]) in _FRAMING_LENGTHS]:
        match name.lower():
            case "content-length":
                length = int(value)
            case "transfer-encoding":
                codings.append(value.lower())
            case "connection" if "close" in value.lower():
                options = [option.strip(" \t") for option in value.lower().split(",")]
                closes = closes or "close" in options
    framing, size_bytes = Framing.LENGTH, length
    if status == 101:
        framing, size_bytes = Framing.SWITCHED, None
    elif has_no_body(method, status):
        size_bytes = 0
    elif codings:
        if codings != ["chunked"]:
            raise ResponseError("the only transfer coding that is supported is chunked")
        framing, size_bytes = Framing.CHUNKED, None
    elif length is None:
        framing = Framing.CLOSE
    return ResponseHead(status, callbacks.reason, version, fields, framing, size_bytes, closes)


class ChunkedBody:
    """Decodes a body in chunks (RFC 9112 §7.1). ``pieces`` are its bytes, until they are taken.

    ``has_more``: bytes that belong to no response came behind the body.
    """

    __slots__ = (
        "_parser",
        "_trailer_bytes",
        "_unused_bytes",
        "has_more",
        "is_complete",
        "pieces",
        "trailers",
    )

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.trailers: FieldList = []
        self.is_complete = False
        self.has_more = False
        self._trailer_bytes = 0
        self._unused_bytes = 0  # received since the last bytes of the body
        self._parser = httptools.HttpResponseParser(self)
        # Some servers fill the size of a chunk up with spaces. Trailer fields may have any name:
        # none of them changes the framing, which is decided.
        self._parser.set_dangerous_leniencies(
            lenient_spaces_after_chunk_size=True,
            lenient_chunked_length=True,
            lenient_transfer_encoding=True,
        )
        self._parser.feed_data(_CHUNKED_HEAD)
        self.trailers.clear()
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> None:
        """Decodes the next received bytes. Raises ResponseError."""
        self._unused_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            if not self.is_complete:
                raise ResponseError(str(exc)) from exc
            self.has_more = True
        if self._unused_bytes > HEAD_MAX_BYTES and not self.is_complete:
            raise ResponseError("the line of a chunk, or the trailer section, is too long")

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        self.has_more = self.is_complete

    def on_header(self, name: bytes, value: bytes) -> None:
        self._trailer_bytes += len(name) + len(value)
        if self._trailer_bytes > HEAD_MAX_BYTES:
            raise ResponseError("the trailer section is too long")
        self.trailers.append((name.decode("latin-1"), value.strip(b" \t").decode("latin-1")))

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self._unused_bytes = 0

    def on_message_complete(self) -> None:
        self.is_complete = True

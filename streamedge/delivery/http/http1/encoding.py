"""Encodes responses as HTTP/1.1: status line, field lines, chunks (RFC 9112)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from functools import lru_cache

from streamedge.delivery.http.policy.response_headers import Field
from streamedge.delivery.http.response.body import Piece
from streamedge.delivery.http.response.response import ResponseHead, reason_phrase
from streamedge.origin import Fields

_CHUNKED_LINE = "transfer-encoding: chunked\r\n"
_CLOSE_LINE = "connection: close\r\n"


def with_close_line(head: bytes) -> bytes:
    """An encoded head that says, too, that the connection ends behind the response."""
    status_line, line_end, rest = head.partition(b"\r\n")
    return status_line + line_end + _CLOSE_LINE.encode() + rest


class Framing(Enum):
    """How the end of a body is marked (RFC 9112 §6.3)."""

    LENGTH = "length"  # by Content-Length, or there is no body
    CHUNKED = "chunked"
    CLOSE = "close"  # by the end of the connection


def framing_of(head: ResponseHead, http_version: str) -> Framing:
    """The framing of a body that is sent in pieces."""
    if any(name == "content-length" for name, _value in head.fields):
        return Framing.LENGTH
    return Framing.CHUNKED if http_version == "1.1" else Framing.CLOSE


def encode_head(
    head: ResponseHead,
    framing: Framing = Framing.LENGTH,
    *,
    closes: bool = False,
    request_id: str = "",
) -> bytes:
    """The status line and the header section. ``closes``: the connection ends behind it.

    ``request_id``: the value of X-Amz-Cf-Id; "": there is none.
    """
    lines = "".join([f"{name}: {value}\r\n" for name, value in head.fields])
    framing_line = _CHUNKED_LINE if framing is Framing.CHUNKED else ""
    close_line = _CLOSE_LINE if closes else ""
    id_line = f"x-amz-cf-id: {request_id}\r\n" if request_id else ""
    text = f"{_status_line(head.status)}{framing_line}{lines}{close_line}{id_line}\r\n"
    return text.encode("latin-1", "replace")


def with_id(head: bytes, request_id: bytes) -> bytes:
    """An encoded head with the field of a request's id at its end."""
    if not request_id:
        return head
    return b"%bx-amz-cf-id: %b\r\n\r\n" % (head[:-2], request_id)


def encode_fields(fields: Iterable[Field]) -> bytes:
    """Field lines without the empty line."""
    return "".join([f"{name}: {value}\r\n" for name, value in fields]).encode("latin-1", "replace")


def chunk(piece: Piece) -> tuple[Piece, ...]:
    """A piece of a body as one chunk (RFC 9112 §7.1)."""
    size_bytes = len(piece) if isinstance(piece, bytes) else piece[1].size
    return b"%x\r\n" % size_bytes, piece, b"\r\n"


def last_chunk(trailers: Fields) -> bytes:
    """The end of a chunked body, with its trailer section."""
    return b"0\r\n%b\r\n" % encode_fields(trailers)


class Http1Heads:
    """Encodes the heads of responses that the fast path prepares."""

    def tail(self, fields: Iterable[Field]) -> bytes:
        """The field lines that all ranges share."""
        return encode_fields(fields)

    def whole(self, size_bytes: int, tail: bytes, request_id: bytes) -> bytes:
        """The head of a 200 with a body of ``size_bytes``."""
        if not request_id:
            return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%b\r\n" % (size_bytes, tail)
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%bx-amz-cf-id: %b\r\n\r\n" % (
            size_bytes,
            tail,
            request_id,
        )

    def part(self, start: int, end: int, size_bytes: int, tail: bytes, request_id: bytes) -> bytes:
        """The head of a 206 with the bytes from ``start`` to ``end`` of ``size_bytes``."""
        numbers = end - start, start, end - 1, size_bytes
        if not request_id:
            return b"%b\r\n" % (_PART % (*numbers, tail))
        return b"%bx-amz-cf-id: %b\r\n\r\n" % (_PART % (*numbers, tail), request_id)

    def message(self, head: ResponseHead, *, closes: bool) -> bytes:
        """The head of any other response."""
        return encode_head(head, closes=closes)

    def with_id(self, head: bytes, request_id: bytes) -> bytes:
        """A head with the field of the request's id at its end."""
        return with_id(head, request_id)


_PART = b"HTTP/1.1 206 Partial Content\r\ncontent-length: %d\r\ncontent-range: bytes %d-%d/%d\r\n%b"


@lru_cache(maxsize=256)
def _status_line(status: int) -> str:
    return f"HTTP/1.1 {status} {reason_phrase(status)}\r\n"

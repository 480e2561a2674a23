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
    head: ResponseHead, framing: Framing = Framing.LENGTH, *, closes: bool = False
) -> bytes:
    """The status line and the header section. ``closes``: the connection ends behind it."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in head.fields])
    framing_line = _CHUNKED_LINE if framing is Framing.CHUNKED else ""
    close_line = _CLOSE_LINE if closes else ""
    text = f"{_status_line(head.status)}{framing_line}{lines}{close_line}\r\n"
    return text.encode("latin-1", "replace")


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
        """The end of a head: ``fields`` and the empty line."""
        return encode_fields(fields) + b"\r\n"

    def whole(self, size_bytes: int, tail: bytes) -> bytes:
        """The head of a 200 with a body of ``size_bytes``."""
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%b" % (size_bytes, tail)

    def part(self, start: int, end: int, size_bytes: int, tail: bytes) -> bytes:
        """The head of a 206 with the bytes from ``start`` to ``end`` of ``size_bytes``."""
        return (
            b"HTTP/1.1 206 Partial Content\r\ncontent-length: %d\r\n"
            b"content-range: bytes %d-%d/%d\r\n%b" % (end - start, start, end - 1, size_bytes, tail)
        )

    def message(self, head: ResponseHead, *, closes: bool) -> bytes:
        """The head of any other response."""
        return encode_head(head, closes=closes)


@lru_cache(maxsize=256)
def _status_line(status: int) -> str:
    return f"HTTP/1.1 {status} {reason_phrase(status)}\r\n"

"""Encodes the heads of responses as HTTP/2 field lists, and decodes those of requests.

Names are in lower case, and there are no fields of a connection (RFC 9113 §8.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from streamedge.delivery.http.http2.engine import NeverIndexedHeader, RawField, SentField
from streamedge.delivery.http.policy.response_headers import Field
from streamedge.delivery.http.request.request import is_valid_target
from streamedge.delivery.http.response.response import ResponseHead
from streamedge.memo import cache_short_texts

Head = Sequence[SentField]

_OF_A_CONNECTION: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
)


class RequestHead(NamedTuple):
    """The head of a request, with Host in place of ":authority"."""

    method: bytes
    target: bytes
    fields: list[RawField]


def decode_request(fields: Iterable[RawField]) -> RequestHead | None:
    """The parts of a request's head; None if it is to be refused (RFC 9113 §8.3.1).

    A Host that differs from ":authority" stays beside it, so that the host is ambiguous. Cookie
    fields are joined (§8.2.3). CONNECT is refused: the edge is no tunnel.
    """
    pseudo: dict[bytes, bytes] = {}
    rest: list[RawField] = []
    cookies: list[bytes] = []
    for name, value in fields:
        if name[:1] == b":":
            if name in pseudo or rest or cookies:
                return None
            pseudo[name] = value
        elif name == b"cookie":
            cookies.append(value)
        elif name != b"host" or value != pseudo.get(b":authority"):
            rest.append((name, value))
    if cookies:
        rest.append((b"cookie", b"; ".join(cookies)))
    authority = pseudo.get(b":authority")
    if authority is not None:
        rest.insert(0, (b"host", authority))
    method, target = pseudo.get(b":method"), pseudo.get(b":path")
    if method is None or target is None or method == b"CONNECT":
        return None
    if pseudo.get(b":scheme") not in {b"https", b"http"} or pseudo.keys() - _PSEUDO_FIELDS:
        return None
    if not (target.startswith(b"/") or target == b"*") or not is_valid_target(method, target):
        return None
    return RequestHead(method, target, rest)


def encode_head(head: ResponseHead, request_id: str = "") -> list[SentField]:
    """The fields of a response's head, with X-Amz-Cf-Id where ``request_id`` is not ""."""
    fields = [(b":status", _status(head.status)), *encode_fields(head.fields)]
    return [*fields, id_field(request_id.encode())] if request_id else [*fields]


def id_field(request_id: bytes) -> SentField:
    """X-Amz-Cf-Id. It is never indexed: each value would push others out of HPACK's table."""
    return NeverIndexedHeader(b"x-amz-cf-id", request_id)


def encode_fields(fields: Iterable[Field]) -> list[RawField]:
    """Header or trailer fields."""
    return [
        (_name(name), value.encode("latin-1", "replace"))
        for name, value in fields
        if name.lower() not in _OF_A_CONNECTION
    ]


class Http2Heads:
    """Encodes the heads of responses that the fast path prepares."""

    def tail(self, fields: Iterable[Field]) -> Head:
        """The fields that all ranges share."""
        return encode_fields(fields)

    def whole(self, size_bytes: int, tail: Head, request_id: bytes) -> Head:
        """The head of a 200 with a body of ``size_bytes``."""
        return [_OK, (b"content-length", b"%d" % size_bytes), *tail, id_field(request_id)]

    def part(self, start: int, end: int, size_bytes: int, tail: Head, request_id: bytes) -> Head:
        """The head of a 206 with the bytes from ``start`` to ``end`` of ``size_bytes``."""
        return [
            _PARTIAL_CONTENT,
            (b"content-length", b"%d" % (end - start)),
            (b"content-range", b"bytes %d-%d/%d" % (start, end - 1, size_bytes)),
            *tail,
            id_field(request_id),
        ]

    def message(self, head: ResponseHead, *, closes: bool) -> Head:
        """The head of any other response."""
        return encode_head(head)

    def with_id(self, head: Head, request_id: bytes) -> Head:
        """A head with the field of the request's id at its end."""
        return [*head, id_field(request_id)]


_OK = (b":status", b"200")
_PARTIAL_CONTENT = (b":status", b"206")
_PSEUDO_FIELDS = frozenset({b":method", b":scheme", b":authority", b":path"})


@lru_cache(maxsize=256)
def _status(status: int) -> bytes:
    return b"%d" % status


@cache_short_texts(1024, 64)
def _name(name: str) -> bytes:
    return name.lower().encode("latin-1", "replace")

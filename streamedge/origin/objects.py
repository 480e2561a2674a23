"""Requests for objects, and two adapters: an ``Origin`` over an ``Upstream``, and an ``Upstream``
over an ``Origin``.

The meaning of responses is in ``answers``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from streamedge.errors import OriginError, OriginFailure
from streamedge.http_date import format_http_date, parse_http_date_s
from streamedge.ops.background import run_detached
from streamedge.origin import (
    Duplex,
    Fields,
    Origin,
    OriginHead,
    OriginRead,
    OriginRequest,
    OriginResponse,
    Upstream,
    Version,
)
from streamedge.origin.answers import (
    ObjectRequest,
    Opening,
    fold_fields,
    may_retry_unconditionally,
    read_head,
    read_response,
    representation_fields,
    request_fields,
)
from streamedge.origin.buffered import buffered_body
from streamedge.spans import Span

_ERROR_FIELDS = frozenset({"age", "cache-control", "cdn-cache-control", "date", "expires"})
_STATUSES = {
    OriginFailure.NOT_FOUND: 404,
    OriginFailure.FORBIDDEN: 403,
    OriginFailure.RANGE_OUTSIDE: 416,
}

# Fields of a request for an object that the cache sets itself.
_CACHE_FIELDS = frozenset(
    {
        *("accept-encoding", "if-match", "if-modified-since", "if-none-match", "if-range"),
        *("if-unmodified-since", "range"),
    }
)


ResponseT = TypeVar("ResponseT", bound=OriginResponse)

SendObjectRequest = Callable[[ObjectRequest], Awaitable[ResponseT]]
"""Sends the request for an object; returns when the head of the response was received."""


@dataclass(frozen=True, slots=True)
class OpenedObject(Generic[ResponseT]):
    """A response whose body is to be read. ``refused_if_match``: only a request without If-Match
    was answered with the expected version.
    """

    opening: Opening
    response: ResponseT
    refused_if_match: bool


async def _no_error_code(_response: OriginResponse) -> str:
    return ""


async def request_head(request: ObjectRequest, send: SendObjectRequest[ResponseT]) -> OriginHead:
    """As ``Origin.head``, by one HEAD request."""
    response = await send(replace(request, method="HEAD"))
    try:
        return read_head(request, response.status, fold_fields(response.fields))
    finally:
        response.close()


async def request_object(
    request: ObjectRequest,
    send: SendObjectRequest[ResponseT],
    error_code: Callable[[ResponseT], Awaitable[str]] = _no_error_code,
) -> OpenedObject[ResponseT] | None:
    """As ``Origin.read``, by one GET request, or two if the first one's If-Match was refused.

    ``error_code`` reads the code from the body of an error. The response is closed unless it is
    returned.
    """
    response = await send(request)
    is_refused = may_retry_unconditionally(request, response.status)
    if is_refused:
        response.close()
        request = replace(request, sends_if_match=False)
        response = await send(request)
    opening = None
    try:
        code = await error_code(response) if response.status >= 400 else ""
        opening = read_response(request, response.status, fold_fields(response.fields), code)
    finally:
        if opening is None:
            response.close()
    return None if opening is None else OpenedObject(opening, response, is_refused)


class RequestedObject:
    """The object that one request gets, as an ``Origin``. The name is the request's."""

    def __init__(self, label: str, upstream: Upstream, request: OriginRequest) -> None:
        self._label = label
        self._upstream = upstream
        self._request = request

    async def head(self, name: str) -> OriginHead:
        return await request_head(ObjectRequest(self._subject(name), name), self._send)

    async def read(
        self,
        name: str,
        span: Span | None = None,
        *,
        if_match: Version | None = None,
        if_none_match: Version | None = None,
    ) -> OriginRead | None:
        object_request = ObjectRequest(
            self._subject(name), name, span=span, if_match=if_match, if_none_match=if_none_match
        )
        opened = await request_object(object_request, self._send)
        if opened is None:
            return None
        return ResponseRead(opened.opening.head, opened.opening.span, opened.response)

    async def close(self) -> None:
        """Does nothing: the connections belong to the upstream."""

    async def _send(self, object_request: ObjectRequest) -> OriginResponse:
        object_fields = request_fields(object_request)
        object_field_names = {name.lower() for name in object_fields}
        forwarded = [
            field for field in self._request.fields if field[0].lower() not in object_field_names
        ]
        request = replace(
            self._request,
            method=object_request.method,
            fields=(*forwarded, *object_fields.items()),
            if_match=object_request.if_match,
        )
        return await self._upstream.send(request)

    def _subject(self, name: str) -> str:
        return f"{self._label} {name!a}"


class ResponseRead:
    """An ``OriginRead`` over a response."""

    def __init__(self, head: OriginHead, span: Span, response: OriginResponse) -> None:
        self.head = head
        self.span = span
        self._response = response

    def pieces(self) -> AsyncIterator[bytes]:
        return self._response.body()

    def trailers(self) -> Fields:
        """The trailer fields; known at the end of the body."""
        return self._response.trailers

    async def buffered(self, within_s: float) -> bytes | None:
        """As ``BufferedBody.buffered``."""
        body = await buffered_body(self._response, within_s)
        return body if body is not None and len(body) == self.span.size else None

    async def close(self) -> None:
        self._response.close()

    def close_now(self) -> None:
        """As ``close``, without awaiting."""
        self._response.close()


class ObjectUpstream:
    """An origin of objects that answers GET and HEAD as an HTTP server would.

    ``requesting`` returns the origin to read from for a query and further fields, if the origin
    supports them.
    """

    def __init__(
        self,
        origin: Origin,
        requesting: Callable[[str, tuple[tuple[str, str], ...]], Origin] | None = None,
    ) -> None:
        self._origin = origin
        self._requesting = requesting

    async def send(self, request: OriginRequest) -> OriginResponse:
        fields = fold_fields(request.fields)
        origin = self._origin
        if self._requesting is not None:
            extra = tuple(
                field for field in request.fields if field[0].lower() not in _CACHE_FIELDS
            )
            if request.query or extra:
                origin = self._requesting(request.query, extra)
        span = None
        try:
            if request.method == "GET":
                span = await _requested_span(origin, request.name, fields.get("range", ""))
            if request.method == "HEAD":
                return _object_response(fields, await origin.head(request.name), None)
            if request.method != "GET":
                return object_error(405)
            read = await origin.read(request.name, span, if_none_match=_condition(fields))
        except OriginError as exc:
            status = _STATUSES.get(exc.failure)
            if status is None:
                raise
            return object_error(exc.status or status, _error_fields(exc.fields))
        if read is None:
            return _ObjectResponse(304, None, None)
        response = _object_response(fields, read.head, read, is_part=span is not None)
        if response.status == 304:
            await read.close()
        return response


def _object_response(
    fields: Mapping[str, str],
    head: OriginHead,
    read: OriginRead | None,
    *,
    is_part: bool = False,
) -> _ObjectResponse:
    condition = fields.get("if-none-match", "")
    if condition and condition.removeprefix("W/") == head.version.etag.removeprefix("W/"):
        return _ObjectResponse(304, head, None)
    if read is not None and read.span == Span(0, head.version.size_bytes):
        is_part = False
    return _ObjectResponse(206 if is_part else 200, head, read)


class _ObjectResponse:
    """An ``OriginResponse`` made from an object's head and read."""

    def __init__(self, status: int, head: OriginHead | None, read: OriginRead | None) -> None:
        self.status = status
        self.trailers: Fields = []
        self._read = read
        self.size_bytes: int | None = 0 if read is None else read.span.size
        self.fields: Fields = [] if head is None else _fields(head)
        if head is not None and status in (200, 206):
            length = head.version.size_bytes if read is None else read.span.size
            self.fields.append(("content-length", str(length)))
        if status == 206 and read is not None:
            whole = read.head.version.size_bytes
            value = f"bytes {read.span.start}-{read.span.end - 1}/{whole}"
            self.fields.append(("content-range", value))

    async def body(self) -> AsyncIterator[bytes]:
        read, self._read = self._read, None
        if read is None:
            return
        try:
            async for piece in read.pieces():
                yield piece
        finally:
            await read.close()

    async def buffered(self, within_s: float) -> bytes | None:
        """As ``BufferedBody.buffered``."""
        return await buffered_body(self._read, within_s)

    def take_received_body(self) -> bytes | None:
        """None: an object is read in pieces."""
        return None

    def upgrade(self) -> tuple[bytes, Duplex]:
        raise AssertionError("an object is never answered with 101")

    def close(self) -> None:
        """Closes a read whose body was not iterated; an iterated body closes it itself."""
        read, self._read = self._read, None
        if read is not None:
            run_detached(read.close(), "close read")


def object_error(status: int, fields: Fields | None = None) -> OriginResponse:
    """An error response without a body."""
    response = _ObjectResponse(status, None, None)
    response.fields += fields or []
    return response


def _error_fields(fields: Mapping[str, str]) -> Fields:
    """The fields of an error response that stay true without its body."""
    return [
        (name, value)
        for name, value in representation_fields(fields).items()
        if name in _ERROR_FIELDS
    ]


def _condition(fields: Mapping[str, str]) -> Version | None:
    """The version in a condition. Its size is not known: -1."""
    etag = fields.get("if-none-match", "")
    modified_s = parse_http_date_s(fields.get("if-modified-since", ""))
    if not etag and modified_s is None:
        return None
    return Version(etag, -1, modified_s)


def _fields(head: OriginHead) -> Fields:
    version = head.version
    fields = [("content-type", head.content_type), *head.headers.items()]
    if version.etag:
        fields.append(("etag", version.etag))
    if version.last_modified_s is not None:
        fields.append(("last-modified", format_http_date(version.last_modified_s)))
    return fields


async def _requested_span(origin: Origin, name: str, value: str) -> Span | None:
    """The span of a Range that the edge itself has made; None: all of the object."""
    first, _, last = value.removeprefix("bytes=").partition("-")
    if not value:
        return None
    if first:
        return Span(int(first), int(last) + 1)
    size_bytes = (await origin.head(name)).version.size_bytes
    return Span(max(0, size_bytes - int(last)), size_bytes) if size_bytes else None

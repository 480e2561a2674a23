"""Builds responses: from the cache, from an origin, or the edge's own.

A builder turns an outcome into a head and a body source. It requests nothing.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import NamedTuple

from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.responses import Stored
from streamedge.cache.storage.records import Provenance, served_head
from streamedge.delivery.http.policy.response_headers import UNCHANGED, Field, cors_kind
from streamedge.delivery.http.request.dispatch import Refused
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.request.routing import Route
from streamedge.delivery.http.request.trailers import accepts_trailers, forwardable_trailers
from streamedge.delivery.http.response.cache_status import cache_status, is_sampled, server_timing
from streamedge.delivery.http.response.framing import (
    Parts,
    body_pieces,
    frame_body,
    framing_line,
    reader_pieces,
)
from streamedge.delivery.http.response.response import (
    ResponseContext,
    ResponseMessage,
    error_response,
    failure_status,
    object_response,
    stored_response_fields,
    streamed_head,
    whole_response,
)
from streamedge.errors import CacheFullError, OriginError
from streamedge.http_fields import HOP_BY_HOP, connection_options
from streamedge.ops.metrics import Counter, Counts
from streamedge.origin import OriginHead, OriginResponse
from streamedge.origin.answers import without_no_codings
from streamedge.origin.s3.protocol import is_s3_request
from streamedge.origin.writing import WriteResponse
from streamedge.spans import Span
from streamedge.write_back.rows import WriteQueueError

_KINDS: dict[type[Exception], str] = {CacheFullError: "cache_full", WriteQueueError: "journal"}
_NO_BODY = frozenset({204, 304})


class Response(NamedTuple):
    """A response; the caller closes ``reader``, which is None when nothing is open.

    ``parts``: the body in parts, sent after ``message.head``. ``provenance``: the source of the
    response, for invalidations that abort running responses; None where no invalidation applies.
    """

    message: ResponseMessage
    reader: Reader | None
    result: CacheResult
    distribution: str | None
    reason: str | None = None
    parts: AsyncGenerator[Parts, None] | None = None
    provenance: Callable[[], Provenance] | None = None


class Representation(NamedTuple):
    """A representation of a stored response other than the stored one."""

    head: OriginHead
    reader: Reader


class ResponseBuilder:
    """Builds responses. Errors are counted in ``counts``."""

    def __init__(self, edge_name: str, counts: Counts, ranges_max: int) -> None:
        self._ranges_max = ranges_max
        self._edge_name = edge_name
        self._counts = counts

    def preflight(self, route: Route, request: WebRequest) -> Response:
        """The response to OPTIONS for an origin with objects: the behavior's methods."""
        allowed = ", ".join(sorted(route.rule.behavior.methods))
        context = self._context(request, time.time(), CacheResult.MISS, route, "")
        head = streamed_head(204, [("allow", allowed)], "", None, context)
        return Response(ResponseMessage(204, head), None, CacheResult.MISS, route.distribution.id)

    def stored(
        self,
        route: Route,
        request: WebRequest,
        stored: Stored,
        representation: Representation | None = None,
        status: int | None = None,
    ) -> Response:
        """The response from a stored one. Takes ownership of the readers.

        ``representation`` and ``status`` replace the stored ones.
        """
        reader = stored.reader
        head = reader.head
        result = stored.result if head.status < 400 else CacheResult.ERROR
        now_s = time.time()
        age_s = reader.age_s(now_s)
        ttl_s = reader.lifetime_s(route.rule.rules) - age_s
        context = self._context(
            request, now_s, result, route, cache_status(self._edge_name, stored.cache_status, ttl_s)
        )
        distribution = route.distribution.id
        if representation is not None:
            reader.close()
            head, reader = representation
        head = served_head(head)
        if stored.withheld:
            head = replace(head, headers={**head.headers, **stored.withheld})
        if status is not None:
            head = replace(head, status=status)
            result = CacheResult.ERROR
        if head.status >= 400 and not head.version.size_bytes and not route.rule.binding.is_site:
            reader.close()
            phrase = f"origin: {HTTPStatus(head.status).phrase}"
            return self.refused(request, head.status, phrase, distribution, (), route)
        framing = framing_line(None, request.http_version)
        if not head.version.has_ended:
            if not framing:
                context = self._context(request, now_s, result, route, "", keep_alive=False)
            return self._read_along(request, distribution, head, reader, framing, age_s, context)
        if head.status == HTTPStatus.OK:
            message = object_response(request.method, request.headers, head, age_s, context)
        else:
            message = whole_response(request.method, head, age_s, context)
        reason = self._reason(head.status)
        is_whole = message.status == head.status and message.span == Span(0, reader.size_bytes)
        if framing and is_whole and reader.trailers and accepts_trailers(request.headers):
            # A body with Content-Length cannot be followed by trailers (RFC 9112 §7.1.2).
            return self._read_along(request, distribution, head, reader, framing, age_s, context)
        if not message.has_object_bytes:
            reader.close()
            return Response(message, None, result, distribution, reason)
        return Response(message, reader, result, distribution, reason)

    def _read_along(
        self,
        request: WebRequest,
        distribution: str,
        head: OriginHead,
        reader: Reader,
        framing: str,
        age_s: float,
        context: ResponseContext,
    ) -> Response:
        """The response from a stored one whose length is known only at its end."""
        fields = stored_response_fields(head)
        message = ResponseMessage(
            head.status, streamed_head(head.status, fields, framing, age_s, context)
        )
        response = Response(message, None, context.result, distribution)
        if request.method == "HEAD":
            reader.close()
            return response
        parts = frame_body(
            reader_pieces(reader), framing, lambda: forwardable_trailers(reader.trailers, ())
        )
        return response._replace(reader=reader, reason=self._reason(head.status), parts=parts)

    def passed(
        self, route: Route, request: WebRequest, response: OriginResponse, status: str
    ) -> Response:
        """The origin's response, passed through as it comes."""
        result = CacheResult.MISS if response.status < 400 else CacheResult.ERROR
        has_body = request.method != "HEAD" and response.status not in _NO_BODY
        framing = framing_line(response.size_bytes, request.http_version)
        fields = list(passed_fields(response.fields))
        if not has_body:
            # The origin decides which length to state (RFC 9110 §8.6).
            framing = "".join(
                f"{name}: {value}\r\n"
                for name, value in response.fields
                if name.lower() == "content-length" and response.status != 204
            )
        keep_alive = request.keep_alive and bool(framing or not has_body)
        context = self._context(request, time.time(), result, route, status, keep_alive=keep_alive)
        head = streamed_head(response.status, fields, framing, None, context)
        message = ResponseMessage(response.status, head)
        distribution = route.distribution.id
        if not has_body:
            response.close()
            return Response(message, None, result, distribution)
        parts = frame_body(
            body_pieces(response),
            framing,
            lambda: forwardable_trailers(response.trailers, response.fields),
        )
        return Response(message, None, result, distribution, self._reason(response.status), parts)

    def written(self, route: Route, request: WebRequest, response: WriteResponse) -> Response:
        """The response to a write."""
        result = CacheResult.MISS if response.succeeded else CacheResult.ERROR
        context = self._context(request, time.time(), result, route, "")
        body = b"" if response.status in _NO_BODY else response.body
        framing = "" if response.status in _NO_BODY else f"content-length: {len(body)}\r\n"
        head = streamed_head(response.status, response.fields, framing, None, context)
        return Response(
            ResponseMessage(response.status, head, body=b"" if request.method == "HEAD" else body),
            None,
            result,
            route.distribution.id,
            self._reason(response.status),
        )

    def failed(
        self, route: Route, request: WebRequest, exc: OriginError | CacheFullError | WriteQueueError
    ) -> Response:
        """The response to a failure of the origin, the cache or the write queue."""
        kind = exc.failure.value if isinstance(exc, OriginError) else _KINDS[type(exc)]
        self._counts.add(Counter.ERRORS, kind)
        response = self.refused(
            request, failure_status(exc), _viewer_reason(exc), route.distribution.id, (), route
        )
        return response._replace(reason=str(exc))

    def rejected(self, request: WebRequest, refused: Refused) -> Response:
        """The response to a refused request."""
        response = self.refused(
            request,
            refused.status,
            refused.reason,
            refused.distribution,
            refused.fields,
            refused.route,
            refused.code,
        )
        return response._replace(reason=refused.logged or refused.reason)

    def refused(
        self,
        request: WebRequest,
        status: int,
        reason: str,
        distribution: str | None,
        fields: tuple[Field, ...] = (),
        route: Route | None = None,
        code: str = "",
    ) -> Response:
        """An error response of the edge with its reason; ``code`` as in ``error_response``.

        Where the behavior is known, its CORS policy applies: without it a script could not
        distinguish a refusal from a network error.
        """
        context = self._context(request, time.time(), CacheResult.ERROR, None, "")
        if is_s3_request(request.headers, request.query):
            context = replace(context, is_s3=True)
        if route is not None:
            policy = route.rule.behavior.response_headers
            context = replace(context, policy=policy.for_errors())
        message = error_response(status, reason, context, request.method, fields, code)
        return Response(message, None, CacheResult.ERROR, distribution, reason)

    def _reason(self, status: int) -> str | None:
        """Counts an error status of the origin, and returns its text for the log line."""
        if status < 400:
            return None
        self._counts.add(Counter.ERRORS, f"origin_{status}")
        return f"the origin answered {status}"

    def _context(
        self,
        request: WebRequest,
        now_s: float,
        result: CacheResult,
        route: Route | None,
        status: str,
        *,
        keep_alive: bool = True,
    ) -> ResponseContext:
        return ResponseContext(
            self._edge_name,
            now_s,
            request.keep_alive and keep_alive,
            result,
            status,
            UNCHANGED if route is None else route.rule.behavior.response_headers,
            request.secure,
            request.headers.get("origin"),
            cors_kind(request.method, request.fields),
            self._ranges_max,
            "" if route is None else self._timing(route, request, now_s, result),
            route is not None and route.is_s3,
        )

    def _timing(self, route: Route, request: WebRequest, now_s: float, result: CacheResult) -> str:
        percent = route.rule.behavior.response_headers.server_timing_percent
        is_requested = percent > 0 and "server-timing" in request.headers.get("pragma", "")
        if not is_requested and not is_sampled(percent):
            return ""
        return server_timing(self._edge_name, result, now_s - request.received_at_s)


def passed_fields(fields: Sequence[Field]) -> Iterator[Field]:
    """An origin's fields without those of its connection and its framing."""
    removed = HOP_BY_HOP | {"content-length"} | connection_options(fields)
    for name, value in fields:
        sent_value = without_no_codings(name.lower(), value)
        if name.lower() not in removed and sent_value is not None:
            yield name, sent_value


def _viewer_reason(failure: OriginError | CacheFullError | WriteQueueError) -> str:
    """The text for a viewer: the kind of failure, without the origin's address."""
    if isinstance(failure, CacheFullError):
        return "the edge's cache is full: try again later"
    if isinstance(failure, WriteQueueError):
        return "the edge cannot queue the write: try again later"
    return f"origin: {failure.failure.value.replace('_', ' ')}"

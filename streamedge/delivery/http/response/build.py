"""Builds responses: from the cache, from an origin, or the edge's own.

A builder turns an outcome into a head and a body source. It requests nothing.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import NamedTuple

from streamedge.cache.lookup.outcome import Stored
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.storage.records import Provenance, served_head
from streamedge.delivery.http.policy.response_headers import NO_POLICY, Field, cors_kind
from streamedge.delivery.http.request.dispatch import Refused, TrafficCheck
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.request.routing import Route
from streamedge.delivery.http.request.trailers import accepts_trailers, forwardable_trailers
from streamedge.delivery.http.response.body import Piece, body_pieces, reader_pieces
from streamedge.delivery.http.response.cache_status import cache_status, is_sampled, server_timing
from streamedge.delivery.http.response.conditions import PRECONDITIONS, Condition, evaluate
from streamedge.delivery.http.response.remembered_pass import RememberedPass
from streamedge.delivery.http.response.response import (
    ResponseContext,
    ResponseHead,
    ResponseMessage,
    error_response,
    failure_status,
    object_response,
    precondition_failed,
    response_fields,
    stored_response_fields,
    whole_response,
)
from streamedge.errors import CacheFullError, OriginError
from streamedge.http_date import parse_http_date_s
from streamedge.http_fields import HOP_BY_HOP, connection_options
from streamedge.origin import Fields, OriginHead, OriginResponse, Version
from streamedge.origin.answers import fold_fields, without_no_codings
from streamedge.origin.s3.protocol import is_s3_request
from streamedge.origin.writing import WriteResponse
from streamedge.spans import Span
from streamedge.write_back.rows import WriteQueueError

_KINDS: dict[type[Exception], str] = {CacheFullError: "cache_full", WriteQueueError: "write_queue"}
_NO_BODY = frozenset({204, 304})
_NOT_PASSED = HOP_BY_HOP | {"content-length"}
_NOT_AS_SENT = _NOT_PASSED | {"content-encoding"}


class Response(NamedTuple):
    """A response; the caller closes ``reader``, which is None when nothing is open.

    ``stream``: the body in pieces, in place of one in ``message``; ``trailers`` gives the fields
    that follow it. ``error``: the label under which it counts as an error, or "". ``provenance``:
    the source of the response, for invalidations that abort running responses; None where no
    invalidation applies. ``encoded``: the head in HTTP/1.1, as in ``RememberedPass``; b"": it is to
    be encoded.
    """

    message: ResponseMessage
    reader: Reader | None
    result: CacheResult
    distribution: str | None
    reason: str | None = None
    stream: AsyncGenerator[Piece, None] | None = None
    trailers: Callable[[], Fields] = list
    error: str = ""
    provenance: Callable[[], Provenance] | None = None
    encoded: bytes = b""

    async def close(self) -> None:
        """Closes a response that is not sent."""
        if self.reader is not None:
            self.reader.close()
        if self.stream is not None:
            await self.stream.aclose()


class Representation(NamedTuple):
    """A representation of a stored response other than the stored one."""

    head: OriginHead
    reader: Reader


class ResponseBuilder:
    """Builds responses. It keeps no state, so that a response can be built again."""

    def __init__(self, edge_name: str, ranges_max: int, alt_svc: str = "") -> None:
        self.alt_svc = alt_svc
        self._ranges_max = ranges_max
        self._edge_name = edge_name

    def preflight(self, route: Route, request: WebRequest) -> Response:
        """The response to OPTIONS for an origin with objects: the behavior's methods."""
        allowed = ", ".join(sorted(route.rule.behavior.methods))
        context = self._context(request, time.time(), CacheResult.MISS, route, "")
        head = ResponseHead(204, response_fields([("allow", allowed)], None, context))
        return Response(ResponseMessage(head), None, CacheResult.MISS, route.distribution.id)

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
        now_s = time.time()
        age_s = reader.age_s(now_s)
        ttl_s = reader.lifetime_s(route.rule.rules) - age_s
        result = stored.result if head.status < 400 else CacheResult.ERROR
        if representation is not None:
            reader.close()
            head, reader = representation
        head = served_head(head)
        if stored.withheld:
            head = replace(head, headers={**head.headers, **stored.withheld})
        handling = cache_status(self._edge_name, stored.cache_status, ttl_s)
        # Trailer fields need a body without a stated length in HTTP/1.1 (RFC 9112 §7.1.2).
        has_trailers = (
            bool(reader.trailers)
            and request.http_version != "1.0"
            and accepts_trailers(request.headers)
        )
        provenance = stored.reader.provenance
        if not head.version.has_ended:
            response = self._read_along(route, request, head, reader, result, handling, age_s)
            return response._replace(provenance=provenance)
        response = self.from_head(route, request, head, result, handling, age_s, now_s, status)
        message = response.message
        if (
            has_trailers
            and message.status == head.status
            and message.span == Span(0, reader.size_bytes)
        ):
            response = self._read_along(route, request, head, reader, result, handling, age_s)
            return response._replace(provenance=provenance)
        if not message.has_object_bytes:
            reader.close()
            return response._replace(provenance=provenance)
        return response._replace(reader=reader, provenance=provenance)

    def from_head(
        self,
        route: Route,
        request: WebRequest,
        head: OriginHead,
        result: CacheResult,
        handling: str,
        age_s: float,
        now_s: float,
        status: int | None = None,
    ) -> Response:
        """The response from a stored head with a known length; the caller adds the reader.

        ``handling``: the value of Cache-Status. ``status`` replaces the stored one.
        """
        distribution = route.distribution.id
        context = self._context(request, now_s, result, route, handling)
        if status is not None:
            head = replace(head, status=status)
            result = CacheResult.ERROR
        if head.status >= 400 and not head.version.size_bytes and not route.rule.binding.is_site:
            phrase = f"origin: {HTTPStatus(head.status).phrase}"
            return self.refused(request, head.status, phrase, distribution, (), route)
        if head.status == HTTPStatus.OK:
            message = object_response(request.method, request.headers, head, age_s, context)
        else:
            message = whole_response(request.method, head, age_s, context)
        return Response(
            message, None, result, distribution, _reason(head.status), error=_error(head.status)
        )

    def _read_along(
        self,
        route: Route,
        request: WebRequest,
        head: OriginHead,
        reader: Reader,
        result: CacheResult,
        handling: str,
        age_s: float,
    ) -> Response:
        """The response from a stored one whose length is known only at its end."""
        context = self._context(request, time.time(), result, route, handling)
        fields = response_fields(stored_response_fields(head), age_s, context)
        message = ResponseMessage(ResponseHead(head.status, fields))
        response = Response(message, None, result, route.distribution.id)
        if request.method == "HEAD":
            reader.close()
            return response
        return response._replace(
            reader=reader,
            reason=_reason(head.status),
            stream=reader_pieces(reader),
            trailers=lambda: forwardable_trailers(reader.trailers, ()),
            error=_error(head.status),
        )

    def passed(
        self,
        route: Route,
        request: WebRequest,
        response: OriginResponse,
        handling: str,
        provenance: Callable[[], Provenance] | None = None,
        *,
        evaluates_conditions: bool = False,
    ) -> Response:
        """The origin's response, passed through as it comes.

        A short body that was received with its head is sent with it. ``evaluates_conditions``:
        a 200 becomes a 304 if the viewer's conditions say so. A 200 to a HEAD also becomes a 412,
        as it does from a stored response: the origin was not sent If-Match.
        """
        status = response.status
        is_head = request.method == "HEAD"
        has_conditions = not PRECONDITIONS.isdisjoint(request.headers)
        if status == HTTPStatus.OK and has_conditions and (evaluates_conditions or is_head):
            condition = evaluate(request.headers, _version(response))
            if condition is Condition.NOT_MODIFIED:
                status = HTTPStatus.NOT_MODIFIED.value
            elif condition is Condition.FAILED and is_head:
                response.close()
                return self._precondition_failed(route, request, handling)
        has_body = not is_head and status not in _NO_BODY
        length = None if response.size_bytes is None else str(response.size_bytes)
        head = self.passed_head(route, request, status, response.fields, length, handling)
        body = stream = None
        trailers: Callable[[], Fields] = list
        if has_body:
            body = response.take_received_body()
            if body is None:
                stream = body_pieces(response)
                trailers = partial(_passed_trailers, response)
        else:
            response.close()
        return Response(
            ResponseMessage(head, body=body or b""),
            None,
            _passed_result(status),
            route.distribution.id,
            _reason(status) if has_body else None,
            stream,
            trailers,
            _error(status) if has_body else "",
            provenance,
        )

    def _precondition_failed(self, route: Route, request: WebRequest, handling: str) -> Response:
        """What a viewer gets in place of the origin's 200 to a HEAD (RFC 9110 §13.2.2)."""
        context = self._context(request, time.time(), CacheResult.MISS, route, handling)
        message = precondition_failed(context, request.method)
        return Response(message, None, CacheResult.MISS, route.distribution.id)

    def passed_head(
        self,
        route: Route,
        request: WebRequest,
        status: int,
        origin_fields: Fields,
        length: str | None,
        handling: str,
    ) -> ResponseHead:
        """The head of a response that is passed through. ``length``: of its body, if known."""
        fields: list[Field] = []
        if status not in _NO_BODY:
            if request.method == "HEAD":
                # The origin decides which length a HEAD states (RFC 9110 §8.6). In a 304 many
                # state 0, which is not the object's, so none is passed on.
                fields = [
                    (name, value)
                    for name, value in origin_fields
                    if name.lower() == "content-length"
                ]
            elif length is not None:
                fields = [("content-length", length)]
        context = self._context(request, time.time(), _passed_result(status), route, handling)
        fields += response_fields(passed_fields(origin_fields), None, context)
        return ResponseHead(status, fields)

    def passed_again(
        self,
        route: Route,
        remembered: RememberedPass,
        origin_fields: Fields,
        body: bytes,
        provenance: Callable[[], Provenance],
    ) -> Response:
        """What ``passed`` returns for an equal request and a head that ``remembered`` holds for."""
        head, encoded = remembered.fill(origin_fields, len(body))
        return Response(
            ResponseMessage(head, None, body),
            None,
            remembered.result,
            route.distribution.id,
            remembered.reason,
            None,
            list,
            remembered.error,
            provenance,
            encoded,
        )

    def written(self, route: Route, request: WebRequest, response: WriteResponse) -> Response:
        """The response to a write."""
        result = CacheResult.MISS if response.succeeded else CacheResult.ERROR
        context = self._context(request, time.time(), result, route, "")
        fields = response_fields(response.fields, None, context)
        body = b""
        if response.status not in _NO_BODY:
            body = response.body
            fields.insert(0, ("content-length", str(len(body))))
        return Response(
            ResponseMessage(
                ResponseHead(response.status, fields),
                body=b"" if request.method == "HEAD" else body,
            ),
            None,
            result,
            route.distribution.id,
            _reason(response.status),
            error=_error(response.status),
        )

    def failed(
        self, route: Route, request: WebRequest, exc: OriginError | CacheFullError | WriteQueueError
    ) -> Response:
        """The response to a failure of the origin, the cache or the write queue."""
        kind = exc.failure.value if isinstance(exc, OriginError) else _KINDS[type(exc)]
        response = self.refused(
            request, failure_status(exc), _viewer_reason(exc), route.distribution.id, (), route
        )
        return response._replace(reason=str(exc), error=kind)

    def answered(self, request: WebRequest, outcome: Refused | TrafficCheck) -> Response:
        """The response to a request that was not routed."""
        if isinstance(outcome, TrafficCheck):
            return self._checked(request, outcome)
        return self.rejected(request, outcome)

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

    def _checked(self, request: WebRequest, check: TrafficCheck) -> Response:
        """The response to a traffic check."""
        result = CacheResult.ERROR if check.reason else CacheResult.HIT
        context = self._context(request, time.time(), result, None, "")
        fields = (("cache-control", "no-store"),)
        status, reason = 503 if check.reason else 200, check.reason or "viewers are served here"
        message = error_response(status, reason, context, request.method, fields)
        return Response(message, None, result, None, check.reason or None)

    def redirected(
        self, route: Route, request: WebRequest, location: str, result: CacheResult
    ) -> Response:
        """The response that sends a viewer to the edge that is nearest to it.

        Any page may follow it, unless a CORS policy says which.
        """
        policy = route.rule.behavior.response_headers
        fields: tuple[Field, ...] = (("location", location), ("cache-control", "no-store"))
        if policy.cors is None:
            fields += (("access-control-allow-origin", "*"),)
        context = self._context(request, time.time(), result, None, "")
        context = context._replace(policy=policy.for_errors())
        text = "the nearest edge has this object"
        message = error_response(HTTPStatus.FOUND, text, context, request.method, fields)
        return Response(message, None, result, route.distribution.id)

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
            context = context._replace(is_s3=True)
        if route is not None:
            policy = route.rule.behavior.response_headers
            context = context._replace(policy=policy.for_errors())
        message = error_response(status, reason, context, request.method, fields, code)
        return Response(message, None, CacheResult.ERROR, distribution, reason)

    def _context(
        self,
        request: WebRequest,
        now_s: float,
        result: CacheResult,
        route: Route | None,
        handling: str,
    ) -> ResponseContext:
        return ResponseContext(
            self._edge_name,
            now_s,
            result,
            handling,
            NO_POLICY if route is None else route.rule.behavior.response_headers,
            request.secure,
            request.headers.get("origin"),
            cors_kind(request.method, request.fields),
            self._ranges_max,
            "" if route is None else self._timing(route, request, now_s, result),
            route is not None and route.is_s3,
            self.alt_svc,
        )

    def _timing(self, route: Route, request: WebRequest, now_s: float, result: CacheResult) -> str:
        percent = route.rule.behavior.response_headers.server_timing_percent
        is_requested = percent > 0 and "server-timing" in request.headers.get("pragma", "")
        if not is_requested and not is_sampled(percent):
            return ""
        return server_timing(self._edge_name, result, now_s - request.received_at_s)


def _reason(status: int) -> str | None:
    """The text of an error status of the origin for the log line."""
    return None if status < 400 else f"the origin answered {status}"


def _error(status: int) -> str:
    """The label under which a status of the origin counts as an error, or ""."""
    return "" if status < 400 else f"origin_{status}"


def _version(response: OriginResponse) -> Version:
    """The version that the viewer's conditions are compared with; its size does not matter."""
    fields_by_name = fold_fields(response.fields)
    modified_s = parse_http_date_s(fields_by_name.get("last-modified", ""))
    return Version(fields_by_name.get("etag", "").strip(), 0, modified_s)


def _passed_result(status: int) -> CacheResult:
    return CacheResult.MISS if status < 400 else CacheResult.ERROR


def passed_fields(fields: Sequence[Field]) -> Iterator[Field]:
    """An origin's fields without those of its connection and its framing."""
    listed = connection_options(fields) - _NOT_PASSED
    for field in fields:
        lower = field[0].lower()
        if lower not in _NOT_AS_SENT:
            if not listed or lower not in listed:
                yield field
        elif lower == "content-encoding" and lower not in listed:
            codings = without_no_codings(lower, field[1])
            if codings is not None:
                yield field[0], codings


def _passed_trailers(response: OriginResponse) -> Fields:
    return forwardable_trailers(response.trailers, response.fields)


def _viewer_reason(failure: OriginError | CacheFullError | WriteQueueError) -> str:
    """The text for a viewer: the kind of failure, without the origin's address."""
    if isinstance(failure, CacheFullError):
        return "the edge's cache is full: try again later"
    if isinstance(failure, WriteQueueError):
        return "the edge cannot queue the write: try again later"
    return f"origin: {failure.failure.value.replace('_', ' ')}"

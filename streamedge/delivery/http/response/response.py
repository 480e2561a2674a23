"""Builds the head of a response and selects its body: status, header fields, byte spans.

Applies conditions and ranges to a cached object and adds the edge's own fields. A head is a status
and a list of fields; each HTTP version has its own encoding of it. Pure, except for the multipart
boundary, which is random.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import NamedTuple

from streamedge.cache.reader import CacheResult
from streamedge.delivery.http.policy.response_headers import (
    NO_POLICY,
    Cors,
    Field,
    ResponseHeadersPolicy,
    apply_response_policy,
)
from streamedge.delivery.http.response.conditions import Condition, evaluate, range_applies
from streamedge.delivery.http.response.ranges import (
    RANGES_MAX,
    Multipart,
    RangeOutcome,
    multipart,
    parse_ranges,
)
from streamedge.errors import CacheFullError, OriginError, OriginFailure
from streamedge.http_date import format_http_date
from streamedge.origin import OriginHead
from streamedge.origin.s3.protocol import error_code
from streamedge.origin.writing import error_document
from streamedge.spans import Span
from streamedge.value_object import value_object
from streamedge.write_back.rows import WriteQueueError

PRODUCT = "StreamEdge"

# Fields that the edge sets itself, and fields of the origin that would mislead a viewer.
_WITHHELD = frozenset(
    {
        "age",
        "alt-svc",
        "cache-status",
        "date",
        "via",
        "x-cache",
        "x-amz-cf-id",
        "x-amz-id-2",
        "x-amz-request-id",
    }
)


class ResponseHead(NamedTuple):
    """Status and fields, with Content-Length where the body has a known length.

    The fields of one connection (Connection, Transfer-Encoding) belong to its HTTP version.
    """

    status: int
    fields: Sequence[Field]


@value_object
class ResponseMessage:
    """A response as it is sent, but for its encoding.

    At most one of these is set: ``span``, the bytes of the object that follow; ``body``, other
    bytes; ``parts``, both kinds in order.
    """

    head: ResponseHead
    span: Span | None = None
    body: bytes = b""
    parts: tuple[bytes | Span, ...] = ()

    @property
    def status(self) -> int:
        return self.head.status

    @property
    def has_object_bytes(self) -> bool:
        """Whether sending it needs a reader."""
        return bool(self.parts) or (self.span is not None and self.span.size > 0)


class ResponseContext(NamedTuple):
    """What a response depends on besides the object: the edge, the time, the policy, the request.

    ``cache_status``: the value of Cache-Status (RFC 9211). ``timing``: the value of Server-Timing.
    ``alt_svc``: the value of Alt-Svc (RFC 7838), for responses over TLS.
    ``origin_field``: the request's Origin, or None. ``is_s3``: errors have S3's XML format.
    """

    edge_name: str
    now_s: float
    result: CacheResult
    cache_status: str = ""
    policy: ResponseHeadersPolicy = NO_POLICY
    secure: bool = False
    origin_field: str | None = None
    cors: Cors = Cors.SIMPLE
    ranges_max: int = RANGES_MAX
    timing: str = ""
    is_s3: bool = False
    alt_svc: str = ""


def object_response(
    method: str,
    headers: Mapping[str, str],
    head: OriginHead,
    age_s: float,
    context: ResponseContext,
) -> ResponseMessage:
    """The response for an object. ``headers``: the request's, with names in lower case.

    ``age_s``: the current age (RFC 9111 §4.2.3), in seconds.
    """
    size = head.version.size_bytes
    condition = evaluate(headers, head.version)
    if condition is Condition.NOT_MODIFIED:
        return ResponseMessage(ResponseHead(304, stored_fields(head, age_s, context)))
    if condition is Condition.FAILED:
        return precondition_failed(context, method)
    status, span = 200, Span(0, size)
    range_field = headers.get("range")
    # Range is defined only for GET (RFC 9110 §14.2).
    if range_field and method == "GET" and range_applies(headers.get("if-range"), head.version):
        selected = parse_ranges(range_field, size, context.ranges_max)
        if selected is RangeOutcome.UNSATISFIABLE:
            return error_response(
                416,
                f"the object has {size} bytes",
                context,
                method,
                (("content-range", f"bytes */{size}"),),
            )
        if isinstance(selected, tuple) and len(selected) == 1:
            status, span = 206, selected[0]
        elif isinstance(selected, tuple):
            several = multipart(selected, size, head.content_type, secrets.token_hex(16))
            if several.size_bytes <= size:  # otherwise the whole object is shorter
                return _multipart_response(several, head, age_s, context)
    fields = [("content-length", str(span.size))]
    if status == 206:
        fields.append(("content-range", f"bytes {span.start}-{span.end - 1}/{size}"))
    fields += stored_fields(head, age_s, context)
    return ResponseMessage(ResponseHead(status, fields), span if method == "GET" else None)


def precondition_failed(context: ResponseContext, method: str) -> ResponseMessage:
    """The 412 to a request whose If-Match or If-Unmodified-Since does not hold."""
    return error_response(412, "a precondition of the request does not hold", context, method)


def refusal_body(status: HTTPStatus) -> bytes:
    """The body of an error response to bytes that are no request."""
    return f"{status.value} {status.phrase}\n".encode()


def refusal_head(status: int, body_bytes: int, now_s: float) -> ResponseHead:
    """The head of an error response to bytes that are no request.

    It has a Date, as all of an edge's own responses have (RFC 9110 §6.6.1).
    """
    content = [("content-type", "text/plain; charset=utf-8")] if body_bytes else []
    date = format_http_date(int(now_s))
    return ResponseHead(status, [*content, ("content-length", str(body_bytes)), ("date", date)])


def error_response(
    status: int,
    reason: str,
    context: ResponseContext,
    method: str = "GET",
    fields: tuple[Field, ...] = (),
    code: str = "",
) -> ResponseMessage:
    """An error response with ``reason`` as plain text.

    S3 clients get S3's error document with ``code``; "" means the code of the status.
    """
    if context.is_s3:
        content_type = "application/xml"
        body = error_document(code or error_code(status), reason)
    else:
        content_type = "text/plain; charset=utf-8"
        body = f"{status} {reason_phrase(status)}: {reason}\n".encode()
    own = [("content-type", content_type), *fields]
    if status in {404, 405}:
        own.append(("cache-control", "no-store"))
    own = [("content-length", str(len(body))), *response_fields(own, None, context)]
    return ResponseMessage(ResponseHead(status, own), body=b"" if method == "HEAD" else body)


def failure_status(failure: OriginError | CacheFullError | WriteQueueError) -> int:
    """The status for a failure of the origin, the cache or the write queue."""
    if not isinstance(failure, OriginError):
        return 503
    return {
        OriginFailure.NOT_FOUND: 404,
        OriginFailure.FORBIDDEN: 403,
        OriginFailure.RANGE_OUTSIDE: 416,
        OriginFailure.TIMEOUT: 504,
    }.get(failure.failure, 502)


def whole_response(
    method: str, head: OriginHead, age_s: float, context: ResponseContext
) -> ResponseMessage:
    """The response from a stored one that is not a 200: an error or a redirect.

    Conditions and ranges do not apply to it (RFC 9110 §13.2.1, §14.2).
    """
    size = head.version.size_bytes
    fields = [] if head.status == 204 else [("content-length", str(size))]
    fields += stored_fields(head, age_s, context)
    return ResponseMessage(
        ResponseHead(head.status, fields), Span(0, size) if method == "GET" else None
    )


def stored_fields(head: OriginHead, age_s: float, context: ResponseContext) -> list[Field]:
    """The fields of a stored response without Content-Length."""
    return response_fields(stored_response_fields(head), age_s, context)


def stored_response_fields(head: OriginHead) -> list[Field]:
    """The fields of a stored response, without those that the edge adds."""
    version = head.version
    fields = []
    if head.content_type:
        fields.append(("content-type", head.content_type))
    if head.status == HTTPStatus.OK and version.has_ended:
        fields.append(("accept-ranges", "bytes"))
    if version.etag:
        fields.append(("etag", version.etag))
    if version.last_modified_s is not None:
        fields.append(("last-modified", format_http_date(version.last_modified_s)))
    for name, value in head.headers.items():
        if "\n" in value:
            fields += [(name, line) for line in value.split("\n")]
        elif name != "accept-ranges":
            fields.append((name, value))
    return fields


def response_fields(
    fields: Iterable[Field], age_s: float | None, context: ResponseContext
) -> list[Field]:
    """``fields`` with those that the edge adds; no Age when ``age_s`` is None.

    Date is the origin's if it sent one (RFC 9110 §6.6.1). Via lists every hop (§7.6.3).
    """
    date, vias, sent = "", [], []
    for field in fields:
        lower = field[0].lower()
        if lower not in _WITHHELD:
            sent.append(field)
        elif lower == "date":
            date = field[1]
        elif lower == "via":
            vias.append(field[1])
    sent = apply_response_policy(
        context.policy,
        sent,
        secure=context.secure,
        origin_field=context.origin_field,
        cors=context.cors,
    )
    sent += (
        ("date", date or format_http_date(int(context.now_s))),
        ("via", ", ".join([*vias, f"1.1 {context.edge_name} ({PRODUCT})"])),
        ("x-cache", f"{context.result} from streamedge"),
    )
    if age_s is not None:
        sent.append(("age", str(max(0, int(age_s)))))
    if context.cache_status:
        sent.append(("cache-status", context.cache_status))
    if context.timing:
        sent.append(("server-timing", context.timing))
    if context.alt_svc and context.secure:
        sent.append(("alt-svc", context.alt_svc))
    return sent


def _multipart_response(
    several: Multipart, head: OriginHead, age_s: float, context: ResponseContext
) -> ResponseMessage:
    """The multipart response; only its parts have Content-Range (RFC 9110 §15.3.7.2)."""
    fields = [("content-length", str(several.size_bytes))]
    fields += stored_fields(replace(head, content_type=several.content_type), age_s, context)
    return ResponseMessage(ResponseHead(206, fields), parts=several.parts)


def reason_phrase(status: int) -> str:
    """The reason phrase of a status, or "" if it is not registered."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""

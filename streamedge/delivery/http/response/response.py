"""What to answer to a GET or HEAD for an object that the cache knows: status, headers, bytes.

Pure but for the boundary of several parts, which is drawn so that nobody can foresee it: the
request's headers, what is known of the object and the time in; an ``Answer`` out. The short lane
and the application both answer with this, so that a hit looks the same on either way.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from streamedge.cache.reader import CacheResult
from streamedge.delivery.http.policy.response_headers import (
    UNCHANGED,
    Cors,
    Field,
    ResponseHeadersPolicy,
    apply_response_policy,
)
from streamedge.delivery.http.response.conditions import Condition, evaluate, range_applies
from streamedge.delivery.http.response.ranges import (
    RANGES_MAX,
    Multipart,
    RangeAnswer,
    multipart,
    parse_ranges,
)
from streamedge.errors import CacheFullError, OriginError, OriginFailure
from streamedge.origin import OriginHead
from streamedge.origin.s3.protocol import error_code
from streamedge.origin.writing import error_document
from streamedge.spans import Span
from streamedge.write_back.rows import WriteQueueError

PRODUCT = "StreamEdge"

# What the edge says itself, and what of the origin's would mislead or concern nobody.
_WITHHELD = frozenset(
    {
        "age",
        "alt-svc",
        "cache-status",
        "date",
        "via",
        "x-cache",
        "x-amz-id-2",
        "x-amz-request-id",
    }
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: ``head`` is its status line and headers, the empty line included.

    ``span`` are the object's bytes that follow, ``body`` other bytes, ``parts`` some of both in
    order; at most one of the three.
    """

    status: int
    head: bytes
    span: Span | None = None
    body: bytes = b""
    parts: tuple[bytes | Span, ...] = ()

    @property
    def has_object_bytes(self) -> bool:
        """Whether a reader is needed to send it."""
        return bool(self.parts) or (self.span is not None and self.span.size > 0)


@dataclass(frozen=True, slots=True)
class Delivery:
    """The circumstances of a response: who answers, when, and what the distribution changes.

    ``cache_status`` is the value of Cache-Status (RFC 9211), ``timing`` of Server-Timing,
    ``origin_field`` the request's Origin, None without one. ``is_s3``: errors are told as S3 does.
    """

    edge_name: str
    now_s: float
    keep_alive: bool
    result: CacheResult
    cache_status: str = ""
    policy: ResponseHeadersPolicy = UNCHANGED
    secure: bool = False
    origin_field: str | None = None
    cors: Cors = Cors.SIMPLE
    ranges_max: int = RANGES_MAX
    timing: str = ""
    is_s3: bool = False


def answer_object(
    method: str,
    headers: Mapping[str, str],
    head: OriginHead,
    age_s: float,
    delivery: Delivery,
) -> Answer:
    """The answer for an object. ``headers`` have lower-case names; ``age_s`` since validation."""
    size = head.version.size_bytes
    condition = evaluate(headers, head.version)
    if condition is Condition.NOT_MODIFIED:
        return Answer(304, _assemble(304, object_lines(head, age_s, delivery)))
    if condition is Condition.FAILED:
        return refusal(412, "a precondition of the request does not hold", delivery, method)
    status, span = 200, Span(0, size)
    wanted = headers.get("range")
    # Range is defined for GET alone (RFC 9110 §14.2).
    if wanted and method == "GET" and range_applies(headers.get("if-range"), head.version):
        selected = parse_ranges(wanted, size, delivery.ranges_max)
        if selected is RangeAnswer.UNSATISFIABLE:
            return refusal(
                416,
                f"the object has {size} bytes",
                delivery,
                method,
                (("content-range", f"bytes */{size}"),),
            )
        if isinstance(selected, tuple) and len(selected) == 1:
            status, span = 206, selected[0]
        elif isinstance(selected, tuple):
            several = multipart(selected, size, head.content_type, secrets.token_hex(16))
            if several.size_bytes <= size:  # else the whole object is the shorter answer
                return _answer_parts(several, head, age_s, delivery)
    lines = f"content-length: {span.size}\r\n"
    if status == 206:
        lines += f"content-range: bytes {span.start}-{span.end - 1}/{size}\r\n"
    assembled = _assemble(status, lines + object_lines(head, age_s, delivery))
    return Answer(status, assembled, span if method == "GET" else None)


def refusal(
    status: int,
    reason: str,
    delivery: Delivery,
    method: str = "GET",
    fields: tuple[Field, ...] = (),
    code: str = "",
) -> Answer:
    """An answer that is an error, with its reason in plain text.

    For clients of S3 it is S3's document, with ``code`` ("": that of the status).
    """
    if delivery.is_s3:
        content_type = "application/xml"
        body = error_document(code or error_code(status), reason)
    else:
        content_type = "text/plain; charset=utf-8"
        body = f"{status} {phrase_of(status)}: {reason}\n".encode()
    own = [("content-type", content_type), *fields]
    if status in {404, 405}:
        own.append(("cache-control", "no-store"))
    length = f"content-length: {len(body)}\r\n"
    head = _assemble(status, length + closing_lines(own, None, delivery))
    return Answer(status, head, body=b"" if method == "HEAD" else body)


def failure_status(failure: OriginError | CacheFullError | WriteQueueError) -> int:
    """The status that tells a viewer of an origin's failure."""
    if not isinstance(failure, OriginError):
        return 503
    return {
        OriginFailure.NOT_FOUND: 404,
        OriginFailure.FORBIDDEN: 403,
        OriginFailure.RANGE_OUTSIDE: 416,
        OriginFailure.TIMEOUT: 504,
    }.get(failure.failure, 502)


def answer_whole(method: str, head: OriginHead, age_s: float, delivery: Delivery) -> Answer:
    """The answer for a stored response that is no object: an error, a redirect.

    Neither conditions nor ranges mean anything to it (RFC 9110 §13.2.1, §14.2).
    """
    size = head.version.size_bytes
    lines = "" if head.status == 204 else f"content-length: {size}\r\n"
    assembled = _assemble(head.status, lines + object_lines(head, age_s, delivery))
    return Answer(head.status, assembled, Span(0, size) if method == "GET" else None)


def streamed_head(
    status: int, fields: Iterable[Field], framing: str, age_s: float | None, delivery: Delivery
) -> bytes:
    """The head of an answer whose body comes as it comes. ``framing`` is the line that says how
    its end is told, "" where the connection's end tells it."""
    return _assemble(status, framing + closing_lines(fields, age_s, delivery))


def closing(answer: Answer) -> Answer:
    """The same answer as the last of its connection (RFC 9112 §9.6)."""
    if b"\r\nconnection: close\r\n" in answer.head:
        return answer
    return replace(answer, head=answer.head[:-2] + b"connection: close\r\n\r\n")


def bare_head(status: int, fields: Iterable[Field]) -> bytes:
    """A head of these fields alone: an interim answer's, or that of no request at all."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return _assemble(status, f"{lines}\r\n")


def object_lines(head: OriginHead, age_s: float, delivery: Delivery) -> str:
    """The header lines of a stored answer, but for those of its length; the empty one included."""
    return closing_lines(stored_answer_fields(head), age_s, delivery)


def stored_answer_fields(head: OriginHead) -> Iterator[Field]:
    """A stored answer's own fields."""
    version = head.version
    if head.content_type:
        yield "content-type", head.content_type
    if head.status == HTTPStatus.OK and version.has_ended:
        yield "accept-ranges", "bytes"
    if version.etag:
        yield "etag", version.etag
    if version.last_modified_s is not None:
        yield "last-modified", _http_date(version.last_modified_s)
    for name, value in head.headers.items():
        if name != "accept-ranges":
            for one in value.split("\n"):
                yield name, one


def closing_lines(fields: Iterable[Field], age_s: float | None, delivery: Delivery) -> str:
    """All header lines but those of the length; no Age where it is None.

    Date is the origin's where it sent one (RFC 9110 §6.6.1), Via tells of every hop (§7.6.3).
    """
    date, vias, kept = "", [], []
    for name, value in fields:
        lower = name.lower()
        if lower == "date":
            date = value
        elif lower == "via":
            vias.append(value)
        elif lower not in _WITHHELD:
            kept.append((name, value))
    kept = apply_response_policy(
        delivery.policy,
        kept,
        secure=delivery.secure,
        origin_field=delivery.origin_field,
        cors=delivery.cors,
    )
    kept += (
        ("date", date or _http_date(int(delivery.now_s))),
        ("via", ", ".join([*vias, f"1.1 {delivery.edge_name} ({PRODUCT})"])),
        ("x-cache", f"{delivery.result.value} from streamedge"),
    )
    if age_s is not None:
        kept.append(("age", str(max(0, int(age_s)))))
    if delivery.cache_status:
        kept.append(("cache-status", delivery.cache_status))
    if delivery.timing:
        kept.append(("server-timing", delivery.timing))
    if not delivery.keep_alive:
        kept.append(("connection", "close"))
    return "".join(f"{name}: {value}\r\n" for name, value in kept) + "\r\n"


def _answer_parts(several: Multipart, head: OriginHead, age_s: float, delivery: Delivery) -> Answer:
    """The answer that brings several ranges; which ones, only its parts say (§15.3.7.2)."""
    lines = f"content-length: {several.size_bytes}\r\n"
    lines += object_lines(replace(head, content_type=several.content_type), age_s, delivery)
    return Answer(206, _assemble(206, lines), parts=several.parts)


def _assemble(status: int, lines: str) -> bytes:
    return (_status_line(status) + lines).encode("latin-1", "replace")


@lru_cache(maxsize=256)
def _status_line(status: int) -> str:
    return f"HTTP/1.1 {status} {phrase_of(status)}\r\n"


def phrase_of(status: int) -> str:
    """The reason phrase; "" for a status that has none here."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


@lru_cache(maxsize=1024)
def _http_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)

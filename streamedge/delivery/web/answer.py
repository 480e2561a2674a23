"""What to answer to a GET or HEAD for an object that the cache knows: status, headers, bytes.

Pure: the request's headers, what is known of the object and the time in; an ``Answer`` out. The
short lane and the application both answer with this, so that a hit looks the same on either way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from streamedge.cache.reader import CacheResult
from streamedge.delivery.web.conditions import Condition, evaluate, range_applies
from streamedge.delivery.web.ranges import RangeAnswer, parse_range
from streamedge.errors import CacheFullError, OriginError, OriginFailure
from streamedge.origin import OriginHead
from streamedge.spans import Span

PRODUCT = "StreamEdge"

_WITHHELD = frozenset(
    {
        "accept-ranges",
        "age",
        "alt-svc",
        "content-encoding",
        "content-type",
        "date",
        "server",
        "set-cookie",
        "strict-transport-security",
        "via",
        "x-cache",
        "x-amz-id-2",
        "x-amz-request-id",
    }
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: ``head`` is its status line and headers, the empty line included.

    ``span`` are the object's bytes that follow, ``body`` other bytes; at most one of the two.
    """

    status: int
    head: bytes
    span: Span | None = None
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Delivery:
    """The circumstances of a response: who answers, when, and whether the connection stays."""

    edge_name: str
    now_s: float
    keep_alive: bool
    result: CacheResult


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
        return Answer(304, _assemble(304, object_lines(head), age_s, delivery))
    if condition is Condition.FAILED:
        return refusal(412, "a precondition of the request does not hold", delivery, method)
    status, span = 200, Span(0, size)
    wanted = headers.get("range")
    # Range is defined for GET alone (RFC 9110 §14.2).
    if wanted and method == "GET" and range_applies(headers.get("if-range"), head.version):
        selected = parse_range(wanted, size)
        if selected is RangeAnswer.UNSATISFIABLE:
            return refusal(
                416,
                f"the object has {size} bytes",
                delivery,
                method,
                f"content-range: bytes */{size}\r\n",
            )
        if isinstance(selected, Span):
            status, span = 206, selected
    lines = f"content-length: {span.size}\r\n"
    if status == 206:
        lines += f"content-range: bytes {span.start}-{span.end - 1}/{size}\r\n"
    assembled = _assemble(status, lines + object_lines(head), age_s, delivery)
    return Answer(status, assembled, span if method == "GET" else None)


def refusal(
    status: int, reason: str, delivery: Delivery, method: str = "GET", lines: str = ""
) -> Answer:
    """An answer that is an error, with its reason in plain text."""
    body = f"{status} {HTTPStatus(status).phrase}: {reason}\n".encode()
    lines += f"content-type: text/plain; charset=utf-8\r\ncontent-length: {len(body)}\r\n"
    if status in {404, 405}:
        lines += "cache-control: no-store\r\n"
    head = _assemble(status, lines, None, delivery)
    return Answer(status, head, body=b"" if method == "HEAD" else body)


def failure_status(failure: OriginError | CacheFullError) -> int:
    """The status that tells a viewer of an origin's failure."""
    if isinstance(failure, CacheFullError):
        return 503
    return {
        OriginFailure.NOT_FOUND: 404,
        OriginFailure.FORBIDDEN: 403,
        OriginFailure.RANGE_OUTSIDE: 416,
        OriginFailure.TIMEOUT: 504,
    }.get(failure.failure, 502)


def object_lines(head: OriginHead) -> str:
    """The header lines that belong to the object, in whichever answer they stand.

    Of the origin's own headers those are left out that this edge states itself or must not repeat.
    """
    version = head.version
    lines = f"content-type: {head.content_type}\r\naccept-ranges: bytes\r\n"
    if version.etag:
        lines += f"etag: {version.etag}\r\n"
    if version.last_modified_s is not None:
        lines += f"last-modified: {_http_date(version.last_modified_s)}\r\n"
    return lines + "".join(
        f"{name}: {value}\r\n" for name, value in head.headers.items() if name not in _WITHHELD
    )


def closing_lines(age_s: float | None, delivery: Delivery) -> str:
    """The last header lines of every answer, the empty one included; no Age where it is None."""
    age = "" if age_s is None else f"age: {max(0, int(age_s))}\r\n"
    connection = "" if delivery.keep_alive else "connection: close\r\n"
    return (
        f"{age}date: {_http_date(int(delivery.now_s))}\r\n"
        f"via: 1.1 {delivery.edge_name} ({PRODUCT})\r\n"
        f"x-cache: {delivery.result.value} from streamedge\r\n{connection}\r\n"
    )


def _assemble(status: int, lines: str, age_s: float | None, delivery: Delivery) -> bytes:
    head = _status_line(status) + lines + closing_lines(age_s, delivery)
    return head.encode("latin-1", "replace")


@lru_cache(maxsize=64)
def _status_line(status: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"


@lru_cache(maxsize=1024)
def _http_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)

"""Lines of CloudFront's access log for HTTP responses, where a distribution has a log.

What depends on the request alone is put into text once for each remembered request. The line of
another response is made from a whole record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Final, NamedTuple, TypedDict

from streamedge.cache.reader import CacheResult
from streamedge.delivery.http.policy.behaviors import Behavior, choose_behavior
from streamedge.delivery.http.policy.response_headers import Field
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.response.build import Response
from streamedge.delivery.http.response.end import ResponseEnd
from streamedge.delivery.http.viewer import Viewer
from streamedge.delivery.object_names import path_name
from streamedge.delivery.viewers import ENDED_BY_OPERATOR
from streamedge.errors import OriginFailure
from streamedge.logs import realtime
from streamedge.logs.cloudfront import (
    DetailedError,
    RequestText,
    Result,
    WebRecord,
    encode,
    request_text,
)
from streamedge.logs.escaping import MASK, masked, unescape
from streamedge.logs.spool import Lines, SpoolWriter
from streamedge.logs.spool_names import LogFormat, SpoolTarget

VIEWER_LEFT: Final = "viewer left"
VIEWER_STALLED: Final = "viewer stalled"
REVOKED: Final = "revoked"

HTTP_VERSIONS: Final = {"1.0": "HTTP/1.0", "1.1": "HTTP/1.1", "2": "HTTP/2.0"}

_LINE_BYTES = len("  HTTP/1.1\r\n\r\n")  # of a request's head, without method, target and fields
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/")

_OF_FAILURES: Final = {
    OriginFailure.REFUSED.value: DetailedError.ORIGIN_CONNECT_ERROR,
    OriginFailure.TIMEOUT.value: DetailedError.ORIGIN_READ_ERROR,
    OriginFailure.BROKEN.value: DetailedError.ORIGIN_READ_ERROR,
    OriginFailure.UNAVAILABLE.value: DetailedError.ORIGIN_ERROR,
    OriginFailure.CHANGED.value: DetailedError.ORIGIN_ERROR,
    "write_queue": DetailedError.ORIGIN_WRITE_ERROR,
}
_OF_REFUSALS: Final = {
    400: DetailedError.INVALID_REQUEST,
    403: DetailedError.INVALID_REQUEST_BLOCKED,
    405: DetailedError.INVALID_REQUEST_METHOD,
    421: DetailedError.INVALID_REQUEST_CERTIFICATE,
    431: DetailedError.INVALID_REQUEST_HEADER,
    508: DetailedError.INVALID_REQUEST,
}


class LogRules(NamedTuple):
    """The log of a distribution. ``domain``: its name in cs(Host). ``behaviors``: for real-time
    lines, with their patterns alone.
    """

    target: SpoolTarget
    domain: str
    has_cookies: bool
    behaviors: tuple[Behavior, ...] = ()

    @property
    def is_realtime(self) -> bool:
        """Whether its lines are those of the real-time log."""
        return self.target.format is LogFormat.REALTIME


HitTexts = tuple[
    bytes,  # LineParts.before_id
    bytes,  # LineParts.before_received
    bytes,  # content type
    int,  # size of the content
    bytes,  # LineParts.after_port, content type and size
    bytes,  # TLS version and cipher
    bytes,  # LineParts.after_time, TLS, LineParts.before_port
]
"""The texts of lines of plain hits of a request, with what they were made from. A plain tuple,
because each line unpacks one."""


class LoggedRequest(NamedTuple):
    """A request's part of its lines. ``received_bytes`` are those of its head.

    ``hit_texts``: those of its last plain hit, by status, which is 200 or 206.
    """

    rules: LogRules
    text: RequestText
    received_bytes: int
    hit_texts: dict[int, HitTexts]


class Results(NamedTuple):
    """The three results of a line: at the end of the response, at its beginning, in detail."""

    final: str
    response: str
    detailed: str


def _unknown_country(_address: str) -> str:
    return ""


@dataclass(slots=True)
class WebLog:
    """The access logs of a worker's web distributions.

    ``rules``: by distribution, of those that have a log. ``location``: the edge's name. ``spool``
    is None where no line can be written, as in tests. ``country``: of an address, "" if unknown.
    """

    location: str
    spool: SpoolWriter | None = None
    country: Callable[[str], str] = _unknown_country
    rules: Mapping[str, LogRules] = field(default_factory=dict)

    def prepared(self, request: WebRequest, distribution: str | None) -> LoggedRequest | None:
        """What is remembered of a request; None where its distribution has no log."""
        rules = self.rules.get(distribution or "")
        if rules is None:
            return None
        texts = _request_texts(request, rules)
        return LoggedRequest(rules, request_text(**texts), head_bytes(request), {})

    def finished(
        self, request: WebRequest, response: Response, viewer: Viewer, end: ResponseEnd
    ) -> None:
        """Adds the line of a response that was not a hit of the fast path."""
        rules = self.rules.get(response.distribution or "")
        if rules is None or self.spool is None:
            return
        record = web_record(
            rules,
            self.location,
            request,
            viewer,
            content_of(response.message.head.fields),
            results_of(response.message.status, response, end.cut),
            end,
            status=logged_status(response.message.status, end.sent_bytes, end.cut),
            request_id=request.request_id,
        )
        if record.status == HTTPStatus.SWITCHING_PROTOCOLS:
            record = record._replace(protocol="wss" if request.secure else "ws")
        self.spool.add(1, end.ended_s, partial(self._line, rules, request, record, end.ended_s))

    def _line(
        self, rules: LogRules, request: WebRequest, record: WebRecord, ended_s: float
    ) -> Lines:
        if rules.is_realtime:
            line = self.realtime_line(rules, request, record, ended_s)
            return [(rules.target, line)]
        return [(rules.target, encode(record))]

    def realtime_line(
        self, rules: LogRules, request: WebRequest, record: WebRecord, ended_s: float
    ) -> bytes:
        """The line of a response in the real-time log."""
        headers = request.headers
        behavior = choose_behavior(rules.behaviors, path_name(request.path) or "")
        more = realtime.MoreFields(
            int(ended_s * 1000),
            self.country(request.address),
            headers.get("accept-encoding"),
            headers.get("accept"),
            behavior.pattern,
            tuple(_shown_fields(request, rules)),
        )
        return realtime.encode(realtime.values_of(record, more))


def _shown_fields(request: WebRequest, rules: LogRules) -> Iterator[tuple[str, str]]:
    """The request's fields as a line may have them."""
    for name, value in request.fields:
        is_secret = name == "authorization" or (name == "cookie" and not rules.has_cookies)
        yield name, MASK if is_secret else masked(value)


def results_of(status: int, response: Response, cut: str | None) -> Results:
    """How CloudFront's log names the outcome of a response. ``cut``: why it ended early."""
    begun = _result(status, response)
    final = Result.ERROR if cut is not None else begun
    detailed = str(final) if final is not Result.ERROR else str(_detailed(status, response, cut))
    return Results(final, begun, detailed)


_HIT: Final = Results(Result.HIT, Result.HIT, Result.HIT)


def results_of_hit(cut: str | None) -> Results:
    """The results of a hit of the fast path."""
    return _HIT if cut is None else Results(Result.ERROR, Result.HIT, _of_cut(cut))


def logged_status(status: int, sent_bytes: int, cut: str | None) -> int:
    """The status of a line; 0 if the viewer left before an answer."""
    return status if sent_bytes or cut is None else 0


def _result(status: int, response: Response) -> Result:
    if response.result is not CacheResult.ERROR:
        return Result(response.result.value)
    if response.error == "cache_full":
        return Result.CAPACITY_EXCEEDED
    if not response.error:  # the edge's own refusal
        if status == 301:
            return Result.REDIRECT
        if status in {413, 414}:
            return Result.LIMIT_EXCEEDED
    return Result.ERROR


def _detailed(status: int, response: Response, cut: str | None) -> str:
    if cut is not None:
        return _of_cut(cut)
    if response.error:
        return _OF_FAILURES.get(response.error, DetailedError.ERROR)
    if response.reason == "country":
        return DetailedError.CLIENT_GEO_BLOCKED
    return _OF_REFUSALS.get(status, DetailedError.ERROR)


def _of_cut(cut: str) -> str:
    if cut in {VIEWER_LEFT, VIEWER_STALLED}:
        return DetailedError.CLIENT_COMM_ERROR
    is_own = cut in {REVOKED, ENDED_BY_OPERATOR}
    return DetailedError.ERROR if is_own else DetailedError.ABORTED_ORIGIN


def head_bytes(request: WebRequest) -> int:
    """The size of a request's head as HTTP/1.1 sends it, whatever its version."""
    query_bytes = len(request.query) + 1 if request.query else 0
    fields_bytes = sum([len(name) + len(value) + 4 for name, value in request.fields])
    return _LINE_BYTES + len(request.method) + len(request.path) + query_bytes + fields_bytes


def web_record(
    rules: LogRules,
    location: str,
    request: WebRequest,
    viewer: Viewer,
    content: Content,
    results: Results,
    end: ResponseEnd,
    *,
    status: int,
    request_id: str,
) -> WebRecord:
    """The record of a response. ``status``: that of ``logged_status``."""
    tls_protocol, tls_cipher = map(unescape, viewer.tls.split("\t"))
    return WebRecord(
        ended_s=int(end.ended_s),
        location=location,
        sent_bytes=end.sent_bytes,
        address=viewer.address,
        status=status,
        result=results.final,
        request_id=request_id,
        received_bytes=head_bytes(request) + _body_bytes(request),
        duration_ms=round(end.duration_s * 1000),
        tls_protocol=tls_protocol,
        tls_cipher=tls_cipher,
        response_result=results.response,
        port=viewer.port,
        first_byte_ms=round(end.first_byte_s * 1000),
        detailed=results.detailed,
        fle_status=None,
        fle_fields=None,
        **content._asdict(),
        **_request_texts(request, rules),
    )


class Content(NamedTuple):
    """What the fields of a response say of its body; names as in ``WebRecord``."""

    content_type: str | None
    content_length: int | None
    range_start: int | None
    range_end: int | None


def content_of(fields: Iterable[Field]) -> Content:
    """The values of Content-Type, Content-Length and Content-Range."""
    values = {name.lower(): value for name, value in fields}
    content_range = _CONTENT_RANGE.match(values.get("content-range", ""))
    length = values.get("content-length", "")
    return Content(
        values.get("content-type"),
        int(length) if length.isdecimal() else None,
        None if content_range is None else int(content_range[1]),
        None if content_range is None else int(content_range[2]),
    )


class _RequestTexts(TypedDict):
    method: str
    domain: str
    stem: str
    referer: str | None
    agent: str | None
    query: str | None
    cookie: str | None
    host: str | None
    protocol: str
    forwarded_for: str | None
    http_version: str


def _request_texts(request: WebRequest, rules: LogRules) -> _RequestTexts:
    headers = request.headers
    referer, cookie = headers.get("referer"), headers.get("cookie")
    return {
        "method": request.method,
        "domain": rules.domain,
        "stem": request.path.decode("latin-1"),
        "referer": None if referer is None else masked(referer),
        "agent": headers.get("user-agent"),
        "query": masked(request.query) or None,
        "cookie": masked(cookie) if cookie is not None and rules.has_cookies else None,
        "host": request.sent_host or None,
        "protocol": "https" if request.secure else "http",
        "forwarded_for": headers.get("x-forwarded-for"),
        "http_version": HTTP_VERSIONS.get(request.http_version, f"HTTP/{request.http_version}"),
    }


def _body_bytes(request: WebRequest) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0

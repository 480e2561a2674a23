"""CloudFront's standard log: one line of 33 fields for each response. Pure.

Source: CloudFront Developer Guide, "Configuring and using standard logs", "Standard log file
fields".
"""

from __future__ import annotations

import calendar
import time
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

from streamedge.logs.escaping import ABSENT, escape, escape_or_absent, unescape

FIELDS: Final = (
    "date",
    "time",
    "x-edge-location",
    "sc-bytes",
    "c-ip",
    "cs-method",
    "cs(Host)",
    "cs-uri-stem",
    "sc-status",
    "cs(Referer)",
    "cs(User-Agent)",
    "cs-uri-query",
    "cs(Cookie)",
    "x-edge-result-type",
    "x-edge-request-id",
    "x-host-header",
    "cs-protocol",
    "cs-bytes",
    "time-taken",
    "x-forwarded-for",
    "ssl-protocol",
    "ssl-cipher",
    "x-edge-response-result-type",
    "cs-protocol-version",
    "fle-status",
    "fle-encrypted-fields",
    "c-port",
    "time-to-first-byte",
    "x-edge-detailed-result-type",
    "sc-content-type",
    "sc-content-len",
    "sc-range-start",
    "sc-range-end",
)
HEAD: Final = f"#Version: 1.0\n#Fields: {' '.join(FIELDS)}\n"
"""The first two lines of a file."""

LINE: Final = b"%b%d\t%b%b%b%b%d\t%b%b%b%b%b%b%b\n"
"""A line of: ``beginning``, bytes sent, address, ``LineParts.before_id``, request id,
``LineParts.before_received``, bytes received, ``seconds_text`` of time-taken,
``LineParts.after_time``, ``tls_text``, ``LineParts.before_port``, port, ``LineParts.after_port``,
``content_text``."""

NO_STATUS: Final = "000"
"""The status where the viewer left before an answer."""

NO_TLS: Final = "-\t-"


class Result(StrEnum):
    """x-edge-result-type and x-edge-response-result-type; the edge has no Origin Shield."""

    HIT = "Hit"
    REFRESH_HIT = "RefreshHit"
    ORIGIN_SHIELD_HIT = "OriginShieldHit"
    MISS = "Miss"
    LIMIT_EXCEEDED = "LimitExceeded"
    CAPACITY_EXCEEDED = "CapacityExceeded"
    ERROR = "Error"
    REDIRECT = "Redirect"


class DetailedError(StrEnum):
    """x-edge-detailed-result-type where the result is Error."""

    ABORTED_ORIGIN = "AbortedOrigin"
    CLIENT_COMM_ERROR = "ClientCommError"
    CLIENT_GEO_BLOCKED = "ClientGeoBlocked"
    CLIENT_HUNG_UP_REQUEST = "ClientHungUpRequest"
    ERROR = "Error"
    INVALID_REQUEST = "InvalidRequest"
    INVALID_REQUEST_BLOCKED = "InvalidRequestBlocked"
    INVALID_REQUEST_CERTIFICATE = "InvalidRequestCertificate"
    INVALID_REQUEST_HEADER = "InvalidRequestHeader"
    INVALID_REQUEST_METHOD = "InvalidRequestMethod"
    ORIGIN_CONNECT_ERROR = "OriginConnectError"
    ORIGIN_CONTENT_RANGE_LENGTH_ERROR = "OriginContentRangeLengthError"
    ORIGIN_DNS_ERROR = "OriginDnsError"
    ORIGIN_ERROR = "OriginError"
    ORIGIN_HEADER_TOO_BIG_ERROR = "OriginHeaderTooBigError"
    ORIGIN_INVALID_RESPONSE_ERROR = "OriginInvalidResponseError"
    ORIGIN_READ_ERROR = "OriginReadError"
    ORIGIN_WRITE_ERROR = "OriginWriteError"
    ORIGIN_ZERO_SIZE_OBJECT_ERROR = "OriginZeroSizeObjectError"
    SLOW_READER_ORIGIN_ERROR = "SlowReaderOriginError"


class WebRecord(NamedTuple):
    """One response. Texts are Latin-1: a character is a byte; None where there is none.

    ``ended_s``: seconds since 1970. ``domain``: of the distribution. ``stem``: the path as it was
    sent, without "?". ``status``: 0 if the viewer left before an answer. ``duration_ms`` and
    ``first_byte_ms`` are counted from the request. ``detailed``: a Result or a DetailedError.
    """

    ended_s: int
    location: str
    sent_bytes: int
    address: str
    method: str
    domain: str
    stem: str
    status: int
    referer: str | None
    agent: str | None
    query: str | None
    cookie: str | None
    result: str
    request_id: str
    host: str | None
    protocol: str
    received_bytes: int
    duration_ms: int
    forwarded_for: str | None
    tls_protocol: str | None
    tls_cipher: str | None
    response_result: str
    http_version: str
    fle_status: str | None
    fle_fields: str | None
    port: int
    first_byte_ms: int
    detailed: str
    content_type: str | None
    content_length: int | None
    range_start: int | None
    range_end: int | None


class LineParts(NamedTuple):
    """The parts of a line between those that responses to one request seldom share."""

    before_id: bytes
    before_received: bytes
    after_time: bytes
    before_port: bytes
    after_port: bytes


class RequestText(NamedTuple):
    """The fields of a line that depend on the request alone, as the line has them."""

    target: str  # cs-method, cs(Host), cs-uri-stem
    sender: str  # cs(Referer), cs(User-Agent), cs-uri-query, cs(Cookie)
    host: str  # x-host-header, cs-protocol
    forwarded_for: str
    version: str  # cs-protocol-version, fle-status, fle-encrypted-fields


def request_text(
    *,
    method: str,
    domain: str,
    stem: str,
    referer: str | None,
    agent: str | None,
    query: str | None,
    cookie: str | None,
    host: str | None,
    protocol: str,
    forwarded_for: str | None,
    http_version: str,
    fle_status: str | None = None,
    fle_fields: str | None = None,
) -> RequestText:
    """The text of a request's fields; the values are those of ``WebRecord``."""
    sender = (escape_or_absent(value) for value in (referer, agent, query, cookie))
    return RequestText(
        "\t".join(map(escape_or_absent, (method, domain, stem))),
        "\t".join(sender),
        f"{escape_or_absent(host)}\t{protocol}",
        escape_or_absent(forwarded_for),
        f"{http_version}\t{escape_or_absent(fle_status)}\t{escape_or_absent(fle_fields)}",
    )


def line_parts(
    request: RequestText, status: int, results: tuple[str, str, str], first_byte_s: float
) -> LineParts:
    """The parts of a line. ``status`` is 0 if the viewer left before an answer.

    ``results``: at the end, of the response, in detail.
    """
    final, response, detailed = results
    parts = (
        f"\t{request.target}\t{status or NO_STATUS}\t{request.sender}\t{final}\t",
        f"\t{request.host}\t",
        f"\t{request.forwarded_for}\t",
        f"\t{response}\t{request.version}\t",
        f"\t{seconds_text(first_byte_s)}\t{detailed}\t",
    )
    return LineParts(*(part.encode("ascii") for part in parts))


def beginning(ended_s: int, location: str) -> bytes:
    """The first fields of a line; ``ended_s``: seconds since 1970."""
    return f"{clock(ended_s)}\t{escape(location)}\t".encode("ascii")


def tls_text(protocol: str | None, cipher: str | None) -> str:
    """ssl-protocol and ssl-cipher."""
    return f"{escape_or_absent(protocol)}\t{escape_or_absent(cipher)}"


def content_text(
    content_type: str | None, length: int | None, start: int | None, end: int | None
) -> str:
    """sc-content-type, sc-content-len, sc-range-start, sc-range-end (the last byte's position)."""
    return f"{escape_or_absent(content_type)}\t{_number(length)}\t{_number(start)}\t{_number(end)}"


def seconds_text(seconds: float) -> str:
    """time-taken and time-to-first-byte, in thousandths."""
    return f"{seconds:.3f}"


@lru_cache(maxsize=64)
def clock(ended_s: int) -> str:
    """date and time, UTC, of seconds since 1970."""
    return time.strftime("%Y-%m-%d\t%H:%M:%S", time.gmtime(ended_s))


def encode(record: WebRecord) -> bytes:
    """The line of a response, with its end."""
    request = request_text(
        method=record.method,
        domain=record.domain,
        stem=record.stem,
        referer=record.referer,
        agent=record.agent,
        query=record.query,
        cookie=record.cookie,
        host=record.host,
        protocol=record.protocol,
        forwarded_for=record.forwarded_for,
        http_version=record.http_version,
        fle_status=record.fle_status,
        fle_fields=record.fle_fields,
    )
    before_id, before_received, after_time, before_port, after_port = line_parts(
        request,
        record.status,
        (record.result, record.response_result, record.detailed),
        record.first_byte_ms / 1000,
    )
    content = content_text(
        record.content_type, record.content_length, record.range_start, record.range_end
    )
    return LINE % (
        beginning(record.ended_s, record.location),
        record.sent_bytes,
        escape(record.address).encode("ascii"),
        before_id,
        escape(record.request_id).encode("ascii"),
        before_received,
        record.received_bytes,
        seconds_text(record.duration_ms / 1000).encode("ascii"),
        after_time,
        tls_text(record.tls_protocol, record.tls_cipher).encode("ascii"),
        before_port,
        b"%d" % record.port,
        after_port,
        content.encode("ascii"),
    )


def decode(line: str) -> WebRecord:
    """The record of a line without its end. Raises ValueError for a line of another form."""
    texts = line.split("\t")
    if len(texts) != len(FIELDS):
        raise ValueError(f"{len(texts)} fields, not {len(FIELDS)}")
    ended = time.strptime(f"{texts[0]} {texts[1]}", "%Y-%m-%d %H:%M:%S")
    values = [unescape(text) for text in texts]

    def text(name: str) -> str:
        return values[FIELDS.index(name)] or ""

    def number(name: str) -> int | None:
        value = values[FIELDS.index(name)]
        return None if value is None else int(value)

    return WebRecord(
        ended_s=calendar.timegm(ended),
        location=text("x-edge-location"),
        sent_bytes=int(text("sc-bytes")),
        address=text("c-ip"),
        method=text("cs-method"),
        domain=text("cs(Host)"),
        stem=text("cs-uri-stem"),
        status=int(text("sc-status")),
        referer=values[9],
        agent=values[10],
        query=values[11],
        cookie=values[12],
        result=text("x-edge-result-type"),
        request_id=text("x-edge-request-id"),
        host=values[15],
        protocol=text("cs-protocol"),
        received_bytes=int(text("cs-bytes")),
        duration_ms=_milliseconds(text("time-taken")),
        forwarded_for=values[19],
        tls_protocol=values[20],
        tls_cipher=values[21],
        response_result=text("x-edge-response-result-type"),
        http_version=text("cs-protocol-version"),
        fle_status=values[24],
        fle_fields=values[25],
        port=int(text("c-port")),
        first_byte_ms=_milliseconds(text("time-to-first-byte")),
        detailed=text("x-edge-detailed-result-type"),
        content_type=values[29],
        content_length=number("sc-content-len"),
        range_start=number("sc-range-start"),
        range_end=number("sc-range-end"),
    )


def _number(value: int | None) -> str:
    return ABSENT if value is None else str(value)


def _milliseconds(text: str) -> int:
    return round(float(text) * 1000)

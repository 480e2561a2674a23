"""The fields of CloudFront's real-time log, as lines of JSON. Pure.

Each line has all 40 fields in CloudFront's order; a field without a value is null. Numbers are JSON
numbers; texts are encoded as in the standard log (``escaping``). Three fields are cut after 800
bytes. Unlike in the standard log, cs-uri-stem has the query, cs-host is the Host that was sent, and
x-host-header is the distribution's domain.

Source: CloudFront Developer Guide, "Real-time logs", "Fields".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

from streamedge.logs.cloudfront import WebRecord
from streamedge.logs.escaping import escape

FIELDS: Final = (
    "timestamp",
    "c-ip",
    "time-to-first-byte",
    "sc-status",
    "sc-bytes",
    "cs-method",
    "cs-protocol",
    "cs-host",
    "cs-uri-stem",
    "cs-bytes",
    "x-edge-location",
    "x-edge-request-id",
    "x-host-header",
    "time-taken",
    "cs-protocol-version",
    "c-ip-version",
    "cs-user-agent",
    "cs-referer",
    "cs-cookie",
    "cs-uri-query",
    "x-edge-response-result-type",
    "x-forwarded-for",
    "ssl-protocol",
    "ssl-cipher",
    "x-edge-result-type",
    "fle-encrypted-fields",
    "fle-status",
    "sc-content-type",
    "sc-content-len",
    "sc-range-start",
    "sc-range-end",
    "c-port",
    "x-edge-detailed-result-type",
    "c-country",
    "cs-accept-encoding",
    "cs-accept",
    "cache-behavior-path-pattern",
    "cs-headers",
    "cs-header-names",
    "cs-headers-count",
)
CUT_BYTES: Final = 800
"""The longest cs-cookie, cs-headers and cs-header-names, before they are encoded."""

Value: TypeAlias = "str | int | float | None"

_encode = json.JSONEncoder(separators=(",", ":")).encode


class MoreFields(NamedTuple):
    """What a real-time line has besides a ``WebRecord``. Texts as there.

    ``ended_ms``: milliseconds since 1970. ``headers``: names and values as the line may have them,
    in order. ``country``: "" where it is unknown.
    """

    ended_ms: int
    country: str
    accept_encoding: str | None
    accept: str | None
    path_pattern: str
    headers: tuple[tuple[str, str], ...]


def values_of(record: WebRecord, more: MoreFields) -> dict[str, Value]:
    """The values of a line, by field in CloudFront's order."""
    query = f"?{record.query}" if record.query else ""
    lines = "".join(f"{name}:{value}\n" for name, value in more.headers)
    names = "".join(f"{name}\n" for name, _value in more.headers)
    cookie = None if record.cookie is None else record.cookie[:CUT_BYTES]
    values: tuple[Value, ...] = (
        more.ended_ms / 1000,
        record.address,
        record.first_byte_ms / 1000,
        record.status,
        record.sent_bytes,
        _text(record.method),
        record.protocol,
        _text(record.host),
        _text(record.stem + query),
        record.received_bytes,
        _text(record.location),
        record.request_id,
        _text(record.domain),
        record.duration_ms / 1000,
        record.http_version,
        "IPv6" if ":" in record.address else "IPv4",
        _text(record.agent),
        _text(record.referer),
        _text(cookie),
        _text(record.query),
        record.response_result,
        _text(record.forwarded_for),
        _text(record.tls_protocol),
        _text(record.tls_cipher),
        record.result,
        _text(record.fle_fields),
        _text(record.fle_status),
        _text(record.content_type),
        record.content_length,
        record.range_start,
        record.range_end,
        record.port,
        record.detailed,
        more.country or None,
        _text(more.accept_encoding),
        _text(more.accept),
        _text(more.path_pattern),
        _text(lines[:CUT_BYTES]),
        _text(names[:CUT_BYTES]),
        len(more.headers),
    )
    return dict(zip(FIELDS, values, strict=True))


def encode(values: Mapping[str, Value]) -> bytes:
    """The line of a response, with its end."""
    line = _encode({field: values[field] for field in FIELDS})
    return f"{line}\n".encode("ascii")


def decode(line: str) -> dict[str, Value]:
    """The values of a line. Raises ValueError for a line of another form."""
    try:
        values = json.loads(line)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    if not isinstance(values, dict) or tuple(values) != FIELDS:
        raise ValueError("not the fields of a real-time line")
    for value in values.values():
        if value is not None and type(value) not in {str, int, float}:
            raise ValueError("a value is neither a text nor a number")
    return values


def _text(value: str | None) -> str | None:
    return escape(value) if value else None

"""Formats the log line of an HTTP response.

A busy worker writes tens of thousands of lines a second, so the JSON is formatted directly. Values
from viewers are quoted as JSON; frequent values are quoted once and remembered.
"""

from __future__ import annotations

import json
from functools import lru_cache
from json.encoder import encode_basestring_ascii

from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.response.end import ResponseEnd
from streamedge.memo import cache_short_texts
from streamedge.ops.log import FIELD_CHARACTERS_MAX

_LINE = (
    '{"time":%.3f,"event":"response","process":"%s","client":"%s","method":"%s",%s,'
    '"status":%d,"bytes":%d,"cache":"%s","seconds":%.4f'
)


def quoted(value: bytes | str) -> str:
    """A value as JSON; bytes are decoded as Latin-1."""
    return _quoted(value.decode("latin-1") if isinstance(value, bytes) else value)


def quoted_and_cut(value: bytes | str) -> str:
    """A value as JSON, cut after FIELD_CHARACTERS_MAX characters."""
    if len(value) > FIELD_CHARACTERS_MAX:
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        return json.dumps(text[:FIELD_CHARACTERS_MAX] + "…")
    return quoted(value)


@cache_short_texts(4096, 512)  # JSON may need six characters for one
def _quoted(value: str) -> str:
    return encode_basestring_ascii(value)


@lru_cache(256)  # for the fast path and for the line
def target_fields(host: bytes | str, path: bytes, distribution: str | None) -> str:
    """The fields for the target of a request; ``distribution`` is None where none matches."""
    fields = f'"host":{quoted(host)},"path":{quoted(path)}'
    return fields if distribution is None else f'{fields},"distribution":{quoted(distribution)}'


def viewer_fields(http_version: str, agent: bytes | str | None, viewer: str | None) -> str:
    """The last fields of a request, each behind a comma.

    ``viewer``: the viewer's address if a trusted proxy sent it; None if it is the client's.
    """
    fields = f',"http_version":"{http_version}"'
    if agent is not None:
        fields += ',"agent":' + quoted_and_cut(agent)
    if viewer is not None:
        fields += ',"viewer":' + quoted(viewer)
    return fields


def response_line(
    request: WebRequest,
    end: ResponseEnd,
    *,
    process: str,
    status: int,
    result: str,
    distribution: str | None,
    reason: str | None,
) -> str:
    """The line of one response. ``reason`` is logged unless it was cut off: then ``end.cut`` is."""
    headers = request.headers
    line = _LINE % (
        end.ended_s,
        process,
        request.client,
        request.method,
        target_fields(request.host, request.path, distribution),
        status,
        end.sent_bytes,
        result,
        end.duration_s,
    )
    range_field = headers.get("range")
    if range_field is not None:
        line += ',"range":' + quoted_and_cut(range_field)
    line += viewer_fields(request.http_version, headers.get("user-agent"), request.viewer)
    line += f',"request_id":"{request.request_id}"'
    reason = end.cut or reason
    if reason is not None:
        line += ',"reason":' + quoted(reason)
    return line + "}"

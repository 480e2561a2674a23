"""The log line of an HTTP response: its fields, and how it is put together quickly.

Owns the line's format. A busy worker writes tens of thousands a second, so the line is formatted
directly; what viewers sent is quoted as JSON, and what they send again and again only once.
"""

from __future__ import annotations

import json

from streamedge.memo import remember_short
from streamedge.ops.log import FIELD_CHARACTERS_MAX

_LINE = (
    '{"time":%.3f,"event":"response","process":"%s","client":"%s","method":"%s",%s,'
    '"status":%d,"bytes":%d,"cache":"%s","seconds":%.4f'
)


def quoted(value: bytes | str) -> str:
    """A value as JSON; bytes are taken as Latin-1, as HTTP/1.1 does."""
    return _quoted(value.decode("latin-1") if isinstance(value, bytes) else value)


def quoted_and_cut(value: bytes | str) -> str:
    """A field of the viewer's as JSON, cut where it is longer than the log takes."""
    if len(value) > FIELD_CHARACTERS_MAX:
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        return json.dumps(text[:FIELD_CHARACTERS_MAX] + "…")
    return quoted(value)


@remember_short(4096, 512)  # JSON may write a character with six
def _quoted(value: str) -> str:
    return json.dumps(value)


def target_fields(host: bytes | str, path: bytes, distribution: str | None) -> str:
    """The fields that say what was asked for; no distribution where none was found."""
    fields = f'"host":{quoted(host)},"path":{quoted(path)}'
    return fields if distribution is None else f'{fields},"distribution":{quoted(distribution)}'


def response_line(
    *,
    now_s: float,
    process: str,
    client: str,
    method: str,
    host: bytes | str,
    path: bytes,
    wanted: bytes | str | None,
    status: int,
    sent_bytes: int,
    result: str,
    distribution: str | None,
    duration_s: float,
    agent: bytes | str | None,
    viewer: str | None = None,
    reason: str | None = None,
) -> str:
    """One response. ``wanted`` is its Range header, ``sent_bytes`` include the head.

    ``viewer`` is the viewer's address where a trusted proxy has told another than the client's.
    """
    line = _LINE % (
        now_s,
        process,
        client,
        method,
        target_fields(host, path, distribution),
        status,
        sent_bytes,
        result,
        duration_s,
    )
    if wanted is not None:
        line += ',"range":' + quoted_and_cut(wanted)
    if agent is not None:
        line += ',"agent":' + quoted_and_cut(agent)
    if viewer is not None:
        line += ',"viewer":' + quoted(viewer)
    if reason is not None:
        line += ',"reason":' + quoted(reason)
    return line + "}"

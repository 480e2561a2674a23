"""The log line of an HTTP response: its fields, and how it is put together quickly.

Owns the line's format. A busy worker writes tens of thousands a second, so the line is formatted
directly; what viewers sent is quoted as JSON, and what they send again and again only once.
"""

from __future__ import annotations

import json
from functools import lru_cache

_LINE = (
    '{"time":%.3f,"event":"response","process":"%s","client":"%s","method":"%s",%s,'
    '"status":%d,"bytes":%d,"cache":"%s","seconds":%.4f'
)


@lru_cache(maxsize=4096)
def quoted(value: bytes | str) -> str:
    """A value as JSON; bytes are taken as Latin-1, as HTTP/1.1 does."""
    return json.dumps(value.decode("latin-1") if isinstance(value, bytes) else value)


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
        line += ',"range":' + quoted(wanted)
    if agent is not None:
        line += ',"agent":' + quoted(agent)
    if viewer is not None:
        line += ',"viewer":' + quoted(viewer)
    if reason is not None:
        line += ',"reason":' + quoted(reason)
    return line + "}"

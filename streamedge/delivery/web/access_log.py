"""The log line of an HTTP response: its fields, and how it is put together quickly.

Owns the line's format. A busy worker writes tens of thousands a second, so the line is formatted
directly; what viewers sent is quoted as JSON, and what they send again and again only once.
"""

from __future__ import annotations

import json
from functools import lru_cache

_LINE = (
    '{"time":%.3f,"event":"response","process":"%s","client":"%s","method":"%s","host":%s,'
    '"path":%s,"range":%s,"status":%d,"bytes":%d,"cache":"%s","distribution":%s,'
    '"seconds":%.4f,"agent":%s,"reason":%s}'
)


@lru_cache(maxsize=4096)
def quoted(value: bytes | str | None) -> str:
    """A value as JSON; bytes are taken as Latin-1, as HTTP/1.1 does."""
    return json.dumps(value.decode("latin-1") if isinstance(value, bytes) else value)


def response_line(
    *,
    now_s: float,
    process: str,
    client: str,
    method: str,
    host: bytes | str | None,
    path: bytes,
    wanted: bytes | str | None,
    status: int,
    sent_bytes: int,
    result: str,
    distribution: str | None,
    duration_s: float,
    agent: bytes | str | None,
    reason: str | None = None,
) -> str:
    """One response. ``wanted`` is its Range header, ``sent_bytes`` include the head."""
    return _LINE % (
        now_s,
        process,
        client,
        method,
        quoted(host),
        quoted(path),
        quoted(wanted),
        status,
        sent_bytes,
        result,
        quoted(distribution),
        duration_s,
        quoted(agent),
        quoted(reason),
    )

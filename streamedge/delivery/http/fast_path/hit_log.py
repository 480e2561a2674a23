"""The lines of hits in CloudFront's access log; what depends on the request is text already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamedge.delivery.http.fast_path.remembered import RememberedRequest, SentHit
from streamedge.delivery.http.response.cloudfront_log import (
    HIT,
    content_of,
    cut_hit,
    results_of,
)
from streamedge.logs.cloudfront import LINE, clock, content_text
from streamedge.logs.spool import Lines

_RANGE_LINE_BYTES = len("range: bytes=-\r\n")


def cloudfront_hit_lines(
    location: str,
    hits: Sequence[SentHit],
    ended_s: float,
    duration_s: float,
    cut: str | None,
) -> Lines:
    """The lines of hits whose distributions have a log. ``location`` is text of a line."""
    now = clock(int(ended_s))
    lines = []
    for hit in hits:
        remembered, byte_range, status, viewer, sent_bytes, response, request_id, start, end = hit
        logged = remembered.logged_request
        if logged is None:
            continue
        text, received_bytes = logged.text, logged.received_bytes
        if response is None:
            results = HIT if cut is None else cut_hit(cut)
            content = _content(remembered, status, start, end)
            if byte_range is not None:
                first, last = byte_range
                received_bytes += _RANGE_LINE_BYTES + len(first) + len(last)
        else:
            results = results_of(status, response, cut)
            content = content_text(*content_of(response.message.head.fields))
        line = LINE % (
            now,
            location,
            sent_bytes,
            viewer.address,
            text.target,
            status if sent_bytes or cut is None else 0,
            text.sender,
            results.final,
            request_id.decode(),
            text.host,
            received_bytes,
            duration_s,
            text.forwarded_for,
            viewer.tls,
            results.response,
            text.version,
            viewer.port,
            0.0,
            results.detailed,
            content,
        )
        lines.append((logged.rules.target, line))
    return lines


def _content(remembered: RememberedRequest[Any, Any], status: int, start: int, end: int) -> str:
    """The fields of a plain hit's body; the type is that of the object as it is now."""
    target = remembered.target
    content_type = "-" if target is None else target.content_type
    if status == 206:
        return f"{content_type}\t{end - start}\t{start}\t{end - 1}"
    return f"{content_type}\t{end - start}\t-\t-"

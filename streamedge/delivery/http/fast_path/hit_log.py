"""The lines of hits in CloudFront's access log; what depends on the request is text already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from streamedge.delivery.http.fast_path.remembered import SentHit
from streamedge.delivery.http.response.cloudfront_log import (
    HIT,
    Content,
    LogRules,
    WebLog,
    content_of,
    cut_hit,
    results_of,
    web_record,
)
from streamedge.logs.cloudfront import LINE, NO_STATUS, clock, content_text, seconds_text
from streamedge.logs.escaping import ABSENT, unescape
from streamedge.logs.spool import Lines

_RANGE_LINE_BYTES = len("range: bytes=-\r\n")


def cloudfront_hit_lines(
    web_log: WebLog,
    hits: Sequence[SentHit],
    ended_s: float,
    duration_s: float,
    cut: str | None,
) -> Lines:
    """The lines of hits whose distributions have a log.

    The content type of a plain hit is that of the object as it is now.
    """
    now, location = clock(int(ended_s)), web_log.location
    seconds, at_once = seconds_text(duration_s), seconds_text(0.0)
    lines = []
    for hit in hits:
        remembered, byte_range, status, viewer, sent_bytes, response, request_id, start, end = hit
        logged = remembered.logged_request
        if logged is None:
            continue
        rules, text, received_bytes = logged
        if rules.is_realtime:
            line = _realtime_line(web_log, rules, hit, ended_s, duration_s, cut)
            lines.append((rules.target, line))
            continue
        if response is None:
            results = HIT if cut is None else cut_hit(cut)
            target = remembered.target
            content_type = ABSENT if target is None else target.content_type
            if byte_range is None:
                content = f"{content_type}\t{end - start}\t-\t-"
            else:
                content = f"{content_type}\t{end - start}\t{start}\t{end - 1}"
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
            status if sent_bytes or cut is None else NO_STATUS,
            text.sender,
            results.final,
            request_id.decode(),
            text.host,
            received_bytes,
            seconds,
            text.forwarded_for,
            viewer.tls,
            results.response,
            text.version,
            viewer.port,
            at_once,
            results.detailed,
            content,
        )
        lines.append((rules.target, line))
    return lines


def _realtime_line(
    web_log: WebLog,
    rules: LogRules,
    hit: SentHit,
    ended_s: float,
    duration_s: float,
    cut: str | None,
) -> str:
    """The line of a hit in the real-time log, made from its whole record."""
    remembered, byte_range, status, viewer, sent_bytes, response, request_id, start, end = hit
    request = remembered.request
    if byte_range is not None:
        value = f"bytes={byte_range[0].decode()}-{byte_range[1].decode()}"
        request = replace(request, fields=(*request.fields, ("range", value)))
    if response is None:
        results = HIT if cut is None else cut_hit(cut)
        content_type = None if remembered.target is None else remembered.target.content_type
        is_part = status == 206
        content = Content(
            None if content_type is None else unescape(content_type),
            end - start,
            start if is_part else None,
            end - 1 if is_part else None,
        )
    else:
        results = results_of(status, response, cut)
        content = content_of(response.message.head.fields)
    record = web_record(
        rules,
        web_log.location,
        request,
        viewer,
        content,
        results,
        ended_s=ended_s,
        status=status if sent_bytes or cut is None else 0,
        sent_bytes=sent_bytes,
        duration_s=duration_s,
        first_byte_s=0.0,
        request_id=request_id.decode(),
    )
    address = remembered.address or viewer.address
    return web_log.realtime_line(rules, replace(request, address=address), record, ended_s)

"""The log lines of hits: JSON, and CloudFront's; what depends on the request is text already.

A busy worker writes tens of thousands of lines a second. So lines are made in batches, as bytes,
with as few values to fill in as possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from streamedge.delivery.http.fast_path.remembered import SentHit
from streamedge.delivery.http.response.access_log import quoted, quoted_and_cut
from streamedge.delivery.http.response.cloudfront_log import (
    Content,
    LoggedRequest,
    LogRules,
    WebLog,
    WholeHit,
    content_of,
    logged_status,
    results_of,
    results_of_hit,
    web_record,
)
from streamedge.delivery.http.response.end import ResponseEnd
from streamedge.logs.cloudfront import LINE, beginning, content_text, line_parts
from streamedge.logs.escaping import ABSENT, unescape
from streamedge.logs.spool import Lines
from streamedge.logs.spool_names import SpoolTarget

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_JSON_LINE = (
    b'%b%b","method":"%b",%b,"status":%d,"bytes":%d,"cache":"%b","seconds":%b%b%b'
    b',"request_id":"%b"%b}\n'
)
_ABSENT = ABSENT.encode()
HIT_PARTS_MAX = 4
"""Texts of one request, by TLS or by the length of its ranges: each has those of the request once
more."""

_RANGE_LINE_BYTES = len("range: bytes=-\r\n")


def json_hit_lines(
    process: str, now_s: float, duration_s: float, cut: str | None, hits: Sequence[SentHit]
) -> bytes:
    """The lines of hits, in the form of ``access_log``."""
    begin = f'{{"time":{now_s:.3f},"event":"response","process":"{process}","client":"'.encode()
    seconds = b"%.4f" % duration_s if duration_s else b"0.0"
    cut_field = b"" if cut is None else _reason(cut)
    lines = []
    for remembered, byte_range, status, viewer, sent_bytes, response, request_id, _, _ in hits:
        method, result, ranged, end = b"GET", b"Hit", b"", cut_field
        if response is not None:
            request = remembered.request
            method, result = request.method.encode(), response.result.value.encode()
            if cut is None and response.reason is not None:
                end = _reason(response.reason)
            if "range" in request.headers:
                ranged = f',"range":{quoted_and_cut(request.headers["range"])}'.encode()
        elif byte_range is not None:
            ranged = b',"range":"bytes=%b-%b"' % byte_range
        line = _JSON_LINE % (
            begin,
            viewer.text.client,
            method,
            remembered.target_fields,
            status,
            sent_bytes,
            result,
            seconds,
            ranged,
            remembered.viewer_fields,
            request_id,
            end,
        )
        lines.append(line)
    return b"".join(lines)


def _reason(reason: str) -> bytes:
    return f',"reason":{quoted(reason)}'.encode()


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
    begin = beginning(int(ended_s), web_log.location)
    is_at_once = cut is None and not duration_s
    lines: dict[SpoolTarget, list[bytes]] = {}
    rules_before, is_realtime, of_target = None, False, list[bytes]()
    begin_and_bytes, sent_before = b"", -1
    for hit in hits:
        remembered, byte_range, status, viewer, sent_bytes, response, request_id, start, end = hit
        logged = remembered.logged_request
        if logged is None:
            continue
        rules, _, _, whole_hits, _ = logged
        if rules is not rules_before:
            of_target = lines.setdefault(rules.target, [])
            rules_before, is_realtime = rules, rules.is_realtime
        if is_realtime:
            of_target.append(_realtime_line(web_log, rules, hit, ended_s, duration_s, cut))
        elif is_at_once and byte_range is None and response is None:
            target = remembered.target
            content_type = _ABSENT if target is None else target.content_type
            _, address, port, tls = viewer.text
            whole = whole_hits.get(tls)
            if whole is None or whole[3] is not content_type or whole[4] != end - start:
                whole = _whole_hit(logged, status, tls, content_type, end - start)
                _remember(whole_hits, tls, whole)
            if sent_bytes != sent_before:
                begin_and_bytes, sent_before = b"%b%d\t" % (begin, sent_bytes), sent_bytes
            before_id, before_port, after_port, _, _ = whole
            of_target += (
                begin_and_bytes,
                address,
                before_id,
                request_id,
                before_port,
                port,
                after_port,
            )
        else:
            of_target.append(_line(begin, hit, logged, duration_s, cut))
    return [(target, b"".join(texts)) for target, texts in lines.items()]


def _line(
    begin: bytes, hit: SentHit, logged: LoggedRequest, duration_s: float, cut: str | None
) -> bytes:
    """The line of any hit."""
    remembered, byte_range, status, viewer, sent_bytes, response, request_id, start, end = hit
    _, text, received_bytes, _, range_parts = logged
    status_sent = logged_status(status, sent_bytes, cut)
    if response is not None:
        content = content_text(*content_of(response.message.head.fields)).encode("ascii")
        results = results_of(status, response, cut)
        parts = line_parts(text, status_sent, results, received_bytes, duration_s, 0.0)
    else:
        target = remembered.target
        content_type = _ABSENT if target is None else target.content_type
        if byte_range is None:
            content = b"%b\t%d\t-\t-" % (content_type, end - start)
        else:
            content = b"%b\t%d\t%d\t%d" % (content_type, end - start, start, end - 1)
            received_bytes += _RANGE_LINE_BYTES + len(byte_range[0]) + len(byte_range[1])
        is_at_once = cut is None and not duration_s
        remembered_parts = range_parts.get(received_bytes) if is_at_once else None
        if remembered_parts is not None:
            parts = remembered_parts
        else:
            results = results_of_hit(cut)
            parts = line_parts(text, status_sent, results, received_bytes, duration_s, 0.0)
            if is_at_once:
                _remember(range_parts, received_bytes, parts)
    before_id, after_id, before_port, after_port = parts
    _, address, port, tls = viewer.text
    return LINE % (
        begin,
        sent_bytes,
        address,
        before_id,
        request_id,
        after_id,
        tls,
        before_port,
        port,
        after_port,
        content,
    )


def _remember(texts: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    if len(texts) >= HIT_PARTS_MAX:
        texts.clear()
    texts[key] = value


def _whole_hit(
    logged: LoggedRequest, status: int, tls: bytes, content_type: bytes, size_bytes: int
) -> WholeHit:
    results = results_of_hit(None)
    before_id, after_id, before_port, after_port = line_parts(
        logged.text, status, results, logged.received_bytes, 0.0, 0.0
    )
    return WholeHit(
        before_id,
        after_id + tls + before_port,
        b"%b%b\t%d\t-\t-\n" % (after_port, content_type, size_bytes),
        content_type,
        size_bytes,
    )


def _realtime_line(
    web_log: WebLog,
    rules: LogRules,
    hit: SentHit,
    ended_s: float,
    duration_s: float,
    cut: str | None,
) -> bytes:
    """The line of a hit in the real-time log, made from its whole record."""
    remembered, byte_range, status, viewer, sent_bytes, response, request_id, start, end = hit
    request = remembered.request
    if byte_range is not None:
        value = f"bytes={byte_range[0].decode()}-{byte_range[1].decode()}"
        request = replace(request, fields=(*request.fields, ("range", value)))
    if response is None:
        results = results_of_hit(cut)
        target = remembered.target
        content_type = None if target is None else unescape(target.content_type.decode())
        is_part = status == 206
        content = Content(
            content_type,
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
        ResponseEnd(ended_s, sent_bytes, duration_s, 0.0, cut),
        status=logged_status(status, sent_bytes, cut),
        request_id=request_id.decode(),
    )
    address = remembered.address or viewer.address
    return web_log.realtime_line(rules, replace(request, address=address), record, ended_s)

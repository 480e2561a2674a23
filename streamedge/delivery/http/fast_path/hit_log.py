"""The log lines of hits: JSON, and CloudFront's; what depends on the request is text already.

A busy worker writes tens of thousands of lines a second. So lines are made in batches, as bytes,
with as few values to fill in as possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from streamedge.delivery.http.fast_path.remembered import FinishedHits, SentHit
from streamedge.delivery.http.fast_path.request_memo import ByteRange
from streamedge.delivery.http.response.access_log import quoted, quoted_and_cut
from streamedge.delivery.http.response.cloudfront_log import (
    Content,
    HitTexts,
    LoggedRequest,
    LogRules,
    WebLog,
    content_of,
    logged_status,
    results_of,
    results_of_hit,
    web_record,
)
from streamedge.delivery.http.response.end import ResponseEnd
from streamedge.logs.cloudfront import LINE, beginning, content_text, line_parts, seconds_text
from streamedge.logs.escaping import ABSENT, unescape
from streamedge.logs.spool import Lines
from streamedge.logs.spool_names import SpoolTarget

_JSON_LINE = (
    b'%b%b","method":"%b",%b,"status":%d,"bytes":%d,"cache":"%b","seconds":%b%b%b'
    b',"request_id":"%b"%b}\n'
)
_ABSENT = ABSENT.encode()
_NO_RANGE = b"-\t-\n"
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
        client, _, _, _ = viewer.text
        line = _JSON_LINE % (
            begin,
            client,
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


def cloudfront_hit_lines(web_log: WebLog, finished: Sequence[FinishedHits]) -> Lines:
    """The lines of hits whose distributions have a log.

    The content type of a plain hit is that of the object as it is now.
    """
    lines: dict[SpoolTarget, list[bytes]] = {}
    last_second, last_duration_s, last_remembered, last_rules = -1, -1.0, None, None
    for hits, ended_s, duration_s, cut in finished:
        if int(ended_s) != last_second or duration_s != last_duration_s:
            last_second, last_duration_s, last_sent, last_received = (
                int(ended_s),
                duration_s,
                -1,
                -1,
            )
            begin = beginning(last_second, web_log.location)
            time_taken = seconds_text(duration_s).encode()
        for hit in hits:
            remembered, byte_range, status, viewer, sent_bytes, response, request_id, start, end = (
                hit
            )
            # A text is made again only where it differs from that of the line before.
            if remembered is not last_remembered:
                last_remembered, logged = remembered, remembered.logged_request
                if logged is not None:
                    if logged.rules is not last_rules:
                        last_rules = logged.rules
                        is_realtime = last_rules.is_realtime
                        of_log = lines.setdefault(last_rules.target, [])
                    target, head_bytes, last_status = remembered.target, logged.received_bytes, 0
            if logged is None:
                continue
            if is_realtime or response is not None or cut is not None:
                of_log.append(_line(web_log, begin, hit, logged, ended_s, duration_s, cut))
                continue
            if status != last_status:
                last_status, last_received = status, -1
                texts = logged.hit_texts.get(status) or _hit_texts(logged, status)
                before_id, host, last_type, last_size, content, last_tls, tls_text = texts
            received_bytes = head_bytes + (_range_bytes(byte_range) if byte_range else 0)
            span = b"%d\t%d\n" % (start, end - 1) if byte_range else _NO_RANGE
            _, address, port, tls = viewer.text
            content_type = _ABSENT if target is None else target.content_type
            if end - start != last_size or tls is not last_tls or content_type is not last_type:
                texts = _hit_texts(logged, status, content_type, end - start, tls)
                before_id, host, last_type, last_size, content, last_tls, tls_text = texts
                last_received = -1
            if received_bytes != last_received:
                last_received = received_bytes
                before_port = b"%b%d\t%b%b" % (host, received_bytes, time_taken, tls_text)
            if sent_bytes != last_sent:
                last_sent, begin_and_sent = sent_bytes, b"%b%d\t" % (begin, sent_bytes)
            of_log += (
                begin_and_sent,
                address,
                before_id,
                request_id,
                before_port,
                port,
                content,
                span,
            )
    return [(target, b"".join(texts)) for target, texts in lines.items()]


def _range_bytes(byte_range: ByteRange) -> int:
    """The size of a request's field Range."""
    return _RANGE_LINE_BYTES + len(byte_range[0]) + len(byte_range[1])


def _hit_texts(
    logged: LoggedRequest,
    status: int,
    content_type: bytes = _ABSENT,
    size_bytes: int = 0,
    tls: bytes = b"",
) -> HitTexts:
    """The texts of plain hits of a request, remembered for its next ones."""
    parts = line_parts(logged.text, status, results_of_hit(None), 0.0)
    before_id, before_received, after_time, before_port, after_port = parts
    texts = logged.hit_texts[status] = (
        before_id,
        before_received,
        content_type,
        size_bytes,
        b"%b%b\t%d\t" % (after_port, content_type, size_bytes),
        tls,
        b"%b%b%b" % (after_time, tls, before_port),
    )
    return texts


def _line(
    web_log: WebLog,
    begin: bytes,
    hit: SentHit,
    logged: LoggedRequest,
    ended_s: float,
    duration_s: float,
    cut: str | None,
) -> bytes:
    """The line of any hit."""
    if logged.rules.is_realtime:
        return _realtime_line(web_log, logged.rules, hit, ended_s, duration_s, cut)
    remembered, byte_range, status, viewer, sent_bytes, response, request_id, start, end = hit
    received_bytes = logged.received_bytes
    if response is not None:
        content = content_text(*content_of(response.message.head.fields)).encode("ascii")
        results = results_of(status, response, cut)
    else:
        target = remembered.target
        content_type = _ABSENT if target is None else target.content_type
        results = results_of_hit(cut)
        if byte_range is None:
            content = b"%b\t%d\t-\t-" % (content_type, end - start)
        else:
            content = b"%b\t%d\t%d\t%d" % (content_type, end - start, start, end - 1)
            received_bytes += _range_bytes(byte_range)
    parts = line_parts(logged.text, logged_status(status, sent_bytes, cut), results, 0.0)
    before_id, before_received, after_time, before_port, after_port = parts
    _, address, port, tls = viewer.text
    return LINE % (
        begin,
        sent_bytes,
        address,
        before_id,
        request_id,
        before_received,
        received_bytes,
        seconds_text(duration_s).encode(),
        after_time,
        tls,
        before_port,
        port,
        after_port,
        content,
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

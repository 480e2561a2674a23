"""CloudFront's names for outcomes, and the records of responses."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from streamedge.cache.reader import CacheResult
from streamedge.delivery.http.response.build import Response
from streamedge.delivery.http.response.cloudfront_log import (
    LogRules,
    WebLog,
    content_of,
    head_bytes,
    results_of,
    results_of_hit,
)
from streamedge.delivery.http.response.end import ResponseEnd
from streamedge.delivery.http.response.response import ResponseHead, ResponseMessage
from streamedge.delivery.http.viewer import viewer_at
from streamedge.delivery.net.accept import Peer
from streamedge.logs.cloudfront import WebRecord, decode
from streamedge.logs.spool import SpoolWriter
from streamedge.logs.spool_names import LogFormat, SpoolTarget
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counts
from tests.support.http.requests import request_of

RULES = LogRules(SpoolTarget("EWEB", LogFormat.WEB, 300.0), "d1.cloudfront.net", has_cookies=False)
VIEWER = viewer_at(Peer("192.0.2.1", 4000), "TLSv1.3\tTLS_AES_128_GCM_SHA256")


def response(
    status: int,
    result: CacheResult = CacheResult.ERROR,
    error: str = "",
    reason: str | None = None,
    *fields: tuple[str, str],
) -> Response:
    message = ResponseMessage(ResponseHead(status, fields))
    return Response(message, None, result, "EWEB", reason, error=error)


@pytest.mark.parametrize(
    ("answer", "cut", "final", "at_start", "detailed"),
    [
        (response(200, CacheResult.HIT), None, "Hit", "Hit", "Hit"),
        (response(200, CacheResult.REFRESH_HIT), None, "RefreshHit", "RefreshHit", "RefreshHit"),
        (response(200, CacheResult.MISS), "viewer left", "Error", "Miss", "ClientCommError"),
        (response(200, CacheResult.MISS), "viewer stalled", "Error", "Miss", "ClientCommError"),
        (response(200, CacheResult.MISS), "revoked", "Error", "Miss", "Error"),
        (response(200, CacheResult.MISS), "ended by an operator", "Error", "Miss", "Error"),
        (response(200, CacheResult.MISS), "origin broke off", "Error", "Miss", "AbortedOrigin"),
        (response(301), None, "Redirect", "Redirect", "Redirect"),
        (response(413), None, "LimitExceeded", "LimitExceeded", "LimitExceeded"),
        (response(503, error="cache_full"), None, *["CapacityExceeded"] * 3),
        (response(404, error="not_found"), None, "Error", "Error", "Error"),
        (response(404, error="origin_404"), None, "Error", "Error", "Error"),
        (response(301, error="origin_301"), None, "Error", "Error", "Error"),
        (response(502, error="refused"), None, "Error", "Error", "OriginConnectError"),
        (response(504, error="timeout"), None, "Error", "Error", "OriginReadError"),
        (response(502, error="broken"), None, "Error", "Error", "OriginReadError"),
        (response(502, error="unavailable"), None, "Error", "Error", "OriginError"),
        (response(503, error="write_queue"), None, "Error", "Error", "OriginWriteError"),
        (response(403, reason="country"), None, "Error", "Error", "ClientGeoBlocked"),
        (response(403, reason="not signed"), None, "Error", "Error", "InvalidRequestBlocked"),
        (response(405), None, "Error", "Error", "InvalidRequestMethod"),
        (response(421), None, "Error", "Error", "InvalidRequestCertificate"),
        (response(400), None, "Error", "Error", "InvalidRequest"),
        (response(504), None, "Error", "Error", "Error"),
    ],
)
def test_outcome_has_cloudfronts_names(
    answer: Response, cut: str | None, final: str, at_start: str, detailed: str
) -> None:
    results = results_of(answer.message.status, answer, cut)
    assert (results.final, results.response, results.detailed) == (final, at_start, detailed)


def test_hit_that_is_cut_is_an_error() -> None:
    assert results_of_hit("viewer left") == ("Error", "Hit", "ClientCommError")


def test_content_comes_from_the_fields_of_the_response() -> None:
    fields = [("Content-Type", "a/b"), ("content-length", "5"), ("content-range", "bytes 3-7/9")]
    assert content_of(fields) == ("a/b", 5, 3, 7)
    assert content_of([("content-range", "bytes */9")]) == (None, None, None, None)


async def line_of(
    tmp_path: Path, answer: Response, *fields: tuple[bytes, bytes], sent_bytes: int, cut: str | None
) -> WebRecord:
    """The line of a response to a request with these fields, as a record."""
    log = open_log(str(tmp_path / "log"), "worker-0")
    spool = SpoolWriter(tmp_path, "worker-0", log, Counts())
    web_log = WebLog("fra-1", spool, rules={"EWEB": RULES})
    sent = [(b"host", b"cdn.example.com"), *fields]
    request = request_of(VIEWER, b"/a%20b?Signature=x&c=1", sent)
    web_log.finished(request, answer, VIEWER, ResponseEnd(1.7e9, sent_bytes, 0.0825, 0.001, cut))
    await spool.close()
    await asyncio.to_thread(log.close)
    (path,) = tmp_path.glob("EWEB.*")
    record = decode(path.read_text().rstrip("\n"))
    assert record.received_bytes == head_bytes(request)
    return record


async def test_record_has_the_parts_of_request_and_response(tmp_path: Path) -> None:
    answer = response(200, CacheResult.MISS, "", None, ("content-length", "7"))
    fields = ((b"cookie", b"a=1"), (b"x-forwarded-for", b"198.51.100.1, 10.0.0.1"))
    record = await line_of(tmp_path, answer, *fields, sent_bytes=100, cut=None)
    assert (record.location, record.domain, record.host) == (
        "fra-1",
        "d1.cloudfront.net",
        "cdn.example.com",
    )
    assert (record.stem, record.query) == ("/a%20b", "Signature=***&c=1")
    assert (record.cookie, record.forwarded_for) == (None, "198.51.100.1, 10.0.0.1")
    assert (record.protocol, record.http_version) == ("https", "HTTP/2.0")
    assert (record.tls_protocol, record.tls_cipher) == ("TLSv1.3", "TLS_AES_128_GCM_SHA256")
    assert (record.duration_ms, record.first_byte_ms) in {(82, 1), (83, 1)}
    assert (record.request_id, record.ended_s, record.port) == ("the-id", 1_700_000_000, 4000)
    assert (record.sent_bytes, record.content_length, record.status) == (100, 7, 200)


async def test_viewer_that_left_before_an_answer_has_status_000(tmp_path: Path) -> None:
    answer = response(200, CacheResult.MISS)
    record = await line_of(tmp_path, answer, sent_bytes=0, cut="viewer left")
    assert (record.status, record.result, record.response_result) == (0, "Error", "Miss")
    assert "\t000\t" in next(tmp_path.glob("EWEB.*")).read_text()


async def test_websocket_is_a_miss_over_wss(tmp_path: Path) -> None:
    record = await line_of(tmp_path, response(101, CacheResult.MISS), sent_bytes=9, cut=None)
    assert (record.status, record.result, record.protocol) == (101, "Miss", "wss")


async def test_distribution_without_a_log_has_no_line(tmp_path: Path) -> None:
    web_log = WebLog("fra-1", None, rules={"OTHER": RULES})
    request = request_of(VIEWER, b"/", [])
    assert web_log.prepared(request, "EWEB") is None
    assert web_log.prepared(request, None) is None
    assert web_log.prepared(request, "OTHER") is not None

"""Requests whose body is not HTTP: one error response, one log line, and the connection closes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from streamedge.cache.reader import CacheResult
from streamedge.http_date import parse_http_date_s
from streamedge.ops.metrics import Counter
from tests.support.event_loop import until
from tests.support.http.http_viewer import open_viewer, request
from tests.support.http.web_edge import serve_web
from tests.support.origins.scripted_origin import Reply

FRESH = (("Cache-Control", "max-age=60"),)
WRITES: dict[str, Any] = {
    "rules": {"methods": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]},
    "limits": {"origin_retries": 0},
}
HEAD = b"POST /a HTTP/1.1\r\nHost: edge\r\nTransfer-Encoding: chunked\r\n\r\n"
GOOD_CHUNK = b"5\r\nhello\r\n"
BAD_CHUNK = b"what\r\n"
LONG_TRAILER = b"0\r\nX: " + b"a" * 9000 + b"\r\n\r\n"


@pytest.mark.parametrize(("rest", "status"), [(BAD_CHUNK, 400), (LONG_TRAILER, 431)])
@pytest.mark.parametrize("packets", [1, 2])
async def test_body_that_is_not_http_has_one_log_line(
    cache_root: Path, rest: bytes, status: int, packets: int
) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        if packets == 1:
            await viewer.send(HEAD + GOOD_CHUNK + rest)
        else:
            await viewer.send(HEAD + GOOD_CHUNK)
            await until(lambda: edge.server.stats().requests == 1)
            await viewer.send(rest)
        response = await viewer.receive()
        assert (response.status, response.fields["connection"]) == (status, "close")
        assert await viewer.receive_rest() == b""
        await until(lambda: edge.server.stats().requests == 0)
        (line,) = edge.lines()
        assert (line["method"], line["path"], line["status"]) == ("POST", "/a", status)
        assert edge.counts.gathered(Counter.RESPONSES, CacheResult.ERROR.value) == 1
        assert not any(seen.has_ended for seen in edge.origin.requests)


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b"what is this\r\n\r\n", b"400 Bad Request\n"),
        (b"GET /a HTTP/1.1\r\nX: " + b"a" * 70_000, b"431 Request Header Fields Too Large\n"),
        (HEAD + BAD_CHUNK, b"400 Bad Request\n"),
        (HEAD.replace(b"POST", b"HEAD") + BAD_CHUNK, b""),
    ],
    ids=["no HTTP", "long head", "body", "HEAD"],
)
async def test_refusal_has_a_date_and_says_what_it_is(
    cache_root: Path, raw: bytes, body: bytes
) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        await viewer.send(raw)
        response = await viewer.receive("HEAD" if raw.startswith(b"HEAD") else "GET")
        assert response.body == body
        assert response.fields["content-length"] == str(len(body))
        assert parse_http_date_s(response.fields["date"]) is not None
        assert await viewer.receive_rest() == b""
        (line,) = edge.lines()
        assert (line["status"], line["bytes"]) == (response.status, len(body))


async def test_queued_request_whose_body_is_not_http_is_refused_in_its_turn(
    cache_root: Path,
) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("slow", b"slow", headers=FRESH)
        edge.origin.hold_responses()
        await viewer.send(request("/slow") + HEAD + GOOD_CHUNK + BAD_CHUNK + request("/slow"))
        await edge.origin.wait_for_requests(1)
        edge.origin.release_responses()
        assert (await viewer.receive()).body == b"slow"
        assert (await viewer.receive()).status == 400
        assert await viewer.receive_rest() == b""
        lines = [(line["method"], line["path"], line["status"]) for line in edge.lines()]
        assert lines == [("GET", "/slow", 200), ("POST", "/a", 400)]
        assert [seen.path for seen in edge.origin.requests] == ["/slow"]


async def test_bad_body_behind_a_begun_response_cuts_it(cache_root: Path) -> None:
    """The response has begun, so the viewer is sent no other status."""
    async with (
        serve_web(cache_root, **WRITES) as edge,
        open_viewer(edge.port, receive_buffer_bytes=4096) as viewer,
    ):
        edge.origin.script(Reply(status=200, early=True, body=bytes(8 << 20)))
        await viewer.send(HEAD + GOOD_CHUNK)
        await viewer.receive_head()
        await viewer.send(BAD_CHUNK)
        await viewer.receive_rest()
        (line,) = edge.lines()
        assert (line["status"], line["reason"]) == (200, "Bad Request")


async def test_viewer_that_leaves_in_its_body_has_one_log_line(cache_root: Path) -> None:
    async with serve_web(cache_root, **WRITES) as edge:
        async with open_viewer(edge.port) as viewer:
            await viewer.send(HEAD + GOOD_CHUNK)
            await until(lambda: edge.server.stats().requests == 1)
        await until(lambda: edge.server.stats().requests == 0)
        (line,) = edge.lines()
        assert line["reason"] == "viewer left"


async def test_defect_in_the_handler_is_one_500_and_is_reported(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, one: failures.append(one))
    fault = RuntimeError("of ours")

    async def respond(_exchange: object) -> None:
        raise fault

    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        monkeypatch.setattr(edge.server.handler, "respond", respond)
        await viewer.send(request("/a") + request("/b"))
        response = await viewer.receive()
        assert (response.status, response.fields["connection"]) == (500, "close")
        assert await viewer.receive_rest() == b""
        assert [context["exception"] for context in failures] == [fault]
        (line,) = edge.lines()
        assert line["status"] == 500

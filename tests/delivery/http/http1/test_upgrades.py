"""Requests with an Upgrade field that the edge ignores (RFC 9110 §7.8)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.http.http_viewer import open_viewer, request
from tests.support.http.web_edge import serve_web
from tests.support.origins.scripted_origin import Reply

WRITES: dict[str, Any] = {
    "rules": {"methods": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]},
    "limits": {"origin_retries": 0},
}
H2C = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
)
WEBSOCKET = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
SIZED = b"Content-Length: 5\r\n\r\nhello"
FRESH = (("Cache-Control", "max-age=60"),)


def post(upgrade: bytes, framed_body: bytes) -> bytes:
    return b"POST /a HTTP/1.1\r\nHost: edge\r\n" + upgrade + framed_body


@pytest.mark.parametrize("upgrade", [H2C, WEBSOCKET], ids=["h2c", "websocket"])
@pytest.mark.parametrize("framed_body", [CHUNKED, SIZED], ids=["chunked", "sized"])
@pytest.mark.parametrize("step", [1 << 20, 1], ids=["at once", "byte by byte"])
async def test_body_of_a_request_with_upgrade_reaches_the_origin(
    cache_root: Path, upgrade: bytes, framed_body: bytes, step: int
) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("b", b"behind", headers=FRESH)
        edge.origin.script(Reply(status=201))
        raw = post(upgrade, framed_body) + request("/b")
        for at in range(0, len(raw), step):
            await viewer.send(raw[at : at + step])
        assert (await viewer.receive()).status == 201
        assert (await viewer.receive()).body == b"behind"
        assert (await viewer.get("/b")).cache == "Hit"
        (seen, _behind) = edge.origin.requests
        assert bytes(seen.body) == b"hello"
        assert seen.has_ended
        assert "upgrade" not in seen.headers


async def test_body_longer_than_its_upgrade_request_is_cut_off(cache_root: Path) -> None:
    """Content-Length delimits the body, with an Upgrade as without."""
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.script(Reply(status=200), times=2)
        await viewer.send(post(H2C, SIZED + b"!!") + request("/b"))
        assert (await viewer.receive()).status == 200
        assert (await viewer.receive()).status == 400
        assert bytes(edge.origin.requests[0].body) == b"hello"


@pytest.mark.parametrize("upgrade", [H2C, WEBSOCKET], ids=["h2c", "websocket"])
async def test_requests_after_an_upgrade_request_are_answered(
    cache_root: Path, upgrade: bytes
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        for name in ("a", "b", "c"):
            edge.origin.put(name, name.encode(), headers=FRESH)
        for _cold_then_warm in range(2):
            head = b"GET /a HTTP/1.1\r\nHost: edge\r\n" + upgrade + b"\r\n"
            await viewer.send(head + request("/b") + request("/c"))
            assert [(await viewer.receive()).body for _ in range(3)] == [b"a", b"b", b"c"]


async def test_bytes_after_a_websocket_request_go_to_the_origin(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.script(Reply(echoes=True))
        await viewer.send(b"GET /s HTTP/1.1\r\nHost: edge\r\n" + WEBSOCKET + b"\r\n\x81\x05early")
        assert (await viewer.receive_head()).status == 101
        assert await viewer.receive_body(7) == b"\x81\x05early"
        await viewer.send(b"later")
        assert await viewer.receive_body(5) == b"later"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /a", 400),
        (b"GET /a HTTP/0.9", 400),
        (b"GET /a HTTP/2.0", 505),
        (b"GET ftp://edge/a HTTP/1.1", 400),
        (b"GET http://user:secret@edge/a HTTP/1.1", 400),
        (b"GET http://user@edge/a HTTP/1.1", 400),
        (b"GET http:///a HTTP/1.1", 400),
        (b"GET http://other/a HTTP/1.1", 400),
        (b"GET /a#part HTTP/1.1", 400),
        (b"GET http://edge/a HTTP/1.1", 200),
        (b"GET HTTPS://EDGE:80/a HTTP/1.1", 200),
    ],
)
async def test_ambiguous_request_lines_are_refused(
    cache_root: Path, line: bytes, status: int
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("a", b"one", headers=FRESH)
        assert (await viewer.get("/a")).cache == "Miss"
        await viewer.send(line + b"\r\nHost: edge\r\n\r\n")
        assert (await viewer.receive()).status == status

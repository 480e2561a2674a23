"""A connection while the body of a request is due: its time, 100-continue, and its end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from streamedge.delivery.http.exchange import Exchange
from tests.support.http.http_viewer import open_viewer, request
from tests.support.http.web_edge import connections, serve_web
from tests.support.origins.scripted_origin import Reply

WRITES: dict[str, Any] = {
    "rules": {"methods": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]},
    "limits": {"origin_retries": 0},
}
LARGE = bytes(8 << 20)


async def test_time_before_100_continue_is_not_the_viewers(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A viewer that waits for it may begin as late as the edge allows."""
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.script(Reply(status=201))
        handler, has_come, may_go = edge.server.handler, asyncio.Event(), asyncio.Event()
        respond = handler.respond

        async def respond_later(exchange: Exchange) -> Any:
            has_come.set()
            await may_go.wait()
            return await respond(exchange)

        monkeypatch.setattr(handler, "respond", respond_later)
        await viewer.send(request("/a", "PUT", expect="100-continue", content_length="5"))
        await has_come.wait()
        (connection,) = connections(edge)
        an_hour_later_s = asyncio.get_running_loop().time() + 3600
        connection.sweep(an_hour_later_s, idle_s=60, stall_s=60)
        may_go.set()
        assert (await viewer.receive_head()).status == 100
        connection.sweep(an_hour_later_s + 1, idle_s=60, stall_s=60)
        await viewer.send(b"hello")
        assert (await viewer.receive()).status == 201


async def test_connection_that_drains_closes_behind_a_body_that_was_answered_early(
    cache_root: Path,
) -> None:
    async with (
        serve_web(cache_root, **WRITES) as edge,
        open_viewer(edge.port, receive_buffer_bytes=4096) as viewer,
    ):
        edge.origin.script(Reply(status=200, early=True, body=LARGE))
        await viewer.send(request("/a", "POST", content_length="6", expect="100-continue"))
        assert (await viewer.receive_head()).status == 100
        await viewer.send(b"abc")
        head = await viewer.receive_head()
        assert "connection" not in head.fields
        (connection,) = connections(edge)
        connection.shutdown()  # the head has announced no end of the connection
        assert await viewer.receive_body(len(LARGE)) == LARGE
        assert not connection.transport.is_closing()
        await viewer.send(b"def")
        assert await viewer.receive_rest() == b""

"""The server of a worker: limits, the sweep of idle and stalled connections, draining."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from streamedge.ops.metrics import Gauge
from streamedge.spans import Span
from tests.support.event_loop import until
from tests.support.http.http_viewer import TruncatedError, fetch, open_viewer, request
from tests.support.http.web_edge import WebEdge, connections, descriptors, serve_web
from tests.support.origins.scripted_origin import Pattern
from tests.support.patience import PATIENCE_S

SMALL = Pattern(1000, seed=1)
LARGE = Pattern(16 << 20, seed=2)  # more than the buffers of a connection hold
IDLE_S = 30.0
STALL_S = 60.0


def put(edge: WebEdge) -> None:
    edge.origin.put("small", SMALL)
    edge.origin.put("large", LARGE)


def sweep(edge: WebEdge, after_s: float) -> None:
    """Runs the server's sweep as if ``after_s`` had passed."""
    now_s = asyncio.get_running_loop().time() + after_s
    for connection in connections(edge):
        connection.sweep(now_s, IDLE_S, STALL_S)


async def until_blocked(edge: WebEdge) -> None:
    """Waits until the connection's peer has stopped reading."""
    await until(lambda: any(one.stats().blocked_since_s is not None for one in connections(edge)))


async def test_idle_connection_is_closed(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge)
        await viewer.get("/small")
        sweep(edge, IDLE_S - 1)
        assert (await viewer.get("/small")).status == 200
        sweep(edge, IDLE_S + 1)
        assert await viewer.receive_rest() == b""


async def test_connection_without_a_request_is_closed(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        await until(lambda: bool(connections(edge)))
        sweep(edge, IDLE_S + 1)
        assert await viewer.receive_rest() == b""


async def test_incomplete_request_does_not_keep_its_connection_open(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge)
        await viewer.get("/small")
        await viewer.send(request("/small")[:-2] + b"x-slow: ")
        await until(lambda: connections(edge)[0].stats().header_bytes > 0)
        sweep(edge, IDLE_S + 1)
        assert await viewer.receive_rest() == b""


async def test_refused_connection_is_closed_after_a_time(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        await viewer.send(b"nonsense\r\n\r\n")
        assert (await viewer.receive()).status == 400
        assert await viewer.receive_rest() == b""  # the edge closes its half at once
        sweep(edge, IDLE_S + 1)
        await until(lambda: not connections(edge))


async def test_connection_that_waits_for_the_origin_is_not_idle(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge)
        edge.origin.hold_responses()
        await viewer.send_request("/small")
        await edge.origin.wait_for_requests(1)
        sweep(edge, 1000)
        edge.origin.hold("small", at=10)
        edge.origin.release_responses()
        head = await viewer.receive_head()
        assert head.status == 200
        body = await viewer.receive_body(10)
        sweep(edge, 1000)
        edge.origin.release("small")
        assert body + await viewer.receive_body(990) == SMALL.read(Span(0, 1000))


async def test_only_the_stalled_viewer_is_dropped(cache_root: Path) -> None:
    async with (
        serve_web(cache_root) as edge,
        open_viewer(edge.port, receive_buffer_bytes=4096) as stalled,
    ):
        put(edge)
        await stalled.send_request("/large")
        await until_blocked(edge)
        async with open_viewer(edge.port) as other:
            await other.get("/small")
            sweep(edge, STALL_S - 1)
            assert await other.receive_rest() == b""  # it was idle; the stalled one has more time
            assert len(connections(edge)) == 1
        sweep(edge, STALL_S + 1)
        with pytest.raises(TruncatedError):
            await stalled.receive()
        assert (await fetch(edge.port, "/large")).body == LARGE.read(Span(0, LARGE.size_bytes))
        (line,) = [line for line in edge.lines() if line.get("reason")]
        assert line["reason"] == "viewer stalled"
        assert line["bytes"] < LARGE.size_bytes


async def test_sweep_runs_periodically(cache_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamedge.delivery.http.listeners.SWEEP_INTERVAL_S", 0.01)
    async with (
        serve_web(cache_root, limits={"http_idle": "100ms", "http_stall": "100ms"}) as edge,
        open_viewer(edge.port) as quiet,
        open_viewer(edge.port, receive_buffer_bytes=4096) as stalled,
    ):
        put(edge)
        await stalled.send_request("/large")
        assert await quiet.receive_rest() == b""
        await until_dropped(edge)
        assert len(await stalled.receive_rest()) < LARGE.size_bytes
        assert edge.counts.gauges[Gauge.HTTP_CONNECTIONS] == 0


async def until_dropped(edge: WebEdge) -> None:
    """Waits until no connection is open, and the sweep has counted that."""
    await until(lambda: not (connections(edge) or edge.counts.gauges[Gauge.HTTP_CONNECTIONS]))


async def test_connections_beyond_the_limit_are_dropped(cache_root: Path) -> None:
    async with serve_web(cache_root, limits={"http_connections": 2}) as edge:
        put(edge)
        async with open_viewer(edge.port) as one, open_viewer(edge.port) as two:
            for viewer in (one, two):
                assert (await viewer.get("/small")).status == 200
            async with open_viewer(edge.port) as three:
                assert await three.receive_rest() == b""
            for viewer in (one, two):
                assert (await viewer.get("/small")).status == 200
        await until(lambda: not connections(edge))
        assert (await fetch(edge.port, "/small")).status == 200


async def test_draining_server_finishes_responses_and_refuses_connections(cache_root: Path) -> None:
    async with (
        serve_web(cache_root) as edge,
        open_viewer(edge.port) as busy,
        open_viewer(edge.port) as quiet,
    ):
        put(edge)
        await quiet.get("/small")
        edge.origin.hold("large", at=1000)
        await busy.send_request("/large")
        head = await busy.receive_head()
        draining = asyncio.ensure_future(edge.server.drain(20))
        assert await quiet.receive_rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await fetch(edge.port, "/small")
        assert not draining.done()
        edge.origin.release("large")
        body = await busy.receive_body(int(head.fields["content-length"]))
        assert body == LARGE.read(Span(0, LARGE.size_bytes))
        assert await busy.receive_rest() == b""
        async with asyncio.timeout(PATIENCE_S):
            await draining


async def test_draining_aborts_responses_after_the_timeout(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge)
        edge.origin.hold("small", at=10)
        edge.origin.hold_responses()
        await viewer.send_request("/small")
        await edge.origin.wait_for_requests(1)
        async with asyncio.timeout(PATIENCE_S):
            await edge.server.drain(0.01)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await viewer.receive()


async def test_closed_connections_leave_no_descriptor(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge:
        put(edge)
        await fetch(edge.port, "/large")
        await fetch(edge.port, "/small")
        await until(lambda: not connections(edge))
        before = descriptors()
        for _round in range(30):
            async with open_viewer(edge.port, receive_buffer_bytes=4096) as viewer:
                await viewer.send(request("/large") * 3)
                await viewer.receive_head()
            assert (await fetch(edge.port, "/small")).status == 200
        await until(lambda: not connections(edge))
        assert descriptors() <= before

"""How many of a viewer's bytes one iteration of the event loop parses."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from streamedge.cache.reader import CacheResult
from streamedge.ops.metrics import Counter
from tests.support.http.http_viewer import open_viewer, request
from tests.support.http.web_edge import connections, serve_web
from tests.support.origins.scripted_origin import Reply

FRESH = (("Cache-Control", "max-age=60"),)
FEW = 1500  # of 8000


async def test_thousands_of_pipelined_hits_do_not_starve_others(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("a", b"one", headers=FRESH)
        assert (await viewer.get("/a")).status == 200
        (connection,) = connections(edge)
        count = 8000
        hits = edge.counts.tally(Counter.RESPONSES, CacheResult.HIT.value)
        answered_at_turn: list[int] = []

        def note() -> None:
            answered_at_turn.append(hits.amount)
            if hits.amount < count:
                asyncio.get_running_loop().call_soon(note)

        connection.data_received(request("/a") * count)
        note()
        for _each in range(count):
            assert (await viewer.receive()).body == b"one"
        turns = pairwise(answered_at_turn)
        assert max(after - before for before, after in turns) < FEW


async def test_many_connections_share_the_parse_budget_of_one_iteration(cache_root: Path) -> None:
    """64 busy connections: one iteration parses no more than for a single one."""
    async with (
        serve_web(cache_root) as edge,
        AsyncExitStack() as stack,
    ):
        edge.origin.put("a", b"one", headers=FRESH)
        viewers = [await stack.enter_async_context(open_viewer(edge.port)) for _each in range(64)]
        for viewer in viewers:
            assert (await viewer.get("/a")).status == 200
        count = 400
        hits = edge.counts.tally(Counter.RESPONSES, CacheResult.HIT.value)
        amount = hits.amount
        for connection in connections(edge):
            connection.data_received(request("/a") * count)
        assert hits.amount - amount < FEW
        for viewer in viewers:
            for _each in range(count):
                assert (await viewer.receive()).body == b"one"


async def test_requests_after_a_waiting_one_are_not_parsed(cache_root: Path) -> None:
    """A client that sends faster than it reads does not grow the queue of requests."""
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("a", b"one", headers=FRESH)
        assert (await viewer.get("/a")).status == 200
        may_answer = asyncio.Event()
        edge.origin.script(Reply(status=200, after=may_answer))
        (connection,) = connections(edge)
        connection.data_received(request("/slow") + request("/a") * 8000)
        await edge.origin.wait_for_requests(2)
        assert connection.stats().queued < FEW
        may_answer.set()
        for _each in range(8001):
            assert (await viewer.receive()).status == 200


@pytest.mark.parametrize("chunk_bytes", [1, 100])
async def test_body_in_tiny_chunks_arrives_whole(cache_root: Path, chunk_bytes: int) -> None:
    rules = {"methods": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]}
    async with serve_web(cache_root, rules=rules) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("a", b"one", headers=FRESH)
        edge.origin.script(Reply(status=200))
        chunk = b"%x\r\n%b\r\n" % (chunk_bytes, b"x" * chunk_bytes)
        head = b"POST /p HTTP/1.1\r\nHost: edge\r\nTransfer-Encoding: chunked\r\n\r\n"
        await viewer.send(head + chunk * 50_000 + b"0\r\n\r\n" + request("/a"))
        assert (await viewer.receive()).status == 200
        assert (await viewer.receive()).body == b"one"
        assert len(edge.origin.requests[0].body) == 50_000 * chunk_bytes

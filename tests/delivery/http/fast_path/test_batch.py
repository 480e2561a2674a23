"""Requests of one loop iteration: handled together, none lost, none affected by another."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from streamedge.delivery.http.fast_path.batch import BATCH_MAX, HitBatch
from streamedge.delivery.http.fast_path.remembered import SentHit
from streamedge.delivery.http.fast_path.request_memo import BytesMemo
from streamedge.delivery.http.http1.connection import Http1Connection
from tests.support.event_loop import until
from tests.support.http.http_viewer import Viewer, open_viewer, request
from tests.support.http.web_edge import WebEdge, connections, serve_web

NOTE = b"remember the milk"
REQUEST = request("/note.txt")


@dataclass(eq=False)
class Scripted:
    """A connection that records the calls; with ``hit`` None its request is not a hit."""

    name: str
    events: list[str]
    hit: bool = True
    at_once: bool = True
    fault: Exception | None = None
    send_fault: Exception | None = None
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def decide_hit(self, _now_s: float, _gone: set[str]) -> Any:
        self.events.append(f"take up {self.name}")
        if self.fault is not None:
            raise self.fault
        return (self.name, None, self.name) if self.hit else None

    def send_hit(self, plain_get: Any, _byte_range: Any, answer: Any, _loop_s: float) -> Any:
        assert plain_get == answer == self.name
        self.events.append(f"send {self.name}")
        if self.send_fault is not None:
            raise self.send_fault
        return self.name if self.at_once else None

    def abort_with(self, cause: Exception) -> None:
        self.events.append(f"{self.name} broke: {cause}")


class BatchRun:
    """A batch and the recorded calls."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.batch = HitBatch(self._finished)

    def add(self, name: str, **more: Any) -> None:
        self.batch.add(Scripted(name, self.events, **more))

    def _finished(self, hits: Sequence[SentHit]) -> None:
        self.events.append(f"finished {' '.join(map(str, hits))}")


async def one_iteration() -> None:
    """Runs one iteration of the event loop."""
    await asyncio.sleep(0)


async def test_hit_that_fails_to_be_sent_does_not_affect_the_others() -> None:
    run = BatchRun()
    run.add("a")
    run.add("b", send_fault=RuntimeError("of ours"))
    run.add("c")
    await one_iteration()
    assert run.events[3:] == ["send a", "send b", "b broke: of ours", "send c", "finished a c"]


async def test_connection_lost_before_its_batch_runs_is_no_error(cache_root: Path) -> None:
    faults: list[dict[str, Any]] = []
    async with serve_web(cache_root) as edge:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: faults.append(context))
        edge.origin.put("stale.txt", NOTE, headers=(("Cache-Control", "max-age=0"),))
        async with open_viewer(edge.port) as viewer:
            assert (await viewer.get("/stale.txt")).body == NOTE
            (connection,) = connections(edge)
            connection.data_received(request("/stale.txt"))
            loop.call_soon(connection.connection_lost, None)
            for _turn in range(20):
                await one_iteration()
            connection.data_received(request("/stale.txt"))
            for _turn in range(20):
                await one_iteration()
            connection.transport.abort()
        loop.set_exception_handler(None)
    assert faults == []


async def test_batch_decides_then_sends_then_logs_all_hits() -> None:
    run = BatchRun()
    run.add("a")
    run.add("b")
    assert run.events == []
    await one_iteration()
    assert run.events == ["take up a", "take up b", "send a", "send b", "finished a b"]
    run.add("c")
    await one_iteration()
    assert run.events[5:] == ["take up c", "send c", "finished c"]


async def test_miss_or_slow_hit_finishes_outside_the_batch() -> None:
    run = BatchRun()
    run.add("elsewhere", hit=False)
    run.add("slow", at_once=False)
    await one_iteration()
    assert run.events == ["take up elsewhere", "take up slow", "send slow"]


async def test_failing_connection_does_not_affect_the_batch() -> None:
    run = BatchRun()
    run.add("a")
    run.add("b", fault=RuntimeError("of ours"))
    run.add("c")
    await one_iteration()
    assert run.events == [
        *("take up a", "take up b", "b broke: of ours", "take up c"),
        *("send a", "send c", "finished a c"),
    ]


async def test_large_batch_runs_before_the_end_of_the_iteration() -> None:
    run = BatchRun()
    for number in range(BATCH_MAX + 1):
        run.add(str(number))
    assert len(run.events) == 2 * BATCH_MAX + 1
    await one_iteration()
    assert run.events[-2:] == [f"send {BATCH_MAX}", f"finished {BATCH_MAX}"]


async def warm(edge: WebEdge, *viewers: Viewer) -> list[Http1Connection]:
    """Sends one request of each viewer; returns their connections in the same order."""
    edge.origin.put("note.txt", NOTE)
    for viewer in viewers:
        assert (await viewer.get("/note.txt")).body == NOTE
    by_name = {str(connection.peer): connection for connection in connections(edge)}
    return [by_name[viewer.name] for viewer in viewers]


async def test_next_request_of_a_batched_connection_is_answered_after_it(
    cache_root: Path,
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        (connection,) = await warm(edge, viewer)
        connection.data_received(REQUEST)
        connection.data_received(request("/note.txt", range="bytes=0-7"))
        assert connection.stats().is_paused
        assert (await viewer.receive()).body == NOTE
        assert (await viewer.receive()).body == NOTE[:8]
        assert (await viewer.get("/note.txt")).cache == "Hit"


# A TLS connection ends with close_notify, so no response could follow it.


async def test_half_closed_connection_still_gets_its_response(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        (connection,) = await warm(edge, viewer)
        connection.data_received(REQUEST)
        connection.eof_received()
        assert [line["cache"] for line in edge.lines()] == ["Miss", "Hit"]
        assert (await viewer.receive()).body == NOTE


async def test_received_requests_are_answered_before_the_edge_stops(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        (connection,) = await warm(edge, viewer)
        connection.data_received(REQUEST)
        connection.shutdown()
        assert [line["cache"] for line in edge.lines()] == ["Miss", "Hit"]
        assert (await viewer.receive()).body == NOTE
        assert await viewer.receive_rest() == b""


async def test_defect_in_one_request_aborts_its_connection_and_is_reported(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
    async with (
        serve_web(cache_root) as edge,
        open_viewer(edge.port) as one,
        open_viewer(edge.port) as other,
    ):
        broken, whole = await warm(edge, one, other)
        fault = RuntimeError("of ours")

        faults, get = [fault], BytesMemo.get

        def get_or_fail(memo: BytesMemo[Any], data: bytes) -> Any:
            if faults:
                raise faults.pop()
            return get(memo, data)

        monkeypatch.setattr(BytesMemo, "get", get_or_fail)
        broken.data_received(REQUEST)
        whole.data_received(REQUEST)
        assert (await other.receive()).body == NOTE
        assert await one.receive_rest() == b""
        assert [context["exception"] for context in errors] == [fault]


async def test_hit_is_sent_whole_if_a_write_is_announced_behind_its_decision(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files stay open, so that their descriptors are no other object's, until it was sent."""
    film, newer = bytes(range(256)) * 2000, bytes(range(255, -1, -1)) * 2000
    async with (
        serve_web(cache_root) as edge,
        open_viewer(edge.port) as one,
        open_viewer(edge.port) as other,
    ):
        edge.origin.put("film.mp4", film, etag='"1"')
        for viewer in (one, other):
            assert (await viewer.get("/film.mp4")).body == film
            await viewer.get("/film.mp4")
        edge.origin.put("film.mp4", newer, etag='"2"')
        (opened,) = edge.cache.open_versions
        others: list[int] = []
        decide_hit = Http1Connection.decide_hit

        def decide_and_write(self: Http1Connection, *arguments: Any) -> Any:
            decided = decide_hit(self, *arguments)
            edge.cache.refuse_older(opened.asset.key)  # as another worker does at any time
            others.append(os.memfd_create("another object"))  # gets the lowest free number
            os.truncate(others[-1], 2 * len(film))
            return decided

        monkeypatch.setattr(Http1Connection, "decide_hit", decide_and_write)
        by_name = {str(connection.peer): connection for connection in connections(edge)}
        for viewer in (one, other):
            by_name[viewer.name].data_received(request("/film.mp4"))
        assert (await one.receive()).body == film
        monkeypatch.undo()
        for descriptor in others:
            os.close(descriptor)
        assert (await other.receive()).body == newer
        await until(lambda: opened.files.count == 0)

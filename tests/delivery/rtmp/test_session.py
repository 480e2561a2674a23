"""streamedge/delivery/rtmp/session.py and server.py, on the test's own event loop."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import ScriptedOrigin
from rtmp_client import (
    AGGREGATE,
    PATIENCE_S,
    VIDEO,
    ClosedError,
    connected,
    samples,
    shaken,
    word,
)
from rtmp_media import avc_mp4, keyframe, made

from streamedge.cache.cache import Cache
from streamedge.cache.freshness import TtlRules
from streamedge.cache.store import Store
from streamedge.delivery.distributions import HostTable, OriginBinding
from streamedge.delivery.rtmp.catalogue import Catalogue, RtmpDistribution
from streamedge.delivery.rtmp.server import RtmpServer
from streamedge.delivery.rtmp.session import PLAYS_MAX, RtmpLimits, RtmpSession
from streamedge.media.titles import Titles
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counts, Gauge
from streamedge.origin.http import HttpOrigin

START = "NetStream.Play.Start"
STOP = "NetStream.Play.Stop"
LIMITS = RtmpLimits(
    connections_max=10,
    handshake_s=1e9,
    idle_s=1e9,
    stall_s=1e9,
    message_bytes=65536,
    streams_max=4,
    ahead_s=1e9,
    rate_bytes=0,
)


async def until(condition: Callable[[], bool]) -> None:
    """Turns the event loop until a condition holds that nothing tells of."""
    async with asyncio.timeout(PATIENCE_S):
        for _ in itertools.count():
            if condition():
                return
            await asyncio.sleep(0)


class Stand:
    """A server, its cache and its scripted origin."""

    def __init__(self, origin: ScriptedOrigin, cache: Cache, port: int, log: Path) -> None:
        self.origin = origin
        self.cache = cache
        self.counts = cache.counts
        self.port = port
        self.sessions: set[RtmpSession] = set()
        self._log = log

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        self.cache.log.flush()
        said = [json.loads(line) for line in self._log.read_text().splitlines()]
        return [line for line in said if event is None or line["event"] == event]

    @property
    def readers(self) -> int:
        """Who reads anything in the cache, packagers' sources included."""
        return sum(len(version._readers) for version in self.cache._versions.values())

    async def until_gone(self) -> None:
        """Until no session is left, and nothing that it had begun."""
        await until(
            lambda: (
                not self.sessions
                and not self.counts.gauges[Gauge.RUNNING_FILLS]
                and not _player_tasks()
            )
        )


def _player_tasks() -> list[asyncio.Task[Any]]:
    return [
        task
        for task in asyncio.all_tasks()
        if "RtmpSession" in getattr(task.get_coro(), "__qualname__", "")
    ]


@asynccontextmanager
async def stand(root: Path, **limits: Any) -> AsyncIterator[Stand]:
    async with ScriptedOrigin() as origin:
        site = HttpOrigin(origin.url)
        log = open_log(str(root.parent / "log"), "test")
        cache = Cache(Store(root, 0, log), log, Counts(), open_extents=64, retries=0)
        binding = OriginBinding("site", "http site", site, site)
        distribution = RtmpDistribution("E", ("*",), binding, TtlRules(), ("cfx/st",), False)
        titles = Titles(cache, memory_bytes=64 << 20, moov_bytes=1 << 20)
        catalogue = Catalogue(HostTable([distribution]), titles)
        server = RtmpServer(catalogue, replace(LIMITS, **limits), log, cache.counts)
        listener = socket.create_server(("127.0.0.1", 0))
        await server.start([listener])
        found = Stand(origin, cache, listener.getsockname()[1], root.parent / "log")
        found.sessions = server._sessions
        try:
            yield found
        finally:
            await server.drain(0)
            await titles.close()
            await cache.close()
            await site.close()


def movie(count: int = 120, size_bytes: int = 40_000) -> bytes:
    return avc_mp4([keyframe(size_bytes + number) for number in range(count)], 40)


async def test_two_slow_streams_both_go_on(cache_root: Path) -> None:
    async with stand(cache_root) as edge:
        edge.origin.put("film.mp4", movie())
        edge.origin.put("other.mp4", movie(100))
        async with connected(edge.port) as client:
            assert await client.create_stream() == 2
            client.buffer(36_000_000, stream_id=2)
            client.play("film.mp4", stream_id=1)
            client.play("other.mp4", stream_id=2)
            # Nothing is read until both wait for the socket.
            await until(
                lambda: any(
                    session._outlet is not None and session._outlet.blocked_since_s is not None
                    for session in edge.sessions
                )
            )
            for _ in range(200):
                await asyncio.sleep(0)
            said = await client.until_word("STREAM_EOF")
            said += await client.until_word("STREAM_EOF")
            assert [len(samples(said, stream_id)) for stream_id in (1, 2)] == [120, 100]


@pytest.mark.parametrize("stage", ["opening", "index", "cold wait", "paused", "blocked", "queued"])
async def test_whoever_leaves_leaves_nothing_behind(cache_root: Path, stage: str) -> None:
    async with stand(cache_root) as edge:
        edge.origin.put("film.mp4", movie())
        if stage == "opening":
            edge.origin.hold_answers()
        elif stage in ("index", "cold wait", "queued"):
            edge.origin.hold("film.mp4", at=600 if stage == "index" else 300_000)
        async with connected(edge.port, buffer_ms=1000) as client:
            client.play("film.mp4")
            if stage == "queued":
                client.play("film.mp4", 0.0, -1.0, False)
            if stage in ("opening", "index"):
                await edge.origin.seen(1)
            elif stage == "paused":
                await client.until_word(START)
                client.pause(True, 0)
                await client.until_word("NetStream.Pause.Notify")
            elif stage == "blocked":
                client.buffer(36_000_000)
                await client.until_word(START)
            else:
                await client.until(lambda message: message.type_id == VIDEO)
            assert edge.counts.gauges[Gauge.VIEWERS] == 1
        if stage == "opening":
            edge.origin.release_answers()
        elif stage in ("index", "cold wait", "queued"):
            edge.origin.release("film.mp4")
        await edge.until_gone()
        assert edge.readers == 0
        assert edge.counts.gauges[Gauge.VIEWERS] == 0
        assert len(edge.lines("rtmp_disconnect")) == 1
        assert {line["reason"] for line in edge.lines("rtmp_stop")} == {"disconnected"}
        # What was begun for the one serves the next.
        async with connected(edge.port) as client:
            client.play("film.mp4")
            assert len(samples(await client.until_word(STOP))) == 120


async def test_closing_a_stream_closes_its_readers(cache_root: Path) -> None:
    async with stand(cache_root) as edge:
        edge.origin.put("film.mp4", made("film.mp4"))
        async with connected(edge.port, buffer_ms=1000) as client:
            for _ in range(5):
                client.play("film.mp4")
                await client.until(lambda message: message.type_id == AGGREGATE)
            client.command("closeStream", None, stream_id=1)
            await client.answered()
            assert edge.counts.gauges[Gauge.VIEWERS] == 0
            await until(lambda: not edge.readers)
        await edge.until_gone()


async def test_plays_on_one_stream_are_bounded(cache_root: Path) -> None:
    async with stand(cache_root) as edge:
        edge.origin.put("film.mp4", made("film.mp4"))
        edge.origin.hold_answers()
        async with connected(edge.port) as client:
            for _ in range(PLAYS_MAX + 5):
                client.play("film.mp4", 0.0, -1.0, False)
            said = await client.answered()
            assert [word(m) for m in said].count("NetStream.Play.Failed") == 5
            edge.origin.release_answers()
        await edge.until_gone()


async def test_questions_at_one_time_are_bounded(cache_root: Path) -> None:
    async with stand(cache_root) as edge:
        edge.origin.put("film.mp4", made("film.mp4"))
        edge.origin.hold_answers()
        async with connected(edge.port) as client:
            for number in range(6):
                client.command("getStreamLength", None, "film.mp4", transaction=100.0 + number)
            said = await client.answered()
            assert [word(message) for message in said] == ["NetConnection.Call.Failed"] * 2
            edge.origin.release_answers()
            for _ in range(4):
                await client.until_word("_result")
        await edge.until_gone()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"handshake_s": 0.0}, "handshake and connect took too long"),
        ({"idle_s": 0.0}, "idle"),
    ],
)
async def test_clients_that_take_too_long(
    cache_root: Path, limits: dict[str, float], reason: str
) -> None:
    async with stand(cache_root, **limits) as edge:
        async with shaken(edge.port) as client:
            if "idle_s" in limits:
                await client.connect("cfx/st", tcUrl="rtmp://a/cfx/st")
            for session in list(edge.sessions):
                session.sweep(asyncio.get_running_loop().time() + 1)
            await client.closed()
        await edge.until_gone()
        assert [line["reason"] for line in edge.lines("rtmp_disconnect")] == [reason]


async def test_a_client_that_stops_reading_is_dropped(cache_root: Path) -> None:
    async with stand(cache_root, stall_s=5.0) as edge:
        edge.origin.put("film.mp4", movie(300, 60_000))
        async with connected(edge.port) as client:
            client.play("film.mp4")
            (session,) = edge.sessions
            outlet = session._outlet
            assert outlet is not None
            await until(lambda: outlet.blocked_since_s is not None)
            assert outlet.blocked_since_s is not None
            session.sweep(outlet.blocked_since_s + 4)
            assert session in edge.sessions
            session.sweep(outlet.blocked_since_s + 6)
            await edge.until_gone()
        assert edge.lines("rtmp_disconnect")[0]["reason"] == "the client has stopped reading"
        assert edge.readers == 0


async def test_who_plays_is_not_idle(cache_root: Path) -> None:
    async with stand(cache_root, idle_s=1.0) as edge:
        edge.origin.put("film.mp4", made("film.mp4"))
        async with connected(edge.port, buffer_ms=1000) as client:
            client.play("film.mp4")
            await client.until(lambda message: message.type_id == AGGREGATE)
            (session,) = edge.sessions
            assert session.plays == 1
            session.sweep(asyncio.get_running_loop().time() + 100)
            client.pause(True, 0)
            await client.until_word("NetStream.Pause.Notify")
            session.sweep(asyncio.get_running_loop().time() + 100)
            client.pause(False, 0)
            client.buffer(36_000_000)
            await client.until_word("STREAM_EOF")
            assert session.plays == 0
            session.sweep(asyncio.get_running_loop().time() + 100)
            await client.closed()


async def test_connections_are_bounded(cache_root: Path) -> None:
    async with stand(cache_root, connections_max=1) as edge:
        async with connected(edge.port) as first:
            with pytest.raises((ClosedError, OSError, asyncio.IncompleteReadError)):
                async with shaken(edge.port):
                    pass
            await first.answered()
        await edge.until_gone()


async def test_a_stopping_edge_lets_plays_end(cache_root: Path) -> None:
    async with stand(cache_root) as edge:
        edge.origin.put("film.mp4", made("film.mp4"))
        async with connected(edge.port) as client:
            client.play("film.mp4")
            await client.until_word("STREAM_EOF")
            for session in list(edge.sessions):
                session.shut_down()
            await client.closed()
        await edge.until_gone()
        assert edge.lines("rtmp_disconnect")[0]["reason"] == "the edge is stopping"


async def test_a_defect_costs_one_client_and_no_other(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    seen: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: seen.append(context))
    async with stand(cache_root) as edge:
        edge.origin.put("film.mp4", made("film.mp4"))

        async def broken(self: RtmpSession, name: str) -> None:
            raise ZeroDivisionError(name)

        async with connected(edge.port) as other:
            async with connected(edge.port) as client:
                with monkeypatch.context() as patch:
                    patch.setattr(RtmpSession, "open_medium", broken)
                    client.play("film.mp4")
                    await client.closed()
            other.play("film.mp4")
            await other.until_word(STOP)
        await edge.until_gone()
        assert "internal error" in edge.lines("rtmp_disconnect")[0]["reason"]
        assert len(seen) == 1
        assert isinstance(seen[0]["exception"], ZeroDivisionError)

"""The drain of a worker: RTMP sessions of its own, and those of other workers that it forwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path

from streamedge.delivery.net.accept import Peer
from streamedge.delivery.rtmp.server import RtmpServer
from streamedge.delivery.rtmp.tunnel.peers import TunnelAddresses, bind_tunnel_peers
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counts
from tests.support.event_loop import until
from tests.support.patience import PATIENCE_S
from tests.support.rtmp.rtmp_client import HUGE_BUFFER_MS, frames, open_client
from tests.support.rtmp.rtmp_edge import LIMITS, RtmpEdge, serve_rtmp
from tests.support.rtmp.rtmp_media import tags_flv
from tests.support.rtmp.tunnel_client import run_tunnel_relay

LONG_S = 1e9
FILM = tags_flv(20, frame_bytes=400)


@asynccontextmanager
async def run_workers(edge: RtmpEdge, root: Path) -> AsyncIterator[tuple[list[RtmpServer], int]]:
    """Two workers that serve the edge's streams, and a port for RTMPT that they use by turns."""
    loop, addresses = asyncio.get_running_loop(), TunnelAddresses()
    log = open_log(str(root.parent / "log"), "test")
    workers = [
        RtmpServer(edge.streams, LIMITS, log, Counts(), tunnel_peers=peers)
        for peers in bind_tunnel_peers(range(2), addresses)
    ]
    for worker in workers:
        await worker.start([])
    turns = cycle(workers)
    http = await loop.create_server(
        lambda: next(turns).tunnel_route.connect(Peer("192.0.2.1", 1), lambda: None), "127.0.0.1", 0
    )
    try:
        yield workers, http.sockets[0].getsockname()[1]
    finally:
        http.close()
        await asyncio.gather(*(worker.drain(0) for worker in workers))
        addresses.close()


async def forwarder(workers: list[RtmpServer]) -> RtmpServer:
    """The worker that has no play."""
    await until(lambda: any(plays(worker) for worker in workers))
    return min(workers, key=plays)


def plays(worker: RtmpServer) -> int:
    now_s = asyncio.get_running_loop().time()
    return sum(session.is_watching(now_s) for session in worker.sessions)


async def test_worker_forwards_a_play_of_another_worker_to_its_end(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge, run_workers(edge, cache_root) as (workers, port):
        edge.origin.put("film", FILM)
        async with open_client(edge.port) as player:
            player.play("film")
            await player.until_named("NetStream.Play.Stop")
            expected = frames(player.messages)
        async with (
            run_tunnel_relay(port, is_forwarded=True) as relay_port,
            open_client(relay_port, buffer_ms=1000) as player,
        ):
            player.play("film")
            await player.until_named("video", "aggregate")
            draining = [asyncio.create_task(worker.drain(LONG_S)) for worker in workers]
            await asyncio.sleep(0)  # both have stopped what they do not wait for
            player.buffer(HUGE_BUFFER_MS)
            await player.until_named("NetStream.Play.Stop")
            assert frames(player.messages) == expected
            player.command("closeStream", None, stream_id=1)
            await player.closed()  # it was the last play
            await asyncio.gather(*draining)


async def test_drain_ends_when_the_client_leaves_the_session_of_another_worker(
    cache_root: Path,
) -> None:
    async with serve_rtmp(cache_root) as edge, run_workers(edge, cache_root) as (workers, port):
        edge.origin.put("film", FILM)
        async with (
            run_tunnel_relay(port, is_forwarded=True) as relay_port,
            open_client(relay_port, buffer_ms=1000) as player,
        ):
            player.play("film")
            await player.until_named("video", "aggregate")
            draining = asyncio.create_task((await forwarder(workers)).drain(LONG_S))
            await player.create_stream()  # its response is forwarded
            assert not draining.done()
        async with asyncio.timeout(PATIENCE_S):
            await draining


async def test_drain_closes_the_sessions_of_other_workers_at_its_deadline(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge, run_workers(edge, cache_root) as (workers, port):
        edge.origin.put("film", FILM)
        async with (
            run_tunnel_relay(port, is_forwarded=True) as relay_port,
            open_client(relay_port, buffer_ms=1000) as player,
        ):
            player.play("film")
            await player.until_named("video", "aggregate")
            await (await forwarder(workers)).drain(0)
            await player.closed()


async def test_drain_waits_for_a_viewer_who_watches_from_the_buffer(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge, open_client(edge.port) as player:
        edge.origin.put("film", tags_flv(2, frame_bytes=400))
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        player.play("film")
        await player.until_named("NetStream.Play.Stop")
        async with asyncio.timeout(PATIENCE_S):
            await edge.server.drain(LONG_S)
        assert loop.time() - began_s >= 1.9
        await player.closed()

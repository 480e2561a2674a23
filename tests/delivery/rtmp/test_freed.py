"""A lost RTMP session is freed at once: no circle of references waits for the collector."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streamedge.delivery.net.accept import Peer
from streamedge.delivery.net.sender import Sender
from streamedge.delivery.rtmp.playback.player import Player
from streamedge.delivery.rtmp.protocol.connection import ServerConnection
from streamedge.delivery.rtmp.rtmpe.connection import RtmpeConnection
from streamedge.delivery.rtmp.rtmpe.writer import EncryptingWriter
from streamedge.delivery.rtmp.session import RtmpSession
from streamedge.delivery.rtmp.tunnel.connection import TunnelConnection
from streamedge.delivery.rtmp.tunnel.session import Tunnel, TunnelTransport, TunnelWriter
from tests.support.event_loop import until
from tests.support.garbage import count_of, no_garbage_collection
from tests.support.rtmp.rtmp_client import RtmpClient, open_client, open_raw_client
from tests.support.rtmp.rtmp_edge import RtmpEdge, serve_rtmp
from tests.support.rtmp.rtmp_media import avc_mp4, keyframe
from tests.support.rtmp.rtmpe_client import open_encrypted_client
from tests.support.rtmp.tunnel_client import run_tunnel_relay

KINDS = (
    *(RtmpSession, ServerConnection, Player, Sender, RtmpeConnection, EncryptingWriter),
    *(TunnelConnection, Tunnel, TunnelTransport, TunnelWriter),
)
LARGE = avc_mp4([keyframe(400_000 + number) for number in range(60)], 40)
SMALL = avc_mp4([keyframe(4_000 + number) for number in range(60)], 40)


@asynccontextmanager
async def client_port(edge: RtmpEdge, *, is_tunnelled: bool) -> AsyncIterator[int]:
    """A port that carries a client's bytes directly, or over RTMPT."""
    if not is_tunnelled:
        yield edge.port
        return
    connect = edge.server.tunnel_route.connect
    http = await asyncio.get_running_loop().create_server(
        lambda: connect(Peer("192.0.2.1", 1), lambda: None), "127.0.0.1", 0
    )
    try:
        async with run_tunnel_relay(http.sockets[0].getsockname()[1]) as port:
            yield port
    finally:
        http.close()


async def use(edge: RtmpEdge, client: RtmpClient, state: str) -> None:
    """Brings a client into a state."""
    if state == "length":
        assert await client.call("getStreamLength", "small.mp4")
    elif state == "blocked":
        client.play("large.mp4")
        await client.until_named("NetStream.Play.Start")
        (session,) = edge.sessions
        await until(lambda: session.blocked_since_s is not None)
    elif state == "played":
        client.play("small.mp4")
        await client.until_named("NetStream.Play.Stop")


@pytest.mark.parametrize("state", ["handshake", "connected", "length", "blocked", "played"])
@pytest.mark.parametrize("transport", ["rtmp", "rtmpe", "rtmpt", "rtmpte"])
async def test_lost_session_is_freed_without_garbage_collection(
    cache_root: Path, transport: str, state: str
) -> None:
    is_encrypted = transport.endswith("e")
    with no_garbage_collection():
        before = {kind: count_of(kind) for kind in KINDS}
        async with serve_rtmp(cache_root, offers_rtmpe=is_encrypted) as edge:
            edge.origin.put("large.mp4", LARGE)
            edge.origin.put("small.mp4", SMALL)
            async with client_port(edge, is_tunnelled="t" in transport[4:]) as port:
                if state == "handshake":
                    async with open_raw_client(port):  # of plain RTMP
                        await until(lambda: len(edge.sessions) == 1)
                else:
                    open_one = open_encrypted_client if is_encrypted else open_client
                    async with open_one(port) as client:
                        await use(edge, client, state)
                await edge.until_gone()
            await until(lambda: {kind: count_of(kind) for kind in KINDS} == before)

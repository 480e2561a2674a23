"""A session over TLS: a client that reads slowly, on the test's own event loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streamedge.delivery.net.accept import Peer
from streamedge.delivery.net.tls import TlsAcceptor, TlsConnection
from streamedge.delivery.net.writers import TLS_WRITE_BYTES
from streamedge.process.certificates import CertificateFiles, Certificates
from tests.support.certificate_authority import CertificateAuthority
from tests.support.event_loop import until
from tests.support.rtmp.rtmp_client import HUGE_BUFFER_MS, RtmpClient, samples
from tests.support.rtmp.rtmp_edge import RtmpEdge, serve_rtmp
from tests.support.rtmp.rtmp_media import avc_mp4, keyframe

SOCKET_BUFFER_BYTES = 4096
FRAMES = 600


@asynccontextmanager
async def serve_tls(edge: RtmpEdge, context: ssl.SSLContext) -> AsyncIterator[int]:
    """A port of the edge for RTMPS; the kernel takes only a few KiB for a client."""
    loop = asyncio.get_running_loop()
    connect = edge.server.route.connect
    acceptor = TlsAcceptor(
        context,
        lambda peer, _alpn: connect(peer, lambda: None),
        set(),
        10,
        lambda _client, _why: None,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    server = await loop.create_server(
        lambda: TlsConnection(acceptor, loop, Peer("127.0.0.1", 1), lambda: None), sock=listener
    )
    try:
        yield listener.getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def connect_slowly(
    port: int, client: ssl.SSLContext
) -> AsyncIterator[tuple[RtmpClient, asyncio.ReadTransport]]:
    """A client whose kernel takes only a few KiB, and its transport."""
    near = socket.socket()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
    near.setblocking(False)
    await asyncio.get_running_loop().sock_connect(near, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=near, ssl=client, server_hostname="edge")
    try:
        rtmp = RtmpClient(reader, writer)
        await rtmp.handshake()
        await rtmp.connect("cfx/st", tcUrl=f"rtmps://127.0.0.1:{port}/cfx/st")
        await rtmp.create_stream()
        rtmp.buffer(HUGE_BUFFER_MS)
        transport: asyncio.BaseTransport = writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        yield rtmp, transport
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("frame_bytes", [4_000, 40_000])
async def test_play_to_a_client_that_reads_slowly_goes_on(
    cache_root: Path, tmp_path: Path, frame_bytes: int
) -> None:
    """TLS takes a whole run of the smaller frames at once, while the kernel takes only a part."""
    assert 25 * 4_000 < TLS_WRITE_BYTES < 25 * 40_000
    authority = CertificateAuthority(tmp_path)
    pair = authority.issue("edge")
    context = Certificates([CertificateFiles(pair.certificate, pair.key)]).front
    async with serve_rtmp(cache_root) as edge, serve_tls(edge, context) as port:
        count = FRAMES if frame_bytes < 40_000 else FRAMES // 10
        edge.origin.put("film.mp4", avc_mp4([keyframe(frame_bytes + n) for n in range(count)], 40))
        async with connect_slowly(port, authority.client()) as (client, transport):
            client.play("film.mp4")
            await client.until_named("NetStream.Play.Start")
            transport.pause_reading()
            (session,) = edge.sessions
            await until(lambda: session.blocked_since_s is not None)
            transport.resume_reading()
            received = await client.until_named("NetStream.Play.Stop")
            assert len(samples(received)) == count

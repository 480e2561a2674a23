"""The first bytes of a connection decide its protocol."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.net.accept import Acceptor, AcceptRules, OnClose, Peer, Route
from streamedge.delivery.net.protocol_detection import (
    TUNNEL_REQUESTS,
    DetectedProtocol,
    ProtocolDetector,
    detect,
)
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counter, Counts
from tests.support.certificate_authority import CertificateAuthority
from tests.support.event_loop import until
from tests.support.patience import PATIENCE_S

FIRST_BYTES = {
    b"\x16\x03\x01": DetectedProtocol.TLS,
    b"\x03\0\0\0\0": DetectedProtocol.RTMP,
    b"\x06\0": DetectedProtocol.RTMPE,
    b"\x08\0": DetectedProtocol.RTMPE,
    b"\x09\0": DetectedProtocol.RTMPE,
    b"GET / HTTP/1.1\r\n": DetectedProtocol.HTTP,
    b"POST /opening HTTP/1.1\r\n": DetectedProtocol.HTTP,
    b"POST /open/1 HTTP/1.1\r\n": DetectedProtocol.RTMPT,
    b"POST /fcs/ident2 HTTP/1.1\r\n": DetectedProtocol.RTMPT,
    b"PRI * HTTP/2.0\r\n": DetectedProtocol.HTTP,
    b"get / HTTP/1.1\r\n": DetectedProtocol.UNKNOWN,
    b"SSH-2.0-x\r\n": DetectedProtocol.HTTP,  # HTTP answers 400
    b"\0": DetectedProtocol.UNKNOWN,
}


@pytest.mark.parametrize(("first", "protocol"), FIRST_BYTES.items())
def test_first_bytes_decide(first: bytes, protocol: DetectedProtocol) -> None:
    assert detect(first) is protocol


@given(st.binary(max_size=64))
def test_more_bytes_never_change_a_decision(data: bytes) -> None:
    decisions = [detect(data[:size]) for size in range(len(data) + 1)]
    decided = [decision for decision in decisions if decision is not None]
    assert len(set(decided)) <= 1
    assert decisions[0] is None
    if data:
        # Only the requests of a tunnel need more than one byte, and never more than theirs.
        longest = max(map(len, TUNNEL_REQUESTS))
        assert decided or (data[:1] == b"P" and len(data) < longest)


@given(st.sampled_from(TUNNEL_REQUESTS), st.binary(max_size=8))
def test_requests_of_a_tunnel_are_detected_at_their_last_byte(request: bytes, rest: bytes) -> None:
    assert detect(request[:-1]) is None
    assert detect(request + rest) is DetectedProtocol.RTMPT


class Recorder(asyncio.Protocol):
    """The protocol of a server, which keeps what it receives."""

    def __init__(self, received: bytearray, on_close: OnClose) -> None:
        self._received = received
        self._on_close = on_close

    def data_received(self, data: bytes) -> None:
        self._received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_close()


class Ports:
    """A mixed address without TLS whose servers record what they receive."""

    def __init__(
        self,
        folder: Path,
        waiting_max: int,
        per_address_max: int,
        undecided_per_address_max: int,
        context: ssl.SSLContext | None,
    ) -> None:
        self.counts = Counts()
        self.received = {
            DetectedProtocol.RTMP: bytearray(),
            DetectedProtocol.HTTP: bytearray(),
        }
        log = open_log(str(folder / "log"), "worker")
        rules = AcceptRules(per_address_max=per_address_max)
        self.acceptors = {
            kind: Acceptor(kind.value, rules, log, self.counts) for kind in self.received
        }

        def route(kind: DetectedProtocol) -> Route:
            def connect(_peer: Peer, on_close: OnClose) -> Recorder:
                return Recorder(self.received[kind], on_close)

            return Route(self.acceptors[kind], connect, b"full")

        undecided = AcceptRules(per_address_max=undecided_per_address_max)
        self.detector = ProtocolDetector(
            Acceptor("mixed", undecided, log, self.counts),
            {kind: route(kind) for kind in self.received},
            context,
            log,
            self.counts,
            waiting_max=waiting_max,
        )
        self.port = 0

    @property
    def unknown(self) -> int:
        return self.errors("protocol_unknown")

    def errors(self, kind: str) -> int:
        return self.counts.gathered(Counter.ERRORS, kind)


@asynccontextmanager
async def ports(
    folder: Path,
    *,
    waiting_max: int = 8,
    per_address_max: int = 0,
    undecided_per_address_max: int = 0,
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[Ports]:
    running = Ports(folder, waiting_max, per_address_max, undecided_per_address_max, context)
    factory = running.detector.acceptor.protocol_factory(running.detector.connect, is_proxied=False)
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        running.detector.stop()
        server.close()


async def until_closed(reader: asyncio.StreamReader) -> None:
    """Waits until the server has closed the connection, without having sent anything."""
    async with asyncio.timeout(PATIENCE_S):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""


async def test_server_gets_all_bytes_however_they_are_split(tmp_path: Path) -> None:
    request = b"POST /opening HTTP/1.1\r\nHost: a\r\n\r\n"
    async with ports(tmp_path) as running:
        for size in range(1, len(request)):
            _reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(request[:size])
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(request[size:])
            await until(lambda: running.received[DetectedProtocol.HTTP] == request)
            running.received[DetectedProtocol.HTTP].clear()
            writer.close()


async def test_wrong_first_byte_is_counted_and_closed(tmp_path: Path) -> None:
    async with ports(tmp_path) as running:
        for first in (b"\0", b"\x06", b"\x16", b"get /"):  # RTMPE and TLS have no route here
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(first + bytes(100))
            await until_closed(reader)
            writer.close()
        assert running.unknown == 4
        assert not any(running.received.values())


async def test_silent_connections_are_closed_after_their_time(tmp_path: Path) -> None:
    async with ports(tmp_path) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(b"P")
        await until(lambda: len(running.detector.waiting) == 1)
        (waiting,) = running.detector.waiting
        running.detector.sweep(waiting.began_s + 9.0, handshake_s=10.0)
        assert running.detector.waiting
        running.detector.sweep(waiting.began_s + 11.0, handshake_s=10.0)
        await until_closed(reader)
        assert not running.detector.waiting
        assert running.errors("first_byte") == 1
        writer.close()


async def test_client_that_leaves_before_its_first_byte_is_forgotten(tmp_path: Path) -> None:
    async with ports(tmp_path) as running:
        _reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        await until(lambda: len(running.detector.waiting) == 1)
        writer.close()
        await until(lambda: not running.detector.waiting)
        assert running.unknown == 0
        assert running.errors("first_byte") == 0  # port checks send nothing


async def test_waiting_connections_are_limited(tmp_path: Path) -> None:
    async with ports(tmp_path, waiting_max=2) as running:
        clients = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(2)]
        await until(lambda: len(running.detector.waiting) == 2)
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        await until_closed(reader)
        assert running.errors("first_byte") == 1
        for _reader, one in clients:
            one.close()
        writer.close()


async def test_connections_of_an_address_count_at_their_server(tmp_path: Path) -> None:
    async with ports(tmp_path, per_address_max=1) as running:
        first = await asyncio.open_connection("127.0.0.1", running.port)
        first[1].write(b"\x03")
        await until(lambda: running.received[DetectedProtocol.RTMP] == b"\x03")
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(b"\x03")
        assert await reader.read(10) == b"full"
        other = await asyncio.open_connection("127.0.0.1", running.port)
        other[1].write(b"GET")
        await until(lambda: running.received[DetectedProtocol.HTTP] == b"GET")
        first[1].close()
        await until(lambda: not running.acceptors[DetectedProtocol.RTMP].stats())
        for one in (writer, other[1]):
            one.close()


async def test_undecided_connections_of_an_address_are_limited(tmp_path: Path) -> None:
    async with ports(tmp_path, undecided_per_address_max=2) as running:
        acceptor = running.detector.acceptor
        clients = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(2)]
        await until(lambda: len(running.detector.waiting) == 2)
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        await until_closed(reader)
        writer.close()
        assert running.errors("mixed_connections_per_address") == 1
        # One with a server is no longer counted here, nor is one that has left or was refused.
        clients[0][1].write(b"\x03")
        await until(lambda: acceptor.stats() == {"127.0.0.1": 1})
        clients[1][1].close()
        await until(lambda: not acceptor.stats())
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(b"\0")
        await until_closed(reader)
        await until(lambda: not acceptor.stats())
        assert running.received[DetectedProtocol.RTMP] == b"\x03"
        for each in (writer, clients[0][1]):
            each.close()


async def test_tls_handshakes_of_an_address_are_limited(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    pair = authority.issue("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    async with ports(tmp_path, undecided_per_address_max=2, context=context) as running:
        acceptor = running.detector.acceptor
        _reader, handshaking = await asyncio.open_connection("127.0.0.1", running.port)
        handshaking.write(b"\x16\x03\x01")
        await until(lambda: len(running.detector.handshakes) == 1)
        # Inside of TLS it is undecided once more, until its first byte.
        _reader, secure = await asyncio.open_connection(
            "localhost", running.port, ssl=authority.client()
        )
        await until(lambda: len(running.detector.waiting) == 1)
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        await until_closed(reader)
        writer.close()
        secure.write(b"\x03")
        await until(lambda: acceptor.stats() == {"127.0.0.1": 1})
        handshaking.close()
        await until(lambda: not acceptor.stats())
        assert running.received[DetectedProtocol.RTMP] == b"\x03"
        secure.close()
        await until(lambda: not running.detector.handshakes)

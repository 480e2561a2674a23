"""TLS connections and the byte mover over them: order, slow peers, ends, handshakes that fail."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamedge.cache.open_object import Failure
from streamedge.cache.storage.extent import Ready
from streamedge.delivery.net import accept as arrivals
from streamedge.delivery.net.sender import Sender
from streamedge.delivery.net.tls import TlsAcceptor, TlsConnection
from streamedge.delivery.net.writers import SEALED_BYTES, SEND_QUANTUM_BYTES
from streamedge.errors import OriginError, OriginFailure
from streamedge.process.certificates import CertificateFiles, Certificates
from streamedge.spans import Span
from tests.support.certificate_authority import CertificateAuthority

PATIENCE_S = 20.0
NAME = "edge.example"
SMALL_BUFFER_BYTES = 4096


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def context(authority: CertificateAuthority) -> ssl.SSLContext:
    pair = authority.issue(NAME)
    return Certificates([CertificateFiles(pair.certificate, pair.key)]).front


class Filling:
    """An object that is a file, of which ``there_bytes`` are there; told when it is asked."""

    def __init__(self, folder: Path, data: bytes, there_bytes: int | None = None) -> None:
        path = folder / f"object-{random.getrandbits(64):x}"
        path.write_bytes(data)
        self.fd = os.open(path, os.O_RDONLY)
        path.unlink()
        self.there_bytes = len(data) if there_bytes is None else there_bytes
        self.kept_bytes = self.there_bytes  # of them, once one has been found to lack
        self.lost_at: list[int] = []
        self.waiting = asyncio.Event()
        self.woken: Callable[[Failure | None], None] | None = None

    def ready(self, position: int, end: int) -> Ready | None:
        size = min(end, self.there_bytes) - position
        return Ready(self.fd, position, size) if size > 0 else None

    def lost(self, position: int) -> None:
        self.lost_at.append(position)
        self.there_bytes = min(self.there_bytes, self.kept_bytes)

    def when_ready(
        self, want: Span, woken: Callable[[Failure | None], None], *, eager: bool = False
    ) -> Callable[[], None]:
        assert self.woken is None
        assert want.size
        assert isinstance(eager, bool)
        self.woken = woken
        self.waiting.set()
        return self._cancel_wait

    def tell(self, failure: Failure | None, there_bytes: int = 0) -> None:
        """What waits for bytes hears that more are there, or that none will come."""
        self.there_bytes = there_bytes
        assert self.woken is not None
        woken, self.woken = self.woken, None
        self.waiting.clear()
        woken(failure)

    def _cancel_wait(self) -> None:
        self.woken = None


class Heard(asyncio.Protocol):
    """The viewer's protocol on the edge's side: what it is told, and its outlet."""

    def __init__(self) -> None:
        self.received = b""
        self.made = asyncio.Event()
        self.ended = asyncio.Event()
        self.lost = asyncio.Event()
        self.drained = asyncio.Event()
        self.drains = 0
        self.arrived = asyncio.Event()
        self.failed: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, TlsConnection)
        self.transport = transport
        loop = asyncio.get_running_loop()
        self.sender = Sender(transport, loop, self._drained, self.failed.set_result)
        self.made.set()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.arrived.set()

    def eof_received(self) -> None:
        self.ended.set()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.sender.close()
        self.lost.set()

    def _drained(self) -> None:
        self.drains += 1
        self.drained.set()


class Peer:
    """A viewer's end: it reads the socket only when it is told to."""

    def __init__(self, door: TlsAcceptor, near: Heard, far: socket.socket) -> None:
        self.door = door
        self.near = near
        self.far = far
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.connection: TlsConnection

    @property
    def sender(self) -> Sender:
        return self.near.sender

    async def shake(self, client: ssl.SSLContext) -> None:
        self.ssl = client.wrap_bio(self.incoming, self.outgoing, server_hostname=NAME)
        while True:
            try:
                self.ssl.do_handshake()
            except ssl.SSLWantReadError:
                await self.flush()
                assert await self.fetch(), "the connection ended early"
            else:
                break
        await self.flush()
        await within(self.near.made.wait())

    async def fetch(self) -> int:
        """Takes bytes from the socket: how many; 0 at its end."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_S):
            data = await loop.sock_recv(self.far, 64 << 10)
        self.incoming.write(data) if data else self.incoming.write_eof()
        return len(data)

    async def flush(self) -> None:
        await within(asyncio.get_running_loop().sock_sendall(self.far, self.outgoing.read()))

    async def send(self, data: bytes) -> None:
        self.ssl.write(data)
        await self.flush()

    async def read(self, count: int) -> bytes:
        """The next ``count`` bytes, fewer at an end that was meant.

        Raises ssl.SSLError ("EOF") at one that was not; ssl.SSLEOFError from Python 3.11.3 on.
        """
        received = b""
        while len(received) < count:
            try:
                piece = self.ssl.read(count - len(received))
            except ssl.SSLWantReadError:
                await self.fetch()
                continue
            if not piece:
                return received
            received += piece
        return received


async def within(awaitable: Awaitable[Any]) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        return await awaitable


def door_to(
    context: ssl.SSLContext, heard: Heard, failures: list[str], handshakes_max: int = 10
) -> TlsAcceptor:
    return TlsAcceptor(
        context,
        lambda _peer: heard,
        set(),
        handshakes_max,
        lambda _client, why: failures.append(why),
    )


@asynccontextmanager
async def reach(
    context: ssl.SSLContext, failures: list[str] | None = None, handshakes_max: int = 10
) -> AsyncIterator[Peer]:
    """A peer that has connected and said nothing; its socket takes only a few KiB at a time."""
    near, far = socket.socketpair()
    for end in (near, far):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    loop = asyncio.get_running_loop()
    heard = Heard()
    door = door_to(context, heard, [] if failures is None else failures, handshakes_max)
    left = asyncio.Event()
    _, connection = await loop.create_connection(
        lambda: TlsConnection(door, loop, arrivals.Peer("192.0.2.1", 4711), left.set), sock=near
    )
    peer = Peer(door, heard, far)
    peer.connection = connection
    try:
        yield peer
    finally:
        connection.abort()
        far.close()
        await within(left.wait())
        if heard.made.is_set():
            await within(heard.lost.wait())


@asynccontextmanager
async def connect(context: ssl.SSLContext, authority: CertificateAuthority) -> AsyncIterator[Peer]:
    async with reach(context) as peer:
        await peer.shake(authority.client())
        yield peer


class Counting:
    """A transport that keeps the sizes of what is written."""

    def __init__(self, raw: asyncio.Transport) -> None:
        self._raw = raw
        self.sizes: list[int] = []

    def write(self, data: bytes) -> None:
        self.sizes.append(len(data))
        self._raw.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def count_writes(peer: Peer) -> list[int]:
    """The sizes of what goes to the socket's transport from now on."""
    counting = Counting(peer.connection._raw)
    peer.connection._raw = counting  # type: ignore[assignment]
    return counting.sizes


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def test_bytes_and_pieces_leave_in_the_order_they_were_pushed(
    tmp_path: Path, context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    data = content(3 * SEALED_BYTES)
    source = Filling(tmp_path, data)
    end = 2 * SEALED_BYTES + 10
    async with connect(context, authority) as peer:
        peer.sender.push(b"head", (source, Span(10, end)), b"middle")
        peer.sender.push((source, Span(0, 5)), b"", b"tail")
        expected = b"head" + data[10:end] + b"middle" + data[:5] + b"tail"
        assert await peer.read(len(expected)) == expected
        await within(peer.near.drained.wait())
        assert peer.sender.idle
        assert peer.near.drains == 1
        assert peer.sender.sent_bytes == len(expected)
        assert peer.sender.blocked_since_s is None
    os.close(source.fd)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.binary(max_size=20_000) | st.tuples(*[st.integers(0, 400_000)] * 2), max_size=6))
async def test_any_parts_arrive_whole_and_in_order(
    tmp_path: Path,
    context: ssl.SSLContext,
    authority: CertificateAuthority,
    parts: list[bytes | tuple[int, int]],
) -> None:
    data = content(400_000)
    source = Filling(tmp_path, data)
    expected = b""
    async with connect(context, authority) as peer:
        for part in parts:
            if isinstance(part, bytes):
                expected += part
                peer.sender.push(part)
            else:
                expected += data[part[0] : part[1]]
                peer.sender.push((source, Span(*part)))
        assert await peer.read(len(expected)) == expected
    os.close(source.fd)


async def test_a_peer_that_does_not_read_is_seen_and_its_bytes_are_not_counted(
    context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    data = content(SEALED_BYTES + 1)
    async with connect(context, authority) as peer:
        peer.sender.push(data)
        assert peer.near.drains == 0
        assert not peer.sender.idle
        assert peer.sender.blocked_since_s is not None
        assert peer.sender.sent_bytes == 0
        assert peer.sender.queued_bytes == 1  # the rest is sealed, and waits in the transport
        assert await peer.read(len(data)) == data
        await within(peer.near.drained.wait())
        assert peer.sender.sent_bytes == len(data)
        assert peer.sender.blocked_since_s is None


async def test_the_last_bytes_must_have_left_before_it_is_idle(
    context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    async with connect(context, authority) as peer:
        peer.sender.push(content(100_000))  # sealed in one piece, more than the socket takes
        assert peer.sender.queued_bytes == 0
        assert not peer.sender.idle
        assert peer.near.drains == 0
        await peer.read(100_000)
        await within(peer.near.drained.wait())
        assert peer.sender.idle


async def test_what_is_on_its_way_is_sent_as_it_comes(
    tmp_path: Path, context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    data = content(50_000)
    source = Filling(tmp_path, data, there_bytes=1000)
    async with connect(context, authority) as peer:
        peer.sender.push(b"head", (source, Span(0, 50_000)), b"tail")
        assert await peer.read(1004) == b"head" + data[:1000]
        assert peer.sender.blocked_since_s is None  # it is not the peer's fault
        source.tell(None, there_bytes=1001)
        assert await peer.read(1) == data[1000:1001]
        await within(source.waiting.wait())
        source.tell(None, there_bytes=50_000)
        assert await peer.read(48_999 + 4) == data[1001:] + b"tail"
    os.close(source.fd)


async def test_a_failing_fill_drops_the_rest_and_the_cut_can_be_told(
    tmp_path: Path, context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    data = content(10)
    source = Filling(tmp_path, data, there_bytes=4)
    async with connect(context, authority) as peer:
        peer.sender.push((source, Span(0, 10)), b"never")
        cause = OriginError(OriginFailure.BROKEN, "cut")
        source.tell(cause, there_bytes=4)
        assert await peer.near.failed is cause
        peer.near.transport.abort()
        with pytest.raises(ssl.SSLError, match=r"(?i)eof"):
            await peer.read(100)
    os.close(source.fd)


async def test_a_small_answer_is_one_record(
    tmp_path: Path, context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    """Head and body in one write of the socket's transport."""
    data = content(1000)
    source = Filling(tmp_path, data)
    async with connect(context, authority) as peer:
        writes = count_writes(peer)
        ready = source.ready(0, 1000)
        assert ready is not None
        assert peer.sender.send_at_once(b"head", ready) == 1004
        assert peer.sender.idle
        assert writes == [5 + 1004 + 17]  # header, content, its type and the tag (RFC 8446 §5.2)
        peer.sender.push(b"head", (source, Span(0, 1000)))  # the general way as well
        assert len(writes) == 2
        assert await peer.read(2008) == 2 * (b"head" + data)
    os.close(source.fd)


async def test_an_answer_too_large_to_leave_at_once_goes_on_by_itself(
    tmp_path: Path, context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    data = content(2 * SEALED_BYTES)
    source = Filling(tmp_path, data)
    async with connect(context, authority) as peer:
        for size in (100_000, len(data)):
            ready = source.ready(0, size)
            assert ready is not None
            taken = peer.sender.send_at_once(b"head", ready)
            assert not peer.sender.idle
            sent_body = taken - len(b"head")
            peer.sender.push(b"head"[taken:], (source, Span(sent_body, size)))
            assert await peer.read(4 + size) == b"head" + data[:size]
            await within(peer.near.drained.wait())
            peer.near.drained.clear()
            assert peer.sender.idle
    os.close(source.fd)


async def test_a_file_shorter_than_promised_is_a_failure_not_a_loop(
    tmp_path: Path, context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    source = Filling(tmp_path, content(10), there_bytes=20)
    async with connect(context, authority) as peer:
        ready = source.ready(0, 20)
        assert ready is not None
        assert peer.sender.send_at_once(b"head", ready) == 14
        peer.sender.push((source, Span(10, 20)))
        assert await peer.near.failed is None
    os.close(source.fd)


async def test_a_peer_that_is_gone_is_a_failure_without_a_cause(
    context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    async with connect(context, authority) as peer:
        peer.far.close()
        await within(peer.near.lost.wait())
        peer.sender.push(b"more")
        assert await peer.near.failed is None


async def test_one_peer_does_not_hold_up_the_loop(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    context: ssl.SSLContext,
    authority: CertificateAuthority,
) -> None:
    """A peer that takes everything at once still gives others their turn."""
    source = Filling(tmp_path, bytes(SEALED_BYTES), there_bytes=3 * SEND_QUANTUM_BYTES)
    monkeypatch.setattr(os, "preadv", lambda _fd, views, _offset: len(views[0]))
    async with connect(context, authority) as peer:
        monkeypatch.setattr(TlsConnection, "write", lambda _self, _data, more=False: None)
        peer.sender.push((source, Span(0, 3 * SEND_QUANTUM_BYTES)))
        assert peer.sender.sent_bytes == SEND_QUANTUM_BYTES
        await within(peer.near.drained.wait())
        assert peer.sender.sent_bytes == 3 * SEND_QUANTUM_BYTES
    os.close(source.fd)


async def test_a_turn_that_ends_after_waiting_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    context: ssl.SSLContext,
    authority: CertificateAuthority,
) -> None:
    """The wish to write again is made when nothing waits in the transport."""
    monkeypatch.setattr("streamedge.delivery.net.sender.SEND_QUANTUM_BYTES", 1000)
    data = content(100_000)
    source = Filling(tmp_path, data)
    async with connect(context, authority) as peer:
        peer.sender.push(data, *[(source, Span(at, at + 500)) for at in range(0, 100_000, 500)])
        assert await peer.read(200_000) == 2 * data
        await within(peer.near.drained.wait())
    os.close(source.fd)


async def test_what_the_application_writes_keeps_its_place(
    tmp_path: Path, context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    source = Filling(tmp_path, content(10))
    async with connect(context, authority) as peer:
        peer.near.transport.write(content(50_000))
        peer.sender.push((source, Span(0, 10)))
        peer.near.transport.writelines([b"a", b"b"])
        assert await peer.read(50_000) == content(50_000)
        assert sorted(await peer.read(12)) == sorted(content(10) + b"ab")
    os.close(source.fd)


async def test_a_meant_end_is_told_to_the_peer(
    context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    async with connect(context, authority) as peer:
        peer.sender.push(b"all")
        peer.near.transport.close()
        assert peer.near.transport.is_closing()
        assert await peer.read(100) == b"all"
        await within(peer.near.lost.wait())


async def test_half_an_end_lets_the_peer_go_on_unheard(
    context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    async with connect(context, authority) as peer:
        assert peer.near.transport.can_write_eof()
        peer.near.transport.write(b"refused")
        peer.near.transport.write_eof()
        assert await peer.read(100) == b"refused"
        await peer.send(b"still talking")
        assert not peer.near.lost.is_set()
        peer.far.shutdown(socket.SHUT_WR)
        await within(peer.near.lost.wait())
        assert peer.near.received == b""


async def test_a_peer_that_takes_nothing_cannot_keep_a_closed_connection(
    monkeypatch: pytest.MonkeyPatch, context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    monkeypatch.setattr("streamedge.delivery.net.tls.LINGER_S", 0.0)
    async with connect(context, authority) as peer:
        peer.near.transport.write(content(100_000))
        peer.near.transport.close()
        await within(peer.near.lost.wait())


async def test_the_peers_end_is_heard(
    context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    async with connect(context, authority) as peer:
        with pytest.raises(ssl.SSLWantReadError):
            peer.ssl.unwrap()
        await peer.flush()
        await within(peer.near.ended.wait())
        await within(peer.near.lost.wait())


async def test_bytes_that_are_no_record_end_the_connection(
    context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    async with connect(context, authority) as peer:
        await peer.send(b"good")
        await within(peer.near.arrived.wait())
        loop = asyncio.get_running_loop()
        await within(loop.sock_sendall(peer.far, bytes([23, 3, 3, 0, 40]) + bytes(40)))
        await within(peer.near.lost.wait())
        assert peer.near.received == b"good"


async def test_a_request_may_come_with_the_end_of_the_handshake_and_byte_by_byte(
    context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    async with reach(context) as peer:
        peer.ssl = authority.client().wrap_bio(peer.incoming, peer.outgoing, server_hostname=NAME)
        loop = asyncio.get_running_loop()
        with pytest.raises(ssl.SSLWantReadError):
            peer.ssl.do_handshake()
        for byte in peer.outgoing.read():
            await within(loop.sock_sendall(peer.far, bytes([byte])))
        while True:
            await peer.fetch()
            try:
                peer.ssl.do_handshake()
            except ssl.SSLWantReadError:
                continue
            break
        peer.ssl.write(b"GET")
        await peer.flush()
        await within(peer.near.arrived.wait())
        assert peer.near.received == b"GET"
        assert not peer.door.handshakes


async def test_extra_info_is_the_sockets_and_tls(
    context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    async with connect(context, authority) as peer:
        transport = peer.near.transport
        assert transport.get_extra_info("sslcontext") is context
        assert transport.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert transport.get_extra_info("socket") is not None
        assert transport.get_extra_info("nothing", 3) == 3
        transport.pause_reading()
        assert not transport.is_reading()
        await peer.send(b"later")
        transport.resume_reading()
        assert transport.is_reading()
        await within(peer.near.arrived.wait())


@pytest.mark.parametrize(
    ("said", "reason", "answer"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP_REQUEST", b"HTTP/1.1 400 Bad Request\r\n"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "WRONG_VERSION_NUMBER", b""),
    ],
)
async def test_a_handshake_that_is_none_is_refused(
    context: ssl.SSLContext, said: bytes, reason: str, answer: bytes
) -> None:
    failures: list[str] = []
    async with reach(context, failures) as peer:
        loop = asyncio.get_running_loop()
        await within(loop.sock_sendall(peer.far, said))
        received = await within(loop.sock_recv(peer.far, 1000))
        assert isinstance(received, bytes)
        assert received.startswith(answer)
        assert failures == [reason]
        assert not peer.door.handshakes
        assert not peer.near.made.is_set()


async def test_a_client_that_trusts_us_not_is_a_failure(
    context: ssl.SSLContext,
) -> None:
    failures: list[str] = []
    async with reach(context, failures) as peer:
        with pytest.raises(ssl.SSLCertVerificationError):
            await peer.shake(ssl.create_default_context())
        await peer.flush()
        peer.far.shutdown(socket.SHUT_WR)
        while await peer.fetch():
            pass
        assert len(failures) == 1
        assert not peer.door.handshakes


async def test_leaving_in_the_handshake_is_a_failure_once_something_was_said(
    context: ssl.SSLContext,
) -> None:
    loop = asyncio.get_running_loop()
    for said, expected in ((b"\x16\x03\x01", ["the client left"]), (b"", [])):
        failures: list[str] = []
        async with reach(context, failures) as peer:
            await within(loop.sock_sendall(peer.far, said))
            assert len(peer.door.handshakes) == 1
            peer.far.shutdown(socket.SHUT_WR)
            assert await peer.fetch() == 0
        await asyncio.sleep(0)
        assert failures == expected
        assert not peer.door.handshakes


async def test_handshakes_are_bounded_and_can_be_given_up(context: ssl.SSLContext) -> None:
    failures: list[str] = []
    async with reach(context, failures, handshakes_max=0) as peer:
        assert await peer.fetch() == 0
        assert failures == ["too many handshakes at once"]
    failures.clear()
    async with reach(context, failures) as peer:
        peer.connection.fail_handshake("it took too long")
        peer.connection.fail_handshake("again")
        assert await peer.fetch() == 0
        assert failures == ["it took too long"]
        assert not peer.door.handshakes

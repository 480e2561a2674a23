"""TLS connections and senders over them: order, slow peers, closing, failed handshakes."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamedge.delivery.net import accept
from streamedge.delivery.net.sender import Sender
from streamedge.delivery.net.tls import TlsAcceptor, TlsConnection
from streamedge.delivery.net.writers import SEND_QUANTUM_BYTES, TLS_WRITE_BYTES
from streamedge.errors import OriginError, OriginFailure
from streamedge.process.certificates import CertificateFiles, Certificates
from streamedge.spans import Span
from tests.support.certificate_authority import CertificateAuthority
from tests.support.media.partial_file import PartialFile
from tests.support.patience import PATIENCE_S
from tests.support.sender import SenderOwner, content, push_parts, small_socket_pair

LOOP_FACTORIES = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
NAME = "edge.example"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def context(authority: CertificateAuthority) -> ssl.SSLContext:
    pair = authority.issue(NAME)
    return Certificates([CertificateFiles(pair.certificate, pair.key)]).front


class ViewerProtocol(SenderOwner, asyncio.Protocol):
    """The viewer's protocol on the edge's side; records its callbacks and has a sender."""

    def __init__(self) -> None:
        super().__init__()
        self.received = b""
        self.opened = asyncio.Event()
        self.eof_seen = asyncio.Event()
        self.keeps_open = False  # after it
        self.lost = asyncio.Event()
        self.arrived = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, TlsConnection)
        self.transport = transport
        self.sender = self.open_sender(transport)
        self.opened.set()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.arrived.set()

    def eof_received(self) -> bool:
        self.eof_seen.set()
        return self.keeps_open

    def connection_lost(self, _exc: Exception | None) -> None:
        self.sender.close()
        self.lost.set()


class Peer:
    """A viewer's end; reads its socket only in ``fetch``."""

    def __init__(self, acceptor: TlsAcceptor, near: ViewerProtocol, far: socket.socket) -> None:
        self.acceptor = acceptor
        self.near = near
        self.far = far
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.connection: CountedConnection

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
        await within(self.near.opened.wait())

    async def fetch(self) -> int:
        """Reads from the socket and returns how many bytes; 0 at its end."""
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
        """The next ``count`` bytes, fewer after close_notify.

        Raises ssl.SSLError ("EOF") at an end without it; ssl.SSLEOFError from Python 3.11.3 on.
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


def acceptor_for(
    context: ssl.SSLContext, protocol: ViewerProtocol, failures: list[str], handshakes_max: int = 10
) -> TlsAcceptor:
    return TlsAcceptor(
        context,
        lambda _peer, _protocol: protocol,
        set(),
        handshakes_max,
        lambda _client, why: failures.append(why),
    )


@asynccontextmanager
async def reach(
    context: ssl.SSLContext, failures: list[str] | None = None, handshakes_max: int = 10
) -> AsyncIterator[Peer]:
    """A peer that has connected and sent nothing; its socket buffers hold only a few KiB."""
    near, far = small_socket_pair()
    loop = asyncio.get_running_loop()
    protocol = ViewerProtocol()
    acceptor = acceptor_for(context, protocol, [] if failures is None else failures, handshakes_max)
    closed = asyncio.Event()
    _, connection = await loop.create_connection(
        lambda: CountedConnection(acceptor, loop, accept.Peer("192.0.2.1", 4711), closed.set),
        sock=near,
    )
    peer = Peer(acceptor, protocol, far)
    peer.connection = connection
    try:
        yield peer
    finally:
        connection.abort()
        far.close()
        await within(closed.wait())
        if protocol.opened.is_set():
            await within(protocol.lost.wait())
        near.detach()  # uvloop has closed it, but not this object if connection_made aborts


@asynccontextmanager
async def connect(context: ssl.SSLContext, authority: CertificateAuthority) -> AsyncIterator[Peer]:
    async with reach(context) as peer:
        await peer.shake(authority.client())
        yield peer


class CountingTransport:
    """A transport that records the sizes of all writes."""

    def __init__(self, raw: asyncio.Transport) -> None:
        self._raw = raw
        self.sizes: list[int] = []

    def write(self, data: bytes) -> None:
        self.sizes.append(len(data))
        self._raw.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


class CountedConnection(TlsConnection):
    """A TLS connection whose writes to the socket's transport are recorded."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.counting = CountingTransport(transport)
        super().connection_made(self.counting)  # type: ignore[arg-type]


async def test_sender_sends_bytes_and_pieces_in_push_order(
    tmp_path: Path, context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    data = content(3 * TLS_WRITE_BYTES)
    source = PartialFile(tmp_path, data)
    end = 2 * TLS_WRITE_BYTES + 10
    async with connect(context, authority) as peer:
        peer.sender.push(b"head", (source, Span(10, end)), b"middle")
        peer.sender.push((source, Span(0, 5)), b"", b"tail")
        expected = b"head" + data[10:end] + b"middle" + data[:5] + b"tail"
        assert await peer.read(len(expected)) == expected
        await peer.near.until_drained()
        assert peer.sender.idle
        assert peer.near.drains == 1
        assert peer.sender.sent_bytes == len(expected)
        assert peer.sender.blocked_since_s is None
    os.close(source.fd)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.binary(max_size=20_000) | st.tuples(*[st.integers(0, 400_000)] * 2), max_size=6))
async def test_peer_receives_all_parts_complete_and_in_order(
    tmp_path: Path,
    context: ssl.SSLContext,
    authority: CertificateAuthority,
    parts: list[bytes | tuple[int, int]],
) -> None:
    data = content(400_000)
    source = PartialFile(tmp_path, data)
    async with connect(context, authority) as peer:
        expected = push_parts(peer.sender, source, data, parts)
        assert await peer.read(len(expected)) == expected
    os.close(source.fd)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.binary(min_size=1, max_size=100) | st.just(bytes(40_000)), max_size=5),
    st.lists(st.integers(1, 20_000), min_size=1, max_size=5),
)
async def test_all_data_arrives_however_the_records_are_cut(
    context: ssl.SSLContext,
    authority: CertificateAuthority,
    messages: list[bytes],
    cut_bytes: list[int],
) -> None:
    async with connect(context, authority) as peer:
        for message in messages:
            peer.ssl.write(message)
        records, position, loop = peer.outgoing.read(), 0, asyncio.get_running_loop()
        sizes = iter(cut_bytes)
        while position < len(records):
            size = next(sizes, len(records))
            await within(loop.sock_sendall(peer.far, records[position : position + size]))
            position += size
        expected = b"".join(messages)
        while len(peer.near.received) < len(expected):
            peer.near.arrived.clear()
            await within(peer.near.arrived.wait())
        assert peer.near.received == expected


async def test_bytes_for_a_peer_that_does_not_read_are_not_counted_as_sent(
    context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    data = content(TLS_WRITE_BYTES + 1)
    async with connect(context, authority) as peer:
        peer.sender.push(data)
        assert peer.near.drains == 0
        assert not peer.sender.idle
        assert peer.sender.blocked_since_s is not None
        assert peer.sender.sent_bytes == 0
        assert peer.sender.queued_bytes == 1  # the rest is encrypted and waits in the transport
        assert await peer.read(len(data)) == data
        await peer.near.until_drained()
        assert peer.sender.sent_bytes == len(data)
        assert peer.sender.blocked_since_s is None


async def test_sender_is_idle_only_after_the_last_bytes_are_sent(
    context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    async with connect(context, authority) as peer:
        peer.sender.push(content(100_000))  # encrypted in one piece, more than the socket accepts
        assert peer.sender.queued_bytes == 0
        assert not peer.sender.idle
        assert peer.near.drains == 0
        await peer.read(100_000)
        await peer.near.until_drained()
        assert peer.sender.idle


async def test_piece_is_sent_as_its_bytes_arrive(
    tmp_path: Path, context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    data = content(50_000)
    source = PartialFile(tmp_path, data, available_bytes=1000)
    async with connect(context, authority) as peer:
        peer.sender.push(b"head", (source, Span(0, 50_000)), b"tail")
        assert await peer.read(1004) == b"head" + data[:1000]
        assert peer.sender.blocked_since_s is None  # it is not the peer's fault
        source.arrive(1001)
        assert await peer.read(1) == data[1000:1001]
        await within(source.waiting.wait())
        source.arrive(50_000)
        assert await peer.read(48_999 + 4) == data[1001:] + b"tail"
    os.close(source.fd)


async def test_fill_failure_drops_the_queue_and_the_peer_detects_truncation(
    tmp_path: Path, context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    data = content(10)
    source = PartialFile(tmp_path, data, available_bytes=4)
    async with connect(context, authority) as peer:
        peer.sender.push((source, Span(0, 10)), b"never")
        cause = OriginError(OriginFailure.BROKEN, "cut")
        source.fail(cause)
        assert await peer.near.failed is cause
        peer.near.transport.abort()
        with pytest.raises(ssl.SSLError, match=r"(?i)eof"):
            await peer.read(100)
    os.close(source.fd)


async def test_small_response_is_one_tls_record(
    tmp_path: Path, context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    """Head and body are one write to the socket's transport."""
    data = content(1000)
    source = PartialFile(tmp_path, data)
    async with connect(context, authority) as peer:
        writes = peer.connection.counting.sizes
        writes.clear()
        ready = source.ready(0, 1000)
        assert ready is not None
        assert peer.sender.send_at_once(b"head", ready) == 1004
        assert peer.sender.idle
        assert writes == [5 + 1004 + 17]  # header, content, its type and the tag (RFC 8446 §5.2)
        peer.sender.push(b"head", (source, Span(0, 1000)))  # the general path, too
        assert len(writes) == 2
        assert await peer.read(2008) == 2 * (b"head" + data)
    os.close(source.fd)


async def test_large_response_continues_after_send_at_once(
    tmp_path: Path, context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    data = content(2 * TLS_WRITE_BYTES)
    source = PartialFile(tmp_path, data)
    async with connect(context, authority) as peer:
        for size in (100_000, len(data)):
            ready = source.ready(0, size)
            assert ready is not None
            accepted = peer.sender.send_at_once(b"head", ready)
            assert not peer.sender.idle
            sent_body = accepted - len(b"head")
            peer.sender.push(b"head"[accepted:], (source, Span(sent_body, size)))
            assert await peer.read(4 + size) == b"head" + data[:size]
            await peer.near.until_drained()
            peer.near.drained.clear()
            assert peer.sender.idle
    os.close(source.fd)


async def test_truncated_file_fails_instead_of_looping(
    tmp_path: Path, context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    source = PartialFile(tmp_path, content(10), available_bytes=20)
    async with connect(context, authority) as peer:
        ready = source.ready(0, 20)
        assert ready is not None
        assert peer.sender.send_at_once(b"head", ready) == 14
        peer.sender.push((source, Span(10, 20)))
        assert await peer.near.failed is None
    os.close(source.fd)


async def test_closed_peer_is_a_failure_without_a_cause(
    context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    async with connect(context, authority) as peer:
        peer.near.transport.abort()
        peer.sender.push(b"more")
        assert await peer.near.failed is None


async def test_bytes_for_a_lost_connection_are_dropped(
    context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    async with connect(context, authority) as peer:
        peer.far.close()
        await within(peer.near.lost.wait())
        peer.sender.push(b"more")
        assert peer.sender.idle
        assert not peer.near.failed.done()


async def test_fast_peer_yields_the_loop_after_each_quantum(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    context: ssl.SSLContext,
    authority: CertificateAuthority,
) -> None:
    """Even a peer that accepts everything at once lets other connections send."""
    source = PartialFile(tmp_path, bytes(TLS_WRITE_BYTES), available_bytes=3 * SEND_QUANTUM_BYTES)
    monkeypatch.setattr(os, "preadv", lambda _fd, views, _offset: len(views[0]))
    async with connect(context, authority) as peer:
        monkeypatch.setattr(TlsConnection, "write", lambda _self, _data, more=False: None)
        peer.sender.push((source, Span(0, 3 * SEND_QUANTUM_BYTES)))
        assert peer.sender.sent_bytes == SEND_QUANTUM_BYTES
        await peer.near.until_drained()
        assert peer.sender.sent_bytes == 3 * SEND_QUANTUM_BYTES
    os.close(source.fd)


async def test_sender_continues_after_a_quantum_that_ended_in_a_wait(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    context: ssl.SSLContext,
    authority: CertificateAuthority,
) -> None:
    """The writer callback is registered again while nothing waits in the transport."""
    monkeypatch.setattr("streamedge.delivery.net.sender.SEND_QUANTUM_BYTES", 1000)
    data = content(100_000)
    source = PartialFile(tmp_path, data)
    async with connect(context, authority) as peer:
        peer.sender.push(data, *[(source, Span(at, at + 500)) for at in range(0, 100_000, 500)])
        assert await peer.read(200_000) == 2 * data
        await peer.near.until_drained()
    os.close(source.fd)


async def test_lost_connection_frees_its_ssl_object_and_accepts_calls(
    context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    async with connect(context, authority) as peer:
        transport = peer.near.transport
        ssl_object = weakref.ref(transport.get_extra_info("ssl_object"))
        assert ssl_object() is not None
        peer.far.close()
        await within(peer.near.lost.wait())
        assert ssl_object() is None  # without the garbage collector
        transport.write(b"late")
        transport.data_received(b"late")
        transport.write_eof()
        transport.close()
        assert transport.is_closing()


async def test_direct_writes_to_the_transport_are_sent_in_order(
    tmp_path: Path, context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    source = PartialFile(tmp_path, content(10))
    async with connect(context, authority) as peer:
        peer.near.transport.write(content(50_000))
        peer.sender.push((source, Span(0, 10)))
        peer.near.transport.writelines([b"a", b"b"])
        assert await peer.read(50_000) == content(50_000)
        assert sorted(await peer.read(12)) == sorted(content(10) + b"ab")
    os.close(source.fd)


async def test_close_sends_close_notify(
    context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    async with connect(context, authority) as peer:
        peer.sender.push(b"all")
        peer.near.transport.close()
        assert peer.near.transport.is_closing()
        assert await peer.read(100) == b"all"
        await within(peer.near.lost.wait())


async def test_data_after_write_eof_is_ignored(
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


async def test_closed_connection_is_aborted_when_the_peer_reads_nothing(
    monkeypatch: pytest.MonkeyPatch, context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    monkeypatch.setattr("streamedge.delivery.net.tls.LINGER_S", 0.0)
    async with connect(context, authority) as peer:
        peer.near.transport.write(content(100_000))
        peer.near.transport.close()
        await within(peer.near.lost.wait())


async def test_close_notify_of_the_peer_ends_the_connection(
    context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    async with connect(context, authority) as peer:
        with pytest.raises(ssl.SSLWantReadError):
            peer.ssl.unwrap()
        await peer.flush()
        await within(peer.near.eof_seen.wait())
        await within(peer.near.lost.wait())


async def test_invalid_record_ends_the_connection(
    context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    async with connect(context, authority) as peer:
        await peer.send(b"good")
        await within(peer.near.arrived.wait())
        loop = asyncio.get_running_loop()
        await within(loop.sock_sendall(peer.far, bytes([23, 3, 3, 0, 40]) + bytes(40)))
        await within(peer.near.lost.wait())
        assert peer.near.received == b"good"


async def test_request_arrives_with_the_last_handshake_message(
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
        assert not peer.acceptor.handshakes


async def test_extra_info_covers_the_socket_and_tls(
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
    ("sent", "reason", "answer"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP_REQUEST", b"HTTP/1.1 400 Bad Request\r\n"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "WRONG_VERSION_NUMBER", b""),
    ],
)
async def test_connection_without_a_tls_handshake_is_refused(
    context: ssl.SSLContext, sent: bytes, reason: str, answer: bytes
) -> None:
    failures: list[str] = []
    async with reach(context, failures) as peer:
        loop = asyncio.get_running_loop()
        await within(loop.sock_sendall(peer.far, sent))
        received = await within(loop.sock_recv(peer.far, 1000))
        assert isinstance(received, bytes)
        assert received.startswith(answer)
        assert failures == [reason]
        assert not peer.acceptor.handshakes
        assert not peer.near.opened.is_set()


async def test_client_that_rejects_the_certificate_is_a_handshake_failure(
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
        assert not peer.acceptor.handshakes


async def test_client_that_leaves_in_the_handshake_is_a_failure_if_it_sent_bytes(
    context: ssl.SSLContext,
) -> None:
    loop = asyncio.get_running_loop()
    for sent, expected in ((b"\x16\x03\x01", ["the client left"]), (b"", [])):
        failures: list[str] = []
        async with reach(context, failures) as peer:
            await within(loop.sock_sendall(peer.far, sent))
            assert len(peer.acceptor.handshakes) == 1
            peer.far.shutdown(socket.SHUT_WR)
            assert await peer.fetch() == 0
        await asyncio.sleep(0)
        assert failures == expected
        assert not peer.acceptor.handshakes


async def test_handshakes_are_limited_and_can_be_failed(context: ssl.SSLContext) -> None:
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
        assert not peer.acceptor.handshakes


async def test_close_notify_of_the_peer_leaves_the_other_direction_open(
    context: ssl.SSLContext, authority: CertificateAuthority
) -> None:
    """RFC 8446 §6.1. The end of the TCP connection's data ends both directions."""
    async with connect(context, authority) as peer:
        peer.near.keeps_open = True
        with pytest.raises(ssl.SSLWantReadError):
            peer.ssl.unwrap()
        await peer.flush()
        await within(peer.near.eof_seen.wait())
        peer.sender.push(content(1000))
        assert await peer.read(1000) == content(1000)
        assert not peer.near.transport.is_closing()
        peer.far.shutdown(socket.SHUT_WR)
        await within(peer.near.lost.wait())

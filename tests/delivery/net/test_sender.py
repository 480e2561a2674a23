"""The sender over a socket: order, partial sends, waiting for a fill, failures, closing."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamedge.delivery.net.writers import SEND_QUANTUM_BYTES
from streamedge.errors import OriginError, OriginFailure
from streamedge.spans import Span
from tests.support.media.partial_file import PartialFile
from tests.support.patience import PATIENCE_S
from tests.support.sender import (
    SenderOwner,
    content,
    push_parts,
    small_socket_pair,
)


class Peer(SenderOwner):
    """A sender, and the other end of its socket."""

    def __init__(self, transport: asyncio.BaseTransport, far: socket.socket) -> None:
        super().__init__()
        self.far = far
        self.received = bytearray()
        self.sender = self.open_sender(transport)

    async def read(self, count: int) -> bytes:
        """The next ``count`` bytes that come."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_S):
            while len(self.received) < count:
                piece = await loop.sock_recv(self.far, 64 << 10)
                assert piece, "the connection ended early"
                self.received += piece
        data = bytes(self.received[:count])
        del self.received[:count]
        return data


@asynccontextmanager
async def connect() -> AsyncIterator[Peer]:
    """A peer whose socket buffers hold only a few KiB."""
    near, far = small_socket_pair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=near)
    peer = Peer(transport, far)
    try:
        yield peer
    finally:
        peer.sender.close()
        transport.abort()
        far.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_sender_sends_bytes_and_pieces_in_push_order(tmp_path: Path) -> None:
    data = content(300_000)
    source = PartialFile(tmp_path, data)
    async with connect() as peer:
        peer.sender.push(b"head", (source, Span(10, 200_010)), b"middle")
        peer.sender.push((source, Span(0, 5)), b"", b"tail")
        expected = b"head" + data[10:200_010] + b"middle" + data[:5] + b"tail"
        assert await peer.read(len(expected)) == expected
        await peer.until_drained()
        assert peer.sender.idle
        assert peer.sender.sent_bytes == len(expected)
        assert peer.sender.blocked_since_s is None
    os.close(source.fd)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.binary(max_size=20_000) | st.tuples(*[st.integers(0, 60_000)] * 2), max_size=8))
async def test_peer_receives_all_parts_complete_and_in_order(
    tmp_path: Path, parts: list[bytes | tuple[int, int]]
) -> None:
    data = content(60_000)
    source = PartialFile(tmp_path, data)
    async with connect() as peer:
        expected = push_parts(peer.sender, source, data, parts)
        assert await peer.read(len(expected)) == expected
    os.close(source.fd)


async def test_push_sends_at_once_what_the_socket_accepts() -> None:
    async with connect() as peer:
        peer.sender.push(b"short")
        assert peer.drains == 1
        assert peer.sender.idle


async def test_peer_that_does_not_read_sets_blocked_since_and_receives_all_later() -> None:
    data = content(100_000)
    async with connect() as peer:
        peer.sender.push(data)
        assert peer.drains == 0
        assert peer.sender.blocked_since_s is not None
        assert peer.sender.queued_bytes == len(data) - peer.sender.sent_bytes
        assert await peer.read(len(data)) == data
        await peer.until_drained()
        assert peer.drains == 1
        assert peer.sender.queued_bytes == 0
        assert peer.sender.blocked_since_s is None


async def test_piece_is_sent_as_its_bytes_arrive(tmp_path: Path) -> None:
    data = content(50_000)
    source = PartialFile(tmp_path, data, available_bytes=1000)
    async with connect() as peer:
        peer.sender.push(b"head", (source, Span(0, 50_000)), b"tail")
        assert await peer.read(1004) == b"head" + data[:1000]
        assert source.waits == [(Span(1000, 50_000), False)]
        assert peer.sender.blocked_since_s is None  # it is not the peer's fault
        source.arrive(1001)
        assert await peer.read(1) == data[1000:1001]
        async with asyncio.timeout(PATIENCE_S):
            await source.waiting.wait()
        source.arrive(50_000)
        assert await peer.read(48_999 + 4) == data[1001:] + b"tail"
        assert peer.sender.idle
    os.close(source.fd)


async def test_unstarted_piece_waits_eagerly(tmp_path: Path) -> None:
    source = PartialFile(tmp_path, content(10), available_bytes=0)
    async with connect() as peer:
        peer.sender.push(b"head", (source, Span(0, 10)))
        assert await peer.read(4) == b"head"  # not held back for bytes that are not there
        assert source.waits == [(Span(0, 10), True)]
        source.arrive(5)
        assert source.waits == [(Span(0, 10), True), (Span(5, 10), False)]
    os.close(source.fd)


async def test_push_during_a_wait_keeps_the_order(tmp_path: Path) -> None:
    data = content(10)
    source = PartialFile(tmp_path, data, available_bytes=0)
    async with connect() as peer:
        peer.sender.push((source, Span(0, 10)))
        peer.sender.push(b"after")
        assert len(source.waits) == 1
        source.arrive(10)
        assert await peer.read(15) == data + b"after"
    os.close(source.fd)


async def test_fill_failure_drops_the_queue_and_reports_its_cause(tmp_path: Path) -> None:
    data = content(10)
    source = PartialFile(tmp_path, data, available_bytes=4)
    async with connect() as peer:
        peer.sender.push((source, Span(0, 10)), b"never")
        cause = OriginError(OriginFailure.BROKEN, "cut")
        source.fail(cause)
        assert await peer.failed is cause
        assert peer.sender.idle
        assert peer.drains == 0
        peer.sender.close()
        peer.far.setblocking(True)
        assert peer.far.recv(100) == data[:4]
    os.close(source.fd)


async def test_closed_peer_is_a_failure_without_a_cause() -> None:
    async with connect() as peer:
        peer.far.close()
        peer.sender.push(content(100_000))
        assert await peer.failed is None


async def test_peer_that_closes_while_blocked_is_a_failure() -> None:
    async with connect() as peer:
        peer.sender.push(content(100_000))
        peer.far.close()
        async with asyncio.timeout(PATIENCE_S):
            assert await peer.failed is None


async def test_truncated_file_fails_instead_of_looping(tmp_path: Path) -> None:
    source = PartialFile(tmp_path, content(10), available_bytes=20)
    async with connect() as peer:
        peer.sender.push((source, Span(0, 20)))
        assert await peer.failed is None
    os.close(source.fd)


async def test_bytes_lost_from_a_file_are_waited_for(tmp_path: Path) -> None:
    data = content(20)
    source = PartialFile(tmp_path, data[:10], available_bytes=20)
    source.bytes_after_loss = 10
    async with connect() as peer:
        peer.sender.push((source, Span(0, 20)))
        async with asyncio.timeout(PATIENCE_S):
            await source.waiting.wait()
        assert source.lost_at == [10]
        assert source.waits == [(Span(10, 20), False)]
        os.pwrite(source.fd, data[10:], 10)
        source.arrive(20)
        assert await peer.read(20) == data
    os.close(source.fd)


async def test_close_cancels_the_wait_for_bytes(tmp_path: Path) -> None:
    source = PartialFile(tmp_path, content(10), available_bytes=0)
    async with connect() as peer:
        peer.sender.push((source, Span(0, 10)))
        assert source.callback is not None
        peer.sender.close()
        assert source.callback is None
        peer.sender.close()
    assert peer.drains == 0
    os.close(source.fd)


async def test_close_while_blocked_leaks_no_descriptor() -> None:
    for round_number in range(20):
        async with connect() as peer:
            peer.sender.push(content(100_000))
            assert peer.sender.blocked_since_s is not None
            peer.sender.close()
            assert peer.sender.queued_bytes == 0
        await asyncio.sleep(0)  # the transport closes its socket in the loop's next iteration
        if round_number == 0:
            gc.collect()  # what earlier tests have left
            before = descriptors()  # with the loop's watch of slow peers
    assert descriptors() == before


async def test_connection_has_one_descriptor(tmp_path: Path) -> None:
    source = PartialFile(tmp_path, content(100_000))
    gc.collect()  # what earlier tests have left
    before = descriptors()
    async with connect() as peer:
        peer.sender.push(b"head", (source, Span(0, 100)), b"middle", (source, Span(0, 100_000)))
        assert descriptors() == before + 3  # the socket, its far end, the watch of slow peers
    os.close(source.fd)


async def test_peer_that_stops_reading_at_a_quantum_end_is_blocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []

    def send_one_quantum(_to: int, _fd: int, _offset: int, count: int) -> int:
        if sent:
            raise BlockingIOError
        sent.append(count)
        return count

    monkeypatch.setattr(os, "sendfile", send_one_quantum)
    source = PartialFile(tmp_path, b"", available_bytes=2 * SEND_QUANTUM_BYTES)
    async with connect() as peer:
        peer.sender.push((source, Span(0, 2 * SEND_QUANTUM_BYTES)))
        assert sent == [SEND_QUANTUM_BYTES]
        await asyncio.sleep(0)  # the next iteration
        await asyncio.sleep(0)
        assert peer.sender.blocked_since_s is not None
    os.close(source.fd)


async def test_fast_peer_yields_the_loop_after_each_quantum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even a peer that accepts everything at once lets other connections send."""
    monkeypatch.setattr(os, "sendfile", lambda _to, _fd, _offset, count: count)
    source = PartialFile(tmp_path, b"", available_bytes=16 * SEND_QUANTUM_BYTES)
    async with connect() as peer:
        peer.sender.push((source, Span(0, 16 * SEND_QUANTUM_BYTES)))
        assert peer.sender.sent_bytes == SEND_QUANTUM_BYTES
        quanta = 1
        while not peer.sender.idle:
            sent_bytes = peer.sender.sent_bytes
            await asyncio.sleep(0)
            assert peer.sender.sent_bytes - sent_bytes in {0, SEND_QUANTUM_BYTES}
            quanta += peer.sender.sent_bytes != sent_bytes
        assert quanta == 16
        assert peer.drains == 1
    os.close(source.fd)


async def test_exception_while_sending_fails_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = PartialFile(tmp_path, content(300_000))
    errors: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: errors.append(context.get("exception")))
    async with connect() as peer:
        peer.sender.push((source, Span(0, 300_000)))
        assert not peer.sender.idle
        monkeypatch.setattr(source, "ready", lambda position, end: 1 / 0)
        await peer.read(8192)  # so that the loop calls the sender again
        async with asyncio.timeout(PATIENCE_S):
            assert await peer.failed is None
        assert peer.sender.queued_bytes == 0
        assert peer.sender.blocked_since_s is None
    assert [type(each) for each in errors] == [ZeroDivisionError]
    os.close(source.fd)

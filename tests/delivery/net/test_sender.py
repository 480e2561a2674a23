"""The byte mover over a socket: order, partial sends, waiting for a fill, failures, leaving."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamedge.cache.open_object import Failure
from streamedge.cache.storage.extent import Ready
from streamedge.delivery.net.sender import Sender
from streamedge.delivery.net.writers import SEND_QUANTUM_BYTES
from streamedge.errors import OriginError, OriginFailure
from streamedge.spans import Span

PATIENCE_S = 20.0
SMALL_BUFFER_BYTES = 4096


class Filling:
    """An object that is a file, of which ``there_bytes`` are there; told when it is asked."""

    def __init__(self, folder: Path, data: bytes, there_bytes: int | None = None) -> None:
        path = folder / f"object-{random.getrandbits(64):x}"
        path.write_bytes(data)
        self.fd = os.open(path, os.O_RDWR)
        path.unlink()
        self.there_bytes = len(data) if there_bytes is None else there_bytes
        self.kept_bytes = self.there_bytes  # of them, once one has been found to lack
        self.lost_at: list[int] = []
        self.asked: list[tuple[Span, bool]] = []
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
        self.asked.append((want, eager))
        self.woken = woken
        self.waiting.set()
        return self._cancel_wait

    def arrive(self, there_bytes: int) -> None:
        """More bytes are there: whoever waits is told."""
        self.there_bytes = there_bytes
        self._tell(None)

    def fail(self, failure: Failure) -> None:
        self._tell(failure)

    def _tell(self, failure: Failure | None) -> None:
        assert self.woken is not None
        woken, self.woken = self.woken, None
        self.waiting.clear()
        woken(failure)

    def _cancel_wait(self) -> None:
        self.woken = None


class Peer:
    """An outlet, and the other end of its socket."""

    def __init__(self, transport: asyncio.BaseTransport, far: socket.socket) -> None:
        self.far = far
        self.received = bytearray()
        self.drains = 0
        self.drained = asyncio.Event()
        self.failed: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()
        self.sender = Sender(
            transport, asyncio.get_running_loop(), self._drained, self.failed.set_result
        )

    def _drained(self) -> None:
        self.drains += 1
        self.drained.set()

    async def read(self, count: int) -> bytes:
        """The next ``count`` bytes that come."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_S):
            while len(self.received) < count:
                piece = await loop.sock_recv(self.far, 64 << 10)
                assert piece, "the connection ended early"
                self.received += piece
        taken = bytes(self.received[:count])
        del self.received[:count]
        return taken

    async def until_drained(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.drained.wait()


@asynccontextmanager
async def connect() -> AsyncIterator[Peer]:
    """A peer whose socket takes only a few KiB at a time."""
    near, far = socket.socketpair()
    for end in (near, far):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=near)
    peer = Peer(transport, far)
    try:
        yield peer
    finally:
        peer.sender.close()
        transport.abort()
        far.close()


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_bytes_and_pieces_leave_in_the_order_they_were_pushed(tmp_path: Path) -> None:
    data = content(300_000)
    source = Filling(tmp_path, data)
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
async def test_any_parts_arrive_whole_and_in_order(
    tmp_path: Path, parts: list[bytes | tuple[int, int]]
) -> None:
    data = content(60_000)
    source = Filling(tmp_path, data)
    expected = b""
    async with connect() as peer:
        for part in parts:
            if isinstance(part, bytes):
                expected += part
                peer.sender.push(part)
            else:
                expected += data[part[0] : part[1]]
                peer.sender.push((source, Span(*part)))
        assert await peer.read(len(expected)) == expected
    os.close(source.fd)


async def test_what_fits_leaves_within_push() -> None:
    async with connect() as peer:
        peer.sender.push(b"short")
        assert peer.drains == 1
        assert peer.sender.idle


async def test_a_peer_that_does_not_read_is_seen_and_blocks_nothing() -> None:
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


async def test_what_is_on_its_way_is_sent_as_it_comes(tmp_path: Path) -> None:
    data = content(50_000)
    source = Filling(tmp_path, data, there_bytes=1000)
    async with connect() as peer:
        peer.sender.push(b"head", (source, Span(0, 50_000)), b"tail")
        assert await peer.read(1004) == b"head" + data[:1000]
        assert source.asked == [(Span(1000, 50_000), False)]
        assert peer.sender.blocked_since_s is None  # it is not the peer's fault
        source.arrive(1001)
        assert await peer.read(1) == data[1000:1001]
        async with asyncio.timeout(PATIENCE_S):
            await source.waiting.wait()
        source.arrive(50_000)
        assert await peer.read(48_999 + 4) == data[1001:] + b"tail"
        assert peer.sender.idle
    os.close(source.fd)


async def test_a_piece_that_has_not_begun_waits_eagerly(tmp_path: Path) -> None:
    source = Filling(tmp_path, content(10), there_bytes=0)
    async with connect() as peer:
        peer.sender.push(b"head", (source, Span(0, 10)))
        assert await peer.read(4) == b"head"  # not held back for bytes that are not there
        assert source.asked == [(Span(0, 10), True)]
        source.arrive(5)
        assert source.asked == [(Span(0, 10), True), (Span(5, 10), False)]
    os.close(source.fd)


async def test_pushing_more_while_waiting_keeps_the_order(tmp_path: Path) -> None:
    data = content(10)
    source = Filling(tmp_path, data, there_bytes=0)
    async with connect() as peer:
        peer.sender.push((source, Span(0, 10)))
        peer.sender.push(b"after")
        assert len(source.asked) == 1
        source.arrive(10)
        assert await peer.read(15) == data + b"after"
    os.close(source.fd)


async def test_a_failure_drops_the_rest_and_tells_why(tmp_path: Path) -> None:
    data = content(10)
    source = Filling(tmp_path, data, there_bytes=4)
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


async def test_a_peer_that_is_gone_is_a_failure_without_a_cause() -> None:
    async with connect() as peer:
        peer.far.close()
        peer.sender.push(content(100_000))
        assert await peer.failed is None


async def test_a_peer_that_leaves_while_it_is_watched_is_a_failure() -> None:
    async with connect() as peer:
        peer.sender.push(content(100_000))
        peer.far.close()
        async with asyncio.timeout(PATIENCE_S):
            assert await peer.failed is None


async def test_a_file_shorter_than_promised_is_a_failure_not_a_loop(tmp_path: Path) -> None:
    source = Filling(tmp_path, content(10), there_bytes=20)
    async with connect() as peer:
        peer.sender.push((source, Span(0, 20)))
        assert await peer.failed is None
    os.close(source.fd)


async def test_bytes_that_a_file_lacks_are_waited_for(tmp_path: Path) -> None:
    data = content(20)
    source = Filling(tmp_path, data[:10], there_bytes=20)
    source.kept_bytes = 10
    async with connect() as peer:
        peer.sender.push((source, Span(0, 20)))
        async with asyncio.timeout(PATIENCE_S):
            await source.waiting.wait()
        assert source.lost_at == [10]
        assert source.asked == [(Span(10, 20), False)]
        os.pwrite(source.fd, data[10:], 10)
        source.arrive(20)
        assert await peer.read(20) == data
    os.close(source.fd)


async def test_closing_takes_the_wish_for_bytes_back(tmp_path: Path) -> None:
    source = Filling(tmp_path, content(10), there_bytes=0)
    async with connect() as peer:
        peer.sender.push((source, Span(0, 10)))
        assert source.woken is not None
        peer.sender.close()
        assert source.woken is None
        peer.sender.close()
    assert peer.drains == 0
    os.close(source.fd)


async def test_closing_while_the_socket_is_watched_leaves_nothing_behind() -> None:
    before = descriptors()
    for _round in range(20):
        async with connect() as peer:
            peer.sender.push(content(100_000))
            assert peer.sender.blocked_since_s is not None
            peer.sender.close()
            assert peer.sender.queued_bytes == 0
        await asyncio.sleep(0)  # the transport closes its socket in the loop's next turn
    assert descriptors() == before


async def test_a_peer_that_stops_where_its_turn_ends_is_seen_to_be_blocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def take_one_turn(_to: int, _fd: int, _offset: int, count: int) -> int:
        if taken:
            raise BlockingIOError
        taken.append(count)
        return count

    monkeypatch.setattr(os, "sendfile", take_one_turn)
    source = Filling(tmp_path, b"", there_bytes=2 * SEND_QUANTUM_BYTES)
    async with connect() as peer:
        peer.sender.push((source, Span(0, 2 * SEND_QUANTUM_BYTES)))
        assert taken == [SEND_QUANTUM_BYTES]
        await asyncio.sleep(0)  # the next turn
        await asyncio.sleep(0)
        assert peer.sender.blocked_since_s is not None
    os.close(source.fd)


async def test_one_peer_does_not_hold_up_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that takes everything at once still gives others their turn."""
    monkeypatch.setattr(os, "sendfile", lambda _to, _fd, _offset, count: count)
    source = Filling(tmp_path, b"", there_bytes=16 * SEND_QUANTUM_BYTES)
    async with connect() as peer:
        peer.sender.push((source, Span(0, 16 * SEND_QUANTUM_BYTES)))
        assert peer.sender.sent_bytes == SEND_QUANTUM_BYTES
        turns = 1
        while not peer.sender.idle:
            sent_bytes = peer.sender.sent_bytes
            await asyncio.sleep(0)
            assert peer.sender.sent_bytes - sent_bytes in {0, SEND_QUANTUM_BYTES}
            turns += peer.sender.sent_bytes != sent_bytes
        assert turns == 16
        assert peer.drains == 1
    os.close(source.fd)


async def test_a_defect_while_sending_fails_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Filling(tmp_path, content(300_000))
    seen: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: seen.append(context.get("exception")))
    async with connect() as peer:
        peer.sender.push((source, Span(0, 300_000)))
        assert not peer.sender.idle
        monkeypatch.setattr(source, "ready", lambda position, end: 1 / 0)
        await peer.read(8192)  # so that it goes on, called by the loop
        async with asyncio.timeout(PATIENCE_S):
            assert await peer.failed is None
        assert peer.sender.queued_bytes == 0
        assert peer.sender.blocked_since_s is None
    assert [type(each) for each in seen] == [ZeroDivisionError]
    os.close(source.fd)

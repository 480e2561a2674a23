"""A tunnelled session: its bytes arrive whole, in order and once, whatever becomes of requests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamedge.cache.storage.extent import Ready
from streamedge.delivery.net.accept import Peer
from streamedge.delivery.net.writers import COPIED_BYTES_MAX, Writer, writer_to
from streamedge.delivery.rtmp.timers import CoalescedTimers
from streamedge.delivery.rtmp.tunnel.exchange import Exchange
from streamedge.delivery.rtmp.tunnel.rules import Kind, TunnelRequest
from streamedge.delivery.rtmp.tunnel.session import (
    MEMORY_BYTES_MAX,
    REPEATED_BYTES_MAX,
    RESPONSE_BYTES_MAX,
    SILENCE_S,
    WAIT_S,
    WAITING_BYTES_MAX,
    Tunnel,
)
from tests.support.event_loop import until

ID = "00" + "a" * 32


class Recorder(asyncio.Protocol):
    """Records what a session receives."""

    def __init__(self) -> None:
        self.received = b""
        self.lost: list[Exception | None] = []

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class Session:
    """An open session, and the means to send it requests."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.recorder = Recorder()
        self.ended: list[Tunnel] = []
        self.tunnel = Tunnel(
            ID,
            Peer("192.0.2.1", 1),
            loop,
            CoalescedTimers(loop),
            self.ended.append,
            is_secure=False,
        )
        self.tunnel.start(self.recorder)
        self.writer: Writer = writer_to(self.tunnel.transport, loop)

    def post(self, kind: Kind, number: int | None, body: bytes = b"") -> Exchange:
        """Sends a request; the result gets its response."""
        exchange = Exchange(lambda: None)
        self.tunnel.serve(TunnelRequest(kind, ID, number), body, exchange)
        return exchange

    def send(self, number: int, body: bytes = b"") -> Exchange:
        return self.post(Kind.SEND, number, body)

    def idle(self, number: int) -> Exchange:
        return self.post(Kind.IDLE, number)


def answer(exchange: Exchange) -> bytes | None:
    """The body of a response; None: 404."""
    assert exchange.is_answered
    if exchange.body is None:
        return None
    data = b""
    for part in exchange.body.sent_parts(b""):
        if isinstance(part, tuple):
            source, span = part
            file, offset, size = source.ready(span.start, span.end)
            data += os.pread(file, size, offset)
        else:
            data += part
    assert len(data) == exchange.body.size_bytes
    return data


@contextmanager
def cache_file(folder: Path, data: bytes) -> Iterator[int]:
    path = folder / "file"
    path.write_bytes(data)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# Lost responses


@pytest.mark.parametrize("size_bytes", [0, 10, REPEATED_BYTES_MAX - 1])
async def test_lost_response_is_sent_again(size_bytes: int) -> None:
    session, data = Session(), b"a" * size_bytes
    first = session.send(0, b"command")
    session.tunnel.append(data)
    await until(lambda: first.is_answered)
    first.finish(is_sent=False)
    for _ in range(2):
        again = session.send(0, b"command")
        assert answer(again) == b"\1" + data
    again.finish(is_sent=True)
    following = session.send(1, b"b")
    await until(lambda: following.is_answered)
    assert answer(following) == b"\1"
    assert session.recorder.received == b"commandb"


async def test_long_lost_response_is_sent_again_from_its_file(tmp_path: Path) -> None:
    data = os.urandom(RESPONSE_BYTES_MAX // 2)
    session = Session()
    first = session.idle(0)
    with cache_file(tmp_path, b"head" + data) as file:
        assert session.writer.send_together(b"before", Ready(file, 4, len(data))) == 6 + len(data)
    await until(lambda: first.is_answered)
    first.finish(is_sent=False)
    again = session.idle(0)
    assert answer(first) == answer(again) == b"\1before" + data
    assert not session.ended


async def test_lost_response_that_is_not_kept_ends_the_session() -> None:
    session = Session()
    first = session.idle(0)
    session.tunnel.append(b"a" * REPEATED_BYTES_MAX)
    await until(lambda: first.is_answered)
    assert answer(session.idle(0)) is None
    assert session.ended
    assert isinstance(session.recorder.lost[0], ConnectionResetError)
    session.tunnel.append(b"hole")
    assert answer(session.idle(1)) is None


async def test_next_request_after_a_lost_response_ends_the_session() -> None:
    session = Session()
    first = session.send(0)
    session.tunnel.append(b"lost")
    await until(lambda: first.is_answered)
    first.finish(is_sent=False)
    assert answer(session.send(1)) is None
    assert session.ended


async def test_lost_response_before_the_latest_one_ends_the_session() -> None:
    session = Session()
    first, second = session.send(0), session.send(1)
    await until(lambda: second.is_answered)
    second.finish(is_sent=False)
    assert not session.ended
    first.finish(is_sent=False)
    assert session.ended


async def test_lost_connection_of_a_held_idle_loses_no_bytes() -> None:
    session = Session()
    session.idle(0).finish(is_sent=False)
    session.tunnel.append(b"media")
    again = session.idle(0)
    await until(lambda: again.is_answered)
    assert answer(again) == b"\1media"


# Repeated requests


@pytest.mark.parametrize("kind", [Kind.IDLE, Kind.SEND])
async def test_repeated_request_takes_the_place_of_the_held_one(kind: Kind) -> None:
    session = Session()
    session.tunnel.transport.pause_reading()
    first = session.post(kind, 0, b"body")
    second = session.post(kind, 0, b"body")
    assert answer(first) is None
    session.tunnel.append(b"media")
    session.tunnel.transport.resume_reading()
    await until(lambda: second.is_answered)
    assert answer(second) == b"\1media"
    assert session.recorder.received == (b"body" if kind is Kind.SEND else b"")


async def test_old_request_gets_404_and_the_session_goes_on() -> None:
    session = Session()
    for number in range(3):
        session.send(number, b"%d" % number)
    assert answer(session.send(0, b"0")) is None
    following = session.send(3, b"3")
    await until(lambda: following.is_answered)
    assert answer(following) == b"\1"
    assert session.recorder.received == b"0123"


# The order of requests


async def test_request_1_waits_for_request_0() -> None:
    session = Session()
    second = session.send(1, b"second")
    assert not second.is_answered
    first = session.send(0, b"first,")
    await until(lambda: first.is_answered and second.is_answered)
    assert answer(first) == answer(second) == b"\1"
    assert session.recorder.received == b"first,second"


async def test_request_that_waits_for_a_lost_one_gets_404() -> None:
    session = Session()
    waiting = session.send(1, b"second")
    now_s = asyncio.get_running_loop().time()
    session.tunnel.sweep(now_s + WAIT_S - 1)
    assert not waiting.is_answered
    session.tunnel.sweep(now_s + WAIT_S + 1)
    assert answer(waiting) is None
    assert not session.recorder.received


async def test_bodies_that_wait_are_limited() -> None:
    session = Session()
    assert not session.send(1, bytes(WAITING_BYTES_MAX - 1)).is_answered
    assert not session.send(2, bytes(1)).is_answered
    assert answer(session.send(3, bytes(1))) is None
    assert not session.send(2, bytes(1)).is_answered  # once more: takes the place of the other
    session.send(0)
    await until(lambda: len(session.recorder.received) == WAITING_BYTES_MAX)


async def test_next_send_waits_while_the_session_reads_nothing() -> None:
    session = Session()
    session.tunnel.transport.pause_reading()
    first, second = session.send(0, b"first,"), session.send(1, b"second")
    assert session.recorder.received == b"first,"
    assert not first.is_answered
    session.tunnel.transport.resume_reading()
    await until(lambda: first.is_answered and second.is_answered)
    assert session.recorder.received == b"first,second"


async def test_requests_after_a_close_get_404() -> None:
    session = Session()
    held, waiting = session.idle(0), session.send(3)
    close = session.post(Kind.CLOSE, None)
    assert answer(held) == answer(close) == b"\1"
    assert answer(waiting) is None
    assert answer(session.send(1, b"late")) is None
    assert session.ended == [session.tunnel]
    assert (session.recorder.received, session.recorder.lost) == (b"", [None])


# Parts of files


async def test_part_of_a_file_outlives_the_descriptor_that_it_was_made_of(tmp_path: Path) -> None:
    session, data = Session(), os.urandom(COPIED_BYTES_MAX + 1)
    with cache_file(tmp_path, data) as file:
        assert session.writer.send_file(file, 0, len(data)) == len(data)
    descriptors = len(os.listdir("/proc/self/fd"))
    first = session.idle(0)
    await until(lambda: first.is_answered)
    assert answer(first) == b"\1" + data
    first.finish(is_sent=True)
    second = session.send(1)
    await until(lambda: second.is_answered)
    first.body = None
    assert len(os.listdir("/proc/self/fd")) == descriptors - 1


async def test_file_that_is_too_short_is_reported(tmp_path: Path) -> None:
    session = Session()
    with cache_file(tmp_path, bytes(2 * COPIED_BYTES_MAX)) as file:
        assert session.writer.send_file(file, COPIED_BYTES_MAX, 1 << 20) == COPIED_BYTES_MAX
        assert session.writer.send_file(file, 2 * COPIED_BYTES_MAX, 1 << 20) == 0
        assert session.writer.send_file(file, 2 * COPIED_BYTES_MAX, 10) == 0


async def test_bytes_in_memory_are_limited() -> None:
    session = Session()
    assert session.writer.send(bytes(2 * MEMORY_BYTES_MAX), more=False) == MEMORY_BYTES_MAX
    with pytest.raises(BlockingIOError):
        session.writer.send(b"a", more=False)


async def test_response_is_limited(tmp_path: Path) -> None:
    session = Session()
    with cache_file(tmp_path, bytes(2 * RESPONSE_BYTES_MAX)) as file:
        assert session.writer.send_file(file, 0, 2 * RESPONSE_BYTES_MAX) == RESPONSE_BYTES_MAX
        assert session.writer.send_together(b"a", Ready(file, 0, 1)) == 0
        with pytest.raises(BlockingIOError):
            session.writer.send_file(file, 0, 1)
    writable = list[int]()
    session.writer.watch(lambda: writable.append(1))
    first = session.idle(0)
    await until(lambda: writable == [1])
    body = answer(first)
    assert body is not None
    assert len(body) == 1 + RESPONSE_BYTES_MAX


async def test_client_sends_no_acknowledgements() -> None:
    """librtmp would post them while it receives a response."""
    transport = Session().tunnel.transport
    assert transport.get_extra_info("rtmp_window_size") == 0x7FFFFFFF


# Silence


async def test_session_is_not_silent_while_its_client_receives_a_response() -> None:
    session = Session()
    first = session.idle(0)
    session.tunnel.append(b"media")
    await until(lambda: first.is_answered)
    now_s = asyncio.get_running_loop().time()
    session.tunnel.sweep(now_s + 2 * SILENCE_S)
    assert not session.ended
    first.finish(is_sent=True)
    session.tunnel.sweep(asyncio.get_running_loop().time() + SILENCE_S + 1)
    assert session.ended

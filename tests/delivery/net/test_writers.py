"""streamedge/delivery/net/writers.py on sockets; TLS is tested in test_secure_sender.py."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streamedge.cache.storage.extent import Ready
from streamedge.delivery.net.writers import COPIED_BYTES_MAX, SocketWriter


class Lost(asyncio.Protocol):
    """Closes its writer when the connection is lost, as protocols do."""

    writer: SocketWriter

    def connection_lost(self, exc: Exception | None) -> None:
        self.writer.close()


@asynccontextmanager
async def connect() -> AsyncIterator[tuple[SocketWriter, asyncio.Transport, socket.socket]]:
    """A writer, its transport, and the far end of its socket."""
    near, far = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(Lost, sock=near)
    protocol.writer = SocketWriter(transport, loop)
    try:
        yield protocol.writer, transport, far
    finally:
        transport.abort()
        far.close()
        await asyncio.sleep(0)  # the transport closes its socket in the loop's next iteration


def write_some(writer: SocketWriter, file: int) -> list[Callable[[], int]]:
    """All ways to write, each with ten bytes at least."""
    return [
        lambda: writer.send(b"0123456789", more=False),
        lambda: writer.send(b"0123456789", more=True),
        lambda: writer.send_file(file, 0, 10),
        lambda: writer.send_together(b"0123456789", Ready(file, 0, 10)),
        lambda: writer.send_together(b"0123456789", Ready(file, 0, COPIED_BYTES_MAX + 1)),
    ]


@pytest.mark.parametrize("way", range(5))
@pytest.mark.parametrize("has_sent", [False, True])
async def test_closed_writer_never_writes_to_the_next_owner_of_its_descriptor(
    tmp_path: Path, way: int, *, has_sent: bool
) -> None:
    (tmp_path / "file").write_bytes(bytes(COPIED_BYTES_MAX + 1))
    file = os.open(tmp_path / "file", os.O_RDONLY)
    async with connect() as (writer, transport, far):
        number = transport.get_extra_info("socket").fileno()
        mine, peer = socket.socketpair()
        if has_sent:
            for write in write_some(writer, file):
                assert write() >= 10
        transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        os.dup2(mine.fileno(), number)  # the number belongs to another connection now
        mine.close()
        with peer, socket.socket(fileno=number) as other:
            sent = 0
            with suppress(OSError):
                sent = write_some(writer, file)[way]()
            assert sent == 0
            with pytest.raises(BlockingIOError):
                peer.recv(1, socket.MSG_DONTWAIT)
            del writer
            assert other.send(b"open") == 4
            assert peer.recv(4) == b"open"
        assert far
    os.close(file)


async def test_lost_writer_object_does_not_close_the_transports_descriptor(tmp_path: Path) -> None:
    near, far = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
    writer = SocketWriter(transport, loop)
    assert writer.send(b"more", more=True) == 4
    del writer
    os.fstat(transport.get_extra_info("socket").fileno())
    transport.abort()
    far.close()


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(1, 100_000), st.integers(0, 50_000), st.integers(1, 5000))
@example(COPIED_BYTES_MAX, 0, 100)
@example(COPIED_BYTES_MAX + 1, 0, 100)
async def test_head_and_file_arrive_in_order(
    tmp_path: Path, size: int, offset: int, head_bytes: int
) -> None:
    content = random.Random(size).randbytes(150_000)
    (tmp_path / "file").write_bytes(content)
    file = os.open(tmp_path / "file", os.O_RDONLY)
    head = random.Random(head_bytes).randbytes(head_bytes)
    async with connect() as (writer, _transport, far):
        sent = writer.send_together(head, Ready(file, offset, size))
        assert 0 < sent <= len(head) + size
        received = b""
        while len(received) < sent:
            received += far.recv(sent - len(received))
        assert received == (head + content[offset : offset + size])[:sent]
    os.close(file)

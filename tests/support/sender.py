"""What the tests of senders share: their owner, small socket buffers, and content to send."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterable

from streamedge.cache.open_object import Failure
from streamedge.delivery.net.sender import Sender
from streamedge.spans import Span
from tests.support.media.partial_file import PartialFile
from tests.support.patience import PATIENCE_S

SMALL_BUFFER_BYTES = 4096


class SenderOwner:
    """The owner of a sender; counts and records its callbacks."""

    def __init__(self) -> None:
        self.drains = 0
        self.drained = asyncio.Event()
        self.failed: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()

    def open_sender(self, transport: asyncio.BaseTransport) -> Sender:
        loop = asyncio.get_running_loop()
        return Sender(transport, loop, self._on_drained, self.failed.set_result)

    async def until_drained(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.drained.wait()

    def _on_drained(self) -> None:
        self.drains += 1
        self.drained.set()


def small_socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets whose buffers hold only a few KiB."""
    near, far = socket.socketpair()
    for end in (near, far):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    return near, far


def content(size_bytes: int, seed: int = 1) -> bytes:
    """Bytes to send."""
    return random.Random(seed).randbytes(size_bytes)


def push_parts(
    sender: Sender, source: PartialFile, data: bytes, parts: Iterable[bytes | tuple[int, int]]
) -> bytes:
    """Pushes bytes, and pieces of ``source`` (which has ``data``); returns what is to arrive."""
    expected = b""
    for part in parts:
        if isinstance(part, bytes):
            expected += part
            sender.push(part)
        else:
            expected += data[part[0] : part[1]]
            sender.push((source, Span(*part)))
    return expected

"""The viewer's side of a tunnel: queues the viewer's bytes until the origin accepts them."""

from __future__ import annotations

import asyncio
from collections import deque

from uvicorn.protocols.http.flow_control import FlowControl

QUEUED_BYTES_MAX = 256 << 10  # of the viewer's bytes; then its socket is not read


class ViewerDuplex:
    """A ``Duplex`` over a viewer's connection."""

    def __init__(self, transport: asyncio.Transport, flow: FlowControl) -> None:
        self._transport = transport
        self._flow = flow
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._ended = False
        self._arrived = asyncio.Event()

    def received(self, data: bytes) -> None:
        """Queues bytes from the viewer; b"" means that it has left."""
        if data:
            self._queue.append(data)
            self._queued_bytes += len(data)
            if self._queued_bytes > QUEUED_BYTES_MAX:
                self._flow.pause_reading()
        else:
            self._ended = True
        self._arrived.set()

    async def read(self) -> bytes:
        while not self._queue and not self._ended:
            self._arrived.clear()
            await self._arrived.wait()
        if not self._queue:
            return b""
        data = self._queue.popleft()
        self._queued_bytes -= len(data)
        if self._queued_bytes <= QUEUED_BYTES_MAX:
            self._flow.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        self._transport.write(data)
        await self._flow.drain()

    def close(self) -> None:
        self._transport.close()

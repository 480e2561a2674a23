"""Passes bytes between a viewer and an origin that have switched protocols (RFC 9110 §7.8).

Used for WebSocket. Each direction has its own back-pressure, until either side closes. The bytes
are not interpreted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from streamedge.delivery.http.read_control import ReadControl
from streamedge.origin import Duplex

QUEUED_BYTES_MAX = 256 << 10  # of the viewer's bytes; then its socket is not read


class ViewerDuplex:
    """The viewer's side: queues its bytes until the origin accepts them.

    ``send`` sends bytes and returns when more may follow.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        control: ReadControl,
        send: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self._transport = transport
        self._control = control
        self._send = send
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._has_ended = False
        self._arrived = asyncio.Event()

    def received(self, data: bytes) -> None:
        """Queues bytes from the viewer; b"" means that it has left."""
        if data:
            self._queue.append(data)
            self._queued_bytes += len(data)
            if self._queued_bytes > QUEUED_BYTES_MAX:
                self._control.pause()
        else:
            self._has_ended = True
        self._arrived.set()

    async def read(self) -> bytes:
        while not self._queue and not self._has_ended:
            self._arrived.clear()
            await self._arrived.wait()
        if not self._queue:
            return b""
        data = self._queue.popleft()
        self._queued_bytes -= len(data)
        if self._queued_bytes <= QUEUED_BYTES_MAX:
            self._control.resume()
        return data

    async def write(self, data: bytes) -> None:
        await self._send(data)

    def close(self) -> None:
        self._transport.close()


async def run_tunnel(viewer: Duplex, origin: Duplex, early: bytes) -> None:
    """Passes bytes both ways until one side has ended. ``early``: the origin's first bytes."""
    up = asyncio.create_task(_copy(viewer, origin, b""), name="tunnel up")
    down = asyncio.create_task(_copy(origin, viewer, early), name="tunnel down")
    try:
        await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
    finally:
        up.cancel()
        down.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
        origin.close()
        viewer.close()


async def _copy(source: Duplex, sink: Duplex, data: bytes) -> None:
    data = data or await source.read()
    while data:
        await sink.write(data)
        data = await source.read()

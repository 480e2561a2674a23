"""Buffers the beginning of a request's body before the origin request starts.

A body arrives as fast as the viewer sends it, and would hold a connection to the origin for that
time. So the edge waits up to a second for it: most bodies are complete by then. It waits no longer,
because a viewer may wait for a response before it sends the rest. One body and all bodies together
have a limit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress

BUFFERED_BYTES_MAX = 64 << 10  # per body
BUFFERED_TOTAL_BYTES_MAX = 16 << 20  # per worker; above it, bodies are not buffered
BUFFER_TIMEOUT_S = 1.0


class BodyBuffer:
    """Buffers the bodies of a worker's requests."""

    def __init__(self) -> None:
        self._total_bytes = 0

    async def buffer(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Returns the body with its beginning buffered. Raises what ``body`` raises.

        Cancelling the wait for a piece of ``body`` must lose nothing.
        """
        if self._total_bytes + BUFFERED_BYTES_MAX > BUFFERED_TOTAL_BYTES_MAX:
            return body
        pieces: deque[bytes] = deque()
        buffered_bytes = 0
        self._total_bytes += BUFFERED_BYTES_MAX
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(BUFFER_TIMEOUT_S):
                    async for piece in body:
                        pieces.append(piece)
                        buffered_bytes += len(piece)
                        if buffered_bytes >= BUFFERED_BYTES_MAX:
                            break
        finally:
            self._total_bytes -= BUFFERED_BYTES_MAX
        return _BufferedBody(pieces, body)


class _BufferedBody:
    """The buffered beginning of a body, then its rest."""

    def __init__(self, pieces: deque[bytes], rest: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = rest

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return self._pieces.popleft() if self._pieces else await anext(self._rest)

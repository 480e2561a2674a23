"""Buffers the beginning of a request's body before the origin request starts.

A body comes as fast as the viewer sends it, and holds a connection to an origin as long. So the
edge waits up to a second for it: most bodies are complete by then, and the origin waits little. It
waits no longer, because a viewer may wait for a response in between. There are limits for one body
and for all bodies that are being buffered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress

GATHERED_BYTES_MAX = 64 << 10  # of one body
GATHERED_TOTAL_BYTES_MAX = 16 << 20  # of all that a worker gathers; beyond it none is gathered
GATHERED_S = 1.0


class BodyBuffer:
    """Buffers the bodies of a worker's requests."""

    def __init__(self) -> None:
        self._total_bytes = 0

    async def gather(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Returns the body with its beginning buffered. Raises what ``body`` raises.

        Cancelling the wait for a piece of ``body`` must lose nothing.
        """
        if self._total_bytes + GATHERED_BYTES_MAX > GATHERED_TOTAL_BYTES_MAX:
            return body
        pieces: deque[bytes] = deque()
        gathered_bytes = 0
        self._total_bytes += GATHERED_BYTES_MAX
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(GATHERED_S):
                    async for piece in body:
                        pieces.append(piece)
                        gathered_bytes += len(piece)
                        if gathered_bytes >= GATHERED_BYTES_MAX:
                            break
        finally:
            self._total_bytes -= GATHERED_BYTES_MAX
        return _Gathered(pieces, body)


class _Gathered:
    """The buffered beginning of a body, then its rest."""

    def __init__(self, pieces: deque[bytes], rest: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = rest

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return self._pieces.popleft() if self._pieces else await anext(self._rest)

"""The beginning of a request's body is gathered before its origin is asked.

A body comes as fast as a stranger sends it, and a connection to an origin is held for as long. So
what comes within a second is waited for: most bodies are whole by then, and the origin has little
to wait for. Not longer, because a sender may wait for an answer in between. Owns the limits: of one
body, of all that are being gathered.
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
    """A worker's."""

    def __init__(self) -> None:
        self._total_bytes = 0

    async def gather(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The body, its beginning here already. Raises what ``body`` raises.

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
    """What was gathered of a body, then its rest."""

    def __init__(self, pieces: deque[bytes], rest: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = rest

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return self._pieces.popleft() if self._pieces else await anext(self._rest)

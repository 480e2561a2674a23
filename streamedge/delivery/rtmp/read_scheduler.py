"""Sharing a worker's event loop among RTMP connections that have sent much at one time.

A connection reads a small piece at once, which is all that a player ever sends. One that has more
waits here, and its socket is not read; all that wait together get TURN_S of each turn of the loop,
a piece each, one after the other. So nobody else waits longer for strangers' bytes, however many
send them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

READ_QUANTUM_S = 0.005
PIECE_CHUNKS = 16  # read at one time, and never more than one command: half a millisecond at most


class ReadScheduler:
    """The connections of a worker that wait to be read on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], bool]] = deque()

    def wait(self, read_piece: Callable[[], bool]) -> None:
        """Calls ``read_piece`` in later turns until it returns False; it must not raise."""
        self._waiting.append(read_piece)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        waiting, ends_s = self._waiting, self._loop.time() + READ_QUANTUM_S
        try:
            while waiting:
                read_piece = waiting[0]
                has_more = read_piece()
                waiting.popleft()
                if has_more:
                    waiting.append(read_piece)
                if self._loop.time() >= ends_s:
                    break
        finally:
            if waiting:
                self._loop.call_soon(self._take_turn)

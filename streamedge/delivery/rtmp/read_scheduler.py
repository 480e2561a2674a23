"""Shares a worker's event loop among RTMP connections that have received much data at one time.

A connection parses one small piece at once; a player never sends more. A connection with more data
waits here, and its socket is not read. All waiting connections together get READ_QUANTUM_S of each
loop iteration, one piece each, round robin. So other connections are not delayed longer, however
many clients send much.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

READ_QUANTUM_S = 0.005
PIECE_CHUNKS = 16  # parsed at one time, with at most one command: half a millisecond at most


class ReadScheduler:
    """The queue of a worker's connections with data left to parse."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], bool]] = deque()

    def wait(self, read_piece: Callable[[], bool]) -> None:
        """Calls ``read_piece`` in later iterations until it returns False; must not raise."""
        self._waiting.append(read_piece)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._run_quantum)

    def _run_quantum(self) -> None:
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
                self._loop.call_soon(self._run_quantum)

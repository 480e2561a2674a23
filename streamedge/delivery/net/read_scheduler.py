"""Shares a worker's event loop among connections that have sent much at one time.

A connection reads a small amount at once, which is all that most clients ever send. One that has
sent more reads it in pieces through a scheduler. All connections of a scheduler together get
``READ_QUANTUM_S`` of each iteration of the loop, one piece each, in turn. So other connections wait
no longer, however many clients send much.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

READ_QUANTUM_S = 0.005


class ReadScheduler:
    """The connections of one server in one worker that have more to read.

    ``read_piece`` reads one piece, about half a millisecond of work, and returns whether there is
    more. It must not raise.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], bool]] = deque()
        self._left_s = READ_QUANTUM_S  # of this iteration's quantum
        self._is_scheduled = False

    def start(self, read_piece: Callable[[], bool]) -> bool:
        """Calls ``read_piece`` at once while this iteration's quantum lasts, then as ``wait`` does.

        Returns whether something is left for later iterations: then the caller stops reading its
        socket, or its memory would grow.
        """
        if self._waiting or self._left_s <= 0:
            self.wait(read_piece)
            return True
        self._schedule()  # the next iteration has a new quantum
        began_s = self._loop.time()
        has_more, spent_s = True, 0.0
        while has_more and spent_s < self._left_s:
            has_more = read_piece()
            spent_s = self._loop.time() - began_s
        self._left_s -= spent_s
        if has_more:
            self._waiting.append(read_piece)
        return has_more

    def wait(self, read_piece: Callable[[], bool]) -> None:
        """Calls ``read_piece`` in later iterations of the loop until it returns False."""
        self._waiting.append(read_piece)
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._read_waiting)

    def _read_waiting(self) -> None:
        self._is_scheduled = False
        waiting, began_s, spent_s = self._waiting, self._loop.time(), 0.0
        try:
            while waiting and spent_s < READ_QUANTUM_S:
                read_piece = waiting.popleft()
                if read_piece():
                    waiting.append(read_piece)
                spent_s = self._loop.time() - began_s
        finally:
            self._left_s = READ_QUANTUM_S - spent_s
            if waiting:
                self._schedule()

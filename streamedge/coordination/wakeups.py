"""Bells that wake the edge's processes: something that all share has changed, have a look.

Owns waking alone. What there is to look at lies elsewhere: generations, the control log. Several
rings before a look are one. Made before the processes are, so that all of them can ring.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable


class Bells:
    """One bell for each worker, by number, and one for the control process."""

    def __init__(self, workers: int) -> None:
        flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
        self._bells = [os.eventfd(0, flags) for _ in range(workers + 1)]

    @property
    def control(self) -> int:
        """The number of the control process."""
        return len(self._bells) - 1

    def ring(self) -> None:
        """Wakes all."""
        for number in range(len(self._bells)):
            self.ring_at(number)

    def ring_at(self, number: int) -> None:
        """Wakes one."""
        os.eventfd_write(self._bells[number], 1)

    def answer(self, number: int, look: Callable[[], object]) -> None:
        """Has the running loop call ``look`` whenever the bell has been rung."""
        bell = self._bells[number]

        def rung() -> None:
            os.eventfd_read(bell)
            look()

        asyncio.get_running_loop().add_reader(bell, rung)

    def hush(self, number: int) -> None:
        """Looks no more."""
        asyncio.get_running_loop().remove_reader(self._bells[number])

    def close(self) -> None:
        for bell in self._bells:
            os.close(bell)


class Rings:
    """The rings of a bell, for those who wait until something has come about."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def rung(self) -> None:
        """Has all who wait look again."""
        self._next.set()
        self._next = asyncio.Event()

    async def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Waits for ``condition``, looked at after each ring; False when that takes longer."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self._next.wait()
        except TimeoutError:
            return condition()
        return True

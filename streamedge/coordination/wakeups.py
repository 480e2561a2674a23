"""Wake-ups between the processes of an edge: "shared state has changed, read it".

A wake-up carries no data; the config versions and the control log hold it. Several wake-ups before
a process reads are one. The supervisor creates them before it forks, so every process can send one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable


class Wakeups:
    """One eventfd for each worker, by number, and one for the control process."""

    def __init__(self, workers: int) -> None:
        flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
        self._eventfds = [os.eventfd(0, flags) for _ in range(workers + 1)]

    @property
    def control(self) -> int:
        """The number of the control process."""
        return len(self._eventfds) - 1

    def notify(self) -> None:
        """Wakes all processes."""
        for number in range(len(self._eventfds)):
            self.notify_at(number)

    def notify_at(self, number: int) -> None:
        """Wakes one process."""
        os.eventfd_write(self._eventfds[number], 1)

    def subscribe(self, number: int, callback: Callable[[], object]) -> None:
        """Makes the running event loop call ``callback`` after each wake-up of ``number``."""

        def on_readable() -> None:
            self.take(number)
            callback()

        asyncio.get_running_loop().add_reader(self._eventfds[number], on_readable)

    def take(self, number: int) -> int:
        """Clears the wake-ups of ``number``; returns how many. Raises BlockingIOError if none."""
        return os.eventfd_read(self._eventfds[number])

    def unsubscribe(self, number: int) -> None:
        """Ends the subscription of ``number`` on the running event loop."""
        asyncio.get_running_loop().remove_reader(self._eventfds[number])

    def close(self) -> None:
        for eventfd in self._eventfds:
            os.close(eventfd)


class ChangeEvent:
    """Coroutines of one process wait here until a condition on shared state holds."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def notify(self) -> None:
        """Makes all waiters check their conditions again."""
        self._next.set()
        self._next = asyncio.Event()

    async def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Waits until ``condition`` holds, checked after each ``notify``; False on a timeout."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self._next.wait()
        except TimeoutError:
            return condition()
        return True

"""A wake-up between processes: "shared state has changed, read it".

A wake-up carries no data; shared memory, a file or a database holds it. Several wake-ups before a
process reads are one.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable


class Wakeup:
    """An eventfd. Created before a fork, so that every process can send and receive it."""

    def __init__(self, eventfd: int | None = None) -> None:
        """``eventfd``: one that other processes have already (``process.handover``)."""
        self._eventfd = (
            os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if eventfd is None else eventfd
        )

    @property
    def descriptor(self) -> int:
        """The eventfd."""
        return self._eventfd

    def notify(self) -> None:
        """Wakes the process that waits. May be called from any thread; never blocks."""
        os.eventfd_write(self._eventfd, 1)

    def subscribe(self, callback: Callable[[], object]) -> None:
        """Makes the running event loop call ``callback`` after each wake-up."""

        def on_readable() -> None:
            self.take()
            callback()

        asyncio.get_running_loop().add_reader(self._eventfd, on_readable)

    def unsubscribe(self) -> None:
        """Ends the subscription on the running event loop, if there is one."""
        asyncio.get_running_loop().remove_reader(self._eventfd)

    def wait(self, timeout_s: float) -> None:
        """Blocks until a wake-up or the timeout; for a process without an event loop."""
        poll = select.poll()
        poll.register(self._eventfd, select.POLLIN)
        if poll.poll(timeout_s * 1000):
            self.take()

    def take(self) -> int:
        """Clears the wake-ups; returns how many. Raises BlockingIOError if there are none."""
        return os.eventfd_read(self._eventfd)

    def close(self) -> None:
        os.close(self._eventfd)

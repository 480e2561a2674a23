"""The wake-ups of an edge's processes, and waiting in one process for a change of shared state.

The supervisor creates the wake-ups before it forks, so every process can send one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from threading import Condition

from streamedge.ops.wakeup import Wakeup


class Wakeups:
    """One ``Wakeup`` for each worker, by number, and one for the control process.

    ``replicator`` wakes whichever worker sends the queued writes. ``earlier``: the wake-ups of
    workers from before an upgrade, which still serve viewers; ``notify`` wakes them too.
    """

    def __init__(
        self, workers: int, earlier: Sequence[Wakeup] = (), replicator: Wakeup | None = None
    ) -> None:
        self._by_number = [Wakeup() for _ in range(workers + 1)]
        self._earlier = list(earlier)
        self.replicator = replicator or Wakeup()

    @property
    def control(self) -> int:
        """The number of the control process."""
        return len(self._by_number) - 1

    def notify(self, *, control: bool = True) -> None:
        """Wakes all processes; the control process first, or not at all."""
        if control:
            self._by_number[-1].notify()
        for wakeup in (*self._by_number[:-1], *self._earlier):
            wakeup.notify()

    def descriptors(self) -> list[int]:
        """Those of the workers, by number."""
        return [wakeup.descriptor for wakeup in self._by_number[:-1]]

    def notify_at(self, number: int) -> None:
        """Wakes one process."""
        self._by_number[number].notify()

    def subscribe(self, number: int, callback: Callable[[], object]) -> None:
        """Makes the running event loop call ``callback`` after each wake-up of ``number``."""
        self._by_number[number].subscribe(callback)

    def unsubscribe(self, number: int) -> None:
        """Ends the subscription of ``number`` on the running event loop."""
        self._by_number[number].unsubscribe()

    def wait(self, number: int, timeout_s: float) -> None:
        """Blocks until a wake-up of ``number`` or the timeout."""
        self._by_number[number].wait(timeout_s)

    def take(self, number: int) -> int:
        """Clears the wake-ups of ``number``; returns how many. Raises BlockingIOError if none."""
        return self._by_number[number].take()

    def close(self) -> None:
        for wakeup in (*self._by_number, *self._earlier, self.replicator):
            wakeup.close()


class ChangeEvent:
    """Coroutines and threads of one process wait here until a condition on shared state holds."""

    def __init__(self) -> None:
        self._next = asyncio.Event()
        self._condition = Condition()

    def notify(self) -> None:
        """Makes all waiters check their conditions again. Called on the event loop."""
        self._next.set()
        self._next = asyncio.Event()
        with self._condition:
            self._condition.notify_all()

    async def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Waits until ``condition`` holds, checked after each ``notify``; False on a timeout."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self._next.wait()
        except TimeoutError:
            return condition()
        return True

    def wait_in_thread(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """As ``wait_for``, but blocks; for threads other than that of the event loop."""
        with self._condition:
            return self._condition.wait_for(condition, timeout_s)

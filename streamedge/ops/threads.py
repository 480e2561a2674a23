"""Threads for what may block, beside an event loop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor


class Threads(ThreadPoolExecutor):
    """Threads whose first one starts with the pool, so that later work always has one.

    Where the system starts no further thread (no memory, or too many processes), work waits for the
    running ones. ``ThreadPoolExecutor`` alone raises then, and still does the work later.
    """

    def __init__(self, threads_max: int | None = None, name: str = "asyncio") -> None:
        """Raises RuntimeError if no thread can be started."""
        super().__init__(threads_max, name)
        self._unstarted = 0
        try:
            self.submit(_nothing)
        except RuntimeError:
            self.shutdown(wait=False)
            raise

    def _adjust_thread_count(self) -> None:
        # Work that found no thread counts as an idle thread once it is done: take that back.
        while self._unstarted and self._idle_semaphore.acquire(timeout=0):
            self._unstarted -= 1
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise
            self._unstarted += 1


def _nothing() -> None:
    """The first work of each pool."""

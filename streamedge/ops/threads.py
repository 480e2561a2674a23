"""Threads for what may block, beside an event loop."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

DEFAULT_THREADS: Final = 8
"""Of an event loop's own pool: they wait for the disk and for SQLite, not for a processor."""


class Threads(ThreadPoolExecutor):
    """Threads that all start with the pool, so that later work starts none.

    ``ThreadPoolExecutor`` alone starts them with the work. Where the system starts no further one
    (no memory, or too many processes), it raises in the midst of that work.
    """

    def __init__(self, threads: int, name: str = "asyncio") -> None:
        """Raises RuntimeError if the threads cannot be started."""
        super().__init__(threads, name)
        all_started = threading.Event()
        try:
            for _ in range(threads):  # none is idle, so each of them needs a thread
                self.submit(all_started.wait)
        except RuntimeError:
            self.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            all_started.set()

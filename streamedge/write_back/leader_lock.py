"""A leader lock on a file: one process at a time holds it.

The kernel releases the lock when its holder ends. A process that waits does so in a thread of its
own, without polling.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path
from threading import Lock, Thread


class LeaderLock:
    """Call ``acquire`` once, then ``release``, whether the lock was acquired or not."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = Lock()
        self._descriptor = -1
        self._is_released = False

    async def acquire(self) -> None:
        """Returns when this process holds the lock.

        Raises OSError, and RuntimeError if no thread can be started.
        """
        loop = asyncio.get_running_loop()
        acquired: asyncio.Future[None] = loop.create_future()
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)

        def block() -> None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as exc:
                os.close(descriptor)
                loop.call_soon_threadsafe(_fail, acquired, exc)
                return
            with self._guard:
                if self._is_released:
                    os.close(descriptor)
                    return
                self._descriptor = descriptor
                loop.call_soon_threadsafe(_set, acquired)

        # Not a thread of asyncio's pool: the process waits for those when it ends.
        try:
            Thread(target=block, name="leader-lock", daemon=True).start()
        except RuntimeError:
            os.close(descriptor)
            raise
        await acquired

    def release(self) -> None:
        """Releases the lock for another process."""
        with self._guard:
            self._is_released = True
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1


def _set(acquired: asyncio.Future[None]) -> None:
    if not acquired.done():
        acquired.set_result(None)


def _fail(acquired: asyncio.Future[None], error: OSError) -> None:
    if not acquired.done():
        acquired.set_exception(error)

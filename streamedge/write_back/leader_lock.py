"""The turn to send: held by one process at a time, and free the moment that one ends.

Owns a lock on a file, which the kernel drops with its holder. Whoever waits sleeps in a thread of
its own, so that nobody looks again and again.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path
from threading import Lock, Thread


class LeaderLock:
    """``wait`` for it once, and ``end`` it, whether it came or not."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = Lock()
        self._descriptor = -1
        self._is_over = False

    async def wait(self) -> None:
        """Returns when the turn is this process's. Raises OSError."""
        loop = asyncio.get_running_loop()
        came: asyncio.Future[None] = loop.create_future()
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)

        def take() -> None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as exc:
                os.close(descriptor)
                loop.call_soon_threadsafe(_fail, came, exc)
                return
            with self._guard:
                if self._is_over:
                    os.close(descriptor)
                    return
                self._descriptor = descriptor
                loop.call_soon_threadsafe(_set, came)

        # Not one of asyncio's threads: those are waited for when the process ends.
        Thread(target=take, name="replicator-turn", daemon=True).start()
        await came

    def end(self) -> None:
        """Lets another process have it."""
        with self._guard:
            self._is_over = True
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1


def _set(came: asyncio.Future[None]) -> None:
    if not came.done():
        came.set_result(None)


def _fail(came: asyncio.Future[None], failure: OSError) -> None:
    if not came.done():
        came.set_exception(failure)

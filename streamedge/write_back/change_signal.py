"""Tells processes that the write queue has changed, without a query.

    changes   one counter for each process, mapped by all of them; a process increments its own
    bell      a named pipe that wakes the replicator

Both only mean "read the queue again"; the rows hold the facts.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path
from threading import Lock

SLOTS = 257  # as many workers as a cache can have, and the control process
_SLOT_BYTES = 8


def prepare_signal(folder: Path) -> None:
    """Creates the files if they are missing. Raises OSError."""
    with open(folder / "changes", "ab") as changes:
        changes.truncate(SLOTS * _SLOT_BYTES)
    with contextlib.suppress(FileExistsError):
        os.mkfifo(folder / "bell", 0o600)


class ChangeSignal:
    """The signal as one process uses it. No two live processes share a ``slot``."""

    def __init__(self, folder: Path, slot: int) -> None:
        self._slot = slot
        self._lock = Lock()
        with open(folder / "changes", "r+b") as changes:
            self._map = mmap.mmap(changes.fileno(), SLOTS * _SLOT_BYTES)
        self._words = memoryview(self._map).cast("Q")
        # Opened for reading and writing: then no end blocks until the other opens the pipe, and
        # none sees the end of the file when the other closes it.
        self.wakeup_fd = os.open(folder / "bell", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def snapshot(self) -> bytes:
        """The counters of all processes: other bytes after each change. As cheap as a lookup."""
        return self._map[:]

    def notify(self) -> None:
        """Announces a committed change. May be called from any thread."""
        with self._lock:
            self._words[self._slot] += 1
        with contextlib.suppress(BlockingIOError):  # the pipe is full, so the replicator will wake
            os.write(self.wakeup_fd, b"!")

    def drain(self) -> None:
        """Empties the pipe, so that only a later change makes it readable again."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.wakeup_fd, 4096):
                pass

    def close(self) -> None:
        self._words.release()
        self._map.close()
        os.close(self.wakeup_fd)

"""How processes learn that the journal has changed, without looking at it.

    changes   a counter for each worker, mapped by all: one moves with every change
    bell      a named pipe: whoever empties the queue sleeps on it

Owns these two files. Both only say "look again"; what is true stands in the journal.
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
    """Makes the files; harmless when they are there. Raises OSError."""
    with open(folder / "changes", "ab") as changes:
        changes.truncate(SLOTS * _SLOT_BYTES)
    with contextlib.suppress(FileExistsError):
        os.mkfifo(folder / "bell", 0o600)


class ChangeSignal:
    """One process's hand on the signal. ``slot`` is its own: no two living processes share one."""

    def __init__(self, folder: Path, slot: int) -> None:
        self._slot = slot
        self._lock = Lock()
        with open(folder / "changes", "r+b") as changes:
            self._map = mmap.mmap(changes.fileno(), SLOTS * _SLOT_BYTES)
        self._words = memoryview(self._map).cast("Q")
        # Open for both, so that neither end waits for the other, nor sees it go.
        self.wakeup_fd = os.open(folder / "bell", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def snapshot(self) -> bytes:
        """Another value after each change. As cheap as a look into a dictionary."""
        return self._map[:]

    def notify(self) -> None:
        """Says that there was a change: after it is committed. Any thread may."""
        with self._lock:
            self._words[self._slot] += 1
        with contextlib.suppress(BlockingIOError):  # full: it rings already
            os.write(self.wakeup_fd, b"!")

    def drain(self) -> None:
        """Takes what has rung, so that only a later change rings again."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.wakeup_fd, 4096):
                pass

    def close(self) -> None:
        self._words.release()
        self._map.close()
        os.close(self.wakeup_fd)

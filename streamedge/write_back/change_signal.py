"""Tells processes that the write queue has changed, without a query.

    changes   one counter for each process, mapped by all of them; a process increments its own

The counters tell readers, and a wake-up tells the replicator, "read the queue again"; the rows hold
the facts. The counters are in a file, because workers that still drain after the supervisor was
killed share the queue with the processes of the next supervisor.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from threading import Lock

from streamedge.ops.wakeup import Wakeup

SLOTS = 257  # as many workers as a cache can have, and the control process
_SLOT_BYTES = 8


def prepare_signal(folder: Path) -> None:
    """Creates the file if it is missing. Raises OSError."""
    with open(folder / "changes", "ab") as changes:
        changes.truncate(SLOTS * _SLOT_BYTES)
    (folder / "bell").unlink(missing_ok=True)  # a named pipe of earlier versions


class ChangeSignal:
    """The signal as one process uses it. No two live processes share a ``slot``.

    ``replicator`` wakes the replicator among the processes of one supervisor.
    """

    def __init__(self, folder: Path, slot: int, replicator: Wakeup) -> None:
        self.replicator = replicator
        self._slot = slot
        self._lock = Lock()
        with open(folder / "changes", "r+b") as changes:
            self._map = mmap.mmap(changes.fileno(), SLOTS * _SLOT_BYTES)
        self._words = memoryview(self._map).cast("Q")

    def snapshot(self) -> bytes:
        """The counters of all processes: other bytes after each change. As cheap as a lookup."""
        return self._map[:]

    def notify(self) -> None:
        """Announces a committed change. May be called from any thread."""
        with self._lock:
            self._words[self._slot] += 1
        self.replicator.notify()

    def close(self) -> None:
        self._words.release()
        self._map.close()

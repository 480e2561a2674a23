"""Who of the edge's processes is up: a byte each, in memory that all of them share."""

from __future__ import annotations

import mmap


class Roster:
    """Made before the processes are; ``up`` and ``down`` are seen by all at once."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._bytes = mmap.mmap(-1, max(1, workers))

    def up(self, worker: int) -> None:
        """All listeners of a worker accept."""
        self._bytes[worker] = 1

    def down(self, worker: int) -> None:
        """A worker has ended, or is about to."""
        self._bytes[worker] = 0

    @property
    def workers_up(self) -> int:
        return sum(self._bytes[: self._workers])

    @property
    def all_up(self) -> bool:
        return self.workers_up == self._workers

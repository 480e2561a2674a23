"""Who of the edge's processes is up, and how far each has read the control log.

In memory that all of them share: a word each for both, written by its own worker alone, but that
the supervisor notes who has ended.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

from streamedge.control.position import log_of
from streamedge.coordination.config_versions import Generations
from streamedge.coordination.heartbeats import Heartbeats
from streamedge.coordination.wakeups import Bells
from streamedge.ops.log import Log, open_log
from streamedge.ops.log_output import LogTarget
from streamedge.ops.metrics import SharedMetrics

_WORD_BYTES = 8


class Roster:
    """Made before the processes are; what is noted is seen by all at once."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        words = memoryview(mmap.mmap(-1, max(1, 2 * workers) * _WORD_BYTES)).cast("Q")
        self._up, self._positions = words[:workers], words[workers:]

    def up(self, worker: int) -> None:
        """All listeners of a worker accept."""
        self._up[worker] = 1

    def down(self, worker: int) -> None:
        """A worker has ended, or is about to."""
        self._up[worker] = 0

    def apply(self, worker: int, position: int) -> None:
        """A worker has read the control log up to ``position``."""
        self._positions[worker] = position

    def have_applied(self, position: int) -> bool:
        """Whether all workers that are up have read up to ``position``.

        A worker that comes up later uses nothing cached before it has read the log.
        """
        return all(
            not self._up[worker] or (log_of(has_read) == log_of(position) and has_read >= position)
            for worker, has_read in enumerate(self._positions)
        )

    @property
    def workers(self) -> range:
        """Their numbers."""
        return range(self._workers)

    def is_up(self, worker: int) -> bool:
        """Whether all listeners of a worker accept."""
        return bool(self._up[worker])

    @property
    def workers_up(self) -> int:
        return sum(self._up)

    @property
    def all_up(self) -> bool:
        return self.workers_up == self._workers


@dataclass(frozen=True, slots=True)
class Shared:
    """The config in force, what wakes processes, who is up, and where numbers and lines go."""

    generations: Generations
    bells: Bells
    roster: Roster
    heartbeats: Heartbeats
    metrics: SharedMetrics
    log_target: LogTarget
    has_write_queue: bool = False  # of writes that wait: whether a behavior wrote back at the start

    def open_log(self, process: str) -> Log:
        """This process's own way to the log that all share. Raises OSError."""
        return open_log(self.log_target, process, self.generations.config.limits.log_buffer)

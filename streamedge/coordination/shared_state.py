"""Which workers are up, and how far each has read the control log: in shared memory.

Each worker writes its own two words; the supervisor also clears the word of a worker that has
ended. ``SharedState`` groups everything that the processes of an edge share.
"""

from __future__ import annotations

import mmap
import time
from dataclasses import dataclass, field

from streamedge.control.position import log_of
from streamedge.coordination.config_versions import ConfigVersions
from streamedge.coordination.fleet_status import FleetStatus
from streamedge.coordination.heartbeats import Heartbeats
from streamedge.coordination.live_edges import SharedLiveEdges
from streamedge.coordination.upgrade_status import UpgradeStatus
from streamedge.coordination.viewer_rows import ViewerRows
from streamedge.coordination.wakeups import Wakeups
from streamedge.ops.history import HISTORY_BYTES
from streamedge.ops.log import Log, open_log
from streamedge.ops.log_output import LogTarget
from streamedge.ops.metrics import SharedMetrics
from streamedge.ops.shared_words import SharedWords

_WORD_BYTES = 8


class WorkerStatus:
    """The status table of the workers. Created before they are forked; all see changes at once."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        words = memoryview(mmap.mmap(-1, max(1, 2 * workers) * _WORD_BYTES)).cast("Q")
        self._up, self._positions = words[:workers], words[workers:]

    def mark_up(self, worker: int) -> None:
        """Notes that all listeners of a worker accept connections."""
        self._up[worker] = 1

    def mark_down(self, worker: int) -> None:
        """Notes that a worker has ended or is about to."""
        self._up[worker] = 0

    def note_position(self, worker: int, position: int) -> None:
        """Notes that a worker has read the control log up to ``position``."""
        self._positions[worker] = position

    def have_applied(self, position: int) -> bool:
        """Whether all workers that are up have read the control log up to ``position``.

        A worker that comes up later uses no cached data before it has read the log.
        """
        return all(
            not self._up[worker] or (log_of(has_read) == log_of(position) and has_read >= position)
            for worker, has_read in enumerate(self._positions)
        )

    @property
    def workers(self) -> range:
        """The numbers of all workers."""
        return range(self._workers)

    def is_up(self, worker: int) -> bool:
        """Whether all listeners of a worker accept connections."""
        return bool(self._up[worker])

    @property
    def workers_up(self) -> int:
        return sum(self._up)

    @property
    def all_up(self) -> bool:
        return self.workers_up == self._workers


def _history_memory() -> SharedWords:
    return SharedWords("streamedge-history", -(-HISTORY_BYTES // _WORD_BYTES))


@dataclass(frozen=True, slots=True)
class SharedState:
    """What all processes of an edge share. Created before they are forked.

    ``previous_viewer_rows``: of workers from before an upgrade; None without one.
    ``has_write_queue``: a behavior wrote back at start. ``fleet`` and
    ``live_edges``: None in a fleet of one. ``history_memory``: of an ``ops.history.History``, which
    only the control process writes.
    """

    config_versions: ConfigVersions
    wakeups: Wakeups
    worker_status: WorkerStatus
    heartbeats: Heartbeats
    metrics: SharedMetrics
    viewer_rows: ViewerRows
    log_target: LogTarget
    upgrade: UpgradeStatus
    has_write_queue: bool = False
    fleet: FleetStatus | None = None
    live_edges: SharedLiveEdges | None = None
    previous_viewer_rows: ViewerRows | None = None
    history_memory: SharedWords = field(default_factory=_history_memory)
    started_s: float = field(default_factory=time.time)

    @property
    def history(self) -> memoryview:
        """The bytes of ``history_memory``."""
        return self.history_memory.words.cast("B")[:HISTORY_BYTES]

    def open_log(self, process: str) -> Log:
        """Opens the shared log for one process. Raises OSError."""
        return open_log(self.log_target, process, self.config_versions.config.limits.log_buffer)

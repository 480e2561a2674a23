"""The state of this edge in its fleet, in memory that its processes share.

The control process writes it; workers read it. A worker needs no process to learn that the edge no
longer hears from the fleet: it compares the deadline here with the clock. So a control process that
hangs or was killed lets the lease run out.
"""

from __future__ import annotations

import time

from streamedge.fleet.states import EdgeState
from streamedge.ops.shared_words import SharedWords

_STATE, _HEARS_UNTIL_MS, _IS_STOPPING, _COMPLETED, _AWAITED = range(5)
_STATES = tuple(EdgeState)


def lease_clock_s() -> float:
    """The clock of leases: the same in all processes; it also counts while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class FleetStatus:
    """Created before the processes are forked, in a fleet of more than one edge.

    At first the edge is JOINING and does not hear from its fleet.
    """

    def __init__(self, shared: SharedWords | None = None) -> None:
        """``shared``: the memory of processes that run already (``process.handover``)."""
        self._shared = shared or SharedWords("streamedge-fleet-status", 5)
        self._words = self._shared.words

    @property
    def descriptor(self) -> int:
        """The file descriptor of the memory."""
        return self._shared.descriptor

    # For the control process.

    def note(self, state: EdgeState, hears_until_s: float) -> None:
        """Notes the state, and until when this edge counts as hearing from its fleet.

        ``hears_until_s``: by ``lease_clock_s``; 0 or less: it does not hear from its fleet.
        """
        self._words[_HEARS_UNTIL_MS] = max(0, int(hears_until_s * 1000))
        self._words[_STATE] = _STATES.index(state)

    @property
    def is_stopping(self) -> bool:
        """Whether the workers are draining because the edge stops."""
        return bool(self._words[_IS_STOPPING])

    def note_completed(self, position: int) -> None:
        """Notes that all edges have applied the shared log up to a position."""
        self._words[_COMPLETED] = position

    @property
    def awaits_completion(self) -> bool:
        """Whether a worker waits until all edges have applied an entry."""
        return self._words[_AWAITED] > self._words[_COMPLETED]

    # For workers.

    def has_completed(self, position: int) -> bool:
        """Whether all edges have applied the shared log up to a position, as far as is known here.

        If not, the control process learns that this worker waits.
        """
        if position <= self._words[_COMPLETED]:
            return True
        self._words[_AWAITED] = max(self._words[_AWAITED], position)
        return False

    # For the supervisor.

    def note_stopping(self) -> None:
        """Notes that the workers drain because the edge stops."""
        self._words[_IS_STOPPING] = 1

    # For every process.

    @property
    def state(self) -> EdgeState:
        """The state as the control process noted it last; LOST in place of UP after the lease."""
        state = _STATES[self._words[_STATE]]
        return EdgeState.LOST if state is EdgeState.UP and not self.hears_fleet() else state

    @property
    def hears_until_s(self) -> float:
        """Until when ``hears_fleet`` is true, by ``lease_clock_s``."""
        return self._words[_HEARS_UNTIL_MS] / 1000

    def hears_fleet(self) -> bool:
        """Whether this edge knows all invalidations that others have reported as completed."""
        return lease_clock_s() < self.hears_until_s

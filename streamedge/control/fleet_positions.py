"""Translates positions of the control log to positions of the shared log, and back.

Edges compare positions of the shared log, but records of cached objects have positions of the
edge's own control log. An edge applies its own invalidations before the shared log has them, so the
two orders differ. Both translations err in one direction: an object seems older than it is.

``as_of(e)``: a request that was sent at the epoch ``e`` is newer than all entries up to the result.
``local_epoch(p)``: whatever is newer than all entries up to ``p`` is newer than all rows up to the
result.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamedge.control.database import ControlDatabase
from streamedge.control.fleet_entries import EntryPlace, first_waiting_epoch, placed_after
from streamedge.control.log import control_head
from streamedge.control.position import epoch_of
from streamedge.control.replica import ReplicaState, replica_state
from streamedge.fleet.position import START, line_of

STEPS_KEPT = 16_384  # of each translation; beyond it older ones get coarser


@dataclass(frozen=True, slots=True)
class Placements:
    """What has changed since an earlier read, as of one transaction.

    ``head_epoch``: of the control log. ``waiting_epoch``: no row up to here waits to be published;
    None: no row waits. ``is_whole``: ``entries`` are all entries here, because those read earlier
    have other places now.
    """

    state: ReplicaState
    head_epoch: int
    waiting_epoch: int | None
    entries: Sequence[EntryPlace]
    is_whole: bool


def read_placements(database: ControlDatabase, position: int, entry_id: str) -> Placements | None:
    """The entries after a position, if ``entry_id`` is still there; all entries if not.

    None before the edge has joined a fleet. Raises ControlError.
    """
    with database.read() as connection:
        state = replica_state(connection)
        if state is None:
            return None
        is_whole = True
        if position != START:
            row = connection.execute(
                "SELECT id FROM fleet_entries WHERE position = ?", (position,)
            ).fetchone()
            is_whole = row is None or row[0] != entry_id
        return Placements(
            state,
            epoch_of(control_head(connection)),
            first_waiting_epoch(connection),
            placed_after(connection, START if is_whole else position),
            is_whole,
        )


class FleetPositions:
    """The translations in a worker, as of the last ``refresh``."""

    def __init__(
        self,
        read: Callable[[int, str], Placements | None],
        *,
        steps_kept: int = STEPS_KEPT,
    ) -> None:
        self._read = read
        self._steps_kept = steps_kept
        self.position = START
        """The entries up to here are applied; START before the edge has joined a fleet."""
        self._last_position, self._last_id = START, ""
        self._state: ReplicaState | None = None
        self._waiting_epoch: int | None = None
        self._clear(None)

    def refresh(self) -> None:
        """Reads what has changed. Raises ControlError."""
        new = self._read(self._last_position, self._last_id)
        if new is None:
            self.position = START
            self._clear(None)
            return
        if new.is_whole:
            self._clear(new.state)
        for entry in new.entries:
            self._add(entry)
        self.position = new.state.position
        self._state = new.state
        self._head_epoch = new.head_epoch
        self._waiting_epoch = new.waiting_epoch

    @property
    def has_waiting_rows(self) -> bool:
        """Whether rows wait to be published, as of the same moment as ``position``."""
        return self._waiting_epoch is not None

    def as_of(self, epoch: int) -> int:
        """The position up to which all entries had been applied at an epoch."""
        if self._state is None:
            return START
        if epoch >= self._high_epoch:
            return self.position
        index = bisect_right(self._high_epochs, epoch)
        return self._high_positions[index - 1] if index else START

    def local_epoch(self, position: int) -> int:
        """The epoch up to which all rows are entries up to a position; 0 if none is certain."""
        state = self._state
        if state is None or state.settled_position is None:
            return 0
        if position < max(state.settled_position, state.pruned_position):
            return 0
        if line_of(position) > line_of(self.position):
            # The other edge follows a line that has not come here yet: it may lack entries that
            # the engine has lost, though their positions here are older.
            return 0
        epoch = self._head_epoch
        if self._waiting_epoch is not None:
            epoch = min(epoch, self._waiting_epoch)
        index = bisect_right(self._low_positions, position)
        if index < len(self._low_positions):
            epoch = min(epoch, self._low_epochs[index] - 1)
        return max(epoch, 0)

    def _clear(self, state: ReplicaState | None) -> None:
        self._state = state
        self._head_epoch = 0
        self._waiting_epoch = None
        self._last_position, self._last_id = START, ""
        # Epochs that were the highest so far, and the last position before the next higher one.
        self._high_epochs: list[int] = []
        self._high_positions: list[int] = []
        self._high_epoch = 0 if state is None else state.pruned_epoch
        # Positions, and the lowest epoch of the entries from there on.
        self._low_positions: list[int] = []
        self._low_epochs: list[int] = []

    def _add(self, entry: EntryPlace) -> None:
        if entry.position is None:
            return
        self._last_position, self._last_id = entry.position, entry.id
        if entry.epoch > self._high_epoch:
            self._high_epochs.append(self._high_epoch)
            self._high_positions.append(entry.position - 1)
            self._high_epoch = entry.epoch
        # An entry without a row comes after all rows up to its epoch.
        low = entry.epoch if entry.has_row else entry.epoch + 1
        while self._low_epochs and self._low_epochs[-1] >= low:
            self._low_epochs.pop()
            self._low_positions.pop()
        self._low_epochs.append(low)
        self._low_positions.append(entry.position)
        if len(self._high_epochs) > self._steps_kept:
            half = self._steps_kept // 2
            self._high_epochs[:half] = self._high_epochs[:half:2]
            self._high_positions[:half] = self._high_positions[:half:2]
        if len(self._low_epochs) > self._steps_kept:
            half = self._steps_kept // 2 & ~1
            self._low_positions[:half] = self._low_positions[1:half:2]
            self._low_epochs[:half] = self._low_epochs[:half:2]

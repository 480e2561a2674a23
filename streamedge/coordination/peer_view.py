"""What a worker knows of its fleet: members, how far it has applied the shared log, and its state.

Members are read from the control database when the worker is woken, the state from shared memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from streamedge.cache.storage.changes import ChangeCounter
from streamedge.control.database import ControlDatabase, ControlError
from streamedge.control.fleet_view import (
    FleetView,
    MembersBefore,
    MembersReader,
    fleet_view,
    members_before,
)
from streamedge.control.invalidation_index import InvalidationIndex
from streamedge.coordination.fleet_status import FleetStatus
from streamedge.fleet.members import Member
from streamedge.fleet.ownership import PREVIOUS_OWNERS_S
from streamedge.fleet.states import EdgeState


class WorkerFleetView:
    """A ``PeerView`` (``origin.peer.view``) of a worker of the edge ``name``.

    ``database`` is used on the event loop, so it must not wait for locks.
    """

    def __init__(
        self,
        name: str,
        status: FleetStatus,
        index: InvalidationIndex,
        database: ControlDatabase,
        changes: ChangeCounter,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._status = status
        self._index = index
        self._database = database
        self._changes = changes
        self._clock = clock
        self._view = FleetView()
        self._members = MembersReader()
        self._before = MembersBefore({}, 0.0)
        self._refreshed: list[asyncio.Event] = []
        self._apply: Callable[[], object] = self.refresh
        self._seen_change = changes.number
        self.refresh()

    def apply_by(self, apply: Callable[[], object]) -> None:
        """``apply`` reads the control log in this worker, and calls ``refresh``."""
        self._apply = apply

    def catch_up(self) -> None:
        """As ``PeerView.catch_up``."""
        number = self._changes.number
        if number != self._seen_change:
            self._seen_change = number
            self._apply()

    def refresh(self) -> None:
        """Reads members and waiting entries again; what cannot be read stays as it is."""
        try:
            with self._database.read() as connection:
                before = self._view.members
                self._view = fleet_view(connection, self._members)
                if self._view.members is not before or self._before.changed_s:
                    since_s = self._clock() - PREVIOUS_OWNERS_S
                    self._before = members_before(connection, self._view.members, since_s)
        except ControlError:
            return  # the next wake-up reads them; the index says that it is behind
        for event in self._refreshed:
            event.set()

    @property
    def state(self) -> EdgeState:
        """As ``PeerView.state``."""
        state = self._status.state
        if state is EdgeState.JOINING or self._status.hears_fleet():
            return state
        return EdgeState.LOST

    @property
    def applied(self) -> int:
        """As ``PeerView.applied``."""
        return self._index.fleet_position

    @property
    def has_unplaced_rows(self) -> bool:
        """As ``PeerView.has_unplaced_rows``."""
        # The view is newer than ``applied``: a row that was placed between would be overlooked.
        return self._view.unpublished > 0 or self._index.has_waiting_rows

    @property
    def members(self) -> Mapping[str, Member]:
        """As ``PeerView.members``."""
        return self._view.members

    @property
    def previous_members(self) -> Mapping[str, Member]:
        """As ``PeerView.previous_members``."""
        is_recent = self._clock() < self._before.changed_s + PREVIOUS_OWNERS_S
        return self._before.members if is_recent else {}

    async def has_applied(self, position: int, within_s: float) -> bool:
        """As ``PeerView.has_applied``."""
        if self.applied >= position:
            return True
        if within_s <= 0:
            return False
        event = asyncio.Event()
        self._refreshed.append(event)
        try:
            async with asyncio.timeout(within_s):
                while self.applied < position:
                    event.clear()
                    await event.wait()
        except TimeoutError:
            return False
        finally:
            self._refreshed.remove(event)
        return True

    def local_position(self, position: int) -> int:
        """As ``PeerView.local_position``."""
        return self._index.local_position(position)

    def shared_position(self, local_position: int) -> int:
        """As ``PeerView.shared_position``."""
        return self._index.as_of(local_position)

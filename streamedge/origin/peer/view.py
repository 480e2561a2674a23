"""What a worker knows of its fleet when it handles a request.

Everything is read from memory: nothing here waits for the engine or for another edge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from streamedge.fleet.members import Member
from streamedge.fleet.states import EdgeState


class PeerView(Protocol):
    """The fleet as this worker sees it.

    Positions without a further word are positions of the shared log (``fleet.position``); local
    positions are those of the edge's own control log (``control.position``).
    """

    @property
    def name(self) -> str:
        """This edge's name."""
        ...

    def refresh(self) -> None:
        """Reads again what may have changed; called when this worker is woken."""
        ...

    def apply_by(self, apply: Callable[[], object]) -> None:
        """``apply`` is what ``catch_up`` calls; it ends with ``refresh``."""
        ...

    def catch_up(self) -> None:
        """Applies what processes of this edge have announced since; called before each request.

        After a write or an invalidation was answered, no worker requests by what it knew before.
        """
        ...

    @property
    def state(self) -> EdgeState:
        """This edge's state; LOST as soon as its lease is over, also while it drains."""
        ...

    @property
    def applied(self) -> int:
        """The position up to which this worker has applied the shared log."""
        ...

    @property
    def has_unplaced_rows(self) -> bool:
        """Whether rows of this edge are not in the shared log yet: other edges do not know them."""
        ...

    @property
    def members(self) -> Mapping[str, Member]:
        """The members by name, as the shared log describes them."""
        ...

    @property
    def previous_members(self) -> Mapping[str, Member]:
        """As ``members``, before the changes of the last hour; empty if there were none."""
        ...

    async def has_applied(self, position: int, within_s: float) -> bool:
        """Whether this worker has applied the shared log up to a position, or does so in time."""
        ...

    def local_position(self, position: int) -> int:
        """A local position: a record with it is refused by every local row that may be newer in
        the shared log than ``position``."""
        ...

    def shared_position(self, local_position: int) -> int:
        """The opposite: everything in the shared log up to it is older than ``local_position``."""
        ...

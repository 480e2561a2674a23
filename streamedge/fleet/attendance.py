"""Which edges of a fleet are here, and which have applied an entry. Pure.

An entry is *completed* when every edge that may use cached objects has applied it. Those are the
edges whose presence lasts, but for the joining ones; an edge without a presence validates by then
(``lease``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from streamedge.fleet.members import Presence
from streamedge.fleet.states import EdgeState

GONE_STATE = "gone"
"""In place of a state: the edge has stopped, or its lease is over."""

UNKNOWN_STATE = "unknown"
"""In place of a state: this edge has not heard from the engine for a lease."""


class StateChange(NamedTuple):
    """An edge's change of state; "" and GONE mean that it was or is not here."""

    name: str
    before: str
    after: str


@dataclass(slots=True)
class Attendance:
    """The presences as they were read last. ``is_complete``: see ``engine.Presences``."""

    presences: Mapping[str, Presence] = field(default_factory=dict)
    is_complete: bool = False

    def update(self, presences: Mapping[str, Presence], *, is_complete: bool) -> list[StateChange]:
        """Replaces the presences; returns the changes of state."""
        before, self.presences, self.is_complete = self.presences, presences, is_complete
        changes = []
        for name in sorted(before.keys() | presences.keys()):
            old, new = before.get(name), presences.get(name)
            was = old.state.value if old is not None else ""
            now = new.state.value if new is not None else GONE_STATE
            if was != now:
                changes.append(StateChange(name, was, now))
        return changes

    def applied(self, position: int) -> set[str]:
        """The edges that have applied all entries up to a position and may use cached objects."""
        return {
            name
            for name, presence in self.presences.items()
            if presence.state is not EdgeState.JOINING and presence.position >= position
        }

    def behind(self, position: int) -> list[str]:
        """The edges that have to apply entries up to a position before those are completed."""
        return sorted(
            name
            for name, presence in self.presences.items()
            if presence.state is not EdgeState.JOINING and presence.position < position
        )

    def completed(self, own: int) -> int:
        """All entries up to this position are completed, if this edge has applied those up to
        ``own``; -1 while that is unknown."""
        if not self.is_complete:
            return -1
        counted = [
            presence.position
            for presence in self.presences.values()
            if presence.state is not EdgeState.JOINING
        ]
        return min([own, *counted])

    def edges_by_state(self) -> dict[EdgeState, int]:
        """How many edges are in each state."""
        counts = dict.fromkeys(EdgeState, 0)
        for presence in self.presences.values():
            counts[presence.state] += 1
        return counts

"""The contract of an engine: an existing server that holds the shared log of a fleet.

An engine keeps three things: the log itself, the newest document of each resource of the API, and
the presence of each edge while its lease lasts. ``redis`` is one; another engine needs one module
and one line in ``open_engine``.

Every call makes one attempt and is bounded in time. A driver never repeats an append by itself, but
a caller may: an entry with an id that the log has already is not appended again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from streamedge.errors import StreamEdgeError
from streamedge.fleet.entries import Entry, PlacedEntry
from streamedge.fleet.members import Presence

ENTRIES_KEPT = 100_000
"""Entries that an engine keeps at least; an edge that is further behind reads the snapshot."""


class EngineError(StreamEdgeError):
    """The engine does not answer, or refuses. What it has done is unknown."""


class ConflictError(StreamEdgeError):
    """Resources have changed since the position that the change was made from."""


class Bounds(NamedTuple):
    """The positions of the oldest and of the newest entry; both START if the log is empty."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Documents as of one position of the log.

    ``resources``: the rows of all resources of the API as JSON texts, by "KIND/ID".
    ``resources_position``: the position of the newest RESOURCES entry. ``members``: the bodies of
    the newest MEMBER entries, with the positions of the first ones, as JSON texts by name.
    """

    position: int
    resources_position: int
    resources: Mapping[str, str]
    members: Mapping[str, str]


class Engine(Protocol):
    """A connection to an engine, for one event loop. Every method raises EngineError."""

    async def append(
        self,
        entry: Entry,
        *,
        line: int,
        documents: Mapping[str, str | None] | None = None,
        expected_resources_position: int | None = None,
    ) -> int:
        """Appends an entry to a line and returns its position; the earlier one for a known id.

        ``documents`` replace (None: remove) documents of the snapshot in the same step: resources
        of a RESOURCES entry by "KIND/ID", the member of a MEMBER entry by its name. Raises
        ConflictError if the newest RESOURCES entry is not at ``expected_resources_position``, and
        EngineError if the log is in another line than ``line``.
        """
        ...

    async def read_after(self, position: int, *, count: int, wait_s: float) -> list[PlacedEntry]:
        """Entries after a position, oldest first; waits up to ``wait_s`` while there are none."""
        ...

    async def entry_ids(self, positions: Sequence[int]) -> list[str | None]:
        """The ids of the entries at these positions; None where there is no entry."""
        ...

    async def bounds(self) -> Bounds: ...

    async def begin_line(self, line: int, entry: Entry, snapshot: Snapshot) -> None:
        """Begins a line at its position 0 with a LINE entry, unless the log has that line already.

        Documents of ``snapshot`` are kept if the engine has none at all (it was emptied).
        """
        ...

    async def snapshot(self) -> Snapshot: ...

    async def report(self, presence: Presence, lease_s: float) -> dict[str, Presence]:
        """Replaces an edge's presence for a lease; returns all that last, by name.

        Those who wait in ``presence_after`` are woken.
        """
        ...

    async def withdraw(self, name: str) -> None:
        """Ends an edge's presence, because it stops."""
        ...

    async def presence_after(self, wait_s: float) -> dict[str, Presence]:
        """All presences, after one was reported or ``wait_s`` have passed."""
        ...

    async def trim(self, position: int) -> None:
        """Removes entries before a position, but keeps the newest ENTRIES_KEPT."""
        ...

    async def problems(self) -> list[str]:
        """Settings of the engine that may lose data, as sentences that say what to do."""
        ...

    async def close(self) -> None: ...

"""The contract of an engine: an existing server that holds the shared log of a fleet.

An engine keeps three things: the log itself, the newest document of each resource of the API, and
the presence of each edge while its lease lasts. ``redis`` is one; another engine needs one module
and one line in ``open_engine``.

Every call makes one attempt and is bounded in time. A driver never repeats an append by itself, but
a caller may: an entry with an id that the log has already is not appended again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from streamedge.errors import StreamEdgeError
from streamedge.fleet.entries import Entry, PlacedEntry
from streamedge.fleet.members import Presence
from streamedge.fleet.position import START

ENTRIES_KEPT = 100_000
"""Entries that an engine keeps at least; an edge that is further behind reads the snapshot."""


class EngineError(StreamEdgeError):
    """The engine does not answer, or refuses. What it has done is unknown."""


class ConflictError(StreamEdgeError):
    """Resources have changed since the position that the change was made from; nothing is done."""


class LineError(EngineError):
    """The log is in another line, or empty; nothing is done. ``line``: the one that it is in, 0
    for an empty log."""

    def __init__(self, line: int) -> None:
        super().__init__(f"the shared log is in line {line}")
        self.line = line


class HistoryError(EngineError):
    """The log does not go on from the entry that was read last.

    The engine has lost that entry (it failed over to a replica that was behind, or was emptied), or
    has trimmed what comes behind it; ``Engine.bounds`` and ``Engine.entry_ids`` say which.
    """


class Bounds(NamedTuple):
    """The positions of the oldest and of the newest entry; both START if the log is empty."""

    first: int
    last: int


class MemberDocument(NamedTuple):
    """``body``: that of a member's newest MEMBER entry, as JSON. ``order``: the position of its
    first one."""

    order: int
    body: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Documents as of one position of the log.

    ``entry_id``: the id of the entry at ``position``. ``resources``: the rows of all resources of
    the API as JSON texts, by "KIND/ID". ``resources_position``: the position of the newest
    RESOURCES entry. ``members``: by name.
    """

    position: int = START
    entry_id: str = ""
    resources_position: int = START
    resources: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, MemberDocument] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Presences:
    """The presences that last, by name.

    ``data_set`` names what the engine holds since it may last have lost something; "" if this is
    not known.

    ``complete`` is False for a lease after the engine may have lost reports (a restart, a failover,
    a flush): until then an edge may live that is not among them.
    """

    by_name: Mapping[str, Presence]
    complete: bool
    data_set: str = ""


class Engine(Protocol):
    """A connection to an engine, for one event loop. Every method raises EngineError.

    One task at a time calls ``read_after``, and one ``presence_after``; all other methods may be
    called at any time.
    """

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
        of a RESOURCES entry by "KIND/ID", the body of the member of a MEMBER entry by its name.
        Raises ConflictError if the newest RESOURCES entry is not at
        ``expected_resources_position``, and LineError if the log is in another line than ``line``.

        The engine may still lose the entry. It has its position for good only where
        ``read_after`` returned it.
        """
        ...

    async def append_many(self, entries: Sequence[Entry], *, line: int) -> list[int]:
        """Appends entries without documents in their order, as ``append`` does; their positions.

        After an error the first of them may be in the log.
        """
        ...

    async def read_after(
        self, position: int, entry_id: str, *, count: int, wait_s: float
    ) -> list[PlacedEntry]:
        """Entries after a position, oldest first; waits up to ``wait_s`` while there are none.

        ``entry_id``: the id of the entry at ``position``; "" at START. Raises HistoryError unless
        the first returned entry follows that very entry; without new entries, unless it is still
        the newest one. So a reader that goes on from what it was given misses nothing, and notices
        that history was lost, whatever happens to engine and connections.
        """
        ...

    async def entry_ids(self, positions: Sequence[int]) -> list[str | None]:
        """The ids of the entries at these positions; None where there is no entry."""
        ...

    async def bounds(self) -> Bounds: ...

    async def begin_line(self, line: int, entry: Entry, snapshot: Snapshot) -> bool:
        """Begins a line at its sequence number 0 with a LINE entry.

        Does nothing and returns False if the log is in that line or a later one. Documents of
        ``snapshot`` are kept if the engine has none at all (it was emptied).
        """
        ...

    async def snapshot(self) -> Snapshot: ...

    async def report(
        self, presence: Presence, lease_s: float, *, applied: int = START, entry_id: str = ""
    ) -> Presences:
        """Replaces an edge's presence for a lease; returns all that last.

        ``entry_id``: the id of the entry at ``applied``, the last one that this edge has read. If
        the log has another one there, or none, the edge has followed entries that the log has lost,
        and its position counts for nothing: the presence is kept with START. "": not compared.

        A call of ``presence_after`` is woken on every edge.
        """
        ...

    async def withdraw(self, name: str) -> None:
        """Ends an edge's presence, because it stops."""
        ...

    async def presence_after(self, wait_s: float) -> Presences:
        """All presences, after one was reported or withdrawn, or ``wait_s`` have passed.

        Reports between two calls are not missed.
        """
        ...

    async def trim(self, position: int, *, keep: int = ENTRIES_KEPT) -> None:
        """Removes entries before a position, but keeps the newest ``keep``."""
        ...

    async def problems(self) -> list[str]:
        """Settings of the engine that may lose data, as sentences that say what to do."""
        ...

    async def close(self) -> None: ...

"""An engine in memory that loses, trims, fails and delays as a test orders.

A ``MemoryServer`` is the server, with one ``MemoryEngine`` for each edge, which implements the
contract of ``streamedge.shared_log.engine`` except for presences.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from streamedge.fleet.entries import Entry, EntryKind, PlacedEntry, decode_entry, encode_entry
from streamedge.fleet.members import Presence
from streamedge.fleet.position import START, line_of, position_at
from streamedge.shared_log.engine import (
    Bounds,
    ConflictError,
    EngineError,
    HistoryError,
    LineError,
    MemberDocument,
    Presences,
    Snapshot,
)


@dataclass(frozen=True)
class StoredEntry:
    """An entry in the log; ``after`` is the id of the entry before it."""

    position: int
    id: str
    after: str
    text: str


@dataclass(frozen=True)
class Contents:
    """All that the server holds at one moment; changes replace it."""

    log: tuple[StoredEntry, ...] = ()
    resources: Mapping[str, str] = field(default_factory=dict)
    resources_position: int = START
    members: Mapping[str, MemberDocument] = field(default_factory=dict)


class MemoryServer:
    """The server. ``contents`` is what it holds now."""

    def __init__(self) -> None:
        self.contents = Contents()
        self.breaks = 0  # how often all connections were broken
        self._earlier: list[Contents] = []  # before each append
        self.changed = asyncio.Event()

    def ids(self) -> list[str]:
        """The ids in the log, in order."""
        return [entry.id for entry in self.contents.log]

    def replace(self, contents: Contents) -> None:
        """A change that a failover may undo."""
        self._earlier.append(self.contents)
        self.contents = contents
        self.changed.set()
        self.changed = asyncio.Event()

    def lose_tail(self, entries: int) -> None:
        """A failover to a replica that is ``entries`` appends behind; breaks all connections."""
        self.breaks += 1
        if entries and self._earlier:
            first = max(0, len(self._earlier) - entries)
            self.contents = self._earlier[first]
            del self._earlier[first:]

    def empty(self) -> None:
        """FLUSHALL."""
        self.contents = Contents()
        self._earlier.clear()

    def trim(self, entries: int) -> None:
        """Removes the oldest entries, but not the newest one."""
        log = self.contents.log
        remaining = log[min(entries, len(log) - 1) :] if log else log
        self.contents = Contents(
            remaining,
            self.contents.resources,
            self.contents.resources_position,
            self.contents.members,
        )
        self._earlier.clear()

    def add(self, entry: Entry, position: int, **documents: object) -> None:
        """Appends one entry and replaces documents, as one change."""
        now = self.contents
        after = now.log[-1].id if now.log else ""
        stored = StoredEntry(position, entry.id, after, encode_entry(entry))
        values = {
            "resources": now.resources,
            "resources_position": now.resources_position,
            "members": now.members,
        }
        self.replace(Contents((*now.log, stored), **{**values, **documents}))  # type: ignore[arg-type]

    def add_text(self, text: str, entry_id: str) -> None:
        """Appends an entry that this version cannot read."""
        now = self.contents
        stored = StoredEntry(now.log[-1].position + 1, entry_id, now.log[-1].id, text)
        self.replace(
            Contents((*now.log, stored), now.resources, now.resources_position, now.members)
        )


class MemoryEngine:
    """One edge's connection. ``is_down``: calls fail. ``cut``: so many calls are executed, but
    their answers are lost."""

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        self.is_down = False
        self.cut = 0
        self._breaks = server.breaks

    async def append(
        self,
        entry: Entry,
        *,
        line: int,
        documents: Mapping[str, str | None] | None = None,
        expected_resources_position: int | None = None,
    ) -> int:
        self._check()
        now = self.server.contents
        head_line = line_of(now.log[-1].position) if now.log else 0
        if head_line != line or not now.log:
            raise LineError(head_line)
        position = next((one.position for one in now.log if one.id == entry.id), None)
        if position is None:
            if (
                expected_resources_position is not None
                and expected_resources_position != now.resources_position
            ):
                raise ConflictError
            position = now.log[-1].position + 1
            self.server.add(entry, position, **self._changed(entry, position, documents or {}))
        self._answer()
        return position

    def _changed(
        self, entry: Entry, position: int, documents: Mapping[str, str | None]
    ) -> dict[str, object]:
        now = self.server.contents
        if entry.kind is EntryKind.MEMBER:
            members = dict(now.members)
            for name, body in documents.items():
                order = members[name].order if name in members else position
                members[name] = MemberDocument(order, body or "")
            return {"members": members}
        if entry.kind is not EntryKind.RESOURCES:
            return {}
        resources = dict(now.resources)
        for key, text in documents.items():
            resources.pop(key, None)
            if text is not None:
                resources[key] = text
        return {"resources": resources, "resources_position": position}

    async def append_many(self, entries: Sequence[Entry], *, line: int) -> list[int]:
        return [await self.append(entry, line=line) for entry in entries]

    async def read_after(
        self, position: int, entry_id: str, *, count: int, wait_s: float
    ) -> list[PlacedEntry]:
        self._check()
        changed = self.server.changed
        entries = self.entries_after(position, entry_id, count)
        if not entries and wait_s > 0:
            try:
                async with asyncio.timeout(wait_s):
                    await changed.wait()
            except TimeoutError:
                pass
            self._check()
            entries = self.entries_after(position, entry_id, count)
        self._answer()
        return entries

    def entries_after(self, position: int, entry_id: str, count: int) -> list[PlacedEntry]:
        log = self.server.contents.log
        at_or_after = [one for one in log if one.position >= position]
        if not at_or_after:
            if entry_id:
                raise HistoryError("the entry is not there")
            return []
        first = at_or_after[0]
        if entry_id != (first.id if first.position == position else first.after):
            raise HistoryError("another entry is there")
        return [
            PlacedEntry(one.position, one.id, decode_entry(one.text))
            for one in at_or_after
            if one.position > position
        ][:count]

    async def entry_ids(self, positions: Sequence[int]) -> list[str | None]:
        self._check()
        ids = {one.position: one.id for one in self.server.contents.log}
        self._answer()
        return [ids.get(position) for position in positions]

    async def bounds(self) -> Bounds:
        self._check()
        log = self.server.contents.log
        self._answer()
        return Bounds(log[0].position, log[-1].position) if log else Bounds(START, START)

    async def begin_line(self, line: int, entry: Entry, snapshot: Snapshot) -> bool:
        self._check()
        now = self.server.contents
        if now.log and line_of(now.log[-1].position) >= line:
            self._answer()
            return False
        documents: dict[str, object] = {}
        if not now.resources and not now.members:
            documents = {
                "resources": dict(snapshot.resources),
                "resources_position": snapshot.resources_position,
                "members": dict(snapshot.members),
            }
        self.server.add(entry, position_at(line, 0), **documents)
        self._answer()
        return True

    async def snapshot(self) -> Snapshot:
        self._check()
        now = self.server.contents
        self._answer()
        position, entry_id = (now.log[-1].position, now.log[-1].id) if now.log else (START, "")
        return Snapshot(
            position, entry_id, now.resources_position, dict(now.resources), dict(now.members)
        )

    async def report(
        self, presence: Presence, lease_s: float, *, applied: int = START, entry_id: str = ""
    ) -> Presences:
        raise NotImplementedError

    async def withdraw(self, name: str) -> None:
        raise NotImplementedError

    async def presence_after(self, wait_s: float) -> Presences:
        raise NotImplementedError

    async def trim(self, position: int, *, keep: int = 0) -> None:
        self._check()
        log = self.server.contents.log
        self.server.trim(min(sum(one.position < position for one in log), len(log) - keep))

    async def problems(self) -> list[str]:
        return []

    async def close(self) -> None:
        return None

    def _check(self) -> None:
        if self._breaks != self.server.breaks:
            self._breaks = self.server.breaks
            raise EngineError("the connection is broken")
        if self.is_down:
            raise EngineError("the engine does not answer")

    def _answer(self) -> None:
        if self.cut:
            self.cut -= 1
            raise EngineError("the answer was cut")

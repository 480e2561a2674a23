"""Following the shared log: one step after the other, each of which a test can call by itself.

``synchronize`` compares the history of this edge with the log's and mends what differs; then
``step`` reads and applies the next entries. The position moves by entries that were read, never by
silence; the engine verifies with each read that nothing is missing between.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from streamedge.control.replica import AppliedEntries, Documents, Replica, ReplicaState
from streamedge.fleet.entries import Entry, EntryKind, PlacedEntry, new_entry_id
from streamedge.fleet.history import (
    History,
    are_consecutive,
    compare_history,
    newest_common,
)
from streamedge.fleet.position import START, format_position, line_of
from streamedge.ops.log import Log
from streamedge.shared_log.engine import Engine, HistoryError, MemberDocument, Snapshot

BATCH_ENTRIES = 1000
LIGHT_ITEMS = 32
"""Of invalidations that are applied on the event loop; one with one item takes 0.2 to 0.4 ms."""
WAIT_S = 1.0  # for new entries; then the histories are compared
COMPARED_ENTRIES = 1000  # the newest ones, at each connection
_ATTEMPTS = 8  # to reach a log that others change, too


class Applied(NamedTuple):
    """What a step has done: the entries it read, and whether resources changed besides."""

    entries: list[PlacedEntry]
    is_replaced: bool


async def _ignore(_applied: AppliedEntries) -> None:
    pass


class Follower:
    """Follows the log of ``engine`` into ``replica``.

    ``copy_aside`` copies the control database before its documents are replaced by the fleet's; it
    returns the name of the copy. ``put_into_effect`` is called when a step has applied entries.
    ``copy_aside`` and the replica are called in threads, but for a few entries that are applied.
    """

    def __init__(
        self,
        engine: Engine,
        replica: Replica,
        log: Log,
        copy_aside: Callable[[], str],
        put_into_effect: Callable[[AppliedEntries], Awaitable[None]] = _ignore,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._replica = replica
        self._log = log
        self._copy_aside = copy_aside
        self._put_into_effect = put_into_effect
        self._clock = clock
        self.position = START
        self.entry_id = ""
        self.line = 0
        self.is_reconciled = False
        self._snapshot: Snapshot | None = None  # to reconcile with
        self.history = 0
        """Grows whenever entries lose their positions; other entries may get these."""

    async def synchronize(self) -> None:
        """Makes the history of this edge a part of the log's. Raises EngineError, ControlError."""
        self._snapshot = None
        for _attempt in range(_ATTEMPTS):
            state = await asyncio.to_thread(self._replica.state)
            if state is None:
                await self._join()
            elif await self._mend(state):
                bounds = await self._engine.bounds()
                self.position, self.entry_id = state.position, state.entry_id
                self.is_reconciled = state.is_reconciled
                self.line = line_of(bounds.last)
                return
        raise HistoryError("the shared log changed while this edge compared it")

    async def step(self, wait_s: float = WAIT_S) -> Applied:
        """Reads and applies the next entries. Raises EngineError, ControlError.

        After an error ``synchronize`` comes first.
        """
        if not self.is_reconciled and await self._reconcile():
            return Applied([], is_replaced=True)
        entries = await self._engine.read_after(
            self.position, self.entry_id, count=self._batch_entries(), wait_s=wait_s
        )
        if not entries:
            return Applied([], is_replaced=False)
        if not are_consecutive(self.position, [one.position for one in entries]):
            raise HistoryError(f"the shared log has a gap after {format_position(self.position)}")
        unreadable = [format_position(one.position) for one in entries if one.entry is None]
        if unreadable:
            effect = "everything cached is invalid"
            self._log.event("fleet_entries_unreadable", positions=unreadable, effect=effect)
        state = await self._apply(entries)
        self.position, self.entry_id = state.position, state.entry_id
        self.line = max(self.line, line_of(self.position))
        return Applied(entries, is_replaced=False)

    async def _apply(self, entries: Sequence[PlacedEntry]) -> ReplicaState:
        applied = self._replica.apply_now(entries) if _are_light(entries) else None
        if applied is None:
            applied = await asyncio.to_thread(self._replica.apply, entries)
        await self._put_into_effect(applied)
        return applied.state

    async def _compare(self, state: ReplicaState) -> History:
        bounds = await self._engine.bounds()
        if START in {state.position, bounds.last}:
            history = compare_history(
                state.position, state.line, state.entry_id, None, bounds.first, bounds.last
            )
            if history is History.CONTINUES:
                try:
                    await self._engine.read_after(START, "", count=1, wait_s=0.0)
                except HistoryError:
                    return History.TRIMMED
            return history
        here = await self._placed(state.position, bounds.first)
        ids = await self._engine.entry_ids([state.position, *(at for at, _id in here)])
        history = compare_history(
            state.position, state.line, state.entry_id, ids[0], bounds.first, bounds.last
        )
        if history is History.CONTINUES and here and newest_common(here, ids[1:]) != 0:
            return History.LOST
        return history

    async def _placed(self, up_to: int, first: int) -> list[tuple[int, str]]:
        """Positions and ids of entries here that the log may have, the newest first."""
        placed = await asyncio.to_thread(self._replica.newest_placed, up_to, COMPARED_ENTRIES)
        return [one for one in placed if one[0] >= first]

    async def _mend(self, state: ReplicaState) -> bool:
        """Whether the log goes on after this edge's last entry; if not, a step towards that."""
        history = await self._compare(state)
        if history is History.LOST:
            await self._go_back(state)
        elif history is History.TRIMMED:
            await self._rejoin(state)
        return history is History.CONTINUES

    async def _join(self) -> None:
        """The first connection of this edge to its fleet."""
        bounds = await self._engine.bounds()
        is_first = False
        if bounds.last == START:
            is_first = await self._begin_line(1)
        snapshot = await self._engine.snapshot()
        here = await asyncio.to_thread(self._replica.documents)
        is_copied = bool(here.resources) and _differ(here.resources, snapshot.resources)
        copy = await asyncio.to_thread(self._copy_aside) if is_copied else ""
        await asyncio.to_thread(
            self._replica.join,
            _documents(snapshot),
            snapshot.position,
            snapshot.entry_id,
            is_first=is_first,
        )
        self._log.event(
            "fleet_joined",
            position=format_position(snapshot.position),
            members=sorted(snapshot.members),
            resources=len(snapshot.resources),
            is_first=is_first,
        )
        if copy:
            self._log.event(
                "fleet_resources_replaced",
                reason="this edge had resources of its own when it joined; the fleet's count now",
                copy=copy,
            )

    async def _rejoin(self, state: ReplicaState) -> None:
        self.history += 1
        snapshot = await self._engine.snapshot()
        await asyncio.to_thread(
            self._replica.rejoin, _documents(snapshot), snapshot.position, snapshot.entry_id
        )
        self._log.event(
            "fleet_log_trimmed",
            applied=format_position(state.position),
            position=format_position(snapshot.position),
            effect="everything cached is validated, because invalidations may have been missed",
        )

    async def _go_back(self, state: ReplicaState) -> None:
        """The log has lost entries that this edge has applied: begins a line behind the rest."""
        line = max(line_of(state.position), state.line if state.position == START else 0) + 1
        is_begun_here = await self._begin_line(line)
        position, entry_id = await self._newest_common(state.position)
        bounds = await self._engine.bounds()
        next_line = line_of(bounds.first) if position == START else line_of(position)
        self.history += 1
        lost = await asyncio.to_thread(self._replica.rewind, position, entry_id, next_line)
        self._log.event(
            "fleet_history_lost",
            applied=format_position(state.position),
            common=format_position(position),
            lost_entries=lost,
            line=line_of(bounds.last),
            effect="entries of the last hour that the shared log lacks are published again",
        )
        if is_begun_here:
            self._log.event("fleet_line_began", line=line, edge=self._replica.edge)

    async def _newest_common(self, position: int) -> tuple[int, str]:
        """The newest entry up to which this edge and the log have the same; START if none is."""
        first = (await self._engine.bounds()).first
        up_to = position
        while here := await self._placed(up_to, first):
            there = await self._engine.entry_ids([one for one, _id in here])
            index = newest_common(here, there)
            if index is not None:
                return here[index]
            up_to = here[-1][0] - 1
        return START, ""

    async def _begin_line(self, line: int) -> bool:
        edge = self._replica.edge
        entry = Entry(new_entry_id(), EntryKind.LINE, edge, self._clock(), "", {"line": line})
        here = await asyncio.to_thread(self._replica.documents)
        members = {name: MemberDocument(*one) for name, one in here.members.items()}
        documents = Snapshot(
            resources_position=here.resources_position, resources=here.resources, members=members
        )
        return await self._engine.begin_line(line, entry, documents)

    async def _reconcile(self) -> bool:
        """After lost history, once this edge's lost changes of resources are published again.

        Returns whether resources were replaced. A snapshot is taken only when this edge has
        followed the log to its very entry: the engine may still lose what lies between.
        """
        if await asyncio.to_thread(self._replica.has_unpublished, EntryKind.RESOURCES):
            return False
        if self._snapshot is None or self._snapshot.position < self.position:
            self._snapshot = await self._engine.snapshot()
        snapshot = self._snapshot
        if (snapshot.position, snapshot.entry_id) != (self.position, self.entry_id):
            return False
        is_replaced = await asyncio.to_thread(self._replica.reconcile, _documents(snapshot))
        if is_replaced:
            self._log.event(
                "fleet_resources_replaced",
                reason="the shared log lost changes, and other edges have made others since",
            )
        self.is_reconciled, self._snapshot = True, None
        return is_replaced

    def _batch_entries(self) -> int:
        """How many entries a step reads at most: not beyond the snapshot that it waits for."""
        snapshot = self._snapshot
        if snapshot is None or line_of(snapshot.position) != line_of(self.position):
            return BATCH_ENTRIES
        return max(1, min(BATCH_ENTRIES, snapshot.position - self.position))


def _are_light(entries: Sequence[PlacedEntry]) -> bool:
    """Whether entries are a few short invalidations, whose application does not hold others up."""
    items = 0
    for _position, _id, entry in entries:
        if entry is None or entry.kind is not EntryKind.INVALIDATION:
            return False
        listed = entry.body.get("items")
        items += len(listed) if isinstance(listed, list) else LIGHT_ITEMS
    return items <= LIGHT_ITEMS


def _documents(snapshot: Snapshot) -> Documents:
    return Documents(snapshot.resources, snapshot.resources_position, snapshot.members)


def _differ(here: Mapping[str, str], there: Mapping[str, str]) -> bool:
    return {key: json.loads(text) for key, text in here.items()} != {
        key: json.loads(text) for key, text in there.items()
    }

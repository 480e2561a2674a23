"""Publishing this edge's entries: appends those that wait until the follower reads them.

An append may be repeated as often as needed, because the shared log keeps an id once. That it was
acknowledged ends nothing: only an entry that the follower has read has its position for good.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from streamedge.control.replica import Replica
from streamedge.fleet.entries import Entry, EntryKind, PlacedEntry, new_entry_id
from streamedge.ops.log import Log
from streamedge.shared_log.engine import ConflictError, Engine, Snapshot

BATCH_ENTRIES = 256
REPEATED_S = 5.0  # after an acknowledged append that the follower does not read


class Publisher:
    """Publishes the entries that wait in ``replica``."""

    def __init__(
        self,
        engine: Engine,
        replica: Replica,
        log: Log,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._replica = replica
        self._log = log
        self._monotonic = monotonic
        self._appended: dict[str, float] = {}  # when, by id

    def forget(self) -> None:
        """The log may have lost entries that were acknowledged."""
        self._appended.clear()

    def note_followed(self, entries: Iterable[PlacedEntry]) -> None:
        """The follower has read entries: a new line means that the log had lost some."""
        if any(one.entry is not None and one.entry.kind is EntryKind.LINE for one in entries):
            self.forget()

    async def step(self, line: int, applied: int, waiting: Sequence[Entry] | None = None) -> int:
        """Appends waiting entries to a line; returns how many. Raises EngineError, ControlError.

        ``applied``: the position up to which this edge has followed. ``waiting``: all entries that
        wait; None: they are read in a thread.
        """
        if waiting is None:
            waiting = await asyncio.to_thread(self._replica.unpublished, BATCH_ENTRIES)
        now_s = self._monotonic()
        ids = {entry.id for entry in waiting}
        self._appended = {
            id_: at_s
            for id_, at_s in self._appended.items()
            if id_ in ids and now_s - at_s < REPEATED_S
        }
        entries = [entry for entry in waiting if entry.id not in self._appended]
        batch: list[Entry] = []
        for entry in entries:
            if entry.kind in {EntryKind.MEMBER, EntryKind.RESOURCES}:
                await self._append_many(batch, line, applied)
                batch = []
                await self._append_documents(entry, line, applied)
            else:
                batch.append(entry)
        await self._append_many(batch, line, applied)
        return len(entries)

    async def _append_many(self, batch: list[Entry], line: int, applied: int) -> None:
        if not batch:
            return
        positions = await self._engine.append_many(batch, line=line)
        for entry, position in zip(batch, positions, strict=True):
            self._appended[entry.id] = self._monotonic()
            if position <= applied:
                await self._place_passed(entry, position)

    async def _place_passed(self, entry: Entry, position: int) -> None:
        """The log has a waiting entry at a position that the follower has passed.

        The follower did not read it where it began behind it, from a snapshot. But if the entry was
        made here after that position was applied, its id, derived from a caller reference, is that
        of a forgotten earlier one: it gets another id, and is published again.
        """
        state = await asyncio.to_thread(self._replica.state)
        if state is None:
            return
        (newest_id,) = await self._engine.entry_ids([state.position])
        place = await asyncio.to_thread(self._replica.place_of, entry.id)
        if newest_id != state.entry_id or place is None or place.position is not None:
            return  # the log has just lost entries, or the follower has read it meanwhile
        if position > place.made_position or not entry.body.get("caller_reference"):
            await asyncio.to_thread(self._replica.place, entry.id, position)
        else:
            new = replace(entry, id=new_entry_id())
            await asyncio.to_thread(self._replica.renew_id, entry, new)

    async def _append_documents(self, entry: Entry, line: int, applied: int) -> None:
        if entry.kind is EntryKind.MEMBER:
            documents = {str(entry.body.get("name")): json.dumps(dict(entry.body))}
            position = await self._engine.append(entry, line=line, documents=documents)
            self._appended[entry.id] = self._monotonic()
            if position <= applied:
                await self._place_passed(entry, position)
            return
        snapshot = await self._engine.snapshot()
        changes, lost = still_valid(entry.body.get("resources", {}), snapshot)
        if lost:
            self._log.event(
                "fleet_change_lost",
                resources=sorted(lost),
                edge=entry.edge,
                reason="the shared log lost this change, and others have been made since",
            )
        if not changes:
            await asyncio.to_thread(self._replica.give_up, entry.id)
            return
        try:
            position = await self._engine.append(
                replace(entry, body={"resources": changes}),
                line=line,
                documents=documents_of(changes),
                expected_resources_position=snapshot.resources_position,
            )
        except ConflictError:
            return  # another edge was faster: decided again at the next step
        self._appended[entry.id] = self._monotonic()
        if position <= applied:
            await self._place_passed(entry, position)


def documents_of(changes: Mapping[str, Any]) -> dict[str, str | None]:
    """The documents that a RESOURCES entry's changes leave, as texts by "KIND/ID"."""
    return {
        key: None if change["after"] is None else json.dumps(change["after"])
        for key, change in changes.items()
    }


def still_valid(
    changes: Mapping[str, Any], snapshot: Snapshot
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divides lost changes: those that still fit the engine's documents, and the others.

    A change fits where the document is the one that it was made from, or its own result, and no
    other resource has its name.
    """
    documents = {key: json.loads(text) for key, text in snapshot.resources.items()}
    names = {(one["kind"], one["name"]): key for key, one in documents.items()}
    valid: dict[str, Any] = {}
    lost: dict[str, Any] = {}
    for key, change in changes.items():
        after = change["after"]
        etag = documents.get(key, {}).get("etag")
        fits = etag in {change["before"], None if after is None else after["etag"]}
        if fits and after is not None:
            fits = names.get((after["kind"], after["name"]), key) == key
        (valid if fits else lost)[key] = change
    return valid, lost

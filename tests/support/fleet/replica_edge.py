"""An edge's replica, follower and publisher on a memory engine, called step by step."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from streamedge.control.database import ControlDatabase, ControlError
from streamedge.control.log import ControlLog, Row, RowKind
from streamedge.control.replica import Replica
from streamedge.control.resources import (
    Kind,
    Resource,
    ResourceStore,
    encode_resource,
)
from streamedge.fleet.entries import Entry, EntryKind, new_entry_id
from streamedge.fleet.members import Member
from streamedge.fleet.position import parse_position
from streamedge.ops.log import Log
from streamedge.shared_log import engine as engines
from streamedge.shared_log.engine import EngineError
from streamedge.shared_log.follower import Follower
from streamedge.shared_log.publisher import Publisher, documents_of
from streamedge.shared_log.resource_changes import change_entry, expected_position
from tests.support.fleet.memory_engine import MemoryEngine, MemoryServer


class ReplicaEdge:
    """One edge. ``written``: keys written through other edges; ``copies``: of its database."""

    def __init__(self, name: str, folder: Path, server: MemoryServer) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.folder = folder
        self.engine = MemoryEngine(server)
        self.written: list[str] = []
        self.copies = 0
        self.lines: list[dict[str, Any]] = []
        self.log = cast("Log", RecordedLog(self.lines))
        self.open()

    def open(self) -> None:
        """Starts the edge, or starts it again after ``close``."""
        self.database = ControlDatabase(self.folder)
        self.control_log = ControlLog(self.database, edge=self.name)
        self.replica = Replica(self.database, self.name, lambda *keys: self.written.extend(keys))
        self.follower = Follower(self.engine, self.replica, self.log, self._copy)
        self.publisher = Publisher(
            self.engine, self.replica, self.log, monotonic=itertools.count().__next__
        )
        self.resources = ResourceStore(self.database)
        self.is_synchronized = False

    def close(self) -> None:
        self.database.close()

    def _copy(self) -> str:
        self.copies += 1
        return "copy"

    async def follow(self) -> None:
        """One step towards the head of the log; a failure of the engine ends it."""
        try:
            if not self.is_synchronized:
                await self.follower.synchronize()
                self.publisher.forget()
                self.is_synchronized = True
            applied = await self.follower.step(wait_s=0.0)
            self.publisher.note_followed(applied.entries)
        except EngineError:
            self.is_synchronized = False

    async def publish(self) -> None:
        """One step of the publisher, as far as the engine allows."""
        try:
            await self.publisher.step(self.follower.line, self.follower.position)
        except EngineError:
            self.is_synchronized = False

    def written_here(self, key: str) -> str:
        """A write through this edge; returns the id of its entry."""
        return self._own(EntryKind.WRITTEN, {"keys": [key]})

    def member(self, weight: float) -> str:
        return self._own(EntryKind.MEMBER, Member(self.name, weight=weight).body())

    def _own(self, kind: EntryKind, body: Mapping[str, Any]) -> str:
        entry = Entry(new_entry_id(), kind, self.name, 0.0, "", body)
        self.replica.add_own(entry)
        return entry.id

    async def change(self, resource: Resource | None, identifier: str, kind: Kind) -> str:
        """Creates, replaces or removes a resource; returns the id of the acknowledged entry.

        "" if it was refused or its outcome is unknown.
        """
        try:
            with self.database.read() as connection:
                expected = expected_position(connection)
            before = {one.id: one for one in self.resources.resources()}.get(identifier)
            if resource is None and before is None:
                return ""
            entry = change_entry({(kind, identifier): (before, resource)}, self.name, 0.0)
            position = await self.engine.append(
                entry,
                line=self.follower.line,
                documents=documents_of(entry.body["resources"]),
                expected_resources_position=expected,
            )
        except (ControlError, EngineError, engines.ConflictError):
            return ""
        for _step in range(3):
            await self.follow()
            if self.follower.position >= position and self.replica.place_of(entry.id) is not None:
                return entry.id
        return ""

    def rows(self) -> list[Row]:
        """The rows of the control log that invalidate something."""
        rows = self.control_log.read_after(0).rows
        return [row for row in rows if row.kind is not RowKind.CONFIGURATION]

    def documents(self) -> dict[str, Any]:
        return {
            f"{one.kind.value}/{one.id}": encode_resource(one) for one in self.resources.resources()
        }

    def begins_after(self) -> int:
        """The position of the last snapshot that this edge has begun to follow from."""
        begins = self.events("fleet_joined") + self.events("fleet_log_trimmed")
        return max(parse_position(line["position"]) for line in begins)

    def events(self, event: str) -> list[dict[str, Any]]:
        """The log lines of an event."""
        return [line for line in self.lines if line["event"] == event]


class RecordedLog:
    """A log that keeps its lines in memory."""

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self._lines = lines

    def event(self, event: str, **fields: Any) -> None:
        self._lines.append({"event": event, **fields})


async def heal(edges: list[ReplicaEdge]) -> None:
    """Lets all edges publish and follow until nothing changes any more."""
    for edge in edges:
        edge.engine.is_down, edge.engine.cut = False, 0
    for _round in range(60):
        for edge in edges:
            await edge.follow()
            await edge.publish()
        if all(is_settled(edge) for edge in edges):
            return
    raise AssertionError([(edge.name, edge.replica.state()) for edge in edges])


def is_settled(edge: ReplicaEdge) -> bool:
    """Whether an edge has applied and published everything."""
    log = edge.engine.server.contents.log
    state = edge.replica.state()
    return (
        state is not None
        and state.is_reconciled
        and bool(log)
        and (state.position, state.entry_id) == (log[-1].position, log[-1].id)
        and not edge.replica.unpublished(1)
    )


def resource(identifier: str, etag: str, name: str = "") -> Resource:
    """A resource whose content is its ETag."""
    blank = Resource(Kind.PUBLIC_KEY, identifier, etag, name or identifier, {}, 1.0, 2.0)
    return replace(blank, document={"etag": etag})

"""Objects whose newest queued write another edge holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from streamedge.cache.storage.changes import ChangeCounter, prepare_changes
from streamedge.control.database import ControlDatabase
from streamedge.control.replica import Documents, Replica
from streamedge.errors import OriginError, OriginFailure
from streamedge.fleet.entries import Entry, EntryKind, PlacedEntry, new_entry_id
from streamedge.fleet.pending import HeldWrite, PendingState, Turn, end_body
from streamedge.fleet.position import START, position_at
from streamedge.keys import join_key
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counts
from streamedge.origin import OriginHead, OriginRead, Version
from streamedge.origin.directory.origin import DirectoryOrigin
from streamedge.origin.directory.writing import DirectoryWriter
from streamedge.spans import Span
from streamedge.write_back.fleet_turns import OVERTAKE_S, FleetTurns
from streamedge.write_back.fleet_writes import FleetWrites, HolderError, NotHeldError
from streamedge.write_back.overlay import PendingWritesOrigin
from streamedge.write_back.queue import WriteQueue, prepare_write_queue
from tests.support.origins.scripted_writer import REPLICATOR, body_of, put

KEY = join_key("files", "film")


class HeldRead:
    """A body that another edge sends."""

    def __init__(self, write: HeldWrite, content: bytes, span: Span | None) -> None:
        self.head = OriginHead(Version(write.etag, write.size_bytes), "")
        self.span = span or Span(0, len(content))
        self._content = content

    async def pieces(self) -> AsyncIterator[bytes]:
        yield self._content[self.span.start : self.span.end]

    async def close(self) -> None:
        """Nothing is open."""


@dataclass
class Holders:
    """The other edges; ``failure`` is raised in place of an answer."""

    content: bytes = b"held elsewhere"
    failure: HolderError | None = None
    reads: list[str] = field(default_factory=list)

    async def read(self, write: HeldWrite, span: Span | None) -> OriginRead:
        self.reads.append(write.holder)
        if self.failure is not None:
            raise self.failure
        return HeldRead(write, self.content, span)

    async def holds(self, _write: HeldWrite) -> bool:
        if self.failure is not None:
            raise self.failure
        return True


class Edge:
    """The edge "one": its origin, its queue, and what it has followed of the shared log."""

    def __init__(self, folder: Path) -> None:
        prepare_write_queue(folder)
        prepare_changes(folder, 1, is_unsure=False)
        self.folder = folder / "origin"
        self.folder.mkdir()
        (self.folder / "film").write_bytes(b"at the origin")
        self.queue = WriteQueue(folder, 0, 1 << 20, REPLICATOR)
        self.database = ControlDatabase(folder)
        changes = ChangeCounter(folder)
        self.replica = Replica(self.database, "one", changes.announce)
        self.replica.join(Documents({}, START, {}), position_at(1, 0), "line", is_first=True)
        self.holders = Holders()
        self.sequence = 0
        self.now_s = 100.0
        self.published: list[dict[str, Any]] = []
        self.fleet = FleetWrites(
            "one",
            self.database,
            changes,
            self.holders,
            open_log("stderr", "test"),
            Counts(),
            monotonic=lambda: self.now_s,
        )
        self.queue.newest_elsewhere = self.fleet.newest
        self.turns = FleetTurns(
            "one",
            self.database,
            self.queue,
            self.holders,
            self.published.append,
            monotonic=lambda: self.now_s,
        )
        self.overlay = PendingWritesOrigin(
            DirectoryOrigin(folder / "origin"),
            "files",
            self.queue,
            DirectoryOrigin(self.queue.bodies),
            fleet_writes=self.fleet,
        )

    def follow(self, edge: str, body: dict[str, Any]) -> None:
        """The follower reads an entry."""
        self.sequence += 1
        entry = Entry(new_entry_id(), EntryKind.PENDING, edge, 1.0, "", body)
        self.replica.apply([PlacedEntry(position_at(1, self.sequence), entry.id, entry)])

    def queued_elsewhere(self, edge: str = "two", *, is_delete: bool = False) -> None:
        write = HeldWrite(
            KEY, edge, 1, "main", "film", is_delete, '"e"', 14, 7.0, (("x-amz-meta-a", "b"),)
        )
        self.follow(edge, write.body())

    async def queue_here(self) -> None:
        await self.queue.accept(KEY, "main", put("film"), body_of(b"here"))

    def place_own(self) -> None:
        """The entry of the newest write here is read back."""
        row = self.queue.rows.newest(KEY)
        assert row is not None
        own = HeldWrite(KEY, "one", row.serial, "main", "film", False, row.etag, 4, 1.0, ())
        self.follow("one", own.body())

    async def body(self, span: Span | None = None) -> bytes:
        read = await self.overlay.read("film", span)
        assert read is not None
        return b"".join([piece async for piece in read.pieces()])

    async def turn(self) -> Turn:
        row = self.queue.rows.newest(KEY)
        assert row is not None
        return await self.turns.turn(row)


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    one = Edge(tmp_path)
    yield one
    one.queue.close()
    one.database.close()


async def test_object_is_read_from_its_holder_until_the_write_has_ended(edge: Edge) -> None:
    assert await edge.body() == b"at the origin"
    edge.queued_elsewhere()
    head = await edge.overlay.head("film")
    assert (head.version.etag, head.headers) == ('"e"', {"x-amz-meta-a": "b"})
    assert await edge.body() == b"held elsewhere"
    assert await edge.body(Span(5, 9)) == b"else"
    edge.follow("two", end_body(KEY, 1, PendingState.SENT))
    assert await edge.body() == b"at the origin"
    assert edge.holders.reads == ["two", "two"]


async def test_delete_that_another_edge_holds_is_not_found(edge: Edge) -> None:
    edge.queued_elsewhere(is_delete=True)
    with pytest.raises(OriginError) as raised:
        await edge.body()
    assert raised.value.failure is OriginFailure.NOT_FOUND


async def test_condition_has_to_hold_for_the_write_that_another_edge_holds(edge: Edge) -> None:
    writer = DirectoryWriter(edge.folder)

    async def accept(*condition: str) -> int:
        write = put("film", (condition[0], condition[1]))
        body = body_of(b"here")
        return (await edge.queue.accept(KEY, "main", write, body, writer.check)).status

    at_origin = (await edge.overlay.head("film")).version.etag
    edge.queued_elsewhere()
    assert await accept("If-Match", at_origin) == 412
    assert await accept("If-None-Match", "*") == 412
    assert await accept("If-Match", '"e"') == 200
    edge.place_own()
    edge.queued_elsewhere("three", is_delete=True)
    assert await accept("If-Match", "*") == 412


async def test_same_version_is_confirmed_without_its_holder(edge: Edge) -> None:
    edge.queued_elsewhere()
    version = (await edge.overlay.head("film")).version
    edge.holders.failure = HolderError("no connection")
    assert await edge.overlay.read("film", if_none_match=version) is None
    assert edge.holders.reads == []


async def test_origin_answers_for_a_holder_that_is_gone_and_is_validated(edge: Edge) -> None:
    edge.queued_elsewhere()
    edge.holders.failure = HolderError("no connection")
    read = await edge.overlay.read("film")
    assert read is not None
    assert read.head.headers["cache-control"] == "no-cache"
    assert await edge.body() == b"at the origin"
    assert edge.holders.reads == ["two"]  # it is not tried again at once
    edge.holders.failure = None
    edge.now_s += 10
    assert await edge.body() == b"held elsewhere"


async def test_write_that_has_just_ended_is_read_from_the_origin(edge: Edge) -> None:
    edge.queued_elsewhere()
    edge.holders.failure = NotHeldError("not pending here")
    read = await edge.overlay.read("film")
    assert read is not None
    assert "cache-control" not in read.head.headers


async def test_newest_of_several_writes_in_the_shared_log_is_read(edge: Edge) -> None:
    edge.queued_elsewhere()
    await edge.queue_here()
    assert await edge.body() == b"here"  # its entry will be behind all that was read
    edge.place_own()
    assert await edge.body() == b"here"
    edge.queued_elsewhere("three")
    assert await edge.body() == b"held elsewhere"
    assert edge.holders.reads == ["three"]
    edge.holders.failure = HolderError("no connection")
    assert await edge.body() == b"here"  # newer than what the origin has


async def test_write_is_sent_after_earlier_ones_of_other_edges(edge: Edge) -> None:
    edge.queued_elsewhere()
    await edge.queue_here()
    edge.place_own()
    edge.queued_elsewhere("three")
    assert await edge.turn() is Turn.WAIT
    edge.follow("two", end_body(KEY, 1, PendingState.SENT))
    assert await edge.turn() is Turn.SEND
    assert edge.published == []


async def test_write_overtakes_an_edge_that_does_not_answer_for_long(edge: Edge) -> None:
    edge.queued_elsewhere()
    await edge.queue_here()
    edge.place_own()
    edge.holders.failure = HolderError("no connection")
    assert await edge.turn() is Turn.WAIT
    edge.now_s += OVERTAKE_S
    assert await edge.turn() is Turn.OVERTAKE
    (body,) = edge.published
    edge.follow("one", body)
    assert await edge.turn() is Turn.SEND
    assert await edge.body() == b"here"


async def test_overtaken_write_is_neither_sent_nor_read(edge: Edge) -> None:
    await edge.queue_here()
    edge.place_own()
    edge.queued_elsewhere()
    edge.follow("two", end_body(KEY, 1, PendingState.OVERTAKES))
    assert await edge.turn() is Turn.SUPERSEDED
    assert await edge.body() == b"held elsewhere"
    edge.follow("two", end_body(KEY, 1, PendingState.SENT))
    assert await edge.turn() is Turn.SUPERSEDED
    assert await edge.body() == b"at the origin"


async def test_what_the_fleet_does_not_know_of_the_queue_is_published(edge: Edge) -> None:
    await edge.queue_here()
    await edge.turns.publish_differences()
    (body,) = edge.published
    assert (body["state"], body["key"], body["etag"][0]) == ("queued", KEY, '"')
    edge.follow("one", body)
    edge.published.clear()
    await edge.turns.publish_differences()
    assert edge.published == []
    edge.follow("two", {"state": PendingState.REQUESTED.value})
    await edge.turns.publish_differences()
    (again,) = edge.published
    assert again["since"] == position_at(1, 1)
    edge.published.clear()
    edge.follow("one", again)
    (row,) = edge.queue.rows.take_due(row_now(edge), 1)
    edge.queue.rows.end_superseded(row)
    await edge.turns.publish_differences()
    assert edge.published == [end_body(KEY, row.serial, PendingState.SENT)]


def row_now(edge: Edge) -> float:
    row = edge.queue.rows.newest(KEY)
    assert row is not None
    return row.due_s + 1


async def test_listing_knows_of_writes_on_other_edges(edge: Edge) -> None:
    edge.queued_elsewhere()
    assert edge.fleet.is_waiting_below(join_key("files"), "fi")
    assert not edge.fleet.is_waiting_below(join_key("files"), "other")
    assert not edge.fleet.is_waiting_below(join_key("another"), "")

"""The service of an edge on its event loop: engine down and up, waiting, own description."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from streamedge.control.database import ControlDatabase
from streamedge.control.fleet_view import WAITING_READ, few_waiting_entries
from streamedge.control.log import ControlLog, RowKind
from streamedge.control.replica import Replica
from streamedge.control.resources import (
    ConflictError,
    Kind,
    ResourceStore,
    UnavailableError,
)
from streamedge.fleet.members import Member, Role
from streamedge.fleet.position import position_at
from streamedge.ops.background import Services
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counts
from streamedge.shared_log.resource_changes import FleetChanges, append_change
from streamedge.shared_log.service import FleetService, LocalEdge
from tests.support.fleet.memory_engine import MemoryEngine, MemoryServer
from tests.support.fleet.replica_edge import RecordedLog, resource
from tests.support.patience import PATIENCE_S


@dataclass
class Edge:
    """A running service; ``lines`` are its log, ``published`` positions of rows, ``wakeups`` those
    of its control log when the workers were woken. ``loop_database`` applies what is light."""

    service: FleetService
    engine: MemoryEngine
    database: CountingDatabase
    loop_database: CountingDatabase
    lines: list[dict[str, Any]]
    published: list[int] = field(default_factory=list)
    wakeups: list[int] = field(default_factory=list)

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines]

    @property
    def transactions(self) -> int:
        return self.database.transactions + self.loop_database.transactions

    async def until(self, condition: Any) -> None:
        assert await self.service.change_event.wait_for(condition, PATIENCE_S), self.lines


async def until_at_once(condition: Callable[[], bool]) -> None:
    """Looks in each step of the event loop, where no change is announced."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


@asynccontextmanager
async def run_service(
    folder: Path, server: MemoryServer, name: str = "one", *, is_down: bool = False
) -> AsyncIterator[Edge]:
    folder.mkdir(exist_ok=True)
    lines: list[dict[str, Any]] = []
    log = cast("Log", RecordedLog(lines))
    engine = MemoryEngine(server)
    engine.is_down = is_down
    database = CountingDatabase(folder)
    published: list[int] = []
    wakeups: list[int] = []
    waiting_database = ControlDatabase(folder, busy_timeout_s=0.0)
    loop_database = CountingDatabase(folder, busy_timeout_s=0.0, checkpoints=False)
    replica = Replica(database, name, lambda *_keys: None, loop_database=loop_database)
    few_waiting = partial(few_waiting_entries, waiting_database)

    def announce(local_position: int) -> bool:
        published.append(local_position)
        return True

    local = LocalEdge(
        announce,
        lambda: "a copy",
        few_waiting,
        lambda: wakeups.append(service.local_position),
        checkpoint=database.checkpoint,
    )
    service = FleetService(engine, replica, Member(name), local, log)
    edge = Edge(service, engine, database, loop_database, lines, published, wakeups)
    services = Services(log, Counts())
    service.start(services)
    try:
        yield edge
    finally:
        await services.stop()
        database.close()
        loop_database.close()
        waiting_database.close()
    assert "service_failed" not in edge.events(), lines


class CountingDatabase(ControlDatabase):
    """Counts its transactions and checkpoints."""

    transactions = 0
    checkpoints = 0

    def checkpoint(self) -> None:
        super().checkpoint()
        self.checkpoints += 1

    @contextmanager
    def transaction(self, *, synced: bool = True) -> Iterator[sqlite3.Connection]:
        self.transactions += 1
        with super().transaction(synced=synced) as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        self.transactions += 1
        with super().read() as connection:
            yield connection


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer()


async def test_first_edge_begins_the_log_and_describes_itself(
    tmp_path: Path, server: MemoryServer
) -> None:
    async with run_service(tmp_path, server) as edge:
        await edge.until(lambda: "one" in edge.service.view.members)
        assert edge.events() == ["fleet_joined", "fleet_engine_up", "fleet_caught_up"]
        assert edge.service.view.members["one"].order == position_at(1, 1)
        assert (edge.service.line, edge.service.position) == (1, position_at(1, 1))
        assert edge.published[-1] == edge.service.local_position
    async with run_service(tmp_path, server) as edge:
        await edge.until(lambda: edge.service.is_caught_up)
        await edge.service.publish_member(Member("one", role=Role.DRAINING))
        await edge.until(lambda: edge.service.view.members["one"].role is Role.DRAINING)
        # An unchanged description is not published again.
        assert len(server.ids()) == 3


async def test_engine_that_fails_is_logged_once_and_entries_are_sent_later(
    tmp_path: Path, server: MemoryServer
) -> None:
    async with run_service(tmp_path, server) as edge:
        await edge.until(lambda: "one" in edge.service.view.members)
        edge.engine.is_down = True
        await edge.until(lambda: not edge.service.is_engine_up)
        row = ControlLog(edge.database, edge="one").invalidate("E", ["/a"])
        (entry,) = edge.service.replica.unpublished(10)
        edge.service.notify_unpublished()
        assert await edge.service.wait_published(entry.id, 0.0) is None
        edge.engine.is_down = False
        position = await edge.service.wait_published(entry.id, PATIENCE_S)
        assert position == position_at(1, 2)
        assert row.id == entry.body["id"]
        assert edge.events().count("fleet_engine_down") == 1
        assert edge.events().count("fleet_engine_up") == 2


async def test_edge_that_starts_without_its_engine_joins_when_it_comes(
    tmp_path: Path, server: MemoryServer
) -> None:
    async with run_service(tmp_path, server, is_down=True) as edge:
        await edge.until(lambda: "fleet_engine_down" in edge.events())
        edge.engine.is_down = False
        await edge.until(lambda: edge.service.is_caught_up)
        assert edge.events().count("fleet_engine_down") == 1


async def test_lost_history_begins_a_line_and_is_no_failure_of_the_engine(
    tmp_path: Path, server: MemoryServer
) -> None:
    async with run_service(tmp_path, server) as edge:
        await edge.until(lambda: "one" in edge.service.view.members)
        lost = server.ids()[1]
        server.empty()
        position = position_at(2, 1)
        await edge.until(lambda: edge.service.position == position)
        assert server.ids()[1] == lost
        assert edge.events()[3:] == ["fleet_history_lost", "fleet_line_began"]


async def test_edge_that_joins_takes_the_fleets_resources_and_names_the_copy_of_its_own(
    tmp_path: Path, server: MemoryServer
) -> None:
    for name, etag in (("one", "E1"), ("two", "E2")):
        (tmp_path / name).mkdir()
        database = ControlDatabase(tmp_path / name)
        with ResourceStore(database).change() as transaction:
            transaction.put(resource("key", etag))
        database.close()
    async with run_service(tmp_path / "one", server) as first:
        await first.until(lambda: "one" in first.service.view.members)
        async with run_service(tmp_path / "two", server, "two") as second:
            await second.until(lambda: "two" in second.service.view.members)
            (document,) = ResourceStore(second.database).resources()
            assert document.etag == "E1"
            (line,) = [one for one in second.lines if one["event"] == "fleet_resources_replaced"]
            assert line["copy"] == "a copy"
            rows = ControlLog(second.database).read_after(0).rows
            assert [row.kind for row in rows if row.kind is not RowKind.CONFIGURATION] == [
                RowKind.EVERYTHING
            ]
        assert ResourceStore(first.database).resources()[0].etag == "E1"
        assert ControlLog(first.database).read_after(0).rows[-1].kind is RowKind.CONFIGURATION


async def test_change_of_resources_waits_until_it_is_followed(
    tmp_path: Path, server: MemoryServer
) -> None:
    async with run_service(tmp_path, server) as edge:
        await edge.until(lambda: "one" in edge.service.view.members)
        changes = FleetChanges(edge.service, asyncio.get_running_loop())
        store = ResourceStore(edge.database, changes)

        def create(etag: str) -> None:
            with store.change() as transaction:
                transaction.put(resource("key", etag))

        edge.engine.cut = 0
        await asyncio.to_thread(create, "E1")
        assert [one.etag for one in store.resources()] == ["E1"]
        edge.engine.cut = 1  # the answer of the append, or of a read
        await asyncio.to_thread(create, "E2")
        assert [one.etag for one in store.resources()] == ["E2"]
        assert len(server.ids()) == 4

        expected = server.contents.resources_position
        before = store.resources()[0]
        change = {(Kind.PUBLIC_KEY, "key"): (before, resource("key", "E3"))}
        with pytest.raises(ConflictError):
            await append_change(edge.service, change, expected - 1)
        edge.engine.is_down = True
        await edge.until(lambda: not edge.service.is_engine_up)
        with pytest.raises(UnavailableError, match="nothing was changed"):
            await asyncio.to_thread(create, "E4")
        edge.service.changes_refused = "this edge drains"
        with pytest.raises(UnavailableError, match="this edge drains"):
            await asyncio.to_thread(create, "E4")
        assert [one.etag for one in store.resources()] == ["E2"]


async def test_entry_that_cannot_be_read_makes_everything_invalid(
    tmp_path: Path, server: MemoryServer
) -> None:
    async with run_service(tmp_path, server) as edge:
        await edge.until(lambda: "one" in edge.service.view.members)
        server.add_text('{"kind": "of a later version"}', "later")
        await edge.until(lambda: edge.service.position == position_at(1, 2))
        (row,) = ControlLog(edge.database).read_after(0).rows
        assert (row.kind, row.scope) == (RowKind.EVERYTHING, "")
        assert edge.events()[-1] == "fleet_entries_unreadable"


async def test_edge_that_was_away_while_the_log_was_trimmed_takes_the_snapshot(
    tmp_path: Path, server: MemoryServer
) -> None:
    async with run_service(tmp_path / "one", server) as edge:
        await edge.until(lambda: "one" in edge.service.view.members)
    async with run_service(tmp_path / "two", server, "two") as other:
        await other.until(lambda: "two" in other.service.view.members)
        control_log = ControlLog(other.database, edge="two")
        for number in range(3):
            control_log.invalidate("E", [f"/{number}"])
        last = other.service.replica.unpublished(10)[-1]
        other.service.notify_unpublished()
        assert await other.service.wait_published(last.id, PATIENCE_S)
    server.trim(4)
    async with run_service(tmp_path / "one", server) as edge:
        await edge.until(lambda: "two" in edge.service.view.members)
        assert edge.events()[0] == "fleet_log_trimmed"
        # It has requested the queued writes that it may have missed.
        await edge.until(lambda: edge.service.position == position_at(1, 6))
        (row,) = ControlLog(edge.database).read_after(0).rows
        assert row.kind is RowKind.EVERYTHING


async def test_entry_of_another_edge_costs_one_transaction(
    tmp_path: Path, server: MemoryServer
) -> None:
    async with (
        run_service(tmp_path / "one", server, "one") as one,
        run_service(tmp_path / "two", server, "two") as two,
    ):
        await two.until(lambda: two.service.view.members.keys() == {"one", "two"})
        await one.until(lambda: one.service.view.members.keys() == {"one", "two"})
        await asyncio.to_thread(two.service.replica.state)  # everything of the start is over
        for name in ("/a", "/b"):
            before, seen = two.transactions, two.service.position
            ControlLog(one.database, edge="one").invalidate("E", [name])
            one.service.notify_unpublished()
            await two.until(lambda seen=seen: two.service.position > seen)
            assert two.transactions - before == 1
        assert (
            two.published[-1] == two.service.local_position == two.service.replica.local_position()
        )


async def test_many_waiting_entries_are_read_in_a_thread(
    tmp_path: Path, server: MemoryServer
) -> None:
    async with run_service(tmp_path, server) as edge:
        await edge.until(lambda: "one" in edge.service.view.members)
        edge.engine.is_down = True
        log = ControlLog(edge.database, edge="one")
        for number in range(WAITING_READ + 1):
            assert few_waiting_entries(edge.database) is not None
            log.invalidate("E", [f"/{number}"])
        assert few_waiting_entries(edge.database) is None
        edge.engine.is_down = False
        edge.service.notify_unpublished()
        await edge.until(
            lambda: edge.service.is_engine_up and few_waiting_entries(edge.database) is not None
        )
        await edge.until(lambda: few_waiting_entries(edge.database) == [])


async def test_entry_is_applied_in_a_thread_while_another_process_writes(
    tmp_path: Path, server: MemoryServer
) -> None:
    async with (
        run_service(tmp_path / "one", server, "one") as one,
        run_service(tmp_path / "two", server, "two") as two,
    ):
        await two.until(lambda: two.service.view.members.keys() == {"one", "two"})
        other_process = ControlDatabase(tmp_path / "two")
        with other_process.transaction():
            tries = two.loop_database.transactions
            ControlLog(one.database, edge="one").invalidate("E", ["/a"])
            one.service.notify_unpublished()
            await until_at_once(lambda: two.loop_database.transactions > tries)
            seen = two.service.position
        await two.until(lambda: two.service.position > seen)
        other_process.close()
        assert ControlLog(two.database).read_after(0).rows[-1].body["items"] == ["/a"]


@pytest.mark.parametrize("revoke", [False, True])
async def test_workers_are_woken_soon_but_at_once_to_end_responses(
    tmp_path: Path, server: MemoryServer, *, revoke: bool
) -> None:
    async with (
        run_service(tmp_path / "one", server, "one") as one,
        run_service(tmp_path / "two", server, "two") as two,
    ):
        await two.until(lambda: two.service.view.members.keys() == {"one", "two"})
        await two.until(lambda: two.wakeups[-1] == two.service.local_position)
        woken, seen = len(two.wakeups), two.service.position
        ControlLog(one.database, edge="one").invalidate("E", ["/a"], revoke=revoke)
        one.service.note_own_rows(at_once=revoke)
        await until_at_once(lambda: two.service.position > seen)
        assert two.published[-1] == two.service.local_position  # in effect for requests
        assert len(two.wakeups) - woken == int(revoke)
        await two.until(lambda: two.wakeups[-1] == two.service.local_position)


async def test_wal_is_moved_into_the_database_by_a_task_of_its_own(
    tmp_path: Path, server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamedge.shared_log.service.CHECKPOINT_ENTRIES", 3)
    async with run_service(tmp_path, server) as edge:
        await edge.until(lambda: "one" in edge.service.view.members)
        log = ControlLog(edge.database, edge="one")
        for number in range(3):
            log.invalidate("E", [f"/{number}"])
        edge.service.note_own_rows(at_once=False)
        await until_at_once(lambda: edge.database.checkpoints > 0)

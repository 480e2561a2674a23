"""When an edge looks at the presences of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest

from streamedge.coordination.fleet_status import FleetStatus
from streamedge.coordination.wakeups import ChangeEvent
from streamedge.fleet.members import Presence
from streamedge.fleet.position import START, position_at
from streamedge.fleet.states import EdgeState
from streamedge.shared_log import presence as presence_module
from streamedge.shared_log.engine import Bounds, Presences
from streamedge.shared_log.presence import AppliedLog, OwnEdge, PresenceReporter
from tests.support.fleet.memory_engine import MemoryEngine, MemoryServer
from tests.support.fleet.replica_edge import RecordedLog
from tests.support.patience import PATIENCE_S

POSITION = position_at(1, 7)


class ReportingEngine(MemoryEngine):
    """Two edges are up at a position; only the response to a report says so."""

    async def report(
        self, presence: Presence, lease_s: float, *, applied: int = START, entry_id: str = ""
    ) -> Presences:
        names = "one", "two"
        return Presences(
            {name: Presence(name, EdgeState.UP, POSITION) for name in names}, complete=True
        )

    async def bounds(self) -> Bounds:
        return Bounds(POSITION, POSITION)


class FixedEngine(MemoryEngine):
    """Every report is answered with the same presences; the log ends at their newest position."""

    def __init__(self, presences: Presences) -> None:
        super().__init__(MemoryServer())
        self._presences = presences
        self.reports_while_heard = 0
        self.hears_fleet: Callable[[], bool] = lambda: False

    async def report(
        self, presence: Presence, lease_s: float, *, applied: int = START, entry_id: str = ""
    ) -> Presences:
        self.reports_while_heard += self.hears_fleet()
        return self._presences

    async def bounds(self) -> Bounds:
        newest = max(each.position for each in self._presences.by_name.values())
        return Bounds(newest, newest)


class ObservedEngine(MemoryEngine):
    """Always has new presences; each look is an item of ``looks``."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server)
        self.looks = asyncio.Queue[None]()

    async def presence_after(self, wait_s: float) -> Presences:
        self.looks.put_nowait(None)
        return Presences({}, complete=True)


def reporter_of(engine: MemoryEngine, status: FleetStatus, position: int) -> PresenceReporter:
    edge = OwnEdge(
        "one",
        applied=lambda: AppliedLog(position, "", position),
        load=lambda: 0,
        drains=lambda: False,
        is_new=True,
    )
    log = cast("Any", RecordedLog([]))
    return PresenceReporter(edge, engine, 10.0, status, log, ChangeEvent())


async def test_edges_with_a_completed_entry_are_known_before_the_watched_presences_say_so() -> None:
    reporter = reporter_of(ReportingEngine(MemoryServer()), FleetStatus(), POSITION)
    reporting = asyncio.create_task(reporter.report())
    assert await reporter.wait_completed(POSITION, PATIENCE_S)
    assert reporter.attendance.presences == {}
    assert reporter.edges_with(POSITION) == {"one", "two"}
    assert reporter.edges_with(POSITION + 1) == set()
    reporting.cancel()
    with suppress(asyncio.CancelledError):
        await reporting


async def test_edge_where_nothing_waits_looks_rarely_and_a_worker_that_waits_ends_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(presence_module, "IDLE_LOOKS_APART_S", 1e6)
    engine, status = ObservedEngine(MemoryServer()), FleetStatus()
    reporter = reporter_of(engine, status, START)
    watching = asyncio.create_task(reporter.watch())
    async with asyncio.timeout(PATIENCE_S):
        await engine.looks.get()
        await reporter.check()
        await asyncio.sleep(0)
        assert engine.looks.empty()
        assert not status.has_completed(position_at(1, 5))  # a worker
        await reporter.check()
        await engine.looks.get()
        await engine.looks.get()  # and again, while it waits
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching


async def missing_after_reports(engine: FixedEngine, position: int) -> list[str]:
    """What an edge that has applied all up to ``position`` still waits for."""
    reporter = reporter_of(engine, FleetStatus(), position)
    engine.hears_fleet = lambda: reporter.hears_fleet
    reporting = asyncio.create_task(reporter.report())
    async with asyncio.timeout(PATIENCE_S):
        while engine.reports_while_heard < 2:  # the first one has been handled by then
            reporter.report_soon()
            await asyncio.sleep(0)
    reporting.cancel()
    with suppress(asyncio.CancelledError):
        await reporting
    return reporter.missing(position)


async def test_edge_that_has_not_applied_an_entry_is_named() -> None:
    behind = Presence("two", EdgeState.UP, position_at(1, 6))
    by_name = {"one": Presence("one", EdgeState.UP, POSITION), "two": behind}
    engine = FixedEngine(Presences(by_name, complete=True))
    [sentence] = await missing_after_reports(engine, POSITION)
    assert sentence.startswith("two reports that it has not applied it: invalidate again when")


async def test_new_fleet_waits_for_the_reports_of_a_lease() -> None:
    by_name = {"one": Presence("one", EdgeState.UP, START)}
    engine = FixedEngine(Presences(by_name, complete=False, data_set="new"))
    [sentence] = await missing_after_reports(engine, START)
    assert "the engine has collected reports for less than one fleet.lease" in sentence
    assert sentence.endswith("invalidate again in 10 s")


async def test_edge_that_is_behind_or_not_in_the_fleet_yet_names_itself() -> None:
    engine = ObservedEngine(MemoryServer())
    reporter = reporter_of(engine, FleetStatus(), position_at(1, 6))
    assert reporter.missing(POSITION) == [
        "not all workers of one have applied it: see the log of this edge"
    ]
    [sentence] = reporter.missing(position_at(1, 6))
    assert sentence.startswith("one has not joined the fleet yet")

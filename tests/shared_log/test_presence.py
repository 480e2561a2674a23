"""When an edge looks at the presences of the others."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

import pytest

from streamedge.coordination.fleet_status import FleetStatus
from streamedge.coordination.wakeups import ChangeEvent
from streamedge.fleet.position import START, position_at
from streamedge.shared_log import presence as presence_module
from streamedge.shared_log.engine import Presences
from streamedge.shared_log.presence import AppliedLog, PresenceReporter
from tests.support.fleet.memory_engine import MemoryEngine, MemoryServer
from tests.support.fleet.replica_edge import RecordedLog
from tests.support.patience import PATIENCE_S


class ObservedEngine(MemoryEngine):
    """Always has new presences; each look is an item of ``looks``."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server)
        self.looks = asyncio.Queue[None]()

    async def presence_after(self, wait_s: float) -> Presences:
        self.looks.put_nowait(None)
        return Presences({}, complete=True)


async def test_edge_where_nothing_waits_looks_rarely_and_a_worker_that_waits_ends_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(presence_module, "IDLE_LOOKS_APART_S", 1e6)
    engine, status = ObservedEngine(MemoryServer()), FleetStatus()
    reporter = PresenceReporter(
        "one",
        engine,
        10.0,
        status,
        cast("Any", RecordedLog([])),
        ChangeEvent(),
        applied=lambda: AppliedLog(START, "", START),
        load=lambda: 0,
        drains=lambda: False,
        is_new=True,
    )
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

"""Writes through an edge of a fleet are stored, published, and waited for in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from streamedge.control.database import ControlDatabase
from streamedge.control.replica import Documents, Replica
from streamedge.coordination.shared_writes import SharedWrites
from streamedge.fleet.entries import EntryKind
from streamedge.fleet.position import START, position_at
from streamedge.ops.log import Log
from tests.support.fleet.replica_edge import RecordedLog
from tests.support.patience import PATIENCE_S


class Worker:
    """The shared writes of a worker; ``stored`` is set when the publisher is notified."""

    def __init__(self, folder: Path) -> None:
        self.database = ControlDatabase(folder)
        self.replica = Replica(self.database, "one", lambda *_keys: None)
        self.stored = asyncio.Event()
        self.lines: list[dict[str, Any]] = []
        log = cast("Log", RecordedLog(self.lines))
        self.writes = SharedWrites(self.database, "one", self.stored.set, log)

    def join(self) -> None:
        self.replica.join(Documents({}, START, {}), position_at(1, 0), "line", is_first=True)


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    shared = Worker(tmp_path)
    yield shared
    await shared.writes.close()
    shared.database.close()


async def test_write_waits_until_its_entry_is_in_the_shared_log(worker: Worker) -> None:
    worker.join()
    first, second = worker.writes.share(["a", "b"]), worker.writes.share(["b", "c"])
    async with asyncio.timeout(PATIENCE_S):
        await worker.stored.wait()
    (entry,) = worker.replica.unpublished(10)  # of both
    assert (entry.kind, entry.edge, entry.body["keys"]) == (
        EntryKind.WRITTEN,
        "one",
        ["a", "b", "c"],
    )
    worker.writes.check()
    assert not first.done()
    worker.replica.place(entry.id, position_at(1, 1))
    async with asyncio.timeout(PATIENCE_S):
        while not first.done():
            worker.writes.check()
            await asyncio.wait([first], timeout=0.01)
    await second


async def test_write_does_not_wait_for_an_engine_that_does_not_answer(worker: Worker) -> None:
    worker.join()
    worker.replica.note_engine(is_up=False)
    async with asyncio.timeout(PATIENCE_S):
        await worker.writes.share(["a"])
    assert worker.stored.is_set()
    assert [entry.body["keys"] for entry in worker.replica.unpublished(10)] == [["a"]]


async def test_cancelled_request_cancels_no_publication(worker: Worker) -> None:
    worker.join()
    future = worker.writes.share(["a"])
    waiting = asyncio.gather(future)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(PATIENCE_S):
        await worker.stored.wait()
    assert len(worker.replica.unpublished(10)) == 1
    worker.writes.check()

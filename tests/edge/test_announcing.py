"""streamedge/edge/announcing.py: rows that all are told of, and what a worker does then."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from streamedge.cache.asset import Provenance, Subject
from streamedge.cache.changes import open_changes
from streamedge.cache.rulings import Rulings
from streamedge.cache.store import Store, prepare_folder
from streamedge.control.database import ControlDatabase
from streamedge.control.in_force import InForce
from streamedge.control.log import ControlLog
from streamedge.edge.announcing import Announcer, Revoke, heed_log
from streamedge.edge.bells import Bells
from streamedge.edge.roster import Roster
from streamedge.ops.log import open_log

SILENT = open_log(os.devnull, "test")


async def test_an_announcement_moves_the_number_and_rings_all(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    bells, changes = Bells(2), open_changes(tmp_path)
    rung = [asyncio.Event() for _ in range(3)]
    for number, event in enumerate(rung):
        bells.answer(number, event.set)
    before = changes.number
    Announcer(tmp_path, bells, Roster(2)).announce()
    assert changes.number == before + 1  # at once: requests look at it, not at bells
    async with asyncio.timeout(10):
        await asyncio.gather(*(event.wait() for event in rung))
    for number in range(3):
        bells.hush(number)
    bells.close()


async def test_waiting_is_for_workers_that_are_up(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    bells, roster = Bells(1), Roster(1)
    announcer = Announcer(tmp_path, bells, roster)
    assert announcer.wait(5)
    roster.up(0)
    assert not announcer.wait(5, timeout_s=0.0)
    waiting = asyncio.create_task(asyncio.to_thread(announcer.wait, 5))
    roster.apply(0, 5)
    assert await waiting
    bells.close()


def test_a_worker_ends_what_was_revoked_once(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    database = ControlDatabase(tmp_path)
    log = ControlLog(database)
    log.invalidate("E", ["/before"], revoke=True)
    store = Store(tmp_path, 0, SILENT)
    rulings = Rulings(store, InForce(log, SILENT))
    running = [
        Provenance(Subject("E", "/film", "tags"), 1.0, {"tags": "News"}),
        Provenance(Subject("E", "/other"), 1.0, {}),
        Provenance(Subject("F", "/film"), 1.0, {}),
        Provenance(Subject("E", "/film"), 4e9, {}),
    ]
    ended: list[tuple[str, Provenance]] = []

    def revoker(name: str) -> Revoke:
        return lambda is_revoked: ended.extend((name, what) for what in running if is_revoked(what))

    revokers = (revoker("web"), revoker("rtmp"))
    assert heed_log(rulings, revokers) == 1  # at the start nothing runs
    assert ended == []
    log.invalidate("E", ["#news", "/oth*"], revoke=True)
    log.invalidate("E", ["/*"])
    store.changes.announce()
    assert heed_log(rulings, revokers) == 3
    assert ended == [(name, what) for name in ("web", "rtmp") for what in running[:2]]
    assert heed_log(rulings, revokers) == 3
    assert len(ended) == 4
    database.close()


def test_an_edge_without_a_database_heeds_nothing(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    assert heed_log(Rulings(Store(tmp_path, 0, SILENT), None), ()) == 0

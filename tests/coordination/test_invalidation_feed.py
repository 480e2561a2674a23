"""streamedge/edge/announcing.py: rows that all are told of, and what a worker does then."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from streamedge.cache.invalidated import Rulings
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.changes import open_changes
from streamedge.cache.storage.records import Asset, Provenance, Record, Subject
from streamedge.cache.storage.store import Store, prepare_folder
from streamedge.control.announced_head import AnnouncedHead
from streamedge.control.database import ControlDatabase, ControlError
from streamedge.control.invalidation_index import InForce, Verdict
from streamedge.control.log import ControlLog, LogRead
from streamedge.control.position import position_at
from streamedge.coordination import invalidation_feed as announcing
from streamedge.coordination.invalidation_feed import Announcer, Revoke, apply_invalidations
from streamedge.coordination.shared_state import Roster
from streamedge.coordination.wakeups import Bells
from streamedge.ops.log import open_log
from streamedge.origin import OriginHead, Version

SILENT = open_log(os.devnull, "test")


async def test_an_announcement_moves_the_number_and_rings_all(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    bells, changes = Bells(2), open_changes(tmp_path)
    rung = [asyncio.Event() for _ in range(3)]
    for number, event in enumerate(rung):
        bells.answer(number, event.set)
    before = changes.number
    Announcer(tmp_path, bells, Roster(2)).announce(position_at(7, 3))
    assert changes.number == before + 1  # at once: requests look at it, not at bells
    assert AnnouncedHead(tmp_path).position == position_at(7, 3)
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
    rulings = Rulings(Store(tmp_path, 0, SILENT), InForce(log, SILENT))
    before, later = log.position(), log.position() + 9
    running = [
        Provenance(Subject("E", "/film", "tags"), before, {"tags": "News"}),
        Provenance(Subject("E", "/other"), before, {}),
        Provenance(Subject("F", "/film"), before, {}),
        Provenance(Subject("E", "/film"), later, {}),
    ]
    ended: list[tuple[str, Provenance]] = []

    def revoker(name: str) -> Revoke:
        return lambda is_revoked: ended.extend((name, what) for what in running if is_revoked(what))

    revokers = (revoker("web"), revoker("rtmp"))
    assert apply_invalidations(rulings, revokers).position == before  # at the start nothing runs
    assert ended == []
    log.invalidate("E", ["#news", "/oth*"], revoke=True)
    log.invalidate("E", ["/*"])
    assert apply_invalidations(rulings, revokers).position == before + 2
    assert ended == [(name, what) for name in ("web", "rtmp") for what in running[:2]]
    assert apply_invalidations(rulings, revokers).is_current
    assert len(ended) == 4
    database.close()


def test_what_a_worker_has_read_is_announced_to_the_others(tmp_path: Path) -> None:
    """The process that appended the row was killed before it announced it."""
    prepare_folder(tmp_path)
    database = ControlDatabase(tmp_path)
    log = ControlLog(database)
    store = Store(tmp_path, 0, SILENT)
    rulings = Rulings(store, InForce(log, SILENT))
    apply_invalidations(rulings, ())
    log.invalidate("E", ["/a"])
    before = store.changes.number
    apply_invalidations(rulings, ())
    assert AnnouncedHead(tmp_path).position == log.position()
    assert store.changes.number > before
    database.close()


def test_a_change_that_cannot_be_announced_is_refused_unless_all_workers_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcing, "APPLIED_TIMEOUT_S", 0.05)
    bells, roster = Bells(1), Roster(1)
    announcer = Announcer(tmp_path / "nowhere", bells, roster)
    announcer.announce(position_at(7, 3))  # nobody is up
    roster.up(0)
    with pytest.raises(ControlError, match="not all workers"):
        announcer.announce(position_at(7, 3))
    roster.apply(0, position_at(7, 3))
    announcer.announce(position_at(7, 3))
    bells.close()


def test_a_worker_without_a_database_uses_nothing_cached(tmp_path: Path) -> None:
    folder = tmp_path / "nowhere"
    rulings = Rulings(
        Store(folder, 0, SILENT), InForce(ControlLog(ControlDatabase(folder)), SILENT)
    )
    assert not apply_invalidations(rulings, ()).is_current
    record = Record("k", OriginHead(Version('"1"', 1), ""), 1.0)
    asset = Asset("k", "k", None, "main", TtlRules(), scope="E", target="/k")  # type: ignore[arg-type]
    assert rulings.invalidated(asset, record).verdict is Verdict.REFUSED


def test_a_write_has_nobody_read_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_folder(tmp_path)
    database = ControlDatabase(tmp_path)
    log, store = ControlLog(database), Store(tmp_path, 0, SILENT)
    rulings = Rulings(store, InForce(log, SILENT))
    apply_invalidations(rulings, ())
    reads: list[int] = []
    read = log.read_after

    def counted(position: int) -> LogRead:
        reads.append(position)
        return read(position)

    monkeypatch.setattr(log, "read_after", counted)
    asset = Asset("k", "k", None, "main", TtlRules(), scope="E", target="/k")  # type: ignore[arg-type]

    def asked_now() -> Record:
        head = OriginHead(Version('"1"', 1), "")
        number, position = store.changes.number, rulings.position
        return Record("k", head, 1.0, asked_change=number, position=position)

    record = asked_now()
    store.changes.announce("another key")
    assert rulings.of_record(asset, record).verdict is Verdict.FRESH
    assert reads == []
    log.invalidate("E", ["/k"])
    AnnouncedHead(tmp_path).publish(log.position())
    store.changes.announce()
    assert rulings.of_record(asset, record).verdict is Verdict.REFUSED
    assert rulings.of_record(asset, asked_now()).verdict is Verdict.FRESH
    assert len(reads) == 1
    database.close()

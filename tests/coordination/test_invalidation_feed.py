"""Published rows of the control log reach all workers, which end revoked responses."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from streamedge.cache.invalidated import InvalidationChecker
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.changes import ChangeCounter
from streamedge.cache.storage.records import Asset, InvalidationTarget, Provenance, Record
from streamedge.cache.storage.store import Store, prepare_folder
from streamedge.control.announced_head import AnnouncedHead
from streamedge.control.database import ControlDatabase, ControlError
from streamedge.control.invalidation_index import InvalidationIndex, Verdict
from streamedge.control.log import ControlLog, NewRows
from streamedge.control.position import position_at
from streamedge.coordination import invalidation_feed as feed_module
from streamedge.coordination.invalidation_feed import InvalidationFeed, Revoke, apply_invalidations
from streamedge.coordination.shared_state import WorkerStatus
from streamedge.coordination.wakeups import ChangeEvent, Wakeups
from streamedge.ops.log import open_log
from streamedge.origin import OriginHead, Version
from tests.support.patience import PATIENCE_S

SILENT = open_log(os.devnull, "test")


async def test_publish_moves_the_counter_and_wakes_all_processes(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    wakeups, changes = Wakeups(2), ChangeCounter(tmp_path)
    woken = [asyncio.Event() for _ in range(3)]
    for number, event in enumerate(woken):
        wakeups.subscribe(number, event.set)
    before = changes.number
    InvalidationFeed(tmp_path, wakeups, WorkerStatus(2), ChangeEvent()).publish(position_at(7, 3))
    assert changes.number == before + 1  # at once: requests check the counter
    assert AnnouncedHead(tmp_path).position == position_at(7, 3)
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(event.wait() for event in woken))
    for number in range(3):
        wakeups.unsubscribe(number)
    wakeups.close()


async def test_publish_in_a_fleet_leaves_the_wakeups_to_it(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    wakeups = Wakeups(1)
    feed = InvalidationFeed(tmp_path, wakeups, WorkerStatus(1), ChangeEvent())
    published: asyncio.Queue[bool] = asyncio.Queue()

    def note(*, at_once: bool) -> None:
        published.put_nowait(at_once)

    feed.after_publishing(note)
    await asyncio.to_thread(feed.publish, position_at(7, 3), at_once=True)
    await asyncio.to_thread(feed.publish, position_at(7, 4))
    assert AnnouncedHead(tmp_path).position == position_at(7, 4)
    async with asyncio.timeout(PATIENCE_S):
        assert [await published.get(), await published.get()] == [True, False]
    for number in range(2):
        with pytest.raises(BlockingIOError):
            wakeups.take(number)
    feed.wake_workers()
    assert wakeups.take(0) == 1
    wakeups.close()


async def test_wait_applied_waits_for_workers_that_are_up(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    wakeups, worker_status = Wakeups(1), WorkerStatus(1)
    change_event = ChangeEvent()
    invalidation_feed = InvalidationFeed(tmp_path, wakeups, worker_status, change_event)
    assert invalidation_feed.wait_applied(5)
    worker_status.mark_up(0)
    assert not invalidation_feed.wait_applied(5, timeout_s=0.0)
    waiting = asyncio.create_task(asyncio.to_thread(invalidation_feed.wait_applied, 5))
    worker_status.note_position(0, 5)
    change_event.notify()
    assert await waiting
    wakeups.close()


def test_revoked_responses_are_ended_once(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    database = ControlDatabase(tmp_path)
    log = ControlLog(database)
    log.invalidate("E", ["/before"], revoke=True)
    invalidation_checker = InvalidationChecker(
        Store(tmp_path, 0, SILENT), InvalidationIndex(log, SILENT)
    )
    before, later = log.position(), log.position() + 9
    running = [
        Provenance(InvalidationTarget("E", "/film", "tags"), before, {"tags": "News"}),
        Provenance(InvalidationTarget("E", "/other"), before, {}),
        Provenance(InvalidationTarget("F", "/film"), before, {}),
        Provenance(InvalidationTarget("E", "/film"), later, {}),
    ]
    ended: list[tuple[str, Provenance]] = []

    def revoker(name: str) -> Revoke:
        return lambda is_revoked: ended.extend((name, each) for each in running if is_revoked(each))

    revokers = (revoker("web"), revoker("rtmp"))
    assert (
        apply_invalidations(invalidation_checker, revokers).position == before
    )  # at the start nothing runs
    assert ended == []
    log.invalidate("E", ["#news", "/oth*"], revoke=True)
    log.invalidate("E", ["/*"])
    assert apply_invalidations(invalidation_checker, revokers).position == before + 2
    assert ended == [(name, each) for name in ("web", "rtmp") for each in running[:2]]
    assert apply_invalidations(invalidation_checker, revokers).is_current
    assert len(ended) == 4
    database.close()


def test_rows_that_a_worker_reads_are_published_to_the_others(tmp_path: Path) -> None:
    """The process that appended the row was killed before it published it."""
    prepare_folder(tmp_path)
    database = ControlDatabase(tmp_path)
    log = ControlLog(database)
    store = Store(tmp_path, 0, SILENT)
    invalidation_checker = InvalidationChecker(store, InvalidationIndex(log, SILENT))
    apply_invalidations(invalidation_checker, ())
    log.invalidate("E", ["/a"])
    before = store.changes.number
    apply_invalidations(invalidation_checker, ())
    assert AnnouncedHead(tmp_path).position == log.position()
    assert store.changes.number > before
    database.close()


def test_unpublished_change_is_refused_unless_all_workers_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "APPLIED_TIMEOUT_S", 0.05)
    wakeups, worker_status = Wakeups(1), WorkerStatus(1)
    invalidation_feed = InvalidationFeed(
        tmp_path / "nowhere", wakeups, worker_status, ChangeEvent()
    )
    invalidation_feed.publish(position_at(7, 3))  # no worker is up
    worker_status.mark_up(0)
    with pytest.raises(ControlError, match="not all workers"):
        invalidation_feed.publish(position_at(7, 3))
    worker_status.note_position(0, position_at(7, 3))
    invalidation_feed.publish(position_at(7, 3))
    wakeups.close()


def test_worker_without_a_database_uses_no_cached_data(tmp_path: Path) -> None:
    folder = tmp_path / "nowhere"
    invalidation_checker = InvalidationChecker(
        Store(folder, 0, SILENT), InvalidationIndex(ControlLog(ControlDatabase(folder)), SILENT)
    )
    assert not apply_invalidations(invalidation_checker, ()).is_current
    record = Record("k", OriginHead(Version('"1"', 1), ""), 1.0)
    subject = InvalidationTarget("E", "/k")
    asset = Asset("k", "k", None, "main", TtlRules(), subject=subject)  # type: ignore[arg-type]
    assert invalidation_checker.invalidated(asset, record).verdict is Verdict.REFUSED


def test_write_does_not_make_workers_read_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_folder(tmp_path)
    database = ControlDatabase(tmp_path)
    log, store = ControlLog(database), Store(tmp_path, 0, SILENT)
    invalidation_checker = InvalidationChecker(store, InvalidationIndex(log, SILENT))
    apply_invalidations(invalidation_checker, ())
    reads: list[int] = []
    read = log.read_after

    def counted(position: int) -> NewRows:
        reads.append(position)
        return read(position)

    monkeypatch.setattr(log, "read_after", counted)
    subject = InvalidationTarget("E", "/k")
    asset = Asset("k", "k", None, "main", TtlRules(), subject=subject)  # type: ignore[arg-type]

    def new_record() -> Record:
        head = OriginHead(Version('"1"', 1), "")
        number, position = store.changes.number, invalidation_checker.position
        return Record("k", head, 1.0, sent_change=number, position=position)

    record = new_record()
    store.changes.announce("another key")
    assert invalidation_checker.check_record(asset, record).verdict is Verdict.FRESH
    assert reads == []
    log.invalidate("E", ["/k"])
    AnnouncedHead(tmp_path).publish(log.position())
    store.changes.announce_invalidation()
    assert invalidation_checker.check_record(asset, record).verdict is Verdict.REFUSED
    assert invalidation_checker.check_record(asset, new_record()).verdict is Verdict.FRESH
    assert len(reads) == 1
    database.close()

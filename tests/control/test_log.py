"""The control log: rows in one order, and their compaction."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamedge.control.database import ControlDatabase, ControlError
from streamedge.control.invalidations import ItemError
from streamedge.control.log import (
    CONFIGURATIONS_KEPT,
    CallerReferenceError,
    ControlLog,
    Row,
    RowKind,
)
from streamedge.control.position import epoch_of, position_at
from streamedge.control.position import log_of as log_id_of


@pytest.fixture
def database(tmp_path: Path) -> Iterator[ControlDatabase]:
    control_database = ControlDatabase(tmp_path)
    yield control_database
    control_database.close()


def log_of(database: ControlDatabase, items_kept: int = 100) -> ControlLog:
    """A log whose clock counts seconds, one for each row."""
    return ControlLog(database, items_kept=items_kept, clock=itertools.count(1.0).__next__)


@contextmanager
def few_steps(database: ControlDatabase, steps_max: int = 2_000) -> Iterator[None]:
    """Fails if SQLite runs more instructions than for a few rows."""
    with database.read() as connection:
        connection.set_progress_handler(lambda: 1, steps_max)  # 1 interrupts the statement
    try:
        yield
    finally:
        with database.read() as connection:
            connection.set_progress_handler(None, 0)


def insert_many(database: ControlDatabase, rows: int) -> None:
    """Inserts invalidations of E, of one item each, without the log's own work for each."""
    with database.transaction() as connection:
        connection.executemany(
            "INSERT INTO log VALUES (?, 'invalidation', 'E', ?, ?, 1.0, ?, '{}')",
            ((number, f"I{number}", f"call {number}", number) for number in range(1, rows + 1)),
        )


def rows_after(log: ControlLog, epoch: int) -> list[Row]:
    return log.read_after(position_at(log_id_of(log.position()), epoch)).rows


def test_rows_are_read_in_the_order_of_their_epochs(database: ControlDatabase) -> None:
    log = log_of(database)
    first = log.invalidate("E", ["/a", "#news"], soft=True, revoke=True)
    second = log.append(RowKind.CONFIGURATION, "E2", {"why": "made"})
    assert (first.epoch, second) == (1, 2)
    rows = log.read_after(0).rows
    assert [(row.epoch, row.kind, row.scope) for row in rows] == [
        (1, RowKind.INVALIDATION, "E"),
        (2, RowKind.CONFIGURATION, "E2"),
    ]
    invalidation = rows[0].invalidation
    assert (invalidation.items, invalidation.soft, invalidation.revoke, invalidation.at_s) == (
        ("/a", "#news"),
        True,
        True,
        1.0,
    )
    assert rows[1].body == {"why": "made"}
    assert [row.epoch for row in rows_after(log, 1)] == [2]
    assert rows_after(log, 2) == []


def test_row_of_another_process_is_read(database: ControlDatabase, tmp_path: Path) -> None:
    other = ControlDatabase(tmp_path)
    log_of(other).invalidate("E", ["/a"])
    other.close()
    assert [row.scope for row in log_of(database).read_after(0).rows] == ["E"]


def test_position_is_that_of_the_newest_row_of_a_kind(database: ControlDatabase) -> None:
    log = log_of(database)
    assert (epoch_of(log.position()), epoch_of(log.position(RowKind.CONFIGURATION))) == (0, 0)
    log.append(RowKind.CONFIGURATION, "E", {})
    log.invalidate("E", ["/a"])
    assert (epoch_of(log.position()), epoch_of(log.position(RowKind.CONFIGURATION))) == (2, 1)


def test_row_is_part_of_its_transaction(database: ControlDatabase) -> None:
    log = log_of(database)

    def fail() -> None:
        with database.transaction() as connection:
            log.append_within(connection, RowKind.CONFIGURATION, "E", {})
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert log.read_after(0).rows == []
    with database.transaction() as connection:
        assert log.append_within(connection, RowKind.CONFIGURATION, "E", {}) == 1
    assert [row.epoch for row in log.read_after(0).rows] == [1]


def test_invalid_item_appends_nothing(database: ControlDatabase) -> None:
    log = log_of(database)
    with pytest.raises(ItemError):
        log.invalidate("E", ["/fine", "not/a/path"])
    assert log.read_after(0).rows == []


def test_caller_reference_belongs_to_one_invalidation(database: ControlDatabase) -> None:
    log = log_of(database)
    first = log.invalidate("E", ["/a"], caller_reference="r")
    assert log.invalidate("E", ["/a"], caller_reference="r") == first
    with pytest.raises(CallerReferenceError, match=first.id):
        log.invalidate("E", ["/b"], caller_reference="r")
    with pytest.raises(CallerReferenceError):
        log.invalidate("E", ["/a"], soft=True, caller_reference="r")
    # References of different distributions are independent; rows without one are all different.
    other = log.invalidate("F", ["/b"], caller_reference="r")
    unnamed = [log.invalidate("E", ["/a"]).id for _ in range(2)]
    assert len({first.id, other.id, *unnamed}) == 4
    assert len(log.read_after(0).rows) == 4


def test_invalidations_are_found_by_distribution_and_id(database: ControlDatabase) -> None:
    log = log_of(database)
    rows = [log.invalidate("E", [f"/{number}"]) for number in range(5)]
    log.append(RowKind.CONFIGURATION, "E", {})
    log.invalidate("F", ["/0"])
    assert log.invalidation("E", rows[2].id) == rows[2]
    assert log.invalidation("F", rows[2].id) is None
    assert log.invalidation("E", "I0") is None
    assert log.invalidations("E") == rows[::-1]
    page = log.invalidations("E", count=2)
    assert page == [rows[4], rows[3]]
    assert log.invalidations("E", before_epoch=page[-1].epoch, count=2) == [rows[2], rows[1]]
    assert len({row.id for row in rows}) == 5
    assert all(row.id.startswith("I") and row.id.isalnum() for row in rows)


def test_old_rows_are_compacted_to_one_for_each_distribution_and_strength(
    database: ControlDatabase,
) -> None:
    log = log_of(database, items_kept=3)
    log.invalidate("E", ["/1"])  # at 1
    log.invalidate("E", ["/2"], soft=True)  # at 2
    log.append(RowKind.CONFIGURATION, "E", {})  # at 3
    log.invalidate("F", ["/3"])  # at 4
    log.invalidate("E", ["/4"])  # at 5
    log.invalidate("E", ["/5", "/6"], revoke=True)  # at 6: two items
    rows = log.read_after(0).rows
    compacted = [
        (row.epoch, row.scope, *(row.invalidation.items), row.invalidation.soft, row.created_s)
        for row in rows
    ]
    assert compacted == [
        (1, "E", "/*", False, 1.0),
        (2, "E", "/*", True, 2.0),
        (4, "F", "/*", False, 4.0),
        (5, "E", "/4", False, 5.0),
        (6, "E", "/5", "/6", False, 6.0),
    ]
    # A reader of some rows gets the compacted rest, and no row twice.
    assert [row.epoch for row in rows_after(log, 2)] == [4, 5, 6]
    log.invalidate("E", ["/7", "/8", "/9"])
    assert [(row.epoch, row.invalidation.items) for row in rows_after(log, 4)] == [
        (6, ("/*",)),
        (7, ("/7", "/8", "/9")),
    ]
    assert log.invalidations("E", count=10) == [row_at(log, 7)]


def row_at(log: ControlLog, epoch: int) -> object:
    return next(row for row in rows_after(log, epoch - 1) if row.epoch == epoch)


def test_single_invalidation_may_have_more_items_than_the_limit(database: ControlDatabase) -> None:
    log = log_of(database, items_kept=2)
    log.invalidate("E", ["/1"])
    log.invalidate("E", [f"/{number}" for number in range(9)])
    assert [len(row.invalidation.items) for row in log.read_after(0).rows] == [1, 9]


def test_epochs_are_never_used_again(database: ControlDatabase) -> None:
    log = log_of(database, items_kept=1)
    assert [log.invalidate("E", ["/a"]).epoch for _ in range(4)] == [1, 2, 3, 4]
    with database.transaction() as connection:
        connection.execute("DELETE FROM log")
    assert log.invalidate("E", ["/a"]).epoch == 5


def test_configuration_rows_compact_no_invalidation(database: ControlDatabase) -> None:
    log = log_of(database, items_kept=2)
    log.invalidate("E", ["/1"])
    with database.transaction() as connection:
        for _ in range(CONFIGURATIONS_KEPT + 5):
            last = log.append_within(connection, RowKind.CONFIGURATION, "E", {})
    rows = log.read_after(0).rows
    assert rows[0].invalidation.items == ("/1",)
    assert [row.epoch for row in rows[1:]] == list(range(last - CONFIGURATIONS_KEPT + 1, last + 1))


@pytest.mark.parametrize(
    "damage",
    [
        "kind = 'flush'",
        "body = '{'",
        "body = '[]'",
        "body = '{}'",
        """body = '{"items": ["no path"], "soft": true, "revoke": false}'""",
        "body = x'ff00'",
        "body = CAST(x'ff' AS TEXT)",
        "made_s = 'soon'",
    ],
)
def test_unreadable_row_invalidates_everything_in_its_scope(
    database: ControlDatabase, damage: str
) -> None:
    log = ControlLog(database)
    for item in ("/a", "/b", "/c"):
        log.invalidate("E", [item], soft=True)
    with database.transaction() as connection:
        connection.execute(f"UPDATE log SET {damage} WHERE epoch = 2")
    first, broken, last = log.read_after(0).rows
    assert (first.invalidation.items, last.invalidation.items) == (("/a",), ("/c",))
    assert (broken.kind, broken.scope) == (RowKind.UNREADABLE, "E")
    assert broken.invalidation.items == ("/*",)
    assert not broken.invalidation.soft


def test_row_with_unreadable_scope_invalidates_all_distributions(
    database: ControlDatabase,
) -> None:
    log = ControlLog(database)
    log.invalidate("E", ["/a"])
    with database.transaction() as connection:
        connection.execute("UPDATE log SET kind = 'flush', scope = x'ff'")
    (row,) = log.read_after(0).rows
    assert (row.kind, row.scope) == (RowKind.UNREADABLE, "")


def test_compaction_keeps_an_unreadable_row_hard(database: ControlDatabase) -> None:
    log = ControlLog(database, items_kept=1)
    log.invalidate("E", ["/a"], soft=True)
    with database.transaction() as connection:
        connection.execute("UPDATE log SET body = '{'")
    log.invalidate("E", ["/b"])
    compacted_row, _last = log.read_after(0).rows
    assert compacted_row.invalidation.items == ("/*",)
    assert not compacted_row.invalidation.soft


def test_log_that_lost_announced_rows_gets_another_id_once(database: ControlDatabase) -> None:
    log = ControlLog(database)
    log.invalidate("E", ["/a"])
    head = log.position()
    assert log.renew_if_older(head) == head
    assert log.renew_if_older(position_at(log_id_of(head) ^ 1, 99)) == head  # of another log
    seen = head + 1
    renewed = log.renew_if_older(seen)
    assert (log_id_of(renewed) != log_id_of(head), epoch_of(renewed)) == (True, 1)
    assert log.renew_if_older(seen) == renewed  # another process has renewed it
    assert log.position() == renewed


def test_new_file_has_another_log_id(tmp_path: Path) -> None:
    ids = set()
    for name in "ab":
        (tmp_path / name).mkdir()
        database = ControlDatabase(tmp_path / name)
        ids.add(log_id_of(ControlLog(database).position()))
        database.close()
    assert len(ids) == 2
    assert 0 not in ids


def test_invalidation_is_announced_before_the_disk_is_synced_and_returned_afterwards(
    database: ControlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_of(database)
    other = ControlDatabase(database.path.parent)
    steps: list[str] = []
    sync = os.fdatasync

    def sync_and_record(descriptor: int) -> None:
        sync(descriptor)
        steps.append("synced")

    monkeypatch.setattr(os, "fdatasync", sync_and_record)

    def announce(position: int) -> None:
        rows = ControlLog(other).read_after(0)
        steps.append(f"announced {len(rows.rows)} rows, {rows.position == position}")

    log.invalidate("E", ["/a"], caller_reference="r", announce=announce)
    assert steps == ["announced 1 rows, True", "synced"]
    # The call that is answered with the earlier row does not return before that row is on disk.
    log.invalidate("E", ["/a"], caller_reference="r", announce=announce)
    assert steps[2:] == ["announced 1 rows, True", "synced"]
    other.close()


def test_invalidation_is_on_disk_even_if_it_cannot_be_announced(
    database: ControlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)

    def fail(_position: int) -> None:
        raise ControlError("not all workers have applied it")

    with pytest.raises(ControlError, match="not all workers"):
        log_of(database).invalidate("E", ["/a"], announce=fail)
    assert len(synced) == 1


def test_invalidation_that_the_disk_refuses_is_not_answered(
    database: ControlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(ControlError, match="the disk is broken"):
        log_of(database).invalidate("E", ["/a"])


def test_long_log_is_not_scanned_for_a_kind_or_a_caller_reference(
    database: ControlDatabase,
) -> None:
    insert_many(database, 5_000)
    log = log_of(database, items_kept=10_000)
    with few_steps(database):
        assert epoch_of(log.position(RowKind.CONFIGURATION)) == 0
        assert epoch_of(log.position(RowKind.INVALIDATION)) == 5_000
        assert log.append(RowKind.CONFIGURATION, "", {}) == 5_001
        assert epoch_of(log.position(RowKind.CONFIGURATION)) == 5_001
        with pytest.raises(CallerReferenceError):
            log.invalidate("E", ["/a"], caller_reference="call 7")
        assert log.invalidate("E", ["/a"], caller_reference="new").epoch == 5_002

"""The work of a statement does not grow with the write queue, the control log or a fleet's log.

Every statement that the functions run is explained. None may read a whole table that grows, or sort
what it has read, but for those in ALLOWED.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from inspect import isfunction
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from streamedge.control import fleet_entries, pending_writes
from streamedge.control.database import ControlDatabase
from streamedge.control.log import ControlLog, RowKind
from streamedge.fleet.entries import Entry, EntryKind, new_entry_id
from streamedge.fleet.pending import HeldWrite, PendingState, end_body
from streamedge.write_back.pending_index import PendingIndex
from streamedge.write_back.rows import Rows, open_database, prepare_rows
from streamedge.write_back.states import State
from tests.write_back.test_rows import LIMIT_BYTES, row

GROWING = {
    "writes",
    "older",
    "changes",
    "log",
    "fleet_entries",
    "fleet_pending",
    "fleet_pending_changes",
}
OUTBOX = "fleet_entries_unpublished"
"""An index that has only the entries that wait to be published."""

# The beginning of a statement, and why it may read a whole table.
ALLOWED = {
    "SELECT epoch, scope, soft, made_s FROM folded": "two rows for each distribution at most",
    "SELECT IFNULL((SELECT bytes_to_here FROM fleet_entries ORDER BY number DESC LIMIT 1)":
        "reads the last row of the table",
    "SELECT number, bytes_to_here FROM fleet_entries ORDER BY number": "the same, or the first one",
    "SELECT id, entry FROM fleet_entries WHERE kind = 'invalidation' AND applied_s":
        "an edge that rejoins its fleet, after entries that it has not read were trimmed",
    "DELETE FROM fleet_pending": "an edge that joins or rejoins its fleet",
    "SELECT holder, since, is_overtaken, body FROM fleet_pending ORDER BY key":
        "once for a process, or for 10,000 missed changes",
    "SELECT holder, since, is_overtaken, body FROM fleet_pending WHERE key":
        "sorts the writes of one object: one for each edge that holds one",
    "SELECT DISTINCT asset_key FROM writes": "once for a process, or for 10,000 missed changes",
}  # fmt: skip


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The statements that connections have run, with their values."""
    connect = sqlite3.connect
    statements: list[str] = []

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(statements.append)
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", traced)
        yield statements


def faults(path: Path, statements: list[str]) -> set[str]:
    """What reads or sorts too much: the step of the plan and the statement."""
    result = set()
    with closing(sqlite3.connect(path)) as connection:
        for statement in set(statements):
            if statement.split()[0] not in {"SELECT", "UPDATE", "DELETE"}:
                continue
            if any(_is_allowed(statement, beginning) for beginning in ALLOWED):
                continue
            for *_ids, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}"):
                words = step.split()
                is_scan = words[0] == "SCAN" and words[1] in GROWING and words[-1] != OUTBOX
                if is_scan or step.startswith("USE TEMP B-TREE"):
                    result.add(f"{step}: {statement}")
    return result


def _is_allowed(statement: str, beginning: str) -> bool:
    """A DELETE is allowed as a whole only: with a condition it is another statement."""
    if beginning.startswith("DELETE"):
        return statement == beginning
    return statement.startswith(beginning)


def queue_calls(rows: Rows) -> dict[str, Callable[[], object]]:
    """A call of each method of ``Rows``; those of rows that were taken get such a row."""

    def sending() -> Any:
        rows.insert(row("t"), LIMIT_BYTES)
        return next(one for one in rows.take_due(1e6, 100) if one.asset_key == "t")

    def finish_attempts() -> None:
        for state in (State.DONE, State.QUEUED, State.FAILED):
            rows.finish_attempt(sending(), state, etag='"2"', held_until_s=1.0)

    return {
        "check": lambda: rows.check("a", (), 1, LIMIT_BYTES),
        "insert": lambda: rows.insert(row("a"), LIMIT_BYTES),
        "next_due_s": rows.next_due_s,
        "take_due": lambda: rows.take_due(0.0, 4),
        "recover": lambda: rows.recover(10.0, lambda _row: 5.0),
        "release": lambda: rows.release("a"),
        "held_keys": lambda: rows.held_keys(10.0),
        "put_back": lambda: rows.put_back(sending(), 10.0),
        "end_superseded": lambda: rows.end_superseded(sending()),
        "finish_attempt": finish_attempts,
        "unnotified": rows.unnotified,
        "mark_notified": lambda: rows.mark_notified("a"),
        "make_due_now": lambda: rows.make_due_now("main", 5.0),
        "requeue": lambda: rows.requeue(
            rows.list((State.FAILED,), 1)[0].serial, 1.0, unconditional=True
        ),
        "discard": lambda: rows.discard(1),
        "newest": lambda: rows.newest("a"),
        "newest_of": lambda: rows.newest_of(["a", "b"]),
        "waiting_keys": lambda: rows.waiting_keys("a", 10),
        "changes_after": lambda: rows.changes_after(0),
        "is_waiting_below": lambda: rows.is_waiting_below("4:main", "a"),
        "has_token": lambda: rows.has_token("token-a"),
        "by_state": rows.by_state,
        "list": lambda: rows.list(tuple(State), 10),
        "totals": rows.totals,
    }


def public_methods(kind: type) -> set[str]:
    return {name for name, value in vars(kind).items() if name[0] != "_" and callable(value)}


def test_statements_of_the_write_queue_use_indexes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.sqlite"
    prepare_rows(path)
    with (
        recorded(monkeypatch) as statements,
        closing(Rows(path)) as rows,
        closing(PendingIndex(path)) as index,
    ):
        calls = queue_calls(rows)
        assert calls.keys() == public_methods(Rows) - {"close"}
        for call in calls.values():
            call()
        index.refresh()
        index.newest("a")
    assert len(set(statements)) > len(calls)
    assert faults(path, statements) == set()


@pytest.mark.parametrize("edge", ["", "fra-1"])
def test_statements_of_the_control_log_use_indexes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edge: str
) -> None:
    database = ControlDatabase(tmp_path)
    with recorded(monkeypatch) as statements, closing(database):
        log = ControlLog(database, edge=edge, items_kept=1)
        for item in ("/a", "/b"):
            newest = log.invalidate("EWEB", [item], caller_reference=item)
        log.append(RowKind.CONFIGURATION, "", {})
        log.read_after(0)
        log.position()
        log.position(RowKind.CONFIGURATION)
        log.renew_if_older(0)
        log.invalidation("EWEB", newest.id)
        log.invalidations("EWEB")
    assert any("FROM log" in statement for statement in statements)
    assert faults(database.path, statements) == set()


def pending_calls(connection: sqlite3.Connection) -> dict[str, Callable[[], object]]:
    """A call of each function of ``pending_writes``."""

    def apply(edge: str, body: dict[str, Any]) -> None:
        entry = Entry(new_entry_id(), EntryKind.PENDING, edge, 1.0, "", body)
        pending_writes.apply_pending(connection, entry, 7, "one")

    def apply_pending() -> None:
        for edge, key in (("one", "a"), ("two", "a"), ("two", "b"), ("three", "c")):
            write = HeldWrite(key, edge, 1, "main", key, False, '"e"', 3, 1.5, ())
            apply(edge, write.body())  # the last one is more than are kept
        for state in (PendingState.OVERTAKES, PendingState.SENT):
            apply("two", end_body("a", 1, state))
        apply("two", {"state": PendingState.REQUESTED.value})

    return {
        "apply_pending": apply_pending,
        "mark_outdated": lambda: pending_writes.mark_outdated(connection, "one"),
        "count_held": lambda: pending_writes.count_held(connection),
        "writes_of": lambda: pending_writes.writes_of(connection, "a"),
        "all_writes": lambda: pending_writes.all_writes(connection),
        "serials_of": lambda: pending_writes.serials_of(connection, "one", ["a", "b"]),
        "keys_held_by": lambda: pending_writes.keys_held_by(connection, "one", "a", 9),
        "changes_after": lambda: pending_writes.changes_after(connection, 1),
        "last_change": lambda: pending_writes.last_change(connection),
        "forget_holder": lambda: pending_writes.forget_holder(connection, "one"),
        "forget_all": lambda: pending_writes.forget_all(connection),
    }


def entry_calls(connection: sqlite3.Connection) -> dict[str, Callable[[], object]]:
    """A call of each function of ``fleet_entries``."""
    new = [Entry(new_entry_id(), EntryKind.INVALIDATION, "one", 1.0) for _ in range(6)]

    def add_entry() -> None:
        for number, entry in enumerate(new[:5]):
            fleet_entries.add_entry(
                connection,
                entry,
                epoch=number,
                has_row=True,
                applied_s=1.0,
                position=number if number < 3 else None,
            )

    def unpublished() -> None:
        fleet_entries.unpublished(connection, 2)
        fleet_entries.unpublished(connection, -1, EntryKind.MEMBER)

    def count_unpublished() -> None:
        fleet_entries.count_unpublished(connection)
        fleet_entries.count_unpublished(connection, EntryKind.PENDING)

    return {
        "add_entry": add_entry,
        "find_place": lambda: fleet_entries.find_place(connection, new[0].id),
        "place_of_row": lambda: fleet_entries.place_of_row(connection, 1),
        "place_entry": lambda: fleet_entries.place_entry(connection, new[3].id, 3),
        "replace_waiting": lambda: fleet_entries.replace_waiting(connection, new[4].id, new[5]),
        "unpublished": unpublished,
        "count_unpublished": count_unpublished,
        "newest_placed": lambda: fleet_entries.newest_placed(connection, 9, 2),
        "unplace_invalidations_of": lambda: fleet_entries.unplace_invalidations_of(
            connection, "two", 0.0
        ),
        "placed_after": lambda: fleet_entries.placed_after(connection, 1),
        "first_waiting_epoch": lambda: fleet_entries.first_waiting_epoch(connection),
        "unplace_after": lambda: fleet_entries.unplace_after(
            connection, 2, republished=[new[3].id]
        ),
        "prune_entries": lambda: fleet_entries.prune_entries(connection, entries_kept=1, at_once=0),
    }


@pytest.mark.parametrize(
    ("module", "calls"), [(pending_writes, pending_calls), (fleet_entries, entry_calls)]
)
def test_statements_of_a_fleet_use_indexes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    calls: Callable[[sqlite3.Connection], dict[str, Callable[[], object]]],
) -> None:
    monkeypatch.setattr(pending_writes, "ROWS_MAX", 2)
    with (
        recorded(monkeypatch) as statements,
        closing(ControlDatabase(tmp_path)) as database,
        database.transaction() as connection,
    ):
        by_name = calls(connection)
        assert by_name.keys() == public_functions(module)
        statements.clear()  # those of the migrations
        for call in by_name.values():
            call()
        assert len(set(statements)) >= len(by_name)
    assert faults(database.path, statements) == set()


def public_functions(module: ModuleType) -> set[str]:
    return {
        name
        for name, value in vars(module).items()
        if isfunction(value) and value.__module__ == module.__name__ and name[0] != "_"
    }


def test_queue_of_an_earlier_program_gets_the_indexes_and_opens_there_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    prepare_rows(path)
    names = ("writes_by_state", "writes_by_origin", "writes_waiting", "writes_by_name")
    with closing(sqlite3.connect(path)) as connection:
        for name in names:
            connection.execute(f"DROP INDEX {name}")
        before = connection.execute("PRAGMA user_version").fetchone()
    prepare_rows(path)
    with closing(sqlite3.connect(path)) as connection:
        present = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        assert set(names) <= present
        assert connection.execute("PRAGMA user_version").fetchone() == before == (1,)


def test_writes_of_an_earlier_program_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with closing(open_database(path)) as earlier:  # tables without triggers
        with earlier.transaction() as connection:
            insert_plain(connection, "a", "b")
            connection.execute("UPDATE writes SET state = 'failed' WHERE serial = 2")
        prepare_rows(path)
        prepare_rows(path)
        with earlier.transaction() as connection:
            insert_plain(connection, "c", "d")
            connection.execute("UPDATE writes SET state = 'sending' WHERE serial IN (1, 3)")
            connection.execute("DELETE FROM writes WHERE serial = 3")
    with closing(Rows(path)) as rows:
        assert rows.by_state() == {State.QUEUED: 1, State.SENDING: 1, State.FAILED: 1}


def insert_plain(connection: sqlite3.Connection, *keys: str) -> None:
    connection.executemany(
        "INSERT INTO writes (asset_key, origin_name, name, method, fields, size_bytes, token, etag,"
        " state, attempts, due_s, queued_s, problem)"
        " VALUES (?, 'main', 'a', 'PUT', '[]', 0, '', '', 'queued', 0, 0, 0, '')",
        [(key,) for key in keys],
    )


def test_next_due_time_is_that_of_the_first_write_that_nothing_holds_back(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    prepare_rows(path)
    with closing(Rows(path)) as rows:
        assert rows.next_due_s() is None
        for name, due_s in (("a", 10.0), ("a", 5.0), ("b", 40.0)):
            rows.insert(replace(row(name), due_s=due_s), LIMIT_BYTES)
        assert rows.next_due_s() == 10.0
        (first,) = rows.take_due(10.0, 1)
        assert rows.next_due_s() == 40.0
        rows.finish_attempt(first, State.FAILED, held_until_s=30.0)
        assert rows.next_due_s() == 30.0
        rows.release("a")
        assert rows.next_due_s() == 5.0

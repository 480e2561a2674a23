"""The rows of the queue: order, conditions against pending writes, and the size limit."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamedge.origin.writing import WriteRefusedError
from streamedge.sqlite import FILE_SUFFIXES
from streamedge.write_back import rows as rows_module
from streamedge.write_back.rows import (
    ROW_BYTES,
    NotJudgedError,
    Row,
    Rows,
    WriteQueueError,
    open_database,
    prepare_rows,
)
from streamedge.write_back.states import State

LIMIT_BYTES = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "journal.sqlite"
    prepare_rows(path)
    return path


@pytest.fixture
def rows(path: Path) -> Iterator[Rows]:
    rows = Rows(path)
    yield rows
    rows.close()


def row(asset: str = "a", *, etag: str = '"1"', method: str = "PUT", size_bytes: int = 1) -> Row:
    return Row(
        serial=0,
        asset_key=asset,
        origin_name="main",
        name=asset,
        method=method,
        fields=(("Content-Type", "a/b"),),
        size_bytes=size_bytes,
        token="" if method == "DELETE" else f"token-{asset}",
        etag=etag,
        state=State.QUEUED,
        attempts=0,
        due_s=10.0,
        queued_s=10.0,
    )


def when(given_row: Row, *conditions: tuple[str, str]) -> Row:
    return replace(given_row, fields=(*given_row.fields, *conditions))


def test_row_is_read_as_it_was_written(rows: Rows, path: Path) -> None:
    queued = rows.insert(row(), LIMIT_BYTES)
    rows.close()
    again = Rows(path)
    assert again.newest("a") == queued
    assert again.has_token("token-a")
    again.close()


def test_oldest_write_of_each_object_is_taken_first(rows: Rows) -> None:
    first, other, second = (rows.insert(row(asset), LIMIT_BYTES) for asset in "aba")
    due = rows.take_due(10.0, 10)
    assert [one.serial for one in due] == [first.serial, other.serial]
    assert all(one.state is State.SENDING and one.attempts == 1 for one in due)
    assert rows.take_due(10.0, 10) == []
    rows.finish_attempt(due[0], State.QUEUED, due_s=50.0, problem="down")
    assert rows.take_due(20.0, 10) == []
    assert rows.next_due_s() == 50.0
    (again,) = rows.take_due(50.0, 10)
    assert (again.serial, again.attempts, again.problem) == (first.serial, 2, "down")
    rows.finish_attempt(again, State.DONE)
    assert [one.serial for one in rows.take_due(50.0, 10)] == [second.serial]


def test_rejected_write_does_not_block_the_next_one(rows: Rows) -> None:
    for _ in range(2):
        rows.insert(row(), LIMIT_BYTES)
    (first,) = rows.take_due(10.0, 10)
    rows.finish_attempt(first, State.FAILED, problem="answered 403")
    assert len(rows.take_due(10.0, 10)) == 1
    assert [letter.problem for letter in rows.list((State.FAILED,), 10)] == ["answered 403"]


def test_recover_queues_interrupted_writes_again(rows: Rows) -> None:
    rows.insert(row("a"), LIMIT_BYTES)
    rows.insert(row("b"), LIMIT_BYTES)
    due = rows.take_due(10.0, 2)
    rows.finish_attempt(due[0], State.QUEUED, due_s=5000.0)
    assert rows.recover(20.0, lambda _row: 0.0) == []
    assert [one.asset_key for one in rows.take_due(20.0, 10)] == ["b", "a"]


def test_object_is_held_while_a_dead_senders_write_may_arrive(rows: Rows) -> None:
    first = rows.insert(row("a"), LIMIT_BYTES)
    rows.take_due(10.0, 1)
    rows.insert(row("a"), LIMIT_BYTES)
    other = rows.insert(row("b"), LIMIT_BYTES)
    (interrupted,) = rows.recover(20.0, lambda _row: 15.0)
    assert interrupted.serial == first.serial
    assert [one.serial for one in rows.take_due(20.0, 10)] == [other.serial]
    assert rows.next_due_s() == 35.0
    assert rows.take_due(34.9, 10) == []
    assert [one.serial for one in rows.take_due(35.0, 10)] == [first.serial]
    rows.recover(36.0, lambda _row: 15.0)
    rows.release("a")
    assert [one.serial for one in rows.take_due(36.0, 10)] == [first.serial]


def test_newer_writes_wait_while_an_unanswered_one_may_arrive(rows: Rows) -> None:
    first, second = (rows.insert(row("a"), LIMIT_BYTES) for _ in range(2))
    (due,) = rows.take_due(10.0, 10)
    rows.finish_attempt(due, State.QUEUED, due_s=11.0, held_until_s=25.0)
    (again,) = rows.take_due(11.0, 10)  # the same bytes may be sent again
    assert again.serial == first.serial
    rows.finish_attempt(again, State.DONE)
    assert rows.next_due_s() == 25.0
    assert rows.take_due(24.9, 10) == []
    assert [one.serial for one in rows.take_due(25.0, 10)] == [second.serial]


def test_waiting_writes_are_found_by_origin_and_name(rows: Rows) -> None:
    rows.insert(replace(row("4:main5:dir/a"), name="dir/a"), LIMIT_BYTES)
    assert rows.is_waiting_below("4:main", "dir/")
    assert rows.is_waiting_below("4:main", "")
    assert not rows.is_waiting_below("4:main", "dir/a%")
    assert not rows.is_waiting_below("4:side", "")
    (due,) = rows.take_due(10.0, 1)
    assert rows.is_waiting_below("4:main", "dir/a")
    rows.finish_attempt(due, State.FAILED)
    assert not rows.is_waiting_below("4:main", "")


def test_every_row_counts_against_the_limit(rows: Rows) -> None:
    deletes = (row(f"{number} {'x' * 500}", method="DELETE", size_bytes=0) for number in count())
    fitting = 0
    with pytest.raises(WriteRefusedError, match="503 SlowDown"):  # noqa: PT012
        for delete in deletes:
            rows.insert(delete, LIMIT_BYTES)
            fitting += 1
    assert 100 < fitting < LIMIT_BYTES // ROW_BYTES
    assert rows.totals().row_bytes <= LIMIT_BYTES
    with pytest.raises(WriteRefusedError, match="503 SlowDown"):
        rows.check("b", (), LIMIT_BYTES - rows.totals().row_bytes, LIMIT_BYTES)
    for ends in range(2):
        for due in rows.take_due(10.0, fitting):
            rows.finish_attempt(due, State.DONE if ends or due.serial % 2 else State.FAILED)
    for letter in rows.list((State.FAILED,), fitting):
        assert rows.requeue(letter.serial, 10.0, unconditional=True)
    for due in rows.take_due(10.0, fitting):
        rows.finish_attempt(due, State.DONE)
    assert (rows.totals().row_bytes, rows.totals().held_bytes) == (0, 0)


def test_queue_of_an_earlier_version_is_upgraded(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE writes DROP COLUMN row_bytes")
        connection.execute("DROP TABLE holds")
        connection.execute("DELETE FROM totals WHERE name = 'row_bytes'")
        columns = "asset_key, origin_name, name, method, fields, size_bytes, token, etag, state"
        connection.execute(
            f"INSERT INTO writes ({columns}, attempts, due_s, queued_s, problem)"
            " VALUES ('a', 'main', 'a', 'DELETE', '[]', 0, '', '', 'queued', 0, 1, 1, '')"
        )
        connection.execute("CREATE TABLE untold (asset_key TEXT PRIMARY KEY)")
        connection.execute("INSERT INTO untold VALUES ('b')")
        connection.execute("PRAGMA user_version = 0")  # it counted no versions
        connection.commit()
    prepare_rows(path)
    with closing(Rows(path)) as rows:
        assert rows.unnotified() == ["b"]
        (due,) = rows.take_due(10.0, 10)
        rows.finish_attempt(due, State.DONE)
        assert rows.totals().row_bytes == 0


def test_condition_that_nothing_has_judged_is_not_queued(rows: Rows) -> None:
    conditional = replace(row("a"), fields=(("If-Match", '"1"'),))
    with pytest.raises(NotJudgedError):
        rows.insert(conditional, LIMIT_BYTES, is_judged=False)
    assert rows.newest("a") is None
    rows.insert(replace(conditional, fields=()), LIMIT_BYTES, is_judged=False)
    etag = row("a").etag
    judged_here = replace(conditional, fields=(("If-Match", etag),))
    assert rows.insert(judged_here, LIMIT_BYTES, is_judged=False).follows is not None


def test_queued_and_stored_bytes_are_limited(rows: Rows) -> None:
    limit_bytes = 100 + 4 * ROW_BYTES
    rows.insert(row("a", size_bytes=60), limit_bytes)
    refused_bytes = 41 + 2 * ROW_BYTES
    with pytest.raises(WriteRefusedError, match="503 SlowDown"):
        rows.insert(row("b", size_bytes=refused_bytes), limit_bytes)
    with pytest.raises(WriteRefusedError, match="503 SlowDown"):
        rows.check("b", (), refused_bytes, limit_bytes)
    rows.check("b", (), 40, limit_bytes)
    rows.insert(row("b", size_bytes=40), limit_bytes)
    (first, _) = rows.take_due(10.0, 2)
    rows.finish_attempt(first, State.FAILED)
    assert rows.totals().held_bytes == 100  # a dead letter counts too
    assert rows.discard(first.serial) == "token-a"
    assert rows.totals().held_bytes == 40
    assert rows.discard(first.serial) is None


def test_conditions_are_checked_against_pending_writes(rows: Rows) -> None:
    rows.insert(when(row("a"), ("If-None-Match", "*")), LIMIT_BYTES)
    newest = rows.newest("a")
    assert newest is not None
    assert newest.fields == (("Content-Type", "a/b"), ("If-None-Match", "*"))
    for condition in (("If-None-Match", "*"), ("If-Match", '"0"')):
        with pytest.raises(WriteRefusedError, match="412"):
            rows.insert(when(row("a"), condition), LIMIT_BYTES)
        with pytest.raises(WriteRefusedError, match="412"):
            rows.check("a", (condition,), 0, LIMIT_BYTES)
    follower = rows.insert(when(row("a", etag='"2"'), ("If-Match", '"1"')), LIMIT_BYTES)
    assert follower.fields == (("Content-Type", "a/b"),)
    (first,) = rows.take_due(10.0, 10)
    rows.finish_attempt(first, State.DONE, etag='"origin-1"')
    (second,) = rows.take_due(10.0, 10)
    assert second.fields == (("Content-Type", "a/b"), ("If-Match", '"origin-1"'))


def test_object_with_a_pending_delete_does_not_exist(rows: Rows) -> None:
    rows.insert(row("a", method="DELETE", etag=""), LIMIT_BYTES)
    with pytest.raises(WriteRefusedError, match="412"):
        rows.insert(when(row("a"), ("If-Match", "*")), LIMIT_BYTES)
    rows.insert(when(row("a"), ("If-None-Match", "*")), LIMIT_BYTES)
    (first,) = rows.take_due(10.0, 10)
    rows.finish_attempt(first, State.DONE)
    (second,) = rows.take_due(10.0, 10)
    assert second.fields[-1] == ("If-None-Match", "*")


def test_write_that_follows_a_conflict_is_a_conflict(rows: Rows) -> None:
    rows.insert(row("a"), LIMIT_BYTES)
    rows.insert(when(row("a", etag='"2"'), ("If-Match", '"1"')), LIMIT_BYTES)
    rows.insert(when(row("a", etag='"3"'), ("If-Match", '"2"')), LIMIT_BYTES)
    rows.insert(row("a", etag='"4"'), LIMIT_BYTES)  # asks for nothing
    (first,) = rows.take_due(10.0, 10)
    rows.finish_attempt(first, State.CONFLICT)
    assert rows.by_state() == {State.CONFLICT: 3, State.QUEUED: 1}
    assert [one.etag for one in rows.take_due(10.0, 10)] == ['"4"']


def test_requeued_write_is_sent_after_the_others(rows: Rows) -> None:
    rows.insert(when(row("a"), ("If-Match", '"0"')), LIMIT_BYTES)
    (first,) = rows.take_due(10.0, 10)
    assert not rows.requeue(first.serial, 20.0, unconditional=True)  # it is not a dead letter
    rows.finish_attempt(first, State.CONFLICT)
    later = rows.insert(row("a"), LIMIT_BYTES)
    assert rows.requeue(first.serial, 20.0, unconditional=True)
    (due,) = rows.take_due(20.0, 10)
    assert due.serial == later.serial
    rows.finish_attempt(due, State.DONE)
    (again,) = rows.take_due(20.0, 10)
    assert (again.fields, again.attempts) == ((("Content-Type", "a/b"),), 1)
    assert rows.totals().held_bytes == 1


def test_make_due_now_affects_one_origin(rows: Rows) -> None:
    rows.insert(replace(row("a"), due_s=100.0), LIMIT_BYTES)
    rows.insert(replace(row("b"), due_s=100.0, origin_name="other"), LIMIT_BYTES)
    rows.make_due_now("main", 20.0)
    assert [one.asset_key for one in rows.take_due(20.0, 10)] == ["a"]


def test_states_change_only_by_the_transition_table(rows: Rows) -> None:
    queued = rows.insert(row(), LIMIT_BYTES)
    with pytest.raises(AssertionError):
        rows.finish_attempt(queued, State.DONE)


def test_damaged_file_is_a_named_error(tmp_path: Path) -> None:
    damaged = tmp_path / "journal.sqlite"
    damaged.write_bytes(b"not a database" * 1000)
    with pytest.raises(WriteQueueError):
        prepare_rows(damaged)


def test_other_users_cannot_read_the_queue(path: Path, rows: Rows) -> None:
    rows.insert(row(), LIMIT_BYTES)
    files = sorted(path.parent.glob(f"{path.name}*"))
    assert [file.name.removeprefix(path.name) for file in files] == ["", "-shm", "-wal"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_locked_file_fails_one_use(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "BUSY_TIMEOUT_S", 0.0)
    with closing(Rows(path)) as rows, closing(open_database(path)) as other:
        with other.transaction(), pytest.raises(WriteQueueError, match="locked"):
            rows.insert(row(), LIMIT_BYTES)
        rows.insert(row(), LIMIT_BYTES)
        assert rows.by_state() == {State.QUEUED: 1}


def test_replaced_file_is_noticed_at_the_next_use(tmp_path: Path, path: Path, rows: Rows) -> None:
    rows.insert(row(), LIMIT_BYTES)
    prepare_rows(tmp_path / "new.sqlite")
    (tmp_path / "new.sqlite").replace(path)
    for suffix in FILE_SUFFIXES[1:]:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    assert rows.by_state() == {}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("qdfc")), max_size=12))
def test_writes_of_one_object_stay_in_order_for_any_steps(
    tmp_path: Path, steps: list[tuple[str, str]]
) -> None:
    path = tmp_path / "any.sqlite"
    path.unlink(missing_ok=True)
    prepare_rows(path)
    rows = Rows(path)
    ends = {"d": State.DONE, "f": State.FAILED, "c": State.QUEUED}
    sent: dict[str, int] = {}
    for asset, step in steps:
        if step == "q":
            rows.insert(row(asset), LIMIT_BYTES)
            continue
        for due in rows.take_due(10.0, 10):
            assert due.serial >= sent.get(due.asset_key, 0)
            sent[due.asset_key] = due.serial
            rows.finish_attempt(due, ends[step], due_s=10.0)
    rows.close()

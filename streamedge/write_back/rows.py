"""The rows of the write queue in SQLite: writes, their order and their state.

Each method is one transaction and is on disk when it returns. All methods block and may be called
from any thread. Only the state transitions of ``states`` are allowed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from streamedge.errors import StreamEdgeError
from streamedge.origin.writing import (
    WRITE_CONDITIONS,
    HeaderFields,
    conditions_of,
    refuse,
    require_condition,
)
from streamedge.sqlite import Database, changes_after, insert, run_script
from streamedge.write_back.states import DEAD_LETTERS, PENDING_STATES, State, may_follow

BUSY_TIMEOUT_S = 20.0  # other workers' transactions take a few milliseconds each
CHANGES_MAX = 10_000  # a reader that missed more reloads its whole index

_SCHEMA = """
CREATE TABLE IF NOT EXISTS writes (
    serial INTEGER PRIMARY KEY AUTOINCREMENT,
    asset_key TEXT NOT NULL,
    origin_name TEXT NOT NULL,
    name TEXT NOT NULL,
    method TEXT NOT NULL,
    fields TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    token TEXT NOT NULL,
    etag TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    due_s REAL NOT NULL,
    queued_s REAL NOT NULL,
    follows INTEGER,
    problem TEXT NOT NULL,
    row_bytes INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS writes_by_asset ON writes (asset_key, serial);
CREATE INDEX IF NOT EXISTS writes_by_time ON writes (state, due_s);
CREATE INDEX IF NOT EXISTS writes_by_token ON writes (token);
CREATE INDEX IF NOT EXISTS writes_by_follows ON writes (follows);
CREATE TABLE IF NOT EXISTS changes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    asset_key TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS unnotified (asset_key TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS holds (
    asset_key TEXT PRIMARY KEY,
    serial INTEGER NOT NULL,
    until_s REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS totals (name TEXT PRIMARY KEY, amount INTEGER NOT NULL);
INSERT OR IGNORE INTO totals VALUES
    ('held_bytes', 0), ('row_bytes', 0), ('accepted', 0), ('done', 0);
"""
ROW_BYTES = 1024  # a row and its index entries, without its texts
_COLUMNS = (
    "serial, asset_key, origin_name, name, method, fields, size_bytes, token, etag, state,"
    " attempts, due_s, queued_s, follows, problem"
)


def _sql_list(states: Collection[State]) -> str:
    """Always in the same order: SQLite uses a partial index where the text of its condition is in
    the query."""
    return f"({', '.join(sorted(repr(state.value) for state in states))})"


WAITING_SQL = _sql_list(PENDING_STATES)
_DEAD_LETTERS_SQL = _sql_list(DEAD_LETTERS)
# No schema version counts these, so that an earlier StreamEdge still opens the file.
_INDEXES = f"""
CREATE INDEX IF NOT EXISTS writes_by_state ON writes (state, serial);
CREATE INDEX IF NOT EXISTS writes_by_origin ON writes (state, origin_name, due_s);
CREATE INDEX IF NOT EXISTS writes_waiting ON writes (asset_key, serial)
    WHERE state IN {WAITING_SQL};
CREATE INDEX IF NOT EXISTS writes_by_name ON writes (name);
"""
# Triggers, so that the counts are right after an earlier StreamEdge has used the file, too.
_STATE_COUNTS = """
CREATE TABLE state_counts (state TEXT PRIMARY KEY, amount INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO state_counts SELECT state, COUNT(*) FROM writes GROUP BY state;
CREATE TRIGGER writes_inserted AFTER INSERT ON writes BEGIN
    INSERT INTO state_counts VALUES (new.state, 1)
        ON CONFLICT (state) DO UPDATE SET amount = amount + 1;
END;
CREATE TRIGGER writes_deleted AFTER DELETE ON writes BEGIN
    UPDATE state_counts SET amount = amount - 1 WHERE state = old.state;
END;
CREATE TRIGGER writes_moved AFTER UPDATE OF state ON writes WHEN new.state <> old.state BEGIN
    UPDATE state_counts SET amount = amount - 1 WHERE state = old.state;
    INSERT INTO state_counts VALUES (new.state, 1)
        ON CONFLICT (state) DO UPDATE SET amount = amount + 1;
END;
"""
# Older writes of an object go first, and none while its hold lasts (``Rows.recover``).
_IS_NEXT = (
    "NOT EXISTS (SELECT 1 FROM writes older WHERE older.asset_key = writes.asset_key"  # noqa: S608
    f" AND older.serial < writes.serial AND older.state IN {WAITING_SQL})"
)
_HELD_UNTIL = (
    "(SELECT until_s FROM holds WHERE holds.asset_key = writes.asset_key"
    " AND holds.serial < writes.serial)"
)
_NEXT_DUE_QUERY = (
    f"SELECT due_s FROM writes WHERE state = 'queued' AND {_IS_NEXT} AND {_HELD_UNTIL} IS NULL"  # noqa: S608
    " ORDER BY due_s LIMIT 1"
)
_NEXT_HELD_QUERY = (
    "SELECT MIN(MAX(due_s, until_s)) FROM holds CROSS JOIN writes"  # noqa: S608
    " ON writes.asset_key = holds.asset_key AND writes.serial > holds.serial"
    f" AND state IN {WAITING_SQL} WHERE state = 'queued' AND {_IS_NEXT}"
)


class WriteQueueError(StreamEdgeError):
    """The queue cannot be read or written, so the pending writes are not known."""


class NotJudgedError(StreamEdgeError):
    """Nothing has decided whether the conditions of a write hold; it was not queued."""


@dataclass(frozen=True, slots=True)
class Row:
    """One write. ``serial`` gives the order; times are in seconds since 1970.

    ``token`` names the body ("" for DELETE). ``etag`` is the ETag for readers of this edge.
    ``follows`` is the serial of the pending write that its condition was checked against.
    ``problem`` describes the last failure.
    """

    serial: int
    asset_key: str
    origin_name: str
    name: str
    method: str
    fields: HeaderFields
    size_bytes: int
    token: str
    etag: str
    state: State
    attempts: int
    due_s: float
    queued_s: float
    follows: int | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Totals:
    """``accepted`` and ``done`` count writes since the queue was created; ``held_bytes`` of bodies
    and ``row_bytes`` of rows are stored now.
    """

    held_bytes: int
    row_bytes: int
    accepted: int
    done: int


def open_database(path: Path) -> Database:
    """A connection to the file, which is created or upgraded at the first use.

    Every use raises WriteQueueError.
    """
    return Database(
        path,
        (_create_tables,),
        title="the write queue",
        error=WriteQueueError,
        damaged_error=WriteQueueError,
        busy_timeout_s=BUSY_TIMEOUT_S,
    )


def prepare_rows(path: Path) -> None:
    """Creates or upgrades the file. Raises WriteQueueError."""
    database = open_database(path)
    try:
        with database.transaction() as connection:
            run_script(connection, _INDEXES)
            if not _has_table(connection, "state_counts"):
                run_script(connection, _STATE_COUNTS)
    finally:
        database.close()


class Rows:
    """One connection to the queue. Its methods raise WriteQueueError."""

    def __init__(self, path: Path) -> None:
        self._database = open_database(path)

    def close(self) -> None:
        self._database.close()

    # --- accepting writes -----------------------------------------------------------------

    def check(
        self, asset_key: str, fields: HeaderFields, size_bytes: int, limit: int
    ) -> Row | None:
        """Raises WriteRefusedError where ``insert`` would, before the body is received.

        Returns the newest pending write of the object, which its conditions were checked against.
        """
        with self._database.transaction() as connection:
            _require_space(connection, size_bytes + ROW_BYTES, limit)
            newest = newest_pending(connection, asset_key)
        if newest is not None:
            require_condition(fields, _etag_after(newest))
        return newest

    def insert(self, row: Row, limit_bytes: int, *, is_judged: bool = True) -> Row:
        """Queues ``row`` and returns it with its new serial.

        Conditions are checked against the newest pending write of the object, if any. The row then
        follows that write: its condition at the origin is made from that write's result. Raises
        WriteRefusedError 412, or 503 when more than ``limit_bytes`` would be stored.

        ``is_judged``: the conditions need no pending write that decides. Without it NotJudgedError
        is raised where there is none.
        """
        with self._database.transaction() as connection:
            row_bytes = _row_bytes(row)
            _require_space(connection, row.size_bytes + row_bytes, limit_bytes)
            newest = newest_pending(connection, row.asset_key)
            conditions = conditions_of(row.fields)
            if newest is None and conditions and not is_judged:
                raise NotJudgedError(f"no write of {row.name!a} waits any more")
            if newest is not None and conditions:
                require_condition(row.fields, _etag_after(newest))
                rest = tuple(field for field in row.fields if field not in conditions)
                row = replace(row, fields=rest, follows=newest.serial)
            serial = _insert(connection, row, row_bytes)
            _count(connection, "held_bytes", row.size_bytes)
            _count(connection, "row_bytes", row_bytes)
            _count(connection, "accepted", 1)
            _note_change(connection, row.asset_key)
        return replace(row, serial=serial)

    # --- sending writes -------------------------------------------------------------------

    def recover(self, now_s: float, lingers_s: Callable[[Row], float]) -> list[Row]:
        """Queues again what a replicator that died was sending. Returns the interrupted writes.

        An interrupted write may still reach the origin, for ``lingers_s`` seconds. Until then no
        write of its object is sent, because the late arrival would undo it.
        """
        with self._database.transaction() as connection:
            interrupted = []
            for row in select_rows(connection, "WHERE state = 'sending'", ()):
                hold_s = lingers_s(row)
                if hold_s > 0:
                    _hold(connection, row.asset_key, row.serial - 1, now_s + hold_s)
                    interrupted.append(row)
            connection.execute("UPDATE writes SET state = 'queued' WHERE state = 'sending'")
            connection.execute(
                "UPDATE writes SET due_s = ? WHERE state = 'queued' AND due_s > ?", (now_s, now_s)
            )
        return interrupted

    def release(self, asset_key: str) -> None:
        """Ends an object's hold early: the interrupted write has arrived."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM holds WHERE asset_key = ?", (asset_key,))

    def take_due(self, now_s: float, count: int) -> list[Row]:
        """Sets up to ``count`` due writes to SENDING, the oldest of each object; returns them."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM holds WHERE until_s <= ?", (now_s,))
            rows = select_rows(
                connection,
                f"WHERE state = 'queued' AND due_s <= ? AND {_IS_NEXT}"
                f" AND IFNULL({_HELD_UNTIL}, 0) <= ? ORDER BY due_s, serial LIMIT ?",
                (now_s, now_s, count),
            )
            due = [replace(row, state=State.SENDING, attempts=row.attempts + 1) for row in rows]
            for row in due:
                connection.execute(
                    "UPDATE writes SET state = 'sending', attempts = ? WHERE serial = ?",
                    (row.attempts, row.serial),
                )
        return due

    def held_keys(self, now_s: float) -> set[str]:
        """The objects for which an earlier attempt may still reach the origin."""
        with self._database.read() as connection:
            query = "SELECT asset_key FROM holds WHERE until_s > ?"
            return {str(key) for (key,) in connection.execute(query, (now_s,))}

    def put_back(self, row: Row, due_s: float) -> None:
        """Queues a write again that was taken and not sent: that was no attempt."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE writes SET state = 'queued', attempts = ?, due_s = ? WHERE serial = ?",
                (row.attempts - 1, due_s, row.serial),
            )

    def end_superseded(self, row: Row) -> None:
        """Removes a write that is not sent, because a later one of another edge was; writes whose
        condition depends on it become conflicts.
        """
        with self._database.transaction() as connection:
            _conflict_followers(connection, row.serial)
            _remove(connection, row)
            _count(connection, "done", 1)
            _note_change(connection, row.asset_key)

    def next_due_s(self) -> float | None:
        """When the next write without an older one of its object is due; None: no such write."""
        with self._database.read() as connection:
            rows = [
                connection.execute(query).fetchone()
                for query in (_NEXT_DUE_QUERY, _NEXT_HELD_QUERY)
            ]
        return min((float(row[0]) for row in rows if row and row[0] is not None), default=None)

    def finish_attempt(
        self,
        row: Row,
        state: State,
        *,
        problem: str = "",
        due_s: float = 0.0,
        etag: str = "",
        held_until_s: float = 0.0,
    ) -> None:
        """Records the result of an attempt.

        ``held_until_s`` holds newer writes of the object back, because the attempt may still
        reach the origin. DONE deletes the row, and gives the write that follows it a condition
        with ``etag``, the origin's. A dead letter makes the writes that follow it conflicts, and
        its object ``unnotified``.
        """
        if not may_follow(row.state, state):
            raise AssertionError(f"a write goes from {row.state} to {state}")
        with self._database.transaction() as connection:
            if held_until_s:
                _hold(connection, row.asset_key, row.serial, held_until_s)
            if state is not State.QUEUED:
                _note_change(connection, row.asset_key)
            if state is State.DONE:
                _set_follower_condition(connection, row, etag)
                _remove(connection, row)
                _count(connection, "done", 1)
                return
            connection.execute(
                "UPDATE writes SET state = ?, problem = ?, due_s = ? WHERE serial = ?",
                (state.value, problem, due_s, row.serial),
            )
            if state in DEAD_LETTERS:
                _conflict_followers(connection, row.serial)
                connection.execute("INSERT OR IGNORE INTO unnotified VALUES (?)", (row.asset_key,))

    def unnotified(self) -> list[str]:
        """Objects whose cached copy of a rejected write still has to be dropped."""
        with self._database.read() as connection:
            return [str(key) for (key,) in connection.execute("SELECT asset_key FROM unnotified")]

    def mark_notified(self, asset_key: str) -> None:
        """Records that the cached copies of an object were dropped."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM unnotified WHERE asset_key = ?", (asset_key,))

    def make_due_now(self, origin_name: str, now_s: float) -> None:
        """Makes all waiting writes of an origin due now."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE writes SET due_s = ? WHERE state = 'queued' AND origin_name = ?"
                " AND due_s > ?",
                (now_s, origin_name, now_s),
            )

    # --- dead letters ---------------------------------------------------------------------

    def requeue(self, serial: int, now_s: float, *, unconditional: bool) -> bool:
        """Queues a dead letter again, after all other writes. False: there is no such letter."""
        with self._database.transaction() as connection:
            row = _dead_letter(connection, serial)
            if row is None:
                return False
            row_bytes = _stored_row_bytes(connection, serial)
            connection.execute("DELETE FROM writes WHERE serial = ?", (serial,))
            fields = tuple(
                field
                for field in row.fields
                if not unconditional or field[0].lower() not in WRITE_CONDITIONS
            )
            requeued = replace(
                row, fields=fields, state=State.QUEUED, attempts=0, due_s=now_s, follows=None
            )
            _insert(connection, requeued, row_bytes)
            _note_change(connection, row.asset_key)
        return True

    def discard(self, serial: int) -> str | None:
        """Deletes a dead letter. Returns the token of its body, None: there is no such letter."""
        with self._database.transaction() as connection:
            row = _dead_letter(connection, serial)
            if row is None:
                return None
            _remove(connection, row)
        return row.token

    # --- queries --------------------------------------------------------------------------

    def newest(self, asset_key: str) -> Row | None:
        """The newest pending write of an object."""
        with self._database.read() as connection:
            return newest_pending(connection, asset_key)

    def newest_of(self, asset_keys: Iterable[str]) -> dict[str, Row]:
        """The newest pending writes of objects that have one."""
        with self._database.read() as connection:
            rows = (newest_pending(connection, key) for key in asset_keys)
            return {row.asset_key: row for row in rows if row is not None}

    def waiting_keys(self, after: str, count: int) -> Sequence[str]:
        """The first objects with pending writes, in the order of their keys, behind a key."""
        with self._database.read() as connection:
            cursor = connection.execute(
                "SELECT DISTINCT asset_key FROM writes WHERE asset_key > ?"  # noqa: S608
                f" AND state IN {WAITING_SQL} ORDER BY asset_key LIMIT ?",
                (after, count),
            )
            return [str(key) for (key,) in cursor]

    def changes_after(self, number: int) -> tuple[int, Sequence[str] | None]:
        """The last change's number, and the objects that changed after ``number``; None: all may
        have.
        """
        with self._database.read() as connection:
            return changes_after(connection, "changes", "asset_key", number)

    def is_waiting_below(self, key_prefix: str, prefix: str) -> bool:
        """Whether a write is pending whose asset key and object name have these prefixes."""
        with self._database.read() as connection:
            # Names with the prefix come directly after it. The "+" makes SQLite use their index.
            row = connection.execute(
                f"SELECT name FROM writes WHERE +state IN {WAITING_SQL}"  # noqa: S608
                " AND name >= ? AND substr(asset_key, 1, ?) = ? ORDER BY name LIMIT 1",
                (prefix, len(key_prefix), key_prefix),
            ).fetchone()
        return row is not None and str(row[0]).startswith(prefix)

    def has_token(self, token: str) -> bool:
        """Whether a row names this body."""
        with self._database.read() as connection:
            cursor = connection.execute("SELECT 1 FROM writes WHERE token = ?", (token,))
            return cursor.fetchone() is not None

    def by_state(self) -> dict[State, int]:
        """The number of writes in each state but DONE."""
        with self._database.read() as connection:
            cursor = connection.execute("SELECT state, amount FROM state_counts WHERE amount > 0")
            return {State(state): count for state, count in cursor}

    def list(self, states: Sequence[State], count: int) -> list[Row]:
        """The oldest writes in any of ``states``."""
        where = "WHERE state = ? ORDER BY serial LIMIT ?"
        with self._database.read() as connection:
            oldest = [
                row
                for state in states
                for row in select_rows(connection, where, (state.value, count))
            ]
        return sorted(oldest, key=lambda row: row.serial)[:count]

    def totals(self) -> Totals:
        with self._database.read() as connection:
            return Totals(**dict(connection.execute("SELECT name, amount FROM totals")))


def _create_tables(connection: sqlite3.Connection) -> None:
    """Leads to schema version 1 from an empty file, or from one without a version."""
    run_script(connection, _SCHEMA)
    if _has_table(connection, "untold"):  # created by an earlier version
        connection.execute("INSERT OR IGNORE INTO unnotified SELECT asset_key FROM untold")
        connection.execute("DROP TABLE untold")
    columns = connection.execute("SELECT name FROM pragma_table_info('writes')")
    if ("row_bytes",) not in columns.fetchall():  # created by an earlier version
        connection.execute("ALTER TABLE writes ADD COLUMN row_bytes INTEGER NOT NULL DEFAULT 0")


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return connection.execute(query, (name,)).fetchone() is not None


def select_rows(connection: sqlite3.Connection, where: str, values: Sequence[object]) -> list[Row]:
    """The rows that a WHERE clause (and ORDER BY, LIMIT) selects."""
    cursor = connection.execute(f"SELECT {_COLUMNS} FROM writes {where}", values)  # noqa: S608
    return [_row(columns) for columns in cursor]


def _row(columns: Sequence[object]) -> Row:
    row = Row(*columns)  # type: ignore[arg-type]  # the columns are Row's own, in order
    fields = tuple((name, value) for name, value in json.loads(str(row.fields)))
    return replace(row, fields=fields, state=State(row.state))


def _row_bytes(row: Row) -> int:
    """The approximate size of a row in the file: its texts, and their copies in the indexes."""
    texts = (row.asset_key * 4, row.origin_name * 2, row.name * 2, json.dumps(row.fields), row.etag)
    return ROW_BYTES + sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def _stored_row_bytes(connection: sqlite3.Connection, serial: int) -> int:
    query = "SELECT row_bytes FROM writes WHERE serial = ?"
    return int(connection.execute(query, (serial,)).fetchone()[0])


def _remove(connection: sqlite3.Connection, row: Row) -> None:
    """Deletes a row and subtracts its bytes from the totals."""
    _count(connection, "row_bytes", -_stored_row_bytes(connection, row.serial))
    _count(connection, "held_bytes", -row.size_bytes)
    connection.execute("DELETE FROM writes WHERE serial = ?", (row.serial,))


def _hold(connection: sqlite3.Connection, asset_key: str, serial: int, until_s: float) -> None:
    """Holds writes of an object newer than ``serial`` back; an earlier hold stays valid."""
    connection.execute(
        "INSERT INTO holds VALUES (?, ?, ?) ON CONFLICT (asset_key) DO UPDATE SET"
        " serial = MIN(serial, excluded.serial), until_s = MAX(until_s, excluded.until_s)",
        (asset_key, serial, until_s),
    )


def _insert(connection: sqlite3.Connection, row: Row, row_bytes: int) -> int:
    return insert(
        connection,
        f"INSERT INTO writes ({_COLUMNS}, row_bytes)"  # noqa: S608
        f" VALUES (NULL{', ?' * 15})",
        (
            row.asset_key,
            row.origin_name,
            row.name,
            row.method,
            json.dumps(row.fields),
            row.size_bytes,
            row.token,
            row.etag,
            row.state.value,
            row.attempts,
            row.due_s,
            row.queued_s,
            row.follows,
            row.problem,
            row_bytes,
        ),
    )


def newest_pending(connection: sqlite3.Connection, asset_key: str) -> Row | None:
    """The newest pending write of an object; None: readers get what the origin has."""
    rows = select_rows(
        connection,
        f"WHERE asset_key = ? AND state IN {WAITING_SQL} ORDER BY serial DESC LIMIT 1",
        (asset_key,),
    )
    return rows[0] if rows else None


def _dead_letter(connection: sqlite3.Connection, serial: int) -> Row | None:
    where = f"WHERE serial = ? AND state IN {_DEAD_LETTERS_SQL}"
    rows = select_rows(connection, where, (serial,))
    return rows[0] if rows else None


def _etag_after(row: Row) -> str | None:
    """The object's ETag after ``row``, None when ``row`` deletes it."""
    return None if row.method == "DELETE" else row.etag


def _require_space(connection: sqlite3.Connection, size_bytes: int, limit_bytes: int) -> None:
    query = "SELECT SUM(amount) FROM totals WHERE name IN ('held_bytes', 'row_bytes')"
    if int(connection.execute(query).fetchone()[0]) + size_bytes > limit_bytes:
        raise refuse(503, "SlowDown", "the write queue of this edge is full; try again later")


def _count(connection: sqlite3.Connection, name: str, amount: int) -> None:
    connection.execute("UPDATE totals SET amount = amount + ? WHERE name = ?", (amount, name))


def _note_change(connection: sqlite3.Connection, asset_key: str) -> None:
    """Records a change of an object, so that the readers' indexes update it."""
    number = insert(connection, "INSERT INTO changes (asset_key) VALUES (?)", (asset_key,))
    connection.execute("DELETE FROM changes WHERE number <= ?", (number - CHANGES_MAX,))


def _set_follower_condition(connection: sqlite3.Connection, done: Row, etag: str) -> None:
    """Gives the write that follows ``done`` a condition that the origin can check."""
    if done.method == "DELETE":
        condition = ("If-None-Match", "*")
    elif etag:
        condition = ("If-Match", etag)
    else:
        return
    for row in select_rows(connection, "WHERE follows = ?", (done.serial,)):
        connection.execute(
            "UPDATE writes SET fields = ?, follows = NULL WHERE serial = ?",
            (json.dumps((*row.fields, condition)), row.serial),
        )


def _conflict_followers(connection: sqlite3.Connection, serial: int) -> None:
    leaders = [serial]
    while leaders:
        leader = leaders.pop()
        for row in select_rows(connection, "WHERE follows = ? AND state = 'queued'", (leader,)):
            connection.execute(
                "UPDATE writes SET state = 'conflict', problem = ? WHERE serial = ?",
                ("the earlier write that its condition depends on was not done", row.serial),
            )
            leaders.append(row.serial)

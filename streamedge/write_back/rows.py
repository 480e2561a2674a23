"""The journal's rows: which writes wait, in which order, and what became of them.

Owns the SQLite file. Each method is one transaction and is on disk when it returns
(synchronous=FULL); all of them block, and may be called from any thread. ``states`` says which
changes there are; this sees to it that none is made but those.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from streamedge.errors import StreamEdgeError
from streamedge.origin.writing import HeaderFields, refuse, require_condition
from streamedge.write_back.states import DEAD_LETTERS, WAITING, State, may_follow

BUSY_TIMEOUT_S = 20.0  # other workers' transactions take a few milliseconds each
CHANGES_KEPT = 10_000  # a reader who missed more than these looks at everything
CONDITIONS = frozenset({"if-match", "if-none-match"})

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
CREATE TABLE IF NOT EXISTS untold (asset_key TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS holds (
    asset_key TEXT PRIMARY KEY,
    serial INTEGER NOT NULL,
    until_s REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS totals (name TEXT PRIMARY KEY, amount INTEGER NOT NULL);
INSERT OR IGNORE INTO totals VALUES
    ('held_bytes', 0), ('row_bytes', 0), ('accepted', 0), ('done', 0);
"""
ROW_BYTES = 1024  # of a row with its entries in the indexes, beside its texts
_READ = "BEGIN"  # waits for nobody: readers see what was committed last
_COLUMNS = (
    "serial, asset_key, origin_name, name, method, fields, size_bytes, token, etag, state,"
    " attempts, due_s, queued_s, follows, problem"
)
# Older writes of an object go first, and none while its hold lasts (``Rows.recover``).
_IS_NEXT = (
    "NOT EXISTS (SELECT 1 FROM writes older WHERE older.asset_key = writes.asset_key"
    " AND older.serial < writes.serial AND older.state IN ('queued', 'sending'))"
)
_HELD_UNTIL = (
    "(SELECT until_s FROM holds WHERE holds.asset_key = writes.asset_key"
    " AND holds.serial < writes.serial)"
)
_DUE = f"MAX(due_s, IFNULL({_HELD_UNTIL}, 0))"
# The queries below name the states of WAITING and KEPT.
assert {state.value for state in WAITING} == {"queued", "sending"}
assert {state.value for state in DEAD_LETTERS} == {"conflict", "failed"}


class WriteQueueError(StreamEdgeError):
    """The journal cannot be read or written; nothing is known of what waits."""


@dataclass(frozen=True, slots=True)
class Row:
    """One write. ``serial`` gives the order; times are in seconds since 1970.

    ``token`` names the body ("" for DELETE), ``etag`` is what readers of this edge are told;
    ``follows`` is the waiting write that its condition was held against; ``problem`` is what was
    seen last.
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
    """What has come and gone since the journal was made; ``held_bytes`` of bodies and ``row_bytes``
    of rows lie here now.
    """

    held_bytes: int
    row_bytes: int
    accepted: int
    done: int


def prepare_rows(path: Path) -> None:
    """Makes the file; harmless when it is there. Raises WriteQueueError."""
    with named_errors():
        connection = connect(path)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(_SCHEMA)
            columns = connection.execute("SELECT name FROM pragma_table_info('writes')")
            if ("row_bytes",) not in columns.fetchall():  # made by an earlier version
                connection.execute(
                    "ALTER TABLE writes ADD COLUMN row_bytes INTEGER NOT NULL DEFAULT 0"
                )
        finally:
            connection.close()


class Rows:
    """One connection to the journal. Raises WriteQueueError."""

    def __init__(self, path: Path) -> None:
        self._lock = Lock()
        with named_errors():
            self._connection = connect(path)

    def close(self) -> None:
        self._connection.close()

    # --- writes come ----------------------------------------------------------------------

    def check(self, asset_key: str, fields: HeaderFields, size_bytes: int, limit: int) -> None:
        """Raises WriteRefusedError where ``insert`` would: before a body is taken."""
        with self._transaction() as connection:
            _require_room(connection, size_bytes + ROW_BYTES, limit)
            newest = newest_waiting(connection, asset_key)
        if newest is not None:
            require_condition(fields, _etag_after(newest))

    def insert(self, row: Row, limit_bytes: int) -> Row:
        """Queues ``row``; as it now stands. Its serial is given here.

        Conditions are held against the write that waits for the same object, if any: then the
        origin is asked for what that one left, not for what the viewer saw here. Raises
        WriteRefusedError 412, 503 when more than ``limit_bytes`` would be held.
        """
        with self._transaction() as connection:
            row_bytes = _row_bytes(row)
            _require_room(connection, row.size_bytes + row_bytes, limit_bytes)
            newest = newest_waiting(connection, row.asset_key)
            conditions = [field for field in row.fields if field[0].lower() in CONDITIONS]
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

    # --- writes go ------------------------------------------------------------------------

    def recover(self, now_s: float, lingers_s: Callable[[Row], float]) -> list[Row]:
        """Takes over from a replicator that is gone: what it sent may arrive, now or later.

        ``lingers_s`` says for how long. Until then nothing is sent of these objects, which would
        be undone by what arrives after it; these writes are returned.
        """
        with self._transaction() as connection:
            interrupted = []
            for row in select_rows(connection, "WHERE state = 'sending'", ()):
                lasts_s = lingers_s(row)
                if lasts_s > 0:
                    _hold(connection, row.asset_key, row.serial - 1, now_s + lasts_s)
                    interrupted.append(row)
            connection.execute("UPDATE writes SET state = 'queued' WHERE state = 'sending'")
            connection.execute(
                "UPDATE writes SET due_s = ? WHERE state = 'queued' AND due_s > ?", (now_s, now_s)
            )
        return interrupted

    def release(self, asset_key: str) -> None:
        """Ends an object's hold before its time: what was under way has arrived."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM holds WHERE asset_key = ?", (asset_key,))

    def take_due(self, now_s: float, count: int) -> list[Row]:
        """Makes up to ``count`` writes SENDING: of each object the oldest, if it is due."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM holds WHERE until_s <= ?", (now_s,))
            rows = select_rows(
                connection,
                f"WHERE state = 'queued' AND due_s <= ? AND {_IS_NEXT}"
                f" AND IFNULL({_HELD_UNTIL}, 0) <= ? ORDER BY due_s, serial LIMIT ?",
                (now_s, now_s, count),
            )
            taken = [replace(row, state=State.SENDING, attempts=row.attempts + 1) for row in rows]
            for row in taken:
                connection.execute(
                    "UPDATE writes SET state = 'sending', attempts = ? WHERE serial = ?",
                    (row.attempts, row.serial),
                )
        return taken

    def next_due_s(self) -> float | None:
        """When the next write will be due, of those that no older one holds up."""
        with self._transaction(_READ) as connection:
            found = connection.execute(
                f"SELECT {_DUE} AS due FROM writes WHERE state = 'queued' AND {_IS_NEXT}"  # noqa: S608
                " ORDER BY due LIMIT 1"
            ).fetchone()
        return None if found is None else float(found[0])

    def settle(
        self,
        row: Row,
        state: State,
        *,
        problem: str = "",
        due_s: float = 0.0,
        etag: str = "",
        held_until_s: float = 0.0,
    ) -> None:
        """Ends an attempt; one that may still arrive holds the object's newer writes up until
        ``held_until_s``. DONE removes the row, and lets the one that follows it go on from
        ``etag``, the origin's; a write that follows one that was not done is a conflict. One that
        is kept leaves its object among the ``unnotified``.
        """
        assert may_follow(row.state, state), (row.state, state)
        with self._transaction() as connection:
            if held_until_s:
                _hold(connection, row.asset_key, row.serial, held_until_s)
            if state is not State.QUEUED:
                _note_change(connection, row.asset_key)
            if state is State.DONE:
                _pass_on(connection, row, etag)
                _remove(connection, row)
                _count(connection, "done", 1)
                return
            connection.execute(
                "UPDATE writes SET state = ?, problem = ?, due_s = ? WHERE serial = ?",
                (state.value, problem, due_s, row.serial),
            )
            if state in DEAD_LETTERS:
                _conflict_followers(connection, row.serial)
                connection.execute("INSERT OR IGNORE INTO untold VALUES (?)", (row.asset_key,))

    def unnotified(self) -> list[str]:
        """Objects that readers may still have from a write which is not to be read any more."""
        with self._transaction(_READ) as connection:
            return [str(key) for (key,) in connection.execute("SELECT asset_key FROM untold")]

    def mark_notified(self, asset_key: str) -> None:
        """Notes that the cache has been told of an object."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM untold WHERE asset_key = ?", (asset_key,))

    def make_due_now(self, origin_name: str, now_s: float) -> None:
        """Makes all that waits for an origin due now."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE writes SET due_s = ? WHERE state = 'queued' AND origin_name = ?"
                " AND due_s > ?",
                (now_s, origin_name, now_s),
            )

    # --- the operator decides -------------------------------------------------------------

    def requeue(self, serial: int, now_s: float, *, unconditional: bool) -> bool:
        """Queues a kept write anew, behind all others; whether there was one."""
        with self._transaction() as connection:
            row = _kept(connection, serial)
            if row is None:
                return False
            row_bytes = _stored_row_bytes(connection, serial)
            connection.execute("DELETE FROM writes WHERE serial = ?", (serial,))
            fields = tuple(
                field
                for field in row.fields
                if not unconditional or field[0].lower() not in CONDITIONS
            )
            again = replace(
                row, fields=fields, state=State.QUEUED, attempts=0, due_s=now_s, follows=None
            )
            _insert(connection, again, row_bytes)
            _note_change(connection, row.asset_key)
        return True

    def discard(self, serial: int) -> str | None:
        """Gives a kept write up; the token of its body, None when there was no such write."""
        with self._transaction() as connection:
            row = _kept(connection, serial)
            if row is None:
                return None
            _remove(connection, row)
        return row.token

    # --- questions ------------------------------------------------------------------------

    def newest(self, asset_key: str) -> Row | None:
        """The newest waiting write of an object."""
        with self._transaction(_READ) as connection:
            return newest_waiting(connection, asset_key)

    def is_waiting_below(self, asset_key_begin: str, prefix: str) -> bool:
        """Whether a write waits of an asset whose key and whose object's name begin so."""
        with self._transaction(_READ) as connection:
            found = connection.execute(
                "SELECT 1 FROM writes WHERE state IN ('queued', 'sending')"
                " AND substr(asset_key, 1, ?) = ? AND substr(name, 1, ?) = ? LIMIT 1",
                (len(asset_key_begin), asset_key_begin, len(prefix), prefix),
            )
            return found.fetchone() is not None

    def has_token(self, token: str) -> bool:
        """Whether a row names this body."""
        with self._transaction(_READ) as connection:
            found = connection.execute("SELECT 1 FROM writes WHERE token = ?", (token,))
            return found.fetchone() is not None

    def by_state(self) -> dict[State, int]:
        """How many writes are in each state but DONE."""
        with self._transaction(_READ) as connection:
            found = connection.execute("SELECT state, COUNT(*) FROM writes GROUP BY state")
            return {State(state): count for state, count in found}

    def list(self, states: Sequence[State], count: int) -> list[Row]:
        """The oldest writes in any of ``states``."""
        marks = ", ".join("?" * len(states))
        with self._transaction(_READ) as connection:
            return select_rows(
                connection,
                f"WHERE state IN ({marks}) ORDER BY serial LIMIT ?",
                (*(state.value for state in states), count),
            )

    def totals(self) -> Totals:
        with self._transaction(_READ) as connection:
            return Totals(**dict(connection.execute("SELECT name, amount FROM totals")))

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
        with self._lock, named_errors():
            self._connection.execute(begin)
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


@contextmanager
def named_errors() -> Iterator[None]:
    """Raises WriteQueueError for what SQLite raises."""
    try:
        yield
    except sqlite3.Error as exc:
        raise WriteQueueError(f"the write queue: {exc}") from exc


def connect(path: Path) -> sqlite3.Connection:
    """A connection that any thread may use, one at a time."""
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def select_rows(connection: sqlite3.Connection, where: str, values: Sequence[object]) -> list[Row]:
    """Rows by the end of a query."""
    found = connection.execute(f"SELECT {_COLUMNS} FROM writes {where}", values)  # noqa: S608
    return [_row(columns) for columns in found]


def _row(columns: Sequence[object]) -> Row:
    row = Row(*columns)  # type: ignore[arg-type]  # the columns are Row's own, in order
    fields = tuple((name, value) for name, value in json.loads(str(row.fields)))
    return replace(row, fields=fields, state=State(row.state))


def _row_bytes(row: Row) -> int:
    """What a row takes of the journal's file, roughly: its texts, and the key in two indexes."""
    texts = (row.asset_key * 3, row.origin_name, row.name, json.dumps(row.fields), row.etag)
    return ROW_BYTES + sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def _stored_row_bytes(connection: sqlite3.Connection, serial: int) -> int:
    query = "SELECT row_bytes FROM writes WHERE serial = ?"
    return int(connection.execute(query, (serial,)).fetchone()[0])


def _remove(connection: sqlite3.Connection, row: Row) -> None:
    """Forgets a write that has ended, and what it counted for."""
    _count(connection, "row_bytes", -_stored_row_bytes(connection, row.serial))
    _count(connection, "held_bytes", -row.size_bytes)
    connection.execute("DELETE FROM writes WHERE serial = ?", (row.serial,))


def _hold(connection: sqlite3.Connection, asset_key: str, serial: int, until_s: float) -> None:
    """Has writes of an object that are newer than ``serial`` wait; what holds already, goes on."""
    connection.execute(
        "INSERT INTO holds VALUES (?, ?, ?) ON CONFLICT (asset_key) DO UPDATE SET"
        " serial = MIN(serial, excluded.serial), until_s = MAX(until_s, excluded.until_s)",
        (asset_key, serial, until_s),
    )


def _insert(connection: sqlite3.Connection, row: Row, row_bytes: int) -> int:
    cursor = connection.execute(
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
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def newest_waiting(connection: sqlite3.Connection, asset_key: str) -> Row | None:
    """What readers of this edge see of an object, None: what the origin has."""
    found = select_rows(
        connection,
        "WHERE asset_key = ? AND state IN ('queued', 'sending') ORDER BY serial DESC LIMIT 1",
        (asset_key,),
    )
    return found[0] if found else None


def _kept(connection: sqlite3.Connection, serial: int) -> Row | None:
    found = select_rows(
        connection, "WHERE serial = ? AND state IN ('conflict', 'failed')", (serial,)
    )
    return found[0] if found else None


def _etag_after(row: Row) -> str | None:
    """The object's ETag once ``row`` is done, None when there is no object then."""
    return None if row.method == "DELETE" else row.etag


def _require_room(connection: sqlite3.Connection, size_bytes: int, limit_bytes: int) -> None:
    query = "SELECT SUM(amount) FROM totals WHERE name IN ('held_bytes', 'row_bytes')"
    if int(connection.execute(query).fetchone()[0]) + size_bytes > limit_bytes:
        raise refuse(503, "SlowDown", "too much waits to be written to the origin")


def _count(connection: sqlite3.Connection, name: str, amount: int) -> None:
    connection.execute("UPDATE totals SET amount = amount + ? WHERE name = ?", (amount, name))


def _note_change(connection: sqlite3.Connection, asset_key: str) -> None:
    """Tells readers, from this transaction's end on, to look at an object again."""
    noted = connection.execute("INSERT INTO changes (asset_key) VALUES (?)", (asset_key,))
    assert noted.lastrowid is not None
    forgotten = noted.lastrowid - CHANGES_KEPT
    connection.execute("DELETE FROM changes WHERE number <= ?", (forgotten,))


def _pass_on(connection: sqlite3.Connection, done: Row, etag: str) -> None:
    """Gives the write that follows ``done`` the condition that the origin can hold."""
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
                ("the write that it follows was not done", row.serial),
            )
            leaders.append(row.serial)

"""The control database: one SQLite file in the cache folder, open in several processes.

This module has the file, its mode, its schema version and transactions; ``log`` and ``resources``
have the tables. MIGRATIONS is only appended to: the first process that opens an older file updates
it, and a newer file is left alone.

A ``ControlDatabase`` connects when it is used, and connects again after a failure. So a locked
file, a full disk or a missing folder fails one use, not the process. A deleted or replaced file is
noticed at the next use.

All methods block, and may be called from any thread, one at a time. A transaction is on disk when
it returns, so kill -9 and a power failure at any moment lose nothing that was answered.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from streamedge.errors import StreamEdgeError

FILE_NAME = "control.db"
SUFFIXES = ("", "-wal", "-shm")  # of the files that SQLite keeps beside it
FILE_MODE = 0o600  # it has the documents of the API
BUSY_TIMEOUT_S = 5.0  # other processes' transactions take a few milliseconds each
BUSY_POLL_S = 0.005

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE log (
        epoch INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        scope TEXT NOT NULL,
        id TEXT NOT NULL,
        caller_reference TEXT NOT NULL,
        made_s REAL NOT NULL,
        items_to_here INTEGER NOT NULL,
        body TEXT NOT NULL
    );
    CREATE INDEX log_by_items ON log (items_to_here);
    CREATE INDEX log_by_scope ON log (scope, kind, epoch);
    CREATE INDEX log_by_id ON log (id);
    CREATE UNIQUE INDEX log_by_caller_reference ON log (scope, kind, caller_reference)
        WHERE caller_reference <> '';
    CREATE TABLE folded (
        scope TEXT NOT NULL,
        soft INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        made_s REAL NOT NULL,
        PRIMARY KEY (scope, soft)
    );
    """,
    """
    CREATE TABLE resources (
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        etag TEXT NOT NULL,
        name TEXT NOT NULL,
        document TEXT NOT NULL,
        created_s REAL NOT NULL,
        modified_s REAL NOT NULL,
        tags TEXT NOT NULL,
        PRIMARY KEY (kind, id)
    );
    CREATE UNIQUE INDEX resources_by_name ON resources (kind, name);
    """,
    # The id of the log (see ``position``): another one in each new file.
    """
    CREATE TABLE log_id (id INTEGER NOT NULL);
    INSERT INTO log_id VALUES (1 + abs(random() % 16777215));
    """,
)
"""Scripts that lead from each edition of the file to the next; ``PRAGMA user_version`` counts."""

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_PRIMARY_CODE = 0xFF  # the low byte of an extended result code


class ControlError(StreamEdgeError):
    """The control database cannot be read or written; nothing was changed."""


class ControlDamagedError(ControlError):
    """The file is no database, or parts of it are damaged: a retry does not help."""


class ControlDatabase:
    """One process's connection to the database in ``folder``, opened at the first use.

    Use it after a fork, not before. ``busy_timeout_s``: how long a use waits for other
    processes' locks; 0 on an event loop. Every use raises ControlError.
    """

    def __init__(self, folder: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.path = folder / FILE_NAME
        self._busy_timeout_s = busy_timeout_s
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None
        self._file = (0, 0)  # the device and inode of the file that is connected

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: all of it is on disk afterwards, or none of it if this raises."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A read transaction on one snapshot of the last commit; does not wait for writers."""
        with self._transaction("BEGIN") as connection:
            yield connection

    def check(self) -> None:
        """Reads the whole file. Raises ControlDamagedError where it is damaged."""
        with self._lock, _named_errors():
            faults = self._connected().execute("PRAGMA quick_check(1)").fetchall()
        if faults != [("ok",)]:
            raise ControlDamagedError(f"the control database: {faults[0][0]}")

    def close(self) -> None:
        """Ends the connection, until the next use."""
        with self._lock:
            self._disconnect()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._lock, _named_errors():
            connection = self._connected()
            try:
                connection.execute(begin)
                yield connection
                connection.execute("COMMIT")
            except BaseException as exc:
                self._end_transaction(connection, exc)
                raise

    def _end_transaction(self, connection: sqlite3.Connection, cause: BaseException) -> None:
        """Rolls a transaction back; after an error of the file the next use connects again."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error as exc:
            cause = exc
        is_temporary = isinstance(cause, sqlite3.IntegrityError) or _primary_code(cause) in _BUSY
        if isinstance(cause, sqlite3.Error) and not is_temporary:
            self._disconnect()

    def _connected(self) -> sqlite3.Connection:
        """The connection to the file that is in the folder now."""
        if self._connection is not None:
            if self._file == _identity(self.path):
                return self._connection
            self._disconnect()
        deadline_s = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                self._connection = self._connect()
            except sqlite3.OperationalError as exc:
                # Changing to WAL fails with SQLITE_BUSY at once and ignores SQLite's timeout.
                if _primary_code(exc) not in _BUSY or time.monotonic() >= deadline_s:
                    raise
                time.sleep(BUSY_POLL_S)
            else:
                return self._connection

    def _connect(self) -> sqlite3.Connection:
        # SQLite gives the files beside it the same mode, so none is ever readable by others.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
        self._file = _identity(self.path)
        connection = sqlite3.connect(
            self.path,
            timeout=self._busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.text_factory = _text
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            self._migrate(connection)
            if self._file != _identity(self.path):
                raise ControlError(f"the control database: {self.path} was replaced just now")
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _migrate(self, connection: sqlite3.Connection) -> None:
        if _edition(connection) == len(MIGRATIONS):
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            edition = _edition(connection)  # another process may have been faster
            if edition > len(MIGRATIONS):
                raise ControlError(
                    f"{self.path} was written by a later StreamEdge: its schema version is"
                    f" {edition},"
                    f" this one has {len(MIGRATIONS)}"
                )
            for script in MIGRATIONS[edition:]:
                for statement in _statements(script):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def move_aside(folder: Path) -> Path:
    """Renames the files of a damaged database, so that it can be repaired; returns the new name.

    No process may have it open. Raises OSError.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = folder / f"{FILE_NAME}.damaged-{stamp}"
    for suffix in reversed(SUFFIXES):  # the main file last: until then the damage is still detected
        path = folder / f"{FILE_NAME}{suffix}"
        if path.exists():
            path.rename(f"{aside}{suffix}")
    return aside


def is_damage(exc: BaseException) -> bool:
    """Whether an error of SQLite says that the file is no database, or a damaged one."""
    return _primary_code(exc) in _DAMAGED


def _identity(path: Path) -> tuple[int, int]:
    """Device and inode of the file at a path; (0, 0) without one."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return status.st_dev, status.st_ino


def _edition(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    """A script's statements one by one: ``executescript`` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _text(data: bytes) -> str:
    """Text of a column; damaged text must not make the rest of the row unreadable."""
    return data.decode("utf-8", "surrogateescape")


def _primary_code(exc: BaseException) -> int:
    return getattr(exc, "sqlite_errorcode", 0) & _PRIMARY_CODE


@contextmanager
def _named_errors() -> Iterator[None]:
    """Turns errors of SQLite and of the disk into ControlError."""
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        named = ControlDamagedError if is_damage(exc) else ControlError
        raise named(f"the control database: {exc}") from exc

"""One SQLite file that several processes have open: its mode, schema version and transactions.

A ``Database`` connects when it is used, and connects again after a failure. So a locked file, a
full disk or a missing folder fails one use, not the process. A deleted or replaced file is noticed
at the next use.

Migrations are only appended to: the first process that opens an older file updates it, and a newer
file is left alone.

All methods block, and may be called from any thread, one at a time. A transaction is on disk when
it returns (WAL, synchronous=FULL), so kill -9 and a power failure at any moment lose nothing that
was answered. One that is not synced is on disk after ``sync``: what it wrote can be spread before.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Lock

from streamedge.files import sync_folder

FILE_SUFFIXES = ("", "-wal", "-shm")  # of the files that SQLite keeps beside it
FILE_MODE = 0o600  # other users must not read it
BUSY_POLL_S = 0.005

Migration = str | Callable[[sqlite3.Connection], None]
"""A script, or a function that changes the tables; runs in a transaction of the wrapper."""

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_PRIMARY_CODE = 0xFF  # the low byte of an extended result code


class Database:
    """One process's connection to the file at ``path``, opened at the first use.

    Use it after a fork, not before. ``PRAGMA user_version`` counts the ``migrations`` of a file.
    ``title`` names the database in messages. ``busy_timeout_s``: how long a use waits for other
    processes' locks; 0 on an event loop. Errors of SQLite and of the disk are raised as
    ``error``, or as ``damaged_error`` where a retry does not help.
    """

    def __init__(
        self,
        path: Path,
        migrations: Sequence[Migration],
        *,
        title: str,
        error: type[Exception],
        damaged_error: type[Exception],
        busy_timeout_s: float,
        checkpoints: bool = True,
    ) -> None:
        """``checkpoints``: see ``checkpoint``."""
        self.path = path
        self._migrations = migrations
        self._title = title
        self._error = error
        self._damaged_error = damaged_error
        self._busy_timeout_s = busy_timeout_s
        self._checkpoints = checkpoints
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None
        self._is_synced = True
        self._is_folder_synced = False  # since the file was connected
        self._file = (0, 0)  # the device and inode of the file that is connected

    @contextmanager
    def transaction(self, *, synced: bool = True) -> Iterator[sqlite3.Connection]:
        """A write transaction: all of it is on disk afterwards, or none of it if this raises.

        Without ``synced`` a power failure may undo it, unless a later transaction was synced: for
        what can be read again from elsewhere. Other processes see it at once, and kill -9 does not
        undo it.
        """
        with self._transaction("BEGIN IMMEDIATE", synced=synced) as connection:
            yield connection

    def sync(self) -> None:
        """Returns when all transactions so far are on disk, those without ``synced`` included.

        Other threads may use the database meanwhile.
        """
        with self._named_errors():
            with self._lock:  # commits are in the WAL, or a checkpoint has synced them
                self._connected()
                descriptor = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)  # SQLite holds its locks on the other files
            if not self._is_folder_synced:
                sync_folder(self.path.parent)
                self._is_folder_synced = True

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A read transaction on one snapshot of the last commit; does not wait for writers."""
        with self._transaction("BEGIN") as connection:
            yield connection

    def checkpoint(self) -> None:
        """Moves what the WAL holds into the file, and begins the WAL again.

        SQLite does so within the transaction that makes the WAL too long, which then waits for the
        disk several times; but not in transactions of a database without ``checkpoints``.
        """
        with self._lock, self._named_errors():
            self._connected().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        # The first transaction afterwards waits for the disk, too: this one, which changes nothing.
        with self.transaction() as connection:
            connection.execute(f"PRAGMA user_version={_schema_version(connection)}")

    def check(self) -> None:
        """Reads the whole file. Raises ``damaged_error`` where it is damaged."""
        with self._lock, self._named_errors():
            faults = self._connected().execute("PRAGMA quick_check(1)").fetchall()
        if faults != [("ok",)]:
            raise self._damaged_error(f"{self._title}: {faults[0][0]}")

    def close(self) -> None:
        """Ends the connection, until the next use."""
        with self._lock:
            self._disconnect()

    @contextmanager
    def _transaction(
        self, begin: str, *, synced: bool | None = None
    ) -> Iterator[sqlite3.Connection]:
        """``synced``: None for one that only reads."""
        with self._lock, self._named_errors():
            connection = self._connected()
            try:
                if synced is not None and synced is not self._is_synced:
                    connection.execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
                    self._is_synced = synced
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
        """The connection to the file that is at the path now."""
        if self._connection is not None:
            if self._file == _identity(self.path):
                return self._connection
            self._disconnect()
        deadline_s = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                self._connection = self._connect()
            except sqlite3.OperationalError as exc:
                # A poll: changing to WAL fails with SQLITE_BUSY at once and ignores SQLite's
                # timeout, and SQLite does not tell when another process releases its lock.
                if _primary_code(exc) not in _BUSY or time.monotonic() >= deadline_s:
                    raise
                time.sleep(BUSY_POLL_S)
            else:
                return self._connection

    def _connect(self) -> sqlite3.Connection:
        # SQLite gives the files beside it the same mode, so none is ever readable by others. A file
        # that exists is not opened: closing it again would release the locks that SQLite holds for
        # other connections of this process, and the next process that ends would delete the WAL.
        with suppress(FileExistsError):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(self.path, flags, FILE_MODE))
        self._file, self._is_folder_synced = _identity(self.path), False
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
            if not self._checkpoints:
                connection.execute("PRAGMA wal_autocheckpoint=0")
            self._is_synced = True
            self._migrate(connection)
            if self._file != _identity(self.path):
                raise self._error(f"{self._title}: {self.path} was replaced just now")
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version = len(self._migrations)
        if _schema_version(connection) == version:
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            present = _schema_version(connection)  # another process may have been faster
            if present > version:
                raise self._error(
                    f"{self.path} was written by a later StreamEdge: its schema version is"
                    f" {present}, this one has {version}"
                )
            for migration in self._migrations[present:]:
                if isinstance(migration, str):
                    run_script(connection, migration)
                else:
                    migration(connection)
            connection.execute(f"PRAGMA user_version={version}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            error = self._damaged_error if is_damage(exc) else self._error
            raise error(f"{self._title}: {exc}") from exc


@contextmanager
def open_read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that changes nothing, not even the schema version. Raises sqlite3.Error."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        yield connection


def run_script(connection: sqlite3.Connection, script: str) -> None:
    """Runs statements one by one: ``executescript`` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""


def insert(connection: sqlite3.Connection, statement: str, values: Sequence[object]) -> int:
    """Runs an INSERT of one row; returns the row's id."""
    return int(connection.execute(statement, values).lastrowid or 0)


def changes_after(
    connection: sqlite3.Connection, table: str, key: str, number: int
) -> tuple[int, list[str] | None]:
    """The last change's number, and the keys changed after ``number``; None: all may be.

    ``table`` has a row for each change: a number, one more than that of the change before, and in
    the column ``key`` what changed. Old rows are deleted. Without a row after ``number`` the file
    was replaced by one with fewer changes.
    """
    last = last_change(connection, table)
    if last == number:
        return last, []
    rows = connection.execute(
        f"SELECT number, {key} FROM {table} WHERE number > ? ORDER BY number",  # noqa: S608
        (number,),
    ).fetchall()
    is_whole = bool(rows) and rows[0][0] == number + 1
    return last, [str(value) for _number, value in rows] if is_whole else None


def last_change(connection: sqlite3.Connection, table: str) -> int:
    """The number of the last change in such a table; 0 without one."""
    query = f"SELECT IFNULL(MAX(number), 0) FROM {table}"  # noqa: S608
    return int(connection.execute(query).fetchone()[0])


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


def _schema_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _text(data: bytes) -> str:
    """Text of a column; damaged text must not make the rest of the row unreadable."""
    return data.decode("utf-8", "surrogateescape")


def _primary_code(exc: BaseException) -> int:
    return getattr(exc, "sqlite_errorcode", 0) & _PRIMARY_CODE

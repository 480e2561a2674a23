"""The control database: one SQLite file in the cache folder, that several processes have open.

Owns the file, its mode, its edition and what a transaction is. What the tables hold is the business
of the rooms beside it (``log``, ``registry``). MIGRATIONS is only ever appended to: a file of any
earlier edition is brought up to date by whoever opens it first, and one of a later edition is left
alone.

All methods block, and may be called from any thread, one at a time. What a transaction has done is
on disk when it returns, so that kill -9 and a power cut at any moment lose nothing that was
answered.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from streamedge.errors import StreamEdgeError

FILE_NAME = "control.db"
FILE_MODE = 0o600  # it holds what the API was told, private keys' names among it
BUSY_TIMEOUT_S = 5.0  # other processes' transactions take a few milliseconds each

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
)
"""Scripts that lead from each edition of the file to the next; ``PRAGMA user_version`` counts."""


class ControlError(StreamEdgeError):
    """The control database cannot be read or written; nothing was changed."""


class ControlDatabase:
    """One process's connection to the database in ``folder``.

    Opened after a fork, not before. Raises ControlError.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._lock = Lock()
        with _named_errors((sqlite3.Error, OSError)):
            # SQLite gives the files beside it the same mode, so none is ever readable by others.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
            self._connection = sqlite3.connect(
                self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        try:
            with _named_errors():
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=FULL")
            self._migrate()
        except BaseException:
            self._connection.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """To change something: all of it is on disk afterwards, or, if this raises, none."""
        with self._bounded("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """To read what was committed last, all of it from one moment; waits for no writer."""
        with self._bounded("BEGIN") as connection:
            yield connection

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def _bounded(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._lock, _named_errors():
            self._connection.execute(begin)
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _migrate(self) -> None:
        with self.read() as connection:
            if _edition(connection) == len(MIGRATIONS):
                return
        with self.transaction() as connection:  # another process may have been faster
            edition = _edition(connection)
            if edition > len(MIGRATIONS):
                raise ControlError(
                    f"{self.path} was made by a later StreamEdge: its edition is {edition},"
                    f" this one knows {len(MIGRATIONS)}"
                )
            for script in MIGRATIONS[edition:]:
                for statement in _statements(script):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")


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


@contextmanager
def _named_errors(
    expected: tuple[type[Exception], ...] = (sqlite3.Error,),
) -> Iterator[None]:
    """Raises ControlError in place of what is expected of SQLite and of the disk."""
    try:
        yield
    except expected as exc:
        raise ControlError(f"the control database: {exc}") from exc

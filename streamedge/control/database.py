"""The control database: one SQLite file in the cache folder, open in several processes.

This module has the file name and the schema; ``log`` and ``resources`` read and write the tables.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from streamedge.errors import StreamEdgeError
from streamedge.sqlite import FILE_MODE, FILE_SUFFIXES, Database, open_read_only

FILE_NAME = "control.db"
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
    # The id of the log (see ``position``): each new file has another one.
    """
    CREATE TABLE log_id (id INTEGER NOT NULL);
    INSERT INTO log_id VALUES (1 + abs(random() % 16777215));
    """,
    # The replica of a fleet's shared log (see ``fleet_entries``, ``replica``).
    """
    CREATE TABLE fleet_entries (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        position INTEGER UNIQUE,
        is_given_up INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        has_row INTEGER NOT NULL,
        applied_s REAL NOT NULL,
        made_position INTEGER NOT NULL,
        entry TEXT NOT NULL,
        bytes_to_here INTEGER NOT NULL
    );
    CREATE INDEX fleet_entries_unpublished ON fleet_entries (number)
        WHERE position IS NULL AND is_given_up = 0;
    CREATE INDEX fleet_entries_members ON fleet_entries (position) WHERE kind = 'member';
    CREATE TABLE fleet_members (
        name TEXT PRIMARY KEY,
        body TEXT NOT NULL,
        first_position INTEGER NOT NULL
    );
    CREATE TABLE fleet_state (
        position INTEGER NOT NULL,
        entry_id TEXT NOT NULL,
        line INTEGER NOT NULL,
        resources_position INTEGER NOT NULL,
        is_reconciled INTEGER NOT NULL,
        settled_position INTEGER,
        pruned_position INTEGER NOT NULL,
        pruned_epoch INTEGER NOT NULL,
        is_engine_up INTEGER NOT NULL
    );
    """,
    # Queued writes of the edges of a fleet (see ``pending_writes``).
    """
    CREATE TABLE fleet_pending (
        key TEXT NOT NULL,
        holder TEXT NOT NULL,
        serial INTEGER NOT NULL,
        since INTEGER NOT NULL,
        is_overtaken INTEGER NOT NULL DEFAULT 0,
        is_outdated INTEGER NOT NULL DEFAULT 0,
        body TEXT NOT NULL,
        PRIMARY KEY (key, holder)
    );
    CREATE INDEX fleet_pending_by_holder ON fleet_pending (holder, since);
    CREATE TABLE fleet_pending_changes (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL
    );
    """,
    # The newest row of a kind, read at each refresh of the config, and the rows before it.
    """
    CREATE INDEX log_by_kind ON log (kind, epoch);
    """,
    # The entry of a row of the log; how many queued writes each edge holds.
    """
    CREATE INDEX fleet_entries_by_epoch ON fleet_entries (epoch) WHERE has_row = 1;
    CREATE TABLE fleet_pending_counts (holder TEXT PRIMARY KEY, amount INTEGER NOT NULL)
        WITHOUT ROWID;
    INSERT INTO fleet_pending_counts SELECT holder, COUNT(*) FROM fleet_pending GROUP BY holder;
    CREATE TRIGGER fleet_pending_inserted AFTER INSERT ON fleet_pending BEGIN
        INSERT INTO fleet_pending_counts VALUES (new.holder, 1)
            ON CONFLICT (holder) DO UPDATE SET amount = amount + 1;
    END;
    CREATE TRIGGER fleet_pending_deleted AFTER DELETE ON fleet_pending BEGIN
        UPDATE fleet_pending_counts SET amount = amount - 1 WHERE holder = old.holder;
    END;
    """,
)
"""Scripts that update the schema by one version each; ``PRAGMA user_version`` is their number."""


class ControlError(StreamEdgeError):
    """The control database cannot be read or written; nothing was changed."""


class ControlDamagedError(ControlError):
    """The file is no database, or parts of it are damaged: a retry does not help."""


class ControlDatabase(Database):
    """One process's connection to the database in ``folder``. Every use raises ControlError."""

    def __init__(
        self, folder: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S, checkpoints: bool = True
    ) -> None:
        super().__init__(
            folder / FILE_NAME,
            MIGRATIONS,
            title="the control database",
            error=ControlError,
            damaged_error=ControlDamagedError,
            busy_timeout_s=busy_timeout_s,
            checkpoints=checkpoints,
        )


def copy_database(folder: Path, reason: str) -> Path:
    """Copies the database of ``folder`` while it is in use; returns the name of the copy.

    Raises ControlError.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    copy = folder / f"{FILE_NAME}.{reason}-{stamp}"
    try:
        with open_read_only(folder / FILE_NAME) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        copy.chmod(FILE_MODE)
    except (sqlite3.Error, OSError) as exc:
        raise ControlError(f"the control database cannot be copied to {copy}: {exc}") from exc
    return copy


def move_aside(folder: Path) -> Path:
    """Renames the files of a damaged database, so that it can be repaired; returns the new name.

    No process may have it open. Raises OSError.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    new_path = folder / f"{FILE_NAME}.damaged-{stamp}"
    for suffix in reversed(FILE_SUFFIXES):  # the main file last: until then a start detects it
        path = folder / f"{FILE_NAME}{suffix}"
        if path.exists():
            path.rename(f"{new_path}{suffix}")
    return new_path

"""Handles a damaged, lost or outdated control database at the start of an edge.

The database records what was invalidated. If rows are lost, no cached object is known to be valid,
so all of them are requested again: records name the log, and a log that lost rows has a new id.
Resources of the API are lost too and only a backup restores them, so a damaged file is renamed and
never deleted.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from streamedge.control.announced_head import FILE_NAME as HEAD_FILE_NAME
from streamedge.control.announced_head import AnnouncedHead
from streamedge.control.database import (
    FILE_NAME,
    ControlDamagedError,
    ControlDatabase,
    ControlError,
    move_aside,
)
from streamedge.control.log import ControlLog
from streamedge.control.position import UNKNOWN_POSITION, log_of
from streamedge.ops.log import Log
from streamedge.sqlite import is_damage, open_read_only

RESTORE = (
    "distributions, keys and policies of the API are stored only in this file: to"
    f" restore them, stop the edge, copy a backup to {FILE_NAME} in the cache folder, remove"
    f" {FILE_NAME}-wal and {FILE_NAME}-shm, and start the edge"
)


def prepare_control_database(folder: Path, log: Log) -> None:
    """Makes the database usable, before any process opens it.

    A damaged file is moved aside and an event is logged. An event is logged too if the control log
    does not have the rows that were announced in this folder. Errors that may pass (a lock, a full
    disk) are left to the processes, which try again.
    """
    database, head = ControlDatabase(folder), AnnouncedHead(folder)
    try:
        try:
            database.check()
        except ControlDamagedError as exc:
            database.close()
            new_path = move_aside(folder)
            log.event("control_database_damaged", error=str(exc), moved_to=new_path, do=RESTORE)
        announced = head.position
        position = ControlLog(database).renew_if_older(announced)
        if announced != UNKNOWN_POSITION and log_of(announced) != log_of(position):
            log.event("control_log_replaced", effect="cached data is requested again", do=RESTORE)
        head.publish(position)
    except (ControlError, OSError) as exc:
        log.event("control_database_unavailable", error=str(exc))
    finally:
        head.close()
        database.close()


def problem_with(folder: Path) -> str:
    """The problem of the database in a cache folder, and what to do; "" without one.

    Changes nothing, and may be called while the edge runs.
    """
    path = folder / FILE_NAME
    if not path.exists():
        was_used = (folder / HEAD_FILE_NAME).exists()
        return f"{path} is missing, although this cache has had one: {RESTORE}" if was_used else ""
    try:
        with open_read_only(path) as connection:
            fault = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as exc:
        fault = str(exc) if is_damage(exc) else "ok"  # locks of other processes are no damage
    if fault == "ok":
        return ""
    return f"{path} is damaged ({fault}); at its next start the edge moves it aside: {RESTORE}"

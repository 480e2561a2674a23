"""The control database: its file, migrations and transactions."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from threading import Barrier, Thread

import pytest

from streamedge.control import database as database_module
from streamedge.control.database import (
    MIGRATIONS,
    ControlDamagedError,
    ControlDatabase,
    ControlError,
    move_aside,
)
from streamedge.control.pending_writes import count_held
from tests.support.patience import PATIENCE_S


def open_database(folder: Path) -> ControlDatabase:
    """A database that is connected."""
    database = ControlDatabase(folder)
    with database.read():
        return database


def schema_version(folder: Path) -> int:
    connection = sqlite3.connect(folder / "control.db")
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    finally:
        connection.close()


def tables(folder: Path) -> set[str]:
    connection = sqlite3.connect(folder / "control.db")
    try:
        return {
            row[0]
            for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
        }
    finally:
        connection.close()


def test_files_are_private_to_the_user(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        database = ControlDatabase(tmp_path)
        with database.transaction() as connection:
            connection.execute("DELETE FROM log")
    finally:
        os.umask(before)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["control.db", "control.db-shm", "control.db-wal"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    database.close()


def test_commits_are_on_disk_when_they_return(tmp_path: Path) -> None:
    database = ControlDatabase(tmp_path)
    with database.read() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    database.close()


def test_transaction_that_is_not_synced_changes_nothing_for_later_ones(tmp_path: Path) -> None:
    database = ControlDatabase(tmp_path)
    with database.transaction(synced=False) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 1  # NORMAL
        connection.execute("UPDATE log_id SET id = 7")
    with database.read() as connection:
        assert connection.execute("SELECT id FROM log_id").fetchone() == (7,)
    with database.transaction() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    database.close()


def test_wal_grows_without_checkpoints_until_one_begins_it_again(tmp_path: Path) -> None:
    database = ControlDatabase(tmp_path, checkpoints=False)
    wal = tmp_path / "control.db-wal"
    for _ in range(1100):  # by itself SQLite begins the WAL again after 1000 pages
        with database.transaction(synced=False) as connection:
            connection.execute("UPDATE log_id SET id = id + 1")
    assert wal.stat().st_size > 1100 * 4096
    longest = wal.stat().st_size
    with sqlite3.connect(f"file:{tmp_path}/control.db?immutable=1", uri=True) as without_wal:
        assert without_wal.execute("SELECT COUNT(*) FROM sqlite_master").fetchone() == (0,)
    database.checkpoint()
    with sqlite3.connect(f"file:{tmp_path}/control.db?immutable=1", uri=True) as without_wal:
        (moved,) = without_wal.execute("SELECT id FROM log_id").fetchone()
    with database.read() as connection:
        assert connection.execute("SELECT id FROM log_id").fetchone() == (moved,)
    with database.transaction(synced=False) as connection:
        connection.execute("UPDATE log_id SET id = id + 1")
    assert wal.stat().st_size == longest  # its beginning is used again
    assert schema_version(tmp_path) == len(MIGRATIONS)
    database.close()


def test_sync_writes_the_wal_and_once_its_folder_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    for name in ("fsync", "fdatasync"):

        def record(descriptor: int, name: str = name) -> None:
            synced.append(f"{name} {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")

        monkeypatch.setattr(os, name, record)
    database = ControlDatabase(tmp_path)
    with database.transaction(synced=False) as connection:
        connection.execute("UPDATE log_id SET id = 7")
    database.sync()
    assert synced == ["fdatasync control.db-wal", f"fsync {tmp_path.name}"]
    database.sync()
    assert synced[2:] == ["fdatasync control.db-wal"]
    database.close()


def test_folder_whose_sync_has_failed_is_synced_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError(errno.EIO, "broken")]
    synced: list[int] = []

    def fsync(descriptor: int) -> None:
        if failures:
            raise failures.pop()
        synced.append(descriptor)

    database = ControlDatabase(tmp_path)
    with database.transaction(synced=False) as connection:
        connection.execute("UPDATE log_id SET id = 7")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ControlError, match="broken"):
        database.sync()
    database.sync()
    assert len(synced) == 1
    database.close()


def test_failed_transaction_is_rolled_back(tmp_path: Path) -> None:
    database = ControlDatabase(tmp_path)

    def fail() -> None:
        with database.transaction() as connection:
            connection.execute("INSERT INTO folded VALUES ('E', 0, 1, 1.0)")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with database.read() as connection:
        assert connection.execute("SELECT COUNT(*) FROM folded").fetchone()[0] == 0
    database.close()


def test_readers_see_the_last_commit_and_do_not_wait_for_writers(tmp_path: Path) -> None:
    one, other = ControlDatabase(tmp_path), ControlDatabase(tmp_path)
    with one.transaction() as writing:
        writing.execute("INSERT INTO folded VALUES ('E', 0, 1, 1.0)")
        with other.read() as reading:
            assert reading.execute("SELECT COUNT(*) FROM folded").fetchone()[0] == 0
    with other.read() as reading:
        assert reading.execute("SELECT COUNT(*) FROM folded").fetchone()[0] == 1
    one.close()
    other.close()


def test_new_file_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    begin = Barrier(4)
    failures: list[Exception] = []

    def open_and_close() -> None:
        begin.wait()
        try:
            database = ControlDatabase(tmp_path)
            database.check()
            database.close()
        except ControlError as exc:
            failures.append(exc)

    threads = [Thread(target=open_and_close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert schema_version(tmp_path) == len(MIGRATIONS)


def test_older_file_is_migrated_and_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "MIGRATIONS", MIGRATIONS[:1])
    old = ControlDatabase(tmp_path)
    with old.transaction() as connection:
        connection.execute("INSERT INTO folded VALUES ('E', 0, 7, 1.0)")
    old.close()
    script = "CREATE TABLE later (number INTEGER); -- ends; here\nINSERT INTO later VALUES (1);\n"
    monkeypatch.setattr(database_module, "MIGRATIONS", (*MIGRATIONS[:1], script))
    new = ControlDatabase(tmp_path)
    with new.read() as connection:
        assert connection.execute("SELECT number FROM later").fetchone() == (1,)
        assert connection.execute("SELECT epoch FROM folded").fetchone() == (7,)
    new.close()
    assert schema_version(tmp_path) == 2


def test_file_from_before_an_index_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "MIGRATIONS", MIGRATIONS[:5])
    open_database(tmp_path).close()
    monkeypatch.setattr(database_module, "MIGRATIONS", MIGRATIONS)
    database = open_database(tmp_path)
    with database.read() as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT MAX(epoch) FROM log WHERE kind = 'configuration'"
        ).fetchall()
    assert ["log_by_kind" in row[3] for row in plan] == [True]
    assert schema_version(tmp_path) == len(MIGRATIONS)
    database.close()


def test_queued_writes_in_an_older_file_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "MIGRATIONS", MIGRATIONS[:6])
    insert = "INSERT INTO fleet_pending (key, holder, serial, since, body) VALUES (?, ?, 1, 1, '')"
    with closing(ControlDatabase(tmp_path)) as old, old.transaction() as connection:
        connection.executemany(insert, [("a", "one"), ("a", "two"), ("b", "two")])
    monkeypatch.setattr(database_module, "MIGRATIONS", MIGRATIONS)
    with closing(ControlDatabase(tmp_path)) as database, database.transaction() as connection:
        connection.execute(insert, ("c", "three"))
        connection.execute("DELETE FROM fleet_pending WHERE key = 'a'")
        assert count_held(connection) == {"two": 1, "three": 1}
        connection.execute("DELETE FROM fleet_pending")
        assert count_held(connection) == {}


def test_failed_migration_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_database(tmp_path).close()
    before = tables(tmp_path)
    script = "CREATE TABLE later (number INTEGER);\nINSERT INTO nowhere VALUES (1);\n"
    monkeypatch.setattr(database_module, "MIGRATIONS", (*MIGRATIONS, script))
    with pytest.raises(ControlError, match="nowhere"):
        open_database(tmp_path)
    assert schema_version(tmp_path) == len(MIGRATIONS)
    assert tables(tmp_path) == before


def test_newer_file_is_not_changed(tmp_path: Path) -> None:
    open_database(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "control.db")
    connection.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(ControlError, match="later StreamEdge"):
        open_database(tmp_path)
    assert schema_version(tmp_path) == len(MIGRATIONS) + 1


def test_other_file_raises_damaged_error(tmp_path: Path) -> None:
    (tmp_path / "control.db").write_bytes(b"not a database, but longer than a header" * 100)
    with pytest.raises(ControlDamagedError, match="control database"):
        open_database(tmp_path)


def test_missing_folder_raises_control_error(tmp_path: Path) -> None:
    with pytest.raises(ControlError):
        open_database(tmp_path / "nowhere")


# Temporary errors, and files that are deleted, replaced or damaged


def count_folded(database: ControlDatabase) -> int:
    with database.read() as connection:
        return int(connection.execute("SELECT COUNT(*) FROM folded").fetchone()[0])


def add_folded(database: ControlDatabase) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO folded VALUES ('E', 0, 1, 1.0)")


def test_lock_at_the_first_use_does_not_persist(tmp_path: Path) -> None:
    open_database(tmp_path).close()
    database = ControlDatabase(tmp_path, busy_timeout_s=0.0)
    locking = sqlite3.connect(tmp_path / "control.db", isolation_level=None)
    locking.execute("PRAGMA locking_mode=EXCLUSIVE")
    locking.execute("BEGIN EXCLUSIVE")
    for _ in range(2):
        with pytest.raises(ControlError, match="locked"):
            count_folded(database)
    locking.close()
    assert count_folded(database) == 0
    database.close()


def test_folder_created_later_is_used(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    database = ControlDatabase(folder)
    with pytest.raises(ControlError):
        count_folded(database)
    folder.mkdir()
    assert count_folded(database) == 0
    database.close()


def test_deleted_or_replaced_file_is_detected_at_the_next_use(tmp_path: Path) -> None:
    one, other = ControlDatabase(tmp_path), ControlDatabase(tmp_path)
    add_folded(one)
    assert count_folded(other) == 1
    for file in tmp_path.iterdir():
        file.unlink()
    assert count_folded(other) == 0
    add_folded(other)
    assert count_folded(one) == 1  # not the content of the deleted file
    one.close()
    other.close()


def test_file_damaged_while_in_use_raises_damaged_error_and_can_be_replaced(
    tmp_path: Path,
) -> None:
    database = open_database(tmp_path)
    database.close()
    content = (tmp_path / "control.db").read_bytes()
    (tmp_path / "control.db").write_bytes(b"\1" * len(content))
    with pytest.raises(ControlDamagedError):
        count_folded(database)
    damaged = move_aside(tmp_path)
    assert damaged.read_bytes() == b"\1" * len(content)  # kept for a repair
    assert count_folded(database) == 0
    database.check()
    database.close()


def test_check_detects_a_damaged_page(tmp_path: Path) -> None:
    database = ControlDatabase(tmp_path)
    for _ in range(200):
        with database.transaction() as connection:
            columns = "kind, scope, id, caller_reference, made_s, items_to_here, body"
            values = "'invalidation', 'E', 'I', '', 1.0, 1, hex(randomblob(500))"
            connection.execute(f"INSERT INTO log ({columns}) VALUES ({values})")
    database.close()
    path = tmp_path / "control.db"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 8192] = b"\xff" * 8192
    path.write_bytes(data)
    with pytest.raises(ControlDamagedError):
        database.check()
    database.close()


def test_connection_works_after_a_failed_statement(tmp_path: Path) -> None:
    database = ControlDatabase(tmp_path)

    def fail() -> None:
        with database.transaction() as connection:
            connection.execute("INSERT INTO nowhere VALUES (1)")

    for _ in range(2):
        with pytest.raises(ControlError, match="nowhere"):
            fail()
    assert count_folded(database) == 0
    database.close()


def test_second_connection_of_a_process_keeps_the_locks_of_the_first(tmp_path: Path) -> None:
    """Without them, the next process that ends deletes the WAL, which this one still uses."""
    first = open_database(tmp_path)
    with first.transaction() as connection:
        connection.execute("CREATE TABLE here (number)")
    second = open_database(tmp_path)
    script = "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1]) as database:\n"
    script += "    database.execute('SELECT * FROM here').fetchall()\ndatabase.close()\n"
    subprocess.run(
        [sys.executable, "-c", script, tmp_path / "control.db"], check=True, timeout=PATIENCE_S
    )
    assert (tmp_path / "control.db-wal").stat().st_size > 0
    with first.transaction() as connection:
        connection.execute("INSERT INTO here VALUES (1)")
    with second.read() as connection:
        assert connection.execute("SELECT number FROM here").fetchall() == [(1,)]
    first.close()
    second.close()

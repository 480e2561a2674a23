"""streamedge/control/database.py: one file, its editions, and what a transaction promises."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path
from threading import Barrier, Thread

import pytest

from streamedge.control import database as room
from streamedge.control.database import MIGRATIONS, ControlDatabase, ControlError


def edition(folder: Path) -> int:
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


def test_nobody_else_may_read_the_files(tmp_path: Path) -> None:
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


def test_a_transaction_that_raises_leaves_nothing(tmp_path: Path) -> None:
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


def test_readers_see_what_was_committed_and_wait_for_no_writer(tmp_path: Path) -> None:
    one, other = ControlDatabase(tmp_path), ControlDatabase(tmp_path)
    with one.transaction() as writing:
        writing.execute("INSERT INTO folded VALUES ('E', 0, 1, 1.0)")
        with other.read() as reading:
            assert reading.execute("SELECT COUNT(*) FROM folded").fetchone()[0] == 0
    with other.read() as reading:
        assert reading.execute("SELECT COUNT(*) FROM folded").fetchone()[0] == 1
    one.close()
    other.close()


def test_many_may_open_a_new_one_at_once(tmp_path: Path) -> None:
    begin = Barrier(4)
    failures: list[Exception] = []

    def open_it() -> None:
        begin.wait()
        try:
            ControlDatabase(tmp_path).close()
        except ControlError as exc:
            failures.append(exc)

    threads = [Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert edition(tmp_path) == len(MIGRATIONS)


def test_an_older_file_is_brought_up_to_date_and_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MIGRATIONS", MIGRATIONS[:1])
    old = ControlDatabase(tmp_path)
    with old.transaction() as connection:
        connection.execute("INSERT INTO folded VALUES ('E', 0, 7, 1.0)")
    old.close()
    script = "CREATE TABLE later (number INTEGER); -- ends; here\nINSERT INTO later VALUES (1);\n"
    monkeypatch.setattr(room, "MIGRATIONS", (*MIGRATIONS[:1], script))
    new = ControlDatabase(tmp_path)
    with new.read() as connection:
        assert connection.execute("SELECT number FROM later").fetchone() == (1,)
        assert connection.execute("SELECT epoch FROM folded").fetchone() == (7,)
    new.close()
    assert edition(tmp_path) == 2


def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ControlDatabase(tmp_path).close()
    before = tables(tmp_path)
    script = "CREATE TABLE later (number INTEGER);\nINSERT INTO nowhere VALUES (1);\n"
    monkeypatch.setattr(room, "MIGRATIONS", (*MIGRATIONS, script))
    with pytest.raises(ControlError, match="nowhere"):
        ControlDatabase(tmp_path)
    assert edition(tmp_path) == len(MIGRATIONS)
    assert tables(tmp_path) == before


def test_a_later_edition_is_left_alone(tmp_path: Path) -> None:
    ControlDatabase(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "control.db")
    connection.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(ControlError, match="later StreamEdge"):
        ControlDatabase(tmp_path)
    assert edition(tmp_path) == len(MIGRATIONS) + 1


def test_what_is_no_database_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "control.db").write_bytes(b"not a database, but longer than a header" * 100)
    with pytest.raises(ControlError, match="control database"):
        ControlDatabase(tmp_path)


def test_a_folder_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ControlError):
        ControlDatabase(tmp_path / "nowhere")

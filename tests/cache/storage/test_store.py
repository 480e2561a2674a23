"""The cache folder, its era and its files, and a disk that fails."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.cache.storage import store as store_module
from streamedge.cache.storage.extent import CHUNK_BYTES, EXTENT_BYTES, HEADER_BYTES
from streamedge.cache.storage.folder import WORKERS_MAX, Usage
from streamedge.cache.storage.records import Record, version_digest
from streamedge.cache.storage.store import MEMORY_EXTENTS_MAX, Store, close_folder, prepare_folder
from streamedge.errors import CacheFullError
from streamedge.ops.log import Log, open_log
from streamedge.origin import OriginHead, Version

SIZE_BYTES = 5 * CHUNK_BYTES + 1
VERSION = Version('"1"', SIZE_BYTES, 1000)
DIGEST = version_digest("film", VERSION, 0)
RECORD = Record("film", OriginHead(VERSION, "video/mp4"), 5000.0)
MakeStore = Callable[..., Store]


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "events"


@pytest.fixture
def log(log_path: Path) -> Log:
    return open_log(str(log_path), "worker")


@pytest.fixture
def make_store(cache_root: Path, log: Log) -> MakeStore:
    def make(slot: int = 0, root: Path = cache_root) -> Store:
        return Store(root, slot, log)

    return make


def events(log: Log, log_path: Path) -> list[dict[str, Any]]:
    log.flush()
    return [json.loads(line) for line in log_path.read_text().splitlines()]


# --- the era --------------------------------------------------------------------------------


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the boot id that the store sees."""
    path = tmp_path / "boot_id"
    monkeypatch.setattr(store_module, "BOOT_ID_FILE", path)
    return lambda boot_id: (path.write_text(boot_id + "\n"), None)[1]


def test_era_ends_only_with_an_unclean_boot(
    tmp_path: Path, make_store: MakeStore, boot: Callable[[str], None]
) -> None:
    root = tmp_path / "another"

    def start(boot_id: str) -> int:
        boot(boot_id)
        prepare_folder(root)
        return make_store(root=root).era

    era = start("one")
    assert era > 0
    assert start("one") == era  # killed, but the page cache is not lost
    close_folder(root)
    assert start("one") == era
    close_folder(root)
    assert start("two") == era  # rebooted after all was on disk
    assert start("three") == era + 1  # power failed
    assert start("three") == era + 1
    close_folder(root)
    assert start("four") == era + 1
    assert start("five") == era + 2


def test_hidden_boot_id_never_proves_that_the_boot_is_the_same(
    tmp_path: Path, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "another"
    monkeypatch.setattr(store_module, "BOOT_ID_FILE", tmp_path / "hidden")
    prepare_folder(root)
    era = make_store(root=root).era
    prepare_folder(root)
    assert make_store(root=root).era == era + 1  # power may have failed
    close_folder(root)
    prepare_folder(root)
    assert make_store(root=root).era == era + 1


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"era": 3}', bytes(100)])
def test_damaged_era_starts_a_new_era(
    tmp_path: Path, boot: Callable[[str], None], damage: bytes
) -> None:
    root = tmp_path / "another"
    boot("one")
    prepare_folder(root)
    (root / "era").write_bytes(damage)
    prepare_folder(root)
    assert json.loads((root / "era").read_bytes())["boot_id"] == "one"


def test_chunks_of_a_lost_era_are_checked_and_those_of_the_present_one_not(
    cache_root: Path, make_store: MakeStore, boot: Callable[[str], None]
) -> None:
    store = make_store()
    extent = store.make_extent(DIGEST, SIZE_BYTES)
    extent.write(0, bytes(100))
    os.pwrite(extent.fd, b"x", HEADER_BYTES + 50)
    for boot_id, valid in (("one", 0), ("one", 0)):
        boot(boot_id)
        prepare_folder(cache_root)
        opened = make_store().find_extent(DIGEST, SIZE_BYTES)
        assert opened is not None
        assert opened.valid_bytes(0) == valid
        opened.close()
    store.close_extent(extent)


# --- the folder -----------------------------------------------------------------------------


def test_unfinished_files_are_removed_and_cached_ones_stay(
    cache_root: Path, make_store: MakeStore
) -> None:
    store = make_store()
    store.save_record(RECORD)
    store.close_extent(store.make_extent(DIGEST, SIZE_BYTES))
    (cache_root / "new" / "0-1-0").write_bytes(b"half")
    prepare_folder(cache_root)
    assert list((cache_root / "new").iterdir()) == []
    assert make_store().load_record("film") == RECORD
    extent = make_store().find_extent(DIGEST, SIZE_BYTES)
    assert extent is not None
    extent.close()


def test_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        prepare_folder(tmp_path / "file")


def test_usage_is_counted_by_worker_and_survives_restarts(cache_root: Path) -> None:
    one, other = Usage(cache_root), Usage(cache_root)
    one.add(0, 100)
    other.add(1, 20)
    one.add(WORKERS_MAX - 1, 3)
    one.add(0, 1000)
    assert one.total() == other.total() == 1123
    prepare_folder(cache_root)
    assert Usage(cache_root).total() == 1123


# --- extents --------------------------------------------------------------------------------


def test_extent_is_created_once_and_opened_by_all_workers(
    cache_root: Path, make_store: MakeStore
) -> None:
    one, other = make_store(0), make_store(1)
    assert one.find_extent(DIGEST, SIZE_BYTES) is None
    created = one.make_extent(DIGEST, SIZE_BYTES)
    again = other.make_extent(DIGEST, SIZE_BYTES)
    opened = other.find_extent(DIGEST, SIZE_BYTES)
    assert opened is not None
    assert created.path == again.path == opened.path
    assert created.path == f"{cache_root}/extents/{DIGEST.hex()[:2]}/{DIGEST.hex()}"
    assert os.fstat(created.fd).st_ino == os.fstat(again.fd).st_ino
    assert list((cache_root / "new").iterdir()) == []
    assert Usage(cache_root).total() == os.fstat(created.fd).st_blocks * 512
    for extent in (created, again, opened):
        extent.close()


@pytest.mark.parametrize("body_bytes", [1, CHUNK_BYTES, EXTENT_BYTES])
def test_header_has_its_disk_blocks_before_it_is_mapped(
    make_store: MakeStore, body_bytes: int
) -> None:
    """A write through a memory map must not need a disk block: a full disk has none."""
    extent = make_store().make_extent(DIGEST, body_bytes)
    table_end = 1024 + 12 * extent.chunks
    assert os.lseek(extent.fd, 0, os.SEEK_HOLE) >= table_end
    assert os.fstat(extent.fd).st_blocks * 512 >= table_end
    extent.close()


def test_partly_written_header_gives_no_extent(
    cache_root: Path,
    make_store: MakeStore,
    log: Log,
    log_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = make_store()
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:4096], at))
    extent = store.make_extent(DIGEST, EXTENT_BYTES)
    assert extent.path == ""
    assert events(log, log_path)[0]["action"] == "create extent"
    assert list((cache_root / "new").iterdir()) == []
    assert list((cache_root / "extents").glob("*/*")) == []
    store.close_extent(extent)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: HEADER_BYTES - 1],
        lambda data: b"\0" + data[1:],
        lambda data: data[:8] + b"\xff" + data[9:],
        lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
        lambda data: bytes(len(data)),
    ],
    ids=["empty", "short", "magic", "size", "digest", "zeros"],
)
def test_extent_with_a_damaged_header_is_created_again(
    make_store: MakeStore, log: Log, log_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    store = make_store()
    extent = store.make_extent(DIGEST, SIZE_BYTES)
    extent.write(0, b"abc")
    path = Path(extent.path)
    extent.close()
    path.write_bytes(damage(path.read_bytes()))
    assert store.find_extent(DIGEST, SIZE_BYTES) is None
    assert not path.exists()
    assert [line["event"] for line in events(log, log_path)] == ["extent_dropped"]
    extent = store.make_extent(DIGEST, SIZE_BYTES)
    assert extent.path == str(path)
    assert extent.valid_bytes(0) == 0
    extent.close()


@pytest.fixture(scope="module")
def silent_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("damage")
    prepare_folder(root)
    return Store(root, 0, open_log(os.devnull, "worker-0"))


@settings(deadline=None)
@given(data=st.binary(max_size=200), at=st.integers(0, 1500))
def test_any_damage_gives_an_extent_within_its_bounds_or_none(
    silent_store: Store, data: bytes, at: int
) -> None:
    store = silent_store
    extent = store.make_extent(DIGEST, SIZE_BYTES)
    extent.write(0, bytes(SIZE_BYTES))
    os.pwrite(extent.fd, data, at)
    store.close_extent(extent)
    store.era += 1
    opened = store.find_extent(DIGEST, SIZE_BYTES)
    if opened is not None:
        for chunk in range(opened.chunks):
            valid = opened.valid_bytes(chunk)
            assert 0 <= valid <= opened.chunk_bytes(chunk)
            assert opened.read(chunk * CHUNK_BYTES, valid) == bytes(valid)
        os.unlink(opened.path)
        store.close_extent(opened)


def test_memory_extents_replace_the_disk_up_to_the_limit(make_store: MakeStore) -> None:
    store = make_store()
    held = [store.make_memory_extent(DIGEST, SIZE_BYTES) for _ in range(MEMORY_EXTENTS_MAX)]
    held[0].write(0, b"abc")
    assert held[0].read(0, 3) == b"abc"
    with pytest.raises(CacheFullError):
        store.make_memory_extent(DIGEST, SIZE_BYTES)
    store.close_extent(held.pop())
    held.append(store.make_memory_extent(DIGEST, SIZE_BYTES))
    for extent in held:
        store.close_extent(extent)


# --- records --------------------------------------------------------------------------------


def test_record_of_one_worker_is_loaded_by_another(make_store: MakeStore, cache_root: Path) -> None:
    one, other = make_store(0), make_store(1)
    assert other.load_record("film") is None
    one.save_record(RECORD)
    assert other.load_record("film") == RECORD
    later = replace(RECORD, validated_s=6000.0)
    other.save_record(later)
    assert one.load_record("film") == later
    one.forget_record("film")
    one.forget_record("film")
    assert other.load_record("film") is None
    assert list((cache_root / "new").iterdir()) == []


def test_one_worker_at_a_time_locks_an_asset(make_store: MakeStore) -> None:
    one, other = make_store(0), make_store(1)
    assert one.lock_asset("film")
    assert not other.lock_asset("film")
    assert other.lock_asset("song")
    one.unlock_asset("film")
    assert other.lock_asset("film")


# --- a disk that refuses --------------------------------------------------------------------


def test_disk_failure_and_recovery_are_logged_once(
    make_store: MakeStore, log: Log, log_path: Path
) -> None:
    store = make_store()
    for _ in range(3):
        store.note_disk_failure(OSError(errno.ENOSPC, "no space"))
    for _ in range(3):
        store.stored(10)
    lines = events(log, log_path)
    assert [line["event"] for line in lines] == ["disk_write_failed", "disk_recovered"]
    assert lines[0]["action"] == "write extent"
    assert "no space" in lines[0]["error"]


def test_store_without_a_folder_uses_memory(
    tmp_path: Path, make_store: MakeStore, log: Log, log_path: Path
) -> None:
    (tmp_path / "file").touch()
    store = make_store(root=tmp_path / "file")
    assert store.load_record("film") is None
    store.save_record(RECORD)
    store.forget_record("film")
    assert store.lock_asset("film")
    store.unlock_asset("film")
    store.touch(f"{tmp_path}/file/none")
    assert store.find_extent(DIGEST, SIZE_BYTES) is None
    extent = store.make_extent(DIGEST, SIZE_BYTES)
    assert extent.path == ""
    extent.write(0, b"abc")
    assert extent.read(0, 3) == b"abc"
    store.close_extent(extent)
    assert [line["event"] for line in events(log, log_path)] == ["disk_write_failed"]


def test_failed_write_of_a_record_leaves_no_file(
    cache_root: Path,
    make_store: MakeStore,
    log: Log,
    log_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = make_store()

    def full(_old: str, _new: str) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "replace", full)
    store.save_record(RECORD)
    assert list((cache_root / "new").iterdir()) == []
    assert events(log, log_path)[0]["action"] == "write record"
    assert store.load_record("film") is None

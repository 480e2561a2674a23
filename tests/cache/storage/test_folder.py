"""The cache folder: its lock, repairs of its small files, and its file modes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamedge.cache.storage.changes import ChangeCounter
from streamedge.cache.storage.extent import HEADER_BYTES
from streamedge.cache.storage.folder import (
    ERA_END,
    Era,
    FolderInUseError,
    Usage,
    lock_folder,
    parse_era,
    prepare_usage,
)
from streamedge.cache.storage.records import Record, version_digest
from streamedge.cache.storage.store import Store, close_folder, prepare_folder
from streamedge.ops.log import open_log
from streamedge.origin import OriginHead, Version

SIZE_BYTES = 1000
DIGEST = version_digest("film", Version('"1"', SIZE_BYTES), 0)
RECORD = Record("film", OriginHead(Version('"1"', SIZE_BYTES), "video/mp4"), 5.0)


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def make_store(root: Path) -> Store:
    return Store(root, 0, open_log(os.devnull, "worker-0"))


def use(root: Path) -> None:
    """Uses a folder as a worker does: stores a record and an extent, and opens them again."""
    store = make_store(root)
    store.save_record(RECORD)
    extent = store.make_extent(DIGEST, SIZE_BYTES)
    extent.write(0, bytes(SIZE_BYTES))
    store.stored(SIZE_BYTES)
    store.changes.announce("film")
    store.close_extent(extent)
    assert store.load_record("film") is not None
    opened = make_store(root).find_extent(DIGEST, SIZE_BYTES)
    assert opened is not None
    assert opened.valid_bytes(0) == SIZE_BYTES
    opened.close()


def test_folder_belongs_to_one_edge_at_a_time(tmp_path: Path) -> None:
    root = tmp_path / "var" / "cache"
    lock = lock_folder(root)
    with pytest.raises(FolderInUseError) as refused:
        lock_folder(root)
    assert str(root) in str(refused.value)
    assert f"process {os.getpid()}" in str(refused.value)
    os.close(lock)
    os.close(lock_folder(root))


def test_folder_is_locked_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    lock = lock_folder(tmp_path / "cache")
    with pytest.raises(FolderInUseError):
        lock_folder(tmp_path / "link")
    os.close(lock)


def test_folder_lock_ends_with_its_process(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        lock_folder(tmp_path)
        os._exit(0)
    os.waitpid(child, 0)
    os.close(lock_folder(tmp_path))


@given(
    st.binary()
    | st.builds(
        lambda value: json.dumps(value).encode(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(st.sampled_from(["era", "clean", "boot_id"]) | st.text(), inner)
            ),
        ),
    )
)
@example(b"[" * 100_000)
@example(b'{"era": 1e999, "clean": true, "boot_id": "a"}')
@example(b'{"era": 4294967295, "clean": true, "boot_id": "a"}')
@example(b'{"era": -1, "clean": true, "boot_id": "a"}')
@example(b'{"era": "1", "clean": true, "boot_id": "a"}')
@example(b'{"era": 1, "clean": 1, "boot_id": "a"}')
def test_era_is_within_its_range_or_damaged(text: bytes) -> None:
    era = parse_era(text)
    assert era is None or 0 <= era.number < ERA_END - 1


def test_era_is_read_as_it_was_written(tmp_path: Path) -> None:
    text = json.dumps({"era": 7, "clean": True, "boot_id": "a"}).encode()
    assert parse_era(text) == Era(7, is_clean=True, boot_id="a")


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", bytes(100), b'{"era": 5000000000, "clean": true, "boot_id": "a"}', b"[]"],
)
def test_damaged_era_is_replaced_and_every_chunk_checked(tmp_path: Path, damage: bytes) -> None:
    prepare_folder(tmp_path)
    use(tmp_path)
    extent = make_store(tmp_path).find_extent(DIGEST, SIZE_BYTES)
    assert extent is not None
    os.pwrite(extent.fd, b"damaged", HEADER_BYTES + 10)  # as a power failure may leave it
    extent.close()
    (tmp_path / "era").write_bytes(damage)
    (repair,) = prepare_folder(tmp_path)
    assert "era" in repair
    extent = make_store(tmp_path).find_extent(DIGEST, SIZE_BYTES)
    assert extent is not None
    assert extent.valid_bytes(0) == 0
    extent.close()
    assert prepare_folder(tmp_path) == []


@pytest.mark.parametrize("number", [ERA_END, 2**32 - 1, 2**64])
def test_worker_with_an_impossible_era_serves(tmp_path: Path, number: int) -> None:
    prepare_folder(tmp_path)
    (tmp_path / "era").write_text(json.dumps({"era": number, "clean": True, "boot_id": "a"}))
    use_store = make_store(tmp_path)
    assert use_store.is_usable
    extent = use_store.make_extent(DIGEST, SIZE_BYTES)
    extent.write(0, bytes(SIZE_BYTES))
    assert extent.valid_bytes(0) == SIZE_BYTES
    use_store.close_extent(extent)


@pytest.mark.parametrize("content", [b"", bytes(5), b"\xff" * 16_384, b"\xff" * 100_000])
def test_damaged_usage_is_repaired(tmp_path: Path, content: bytes) -> None:
    prepare_folder(tmp_path)
    (tmp_path / "usage").write_bytes(content)
    repairs = prepare_folder(tmp_path)
    assert len(repairs) == (1 if b"\xff" in content else 0)
    assert Usage(tmp_path).total() == 0
    use(tmp_path)


def test_usage_that_is_damaged_while_the_edge_runs_fails_no_request(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    store = make_store(tmp_path)
    with open(tmp_path / "usage", "r+b") as file:
        file.write(b"\xff" * 16_384)
    before = Usage(tmp_path).total()
    store.stored(SIZE_BYTES)
    assert (Usage(tmp_path).total() - before) % 2**64 == SIZE_BYTES


@pytest.mark.parametrize("first_byte", [0, 8, 4096, 4096 + 8 * 1000, 4096 + 8 * (1 << 18)])
def test_impossible_numbers_in_the_change_counter_are_repaired(
    tmp_path: Path, first_byte: int
) -> None:
    prepare_folder(tmp_path)
    use(tmp_path)
    with open(tmp_path / "changes", "r+b") as file:
        file.seek(first_byte)
        file.write(b"\xff" * 8)
    (repair,) = prepare_folder(tmp_path)
    assert "changes" in repair
    changes = ChangeCounter(tmp_path)
    before = changes.number
    for number in range(100):
        assert not changes.is_written_since(changes.number, f"key {number}")
    assert changes.number == before
    changes.announce("film")
    assert changes.is_written_since(before, "film")
    assert prepare_folder(tmp_path) == []
    use(tmp_path)


def test_missing_folder_at_the_end_is_an_os_error(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    prepare_folder(root)
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        close_folder(root)
    assert not root.exists()


def test_damaged_era_is_not_marked_clean(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    (tmp_path / "era").write_bytes(b"")
    with pytest.raises(OSError, match="damaged"):
        close_folder(tmp_path)
    assert (tmp_path / "era").read_bytes() == b""


def test_only_the_edges_user_can_read_the_folder(tmp_path: Path, umask: int) -> None:
    root = tmp_path / "cache"
    prepare_folder(root)
    use(root)
    assert root.stat().st_mode & 0o777 == 0o700
    modes = {
        str(file.relative_to(root)): file.stat().st_mode & 0o777
        for file in root.rglob("*")
        if file.is_file()
    }
    assert modes
    assert {name: mode for name, mode in modes.items() if mode != 0o600} == {}
    assert {path.name for path in root.iterdir() if path.is_dir()} == {"assets", "extents", "new"}


def test_readable_folder_is_closed_to_other_users(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    root.mkdir()
    root.chmod(0o755)
    prepare_folder(root)
    assert root.stat().st_mode & 0o777 == 0o750


def test_stray_folder_among_unfinished_files_is_ignored(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    (tmp_path / "new" / "stray").mkdir()
    (tmp_path / "new" / "half").touch()
    prepare_folder(tmp_path)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["stray"]


def test_usage_has_its_blocks_from_the_start(tmp_path: Path) -> None:
    prepare_usage(tmp_path)
    assert (tmp_path / "usage").stat().st_blocks * 512 >= (tmp_path / "usage").stat().st_size


@pytest.mark.parametrize("fate", ["removed", "renamed", "replaced"])
def test_store_is_unusable_when_its_folder_is_removed(tmp_path: Path, fate: str) -> None:
    root = tmp_path / "cache"
    prepare_folder(root)
    store = make_store(root)
    assert store.is_usable
    if fate == "removed":
        shutil.rmtree(root)
    else:
        root.rename(tmp_path / "elsewhere")
    if fate == "replaced":
        prepare_folder(root)
    assert not store.is_usable


def test_store_is_unusable_from_a_failed_write_to_the_next_success(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    store = make_store(tmp_path)
    store.note_disk_failure(OSError("full"))
    assert not store.is_usable
    store.stored(1)
    assert store.is_usable

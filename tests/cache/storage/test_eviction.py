"""Which files are evicted, and how their readers continue."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.cache.storage import eviction
from streamedge.cache.storage.eviction import (
    CLOSING_S,
    FREE_BYTES_MIN,
    FRUITLESS_PAUSES_S,
    HIGH_WATER,
    LOW_WATER,
    CachedFile,
    Evictor,
    evict_oldest,
    scan,
)
from streamedge.cache.storage.extent import CHUNK_BYTES, Extent
from streamedge.cache.storage.folder import Usage
from streamedge.cache.storage.records import Record, key_hash, version_digest
from streamedge.cache.storage.store import Store
from streamedge.ops.log import open_log
from streamedge.origin import OriginHead, Version

FILES = st.lists(
    st.builds(
        CachedFile,
        st.integers(0, 20),
        st.integers(0, 1000),
        st.text(st.characters(codec="ascii"), max_size=3),
        st.sampled_from(["extents", "assets"]),
    ),
    max_size=30,
)
SIZE_BYTES = 2 * CHUNK_BYTES


@pytest.fixture
def store(cache_root: Path) -> Store:
    return Store(cache_root, 0, open_log(os.devnull, "worker-0"))


def make_whole_extent(store: Store, number: int, used_s: int) -> Extent:
    """An extent of SIZE_BYTES, last used at ``used_s``."""
    digest = version_digest(f"film-{number}", Version('"1"', SIZE_BYTES), 0)
    extent = store.make_extent(digest, SIZE_BYTES)
    extent.write(0, bytes([number]) * SIZE_BYTES)
    store.stored(SIZE_BYTES)
    os.utime(extent.path, (used_s, used_s))
    return extent


@settings(deadline=None)
@given(FILES, st.integers(-10, 40_000))
def test_longest_unused_files_are_removed_until_enough_is_free(
    files: list[CachedFile], excess_bytes: int
) -> None:
    chosen, failures = evict_oldest(files, excess_bytes, lambda _file: True)
    assert failures == {}
    freed = sum(file.size_bytes for file in chosen)
    assert freed >= min(excess_bytes, sum(file.size_bytes for file in files))
    if chosen:
        assert freed - chosen[-1].size_bytes < excess_bytes
    assert chosen == sorted(files)[: len(chosen)]
    remaining = sorted(files)[len(chosen) :]
    assert all(removed.used_ns <= left.used_ns for removed in chosen for left in remaining)


@settings(deadline=None)
@given(FILES, st.integers(-10, 40_000), st.sets(st.integers(0, 29)), st.sets(st.integers(0, 29)))
def test_files_that_cannot_be_removed_are_skipped_for_the_next_ones(
    files: list[CachedFile], excess_bytes: int, stuck: set[int], gone: set[int]
) -> None:
    numbered = [file._replace(path=f"{number}{file.path}") for number, file in enumerate(files)]
    cannot = {numbered[number].path for number in stuck if number < len(files)}
    were_gone = {numbered[number].path for number in gone if number < len(files)} - cannot

    def remove(file: CachedFile) -> bool:
        if file.path in cannot:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return file.path not in were_gone

    removed, failures = evict_oldest(numbered, excess_bytes, remove)
    freed = sum(file.size_bytes for file in removed)
    left = [file for file in numbered if file.path not in cannot | were_gone]
    assert freed >= min(excess_bytes, sum(file.size_bytes for file in left))
    assert not cannot & {file.path for file in removed}
    assert failures.keys() <= cannot
    assert set(failures.values()) <= {"Operation not permitted"}


def test_scan_returns_extents_and_records_only(cache_root: Path, store: Store) -> None:
    extent = make_whole_extent(store, 1, 1000)
    head = OriginHead(Version('"1"', 10), "video/mp4")
    store.save_record(Record("film", head, 5.0))
    (cache_root / "new" / "half").write_bytes(b"half")
    digest = key_hash("film").digest
    record = f"{cache_root}/assets/{digest[:2]}/{digest}"
    files_by_path = {file.path: file for file in scan(cache_root)}
    assert files_by_path.keys() == {extent.path, record}
    assert files_by_path[extent.path].kind == "extents"
    assert files_by_path[extent.path].used_ns == 1000 * 10**9
    assert files_by_path[extent.path].size_bytes == os.fstat(extent.fd).st_blocks * 512
    assert files_by_path[record].kind == "assets"
    extent.close()


def test_scan_of_a_missing_folder_is_empty(tmp_path: Path) -> None:
    assert list(scan(tmp_path / "none")) == []


def test_eviction_removes_least_recently_used_files_to_below_the_limit(
    cache_root: Path, store: Store
) -> None:
    extents = [make_whole_extent(store, number, 1000 - number) for number in range(10)]
    size_bytes = os.fstat(extents[0].fd).st_blocks * 512
    limit_bytes = 8 * size_bytes
    evictor = Evictor(cache_root, limit_bytes)
    removed = evictor.evict()
    assert [file.path for file in removed] == [extent.path for extent in extents[:6:-1]]
    assert evictor.used_bytes == 10 * size_bytes  # all are open still
    assert evictor.excess_bytes() == 0  # … and about to be closed
    assert {file.path for file in scan(cache_root)} == {extent.path for extent in extents[:7]}
    assert evictor.evict() == []
    for number, extent in enumerate(extents):
        assert extent.evicted is (number > 6)
        # A reader that has it open finishes undisturbed.
        assert extent.read(0, SIZE_BYTES) == bytes([number]) * SIZE_BYTES
        extent.close()
    assert evictor.used_bytes == 7 * size_bytes <= limit_bytes * LOW_WATER
    evictor.close()


def test_removed_files_that_stay_open_count(cache_root: Path, store: Store) -> None:
    extents = [make_whole_extent(store, number, 1000 + number) for number in range(10)]
    size_bytes = os.fstat(extents[0].fd).st_blocks * 512
    now_s = [0.0]
    evictor = Evictor(cache_root, 8 * size_bytes, lambda: now_s[0])
    assert len(evictor.evict()) == 3
    assert evictor.evict() == []
    extents.pop(0).close()
    now_s[0] = CLOSING_S + 1  # two of them still have readers: others are removed instead
    assert evictor.used_bytes == 9 * size_bytes
    assert len(evictor.evict()) == 2
    for extent in extents:
        extent.close()
    assert evictor.used_bytes == 5 * size_bytes
    assert evictor.evict() == []
    evictor.close()


def test_nothing_is_evicted_below_the_limit(cache_root: Path, store: Store) -> None:
    extent = make_whole_extent(store, 1, 1000)
    size_bytes = os.fstat(extent.fd).st_blocks * 512
    evictor = Evictor(cache_root, int(size_bytes / HIGH_WATER) + 1)
    assert evictor.evict() == []
    assert evictor.used_bytes == size_bytes
    assert not extent.evicted
    extent.close()


def test_usage_shows_when_the_next_scan_is_due(
    cache_root: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_whole_extent(store, 1, 1000)
    size_bytes = os.fstat(first.fd).st_blocks * 512
    evictor = Evictor(cache_root, 4 * size_bytes)
    assert evictor.used_bytes == 0
    assert evictor.evict() == []
    scans: list[Path] = []

    def look(root: Path, failures: dict[str, str]) -> Iterator[CachedFile]:
        scans.append(root)
        return scan(root, failures)

    monkeypatch.setattr(eviction, "scan", look)
    second = make_whole_extent(store, 2, 2000)
    assert evictor.used_bytes == 2 * size_bytes
    assert evictor.evict() == []
    assert scans == []  # the workers' counts suffice, without a scan
    Usage(cache_root).add(7, 2 * size_bytes)
    # A count is no file: a look at the folder puts it right.
    assert evictor.evict() == []
    assert scans == [cache_root]
    assert evictor.used_bytes == 2 * size_bytes
    third, fourth = make_whole_extent(store, 3, 3000), make_whole_extent(store, 4, 4000)
    assert [file.path for file in evictor.evict()] == [first.path]
    first.close()
    assert evictor.used_bytes == 3 * size_bytes
    for extent in (second, third, fourth):
        extent.close()


def test_cache_shrinks_when_other_programs_fill_the_disk(
    cache_root: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    extents = [make_whole_extent(store, number, 1000 + number) for number in range(3)]
    size_bytes = os.fstat(extents[0].fd).st_blocks * 512
    free_blocks = [FREE_BYTES_MIN // 512]
    monkeypatch.setattr(
        os, "statvfs", lambda _root: SimpleNamespace(f_bavail=free_blocks[0], f_frsize=512)
    )
    evictor = Evictor(cache_root, 1 << 40)
    assert evictor.evict() == []
    free_blocks[0] -= size_bytes // 512 + 1
    assert evictor.excess_bytes() == size_bytes + 512
    assert [file.path for file in evictor.evict()] == [extents[0].path, extents[1].path]
    for extent in extents:
        extent.close()


def test_file_that_vanished_is_not_counted_as_removed(
    cache_root: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    extents = [make_whole_extent(store, number, 1000 + number) for number in range(3)]

    def vanish(root: Path, _failures: dict[str, str]) -> list[CachedFile]:
        files = list(scan(root))
        os.unlink(extents[0].path)
        return files

    monkeypatch.setattr(eviction, "scan", vanish)
    removed = Evictor(cache_root, 1).evict()
    assert [file.path for file in removed] == [extents[1].path, extents[2].path]
    for extent in extents:
        extent.close()


def test_evicted_extent_is_created_again(cache_root: Path, store: Store) -> None:
    before = make_whole_extent(store, 1, 1000)
    Evictor(cache_root, 1).evict()
    after = make_whole_extent(store, 1, 1000)
    assert not after.evicted
    assert before.evicted
    assert os.fstat(before.fd).st_ino != os.fstat(after.fd).st_ino
    before.close()
    after.close()


def test_records_are_evicted_like_extents(cache_root: Path, store: Store) -> None:
    head = OriginHead(Version('"1"', 10), "video/mp4")
    store.save_record(Record("film", head, 5.0))
    (removed,) = Evictor(cache_root, 1).evict()
    assert removed.kind == "assets"
    assert store.load_record("film") is None


def test_stray_folder_among_the_files_is_reported_and_skipped(
    cache_root: Path, store: Store
) -> None:
    extents = [make_whole_extent(store, number, 1000 + number) for number in range(4)]
    size_bytes = os.fstat(extents[0].fd).st_blocks * 512
    stray = cache_root / "extents" / "aa" / "stray"
    stray.mkdir(parents=True)
    os.utime(stray, (0, 0))  # the longest unused of all
    (cache_root / "extents" / "loose").touch()
    evictor = Evictor(cache_root, 2 * size_bytes)
    assert [file.path for file in evictor.evict()] == [extent.path for extent in extents[:3]]
    assert evictor.failures.keys() == {str(stray), str(cache_root / "extents" / "loose")}
    for extent in extents:
        extent.close()


def test_extent_that_cannot_be_removed_stays_usable(
    cache_root: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    extents = [make_whole_extent(store, number, 1000 + number) for number in range(3)]
    real = os.unlink

    def unlink(path: str) -> None:
        if path == extents[0].path:
            raise OSError(errno.EIO, "Input/output error")
        real(path)

    monkeypatch.setattr(os, "unlink", unlink)
    evictor = Evictor(cache_root, 1)
    assert [file.path for file in evictor.evict()] == [extents[1].path, extents[2].path]
    assert evictor.failures == {extents[0].path: "Input/output error"}
    assert not extents[0].evicted
    assert [extent.evicted for extent in extents[1:]] == [True, True]
    for extent in extents:
        extent.close()


def test_eviction_that_frees_nothing_pauses_ever_longer(
    cache_root: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(eviction, "time", SimpleNamespace(monotonic=lambda: now_s))
    extent = make_whole_extent(store, 1, 1000)

    def refuse(_path: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "unlink", refuse)
    evictor = Evictor(cache_root, 1)
    for pause_s in (*FRUITLESS_PAUSES_S, FRUITLESS_PAUSES_S[-1]):
        assert evictor.is_due()
        assert evictor.evict() == []
        assert not evictor.is_due()
        now_s += pause_s
    extent.close()

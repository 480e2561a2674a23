"""Small objects in the store: one file, whole or not there."""

from __future__ import annotations

import errno
import mmap
import os
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from streamedge.cache.storage.eviction import scan
from streamedge.cache.storage.folder import Usage
from streamedge.cache.storage.inline_body import INLINE_BYTES_MAX
from streamedge.cache.storage.records import Record, decode_record, encode_record
from streamedge.cache.storage.store import Store
from streamedge.ops.log import Log, open_log
from streamedge.origin import OriginHead, Version

BODY = b"line\n" * 20
RECORD = Record("film", OriginHead(Version('"1"', len(BODY), 1000), "text/plain"), 5000.0)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return open_log(str(tmp_path / "events"), "worker")


@pytest.fixture
def stores(cache_root: Path, log: Log) -> tuple[Store, Store]:
    """Two workers' stores of one folder."""
    return Store(cache_root, 0, log), Store(cache_root, 1, log)


def read_body(store: Store, key: str = "film") -> bytes | None:
    """The body that a store finds with its record; None: no record, or no body in it."""
    record = store.load_record(key)
    body = None if record is None else store.find_body(record)
    if body is None:
        return None
    try:
        return body.read(0, body.body_bytes)
    finally:
        body.close()


@pytest.mark.parametrize("body", [b"x", BODY, b"\n" * INLINE_BYTES_MAX])
def test_small_object_is_one_file_that_every_worker_reads(
    cache_root: Path, stores: tuple[Store, Store], body: bytes
) -> None:
    one, other = stores
    record = replace(RECORD, head=OriginHead(Version('"1"', len(body)), "text/plain"))
    saved = one.save_small(record, body)
    assert saved is not None
    assert saved[1].read(0, len(body)) == body
    saved[1].close()
    assert [file.kind for file in scan(cache_root)] == ["assets"]
    assert list((cache_root / "new").iterdir()) == []
    assert other.load_record("film") == saved[0]
    assert read_body(other) == body


def test_ready_bytes_of_an_inline_body_are_at_their_place_in_the_file(
    stores: tuple[Store, Store],
) -> None:
    saved = stores[0].save_small(RECORD, BODY)
    assert saved is not None
    body = saved[1]
    ready = body.ready(5, 12)
    assert ready is not None
    assert os.pread(ready.fd, ready.size_bytes, ready.offset) == BODY[5:12]
    assert body.ready(len(BODY), len(BODY) + 1) is None
    body.close()


def test_body_belongs_to_the_record_that_was_loaded_with_it(stores: tuple[Store, Store]) -> None:
    one, other = stores
    assert one.save_small(RECORD, BODY) is not None
    loaded = one.load_record("film")
    assert loaded is not None
    newer = replace(RECORD, head=OriginHead(Version('"2"', 3), "text/plain"))
    assert other.save_small(newer, b"new") is not None
    body = one.find_body(loaded)
    assert body is not None
    assert body.read(0, len(BODY)) == BODY
    assert body.evicted  # replaced
    body.close()
    assert one.find_body(loaded) is None  # the file has another version now
    assert read_body(one) == b"new"


def test_file_of_a_small_object_is_accepted_whole_or_not_at_all() -> None:
    record = replace(RECORD, body_crc=None)
    store_crc = zlib.crc32(BODY)
    data = encode_record(replace(record, body_crc=store_crc), BODY)
    decoded = decode_record(data, "film")
    assert decoded is not None
    assert decoded.body_crc == store_crc
    assert {decode_record(data[:end], "film") for end in range(len(data))} == {None}
    assert decode_record(data + b"x", "film") is None
    for at in range(len(data) - len(BODY), len(data)):
        damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        assert decode_record(damaged, "film") is None


def test_pages_of_a_small_object_count_as_stored(
    cache_root: Path, stores: tuple[Store, Store]
) -> None:
    usage = Usage(cache_root)
    head = OriginHead(Version('"1"', 5000), "text/plain")
    assert stores[0].save_small(replace(RECORD, head=head), bytes(5000)) is not None
    assert usage.total() == 2 * mmap.PAGESIZE
    assert sum(file.size_bytes for file in scan(cache_root)) == usage.total()


@pytest.mark.parametrize("written_bytes", [0, 10, 150, -1])
def test_file_that_a_killed_worker_has_not_written_to_its_end_is_replaced(
    cache_root: Path, stores: tuple[Store, Store], written_bytes: int
) -> None:
    one, other = stores
    saved = one.save_small(RECORD, BODY)
    assert saved is not None
    (file,) = scan(cache_root)
    data = Path(file.path).read_bytes()
    Path(file.path).write_bytes(data[:written_bytes])
    assert other.load_record("film") is None
    assert other.save_small(RECORD, BODY) is not None
    assert read_body(one) == BODY
    assert list((cache_root / "new").iterdir()) == []


def test_newer_small_object_replaces_the_file_that_others_read(
    cache_root: Path, stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = stores
    saved = one.save_small(RECORD, BODY)
    assert saved is not None
    newer = replace(RECORD, head=OriginHead(Version('"2"', 3), "text/plain"))

    def full(_old: str, _new: str) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert other.save_small(newer, b"new") is None
    assert read_body(other) == BODY
    assert other.save_small(newer, b"new") is not None
    assert saved[1].read(0, len(BODY)) == BODY
    assert read_body(one) == b"new"
    assert list((cache_root / "new").iterdir()) == []


def test_small_object_that_cannot_be_written_leaves_no_file(
    cache_root: Path, stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert stores[0].save_small(RECORD, BODY) is None
    assert list((cache_root / "new").iterdir()) == []
    assert stores[0].load_record("film") is None
    assert stores[0].save_small(RECORD, BODY) is not None


def test_write_of_a_small_object_that_ends_early_leaves_no_file(
    cache_root: Path, stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:10]))
    assert stores[0].save_small(RECORD, BODY) is None
    assert list((cache_root / "new").iterdir()) == []
    assert stores[1].load_record("film") is None


def test_record_without_a_body_replaces_a_small_object(stores: tuple[Store, Store]) -> None:
    one, other = stores
    saved = one.save_small(RECORD, BODY)
    assert saved is not None
    one.save_record(saved[0])
    assert other.load_record("film") == RECORD
    assert read_body(other) is None


def test_descriptors_of_loaded_bodies_do_not_pile_up(stores: tuple[Store, Store]) -> None:
    for number in range(20):
        saved = stores[0].save_small(replace(RECORD, key=f"film-{number}"), BODY)
        assert saved is not None
        saved[1].close()
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        assert stores[0].load_record(f"film-{number}") is not None
    assert len(os.listdir("/proc/self/fd")) <= before + 1

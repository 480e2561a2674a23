"""Accepting writes: durable before the response, refused with a reason, visible to all readers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from streamedge.errors import OriginError
from streamedge.origin.directory.origin import DirectoryOrigin
from streamedge.origin.directory.writing import DirectoryWriter
from streamedge.origin.writing import Write, WriteResponse
from streamedge.write_back import bodies, pending_index, rows
from streamedge.write_back.bodies import ORPHAN_AGE_S, create_body, sweep
from streamedge.write_back.queue import WriteQueue, prepare_write_queue
from streamedge.write_back.rows import ROW_BYTES, Row, open_database
from streamedge.write_back.states import State
from tests.support.origins.scripted_writer import REPLICATOR, body_of, put

LIMIT_BYTES = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    prepare_write_queue(tmp_path)
    prepare_write_queue(tmp_path)  # harmless when it is there
    return tmp_path


@pytest.fixture
def write_queue(root: Path) -> Iterator[WriteQueue]:
    write_queue = WriteQueue(root, 0, LIMIT_BYTES, REPLICATOR)
    yield write_queue
    write_queue.close()


@pytest.fixture
def neighbour(root: Path) -> Iterator[WriteQueue]:
    """Another worker's hand on the same queue."""
    write_queue = WriteQueue(root, 1, LIMIT_BYTES, REPLICATOR)
    yield write_queue
    write_queue.close()


async def test_put_is_visible_at_once_in_every_worker(
    write_queue: WriteQueue, neighbour: WriteQueue
) -> None:
    assert neighbour.pending("key") is None
    write = put("film", ("Content-Type", "video/mp4"), size_bytes=10)
    answer = await write_queue.accept("key", "main", write, body_of(b"hello", b"world"))
    etag = f'"{hashlib.md5(b"helloworld").hexdigest()}"'
    assert (answer.status, answer.field("etag")) == (200, etag)
    for worker in (write_queue, neighbour):
        pending = worker.pending("key")
        assert pending is not None
        assert pending.path is not None
        assert pending.path.read_bytes() == b"helloworld"
        assert (pending.size_bytes, pending.etag) == (10, etag)
        assert pending.fields == (("Content-Type", "video/mp4"),)
        assert worker.pending("other") is None


async def test_newest_write_is_pending_also_if_it_is_a_delete(
    write_queue: WriteQueue, neighbour: WriteQueue
) -> None:
    for body in (b"first", b"later"):
        await write_queue.accept("key", "main", put(), body_of(body))
    pending = neighbour.pending("key")
    assert pending is not None
    assert pending.path is not None
    assert pending.path.read_bytes() == b"later"
    answer = await write_queue.accept("key", "main", Write("DELETE", "film"), None)
    assert answer.status == 204
    pending = neighbour.pending("key")
    assert pending is not None
    assert pending.path is None


async def test_body_reaches_the_disk_before_the_row(
    write_queue: WriteQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, insert, notify = os.fsync, write_queue.rows.insert, write_queue.signal.notify

    def record(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        done.append("folder" if path == write_queue.bodies else "body")
        fsync(descriptor)

    def record_row(row: Row, limit_bytes: int, *, is_judged: bool) -> Row:
        done.append("row")
        return insert(row, limit_bytes, is_judged=is_judged)

    def record_notice() -> None:
        done.append("notified")
        notify()

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(write_queue.rows, "insert", record_row)
    monkeypatch.setattr(write_queue.signal, "notify", record_notice)
    await write_queue.accept("key", "main", put(), body_of(b"hello"))
    assert done == ["body", "folder", "row", "notified"]


async def test_refused_body_leaves_no_file_and_no_row(write_queue: WriteQueue) -> None:
    wrong = ("Content-MD5", base64.b64encode(bytes(16)).decode())
    for write in (put("film", wrong), put("film", size_bytes=6), put("film", size_bytes=4)):
        assert (await write_queue.accept("key", "main", write, body_of(b"hello"))).status == 400
    assert write_queue.pending("key") is None
    assert list(write_queue.bodies.iterdir()) == []


async def test_aws_chunked_body_is_queued_decoded(write_queue: WriteQueue) -> None:
    write = put(
        "film",
        ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        ("x-amz-trailer", "x-amz-checksum-crc32"),
    )
    body = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n"
    assert (await write_queue.accept("key", "main", write, body_of(body))).status == 200
    pending = write_queue.pending("key")
    assert pending is not None
    assert pending.path is not None
    assert pending.path.read_bytes() == b"hello"
    assert pending.fields == (("x-amz-checksum-crc32", "NhCmhg=="),)


async def test_condition_is_checked_against_the_pending_write(write_queue: WriteQueue) -> None:
    new = ("If-None-Match", "*")
    first = await write_queue.accept("key", "main", put("film", new), body_of(b"first"))
    untouched = body_of(b"never read")
    again = await write_queue.accept("key", "main", put("film", new), untouched)
    assert (first.status, again.status) == (200, 412)
    assert await anext(untouched) == b"never read"
    right = ("If-Match", first.field("etag"))
    assert (
        await write_queue.accept("key", "main", put("film", right), body_of(b"next"))
    ).status == 200
    delete = Write("DELETE", "film", (right,))
    assert (await write_queue.accept("key", "main", delete, None)).status == 412


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "origin"
    folder.mkdir()
    (folder / "film").write_bytes(b"old")
    return folder


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
@pytest.mark.parametrize(
    ("name", "condition", "status"),
    [
        ("film", ("If-Match", "*"), 0),
        ("film", ("If-Match", '"0"'), 412),
        ("film", ("If-None-Match", "*"), 412),
        ("none", ("If-None-Match", "*"), 0),
        ("none", ("If-Match", "*"), 412),
        ("n" * 256, ("X", ""), 400),
        ("film/x", ("X", ""), 409),
    ],
)
async def test_what_the_origin_would_refuse_is_refused_at_once(
    write_queue: WriteQueue,
    folder: Path,
    method: str,
    name: str,
    condition: tuple[str, str],
    status: int,
) -> None:
    write = Write(method, name, (condition,), 5)
    body = body_of(b"hello")
    check = DirectoryWriter(folder).check
    answer = await write_queue.accept("key", "main", write, body, check)
    assert answer.status == (status or (200 if method == "PUT" else 204))
    assert (write_queue.pending("key") is None) is bool(status)
    if status:
        assert await anext(body) == b"hello"


async def test_condition_holds_for_what_readers_get(write_queue: WriteQueue, folder: Path) -> None:
    """The origin's tag, then that of the write that waits, then the origin's again."""
    writer, origin = DirectoryWriter(folder), DirectoryOrigin(folder)

    async def accept(etag: str) -> WriteResponse:
        write = put("film", ("If-Match", etag))
        return await write_queue.accept("key", "main", write, body_of(b"new"), writer.check)

    before = (await origin.head("film")).version.etag
    first = await accept(before)
    assert [(await accept(etag)).status for etag in (before, first.field("etag"))] == [412, 200]
    for body in (b"new", b"new"):
        (row,) = write_queue.rows.take_due(1e12, 2)
        response = await writer.write(
            Write(row.method, row.name, row.fields, row.size_bytes), body_of(body)
        )
        write_queue.rows.finish_attempt(row, State.DONE, etag=response.field("etag"))
        write_queue.signal.notify()
    after = (await origin.head("film")).version.etag
    assert [(await accept(etag)).status for etag in (first.field("etag"), after)] == [412, 200]


@pytest.mark.parametrize(("etag_after", "status"), [("of the queue", 412), ("*", 200)])
async def test_condition_is_judged_again_if_the_pending_write_ends_meanwhile(
    write_queue: WriteQueue, folder: Path, etag_after: str, status: int
) -> None:
    first = await write_queue.accept("key", "main", put("film"), body_of(b"new"))

    async def body_while_sent() -> AsyncIterator[bytes]:
        (row,) = write_queue.rows.take_due(1e12, 1)
        write_queue.rows.finish_attempt(row, State.DONE, etag='"origin"')
        yield b"next"

    etag = first.field("etag") if etag_after == "of the queue" else etag_after
    write = put("film", ("If-Match", etag))
    check = DirectoryWriter(folder).check
    answer = await write_queue.accept("key", "main", write, body_while_sent(), check)
    assert answer.status == status
    assert (write_queue.pending("key") is not None) is (status == 200)


async def test_write_to_an_origin_that_cannot_be_read_is_queued(
    write_queue: WriteQueue, tmp_path: Path
) -> None:
    check = DirectoryWriter(tmp_path / "not there").check
    write = put("film", ("If-Match", "*"))
    assert (await write_queue.accept("a", "main", write, body_of(b"new"), check)).status == 200
    with pytest.raises(OriginError):
        await write_queue.accept("b", "main", Write("DELETE", "../film"), None, check)
    assert write_queue.pending("b") is None


async def test_queue_over_its_limit_refuses_writes(write_queue: WriteQueue) -> None:
    large = bytes(LIMIT_BYTES - 3 * ROW_BYTES)  # less than three rows are left
    assert (await write_queue.accept("a", "main", put(), body_of(large))).status == 200
    size_bytes = 2 * ROW_BYTES
    for write in (put("film", size_bytes=size_bytes), put()):
        answer = await write_queue.accept("b", "main", write, body_of(bytes(size_bytes)))
        assert answer.status == 503
    too_large = body_of(bytes(LIMIT_BYTES), b"!")
    assert (await write_queue.accept("b", "main", put(), too_large)).status == 413
    assert len(list(write_queue.bodies.iterdir())) == 1


async def test_full_disk_is_refused_with_507(
    write_queue: WriteQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_full(_path: str, _flags: int) -> int:
        return os.open("/dev/full", os.O_WRONLY)

    monkeypatch.setattr(bodies, "open_locked", open_full)
    assert (await write_queue.accept("key", "main", put(), body_of(b"hello"))).status == 507
    assert list(write_queue.bodies.iterdir()) == []


async def test_write_cancelled_after_its_row_is_visible(
    write_queue: WriteQueue, neighbour: WriteQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = write_queue.rows.insert
    loop = asyncio.get_running_loop()

    def insert_and_cancel(row: Row, limit_bytes: int, *, is_judged: bool) -> Row:
        inserted = insert(row, limit_bytes, is_judged=is_judged)
        loop.call_soon_threadsafe(accepting.cancel)
        return inserted

    monkeypatch.setattr(write_queue.rows, "insert", insert_and_cancel)
    assert neighbour.pending("key") is None
    accepting = asyncio.create_task(write_queue.accept("key", "main", put(), body_of(b"hello")))
    with pytest.raises(asyncio.CancelledError):
        await accepting
    pending = neighbour.pending("key")
    assert pending is not None
    assert pending.path is not None
    assert pending.path.read_bytes() == b"hello"


async def test_readers_do_not_wait_for_write_transactions(
    write_queue: WriteQueue, neighbour: WriteQueue
) -> None:
    await write_queue.accept("key", "main", put(), body_of(b"hello"))
    with (
        closing(open_database(write_queue.folder / "journal.sqlite")) as database,
        database.transaction() as connection,
    ):
        connection.execute("UPDATE writes SET problem = 'open'")
        assert neighbour.pending("key") is not None


async def test_pending_runs_no_query_while_nothing_changes(
    write_queue: WriteQueue, neighbour: WriteQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_queue.accept("key", "main", put(), body_of(b"hello"))
    assert neighbour.pending("key") is not None
    assert neighbour.pending("other") is None

    def fail(*_args: object) -> None:
        raise AssertionError("queried")

    monkeypatch.setattr(pending_index.PendingIndex, "refresh", fail)
    monkeypatch.setattr(pending_index, "newest_pending", fail)
    assert neighbour.pending("key") is not None
    assert neighbour.pending("other") is None
    await write_queue.accept("other", "main", put(), body_of(b"hello"))
    with pytest.raises(AssertionError, match="queried"):
        neighbour.pending("other")


async def test_reader_that_missed_too_many_changes_reloads_its_index(
    write_queue: WriteQueue, neighbour: WriteQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "CHANGES_MAX", 2)
    assert neighbour.pending("a") is None
    for key in "abcd":
        await write_queue.accept(key, "main", put(key), body_of(b"hello"))
    (first, *_) = write_queue.rows.take_due(1e12, 1)
    write_queue.rows.finish_attempt(first, State.DONE)
    write_queue.signal.notify()
    assert [neighbour.pending(key) is not None for key in "abcd"] == [False, True, True, True]


async def test_status_requeue_and_discard(write_queue: WriteQueue) -> None:
    for key in ("a", "b"):
        await write_queue.accept(key, "main", put(key), body_of(b"hello"))
    first, _ = write_queue.rows.take_due(1e12, 2)
    write_queue.rows.finish_attempt(first, State.FAILED, problem="answered 403")
    status = await write_queue.status()
    assert status.by_state == {State.FAILED: 1, State.SENDING: 1}
    assert [row.name for row in status.rows] == ["a", "b"]
    assert (status.totals.accepted, status.totals.held_bytes) == (2, 10)
    assert write_queue.pending("a") is None
    assert await write_queue.requeue(first.serial)
    assert write_queue.pending("a") is not None
    assert not await write_queue.discard(first.serial)
    (again,) = write_queue.rows.take_due(1e12, 2)
    write_queue.rows.finish_attempt(again, State.FAILED)
    assert await write_queue.discard(again.serial)
    assert len(list(write_queue.bodies.iterdir())) == 1


async def test_sweep_removes_only_files_that_no_process_writes(write_queue: WriteQueue) -> None:
    dead, writing, queued, young = [await create_body(write_queue.bodies) for _ in range(4)]
    for body in (dead, writing, queued):
        os.utime(write_queue.bodies / body.token, (0, 0))
    for body in (dead, queued, young):
        body.keep()
        await body.close()
    assert ORPHAN_AGE_S > 0
    assert sweep(write_queue.bodies, partial(str.__eq__, queued.token)) == 1
    left = {file.name for file in write_queue.bodies.iterdir()}
    assert left == {writing.token, queued.token, young.token}
    await writing.close()

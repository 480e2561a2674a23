"""Small objects: one file each, and all that holds for large ones."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streamedge.cache import objects as objects_module
from streamedge.cache.lookup.outcome import Passed
from streamedge.cache.origin_requests import WHOLE, CacheRequest
from streamedge.cache.responses import ResponseCache
from streamedge.cache.storage.eviction import Evictor, scan
from streamedge.cache.storage.extent import CHUNK_BYTES
from streamedge.errors import CacheFullError
from streamedge.ops.metrics import Gauge
from streamedge.origin import OriginRequest
from streamedge.spans import Span
from tests.support.event_loop import until
from tests.support.http.location import Location, fetch, fills_ended, run_location
from tests.support.origins.scripted_origin import Pattern, Reply

PAGE = Pattern(5000, seed=9)
ALL = Span(0, PAGE.size_bytes)
BODY = PAGE.read(ALL)


@pytest.fixture
async def location(cache_root: Path) -> AsyncIterator[Location]:
    async with run_location(cache_root) as location:
        location.server.put("film", PAGE, content_type="text/html")
        yield location


def kinds(location: Location) -> list[str]:
    """The files of the cache folder that may be evicted, by kind."""
    return sorted(file.kind for file in scan(location.root))


async def test_small_object_takes_one_file_and_no_fill(location: Location) -> None:
    worker = location.worker()
    assert await fetch(worker, location.asset(), ALL) == BODY
    assert kinds(location) == ["assets"]
    assert worker.running_tasks == ()
    assert location.bytes_requested() == PAGE.size_bytes
    assert worker.counts.gauges[Gauge.OPEN_EXTENTS] == 1
    assert list((location.root / "new").iterdir()) == []


@pytest.mark.parametrize(
    ("size_bytes", "files"),
    [
        (CHUNK_BYTES, ["assets"]),
        (CHUNK_BYTES + 1, ["assets", "extents"]),
    ],
)
async def test_objects_beyond_one_chunk_are_stored_in_extents(
    location: Location, size_bytes: int, files: list[str]
) -> None:
    location.server.put("film", Pattern(size_bytes, seed=3))
    await fetch(location.worker(), location.asset(), Span(0, size_bytes))
    assert kinds(location) == files


async def test_other_workers_and_later_processes_read_the_stored_file(location: Location) -> None:
    await fetch(location.worker(), location.asset(), ALL)
    for want in (ALL, Span(77, 4000), Span(PAGE.size_bytes - 1, PAGE.size_bytes)):
        assert await fetch(location.worker(), location.asset(), want) == PAGE.read(want)
    assert len(location.server.requests) == 1


async def test_workers_that_want_a_small_object_at_once_send_one_request(
    location: Location,
) -> None:
    workers = [location.worker() for _each in range(4)]
    bodies = await asyncio.gather(
        *(fetch(worker, location.asset(), ALL) for worker in workers for _each in range(3))
    )
    assert set(bodies) == {BODY}
    assert location.server.body_bytes_sent == PAGE.size_bytes


async def test_small_body_that_comes_slowly_is_read_while_it_arrives(location: Location) -> None:
    location.server.hold("film", at=1000)
    one, other = location.worker(), location.worker()
    reader = await one.open(location.asset(), ALL)
    await reader.wait(Span(999, 1000), eager=True)
    assert await fetch(other, location.asset(), Span(0, 1000)) == BODY[:1000]
    location.server.release("film")
    assert await reader.read(ALL) == BODY
    reader.close()
    assert await fetch(other, location.asset(), ALL) == BODY
    assert location.server.body_bytes_sent == PAGE.size_bytes
    assert kinds(location) == ["assets", "extents"]


async def test_small_body_that_breaks_off_is_resumed(location: Location) -> None:
    location.server.script(Reply(cut_at=2000))
    assert await fetch(location.worker(), location.asset(), ALL) == BODY
    assert [request.span for request in location.server.requests] == [
        Span(0, CHUNK_BYTES),
        Span(2000, PAGE.size_bytes),
    ]


async def test_validation_keeps_the_body_of_a_small_object(location: Location) -> None:
    one, other = location.worker(), location.worker()
    await fetch(one, location.asset(default_ttl_s=0.0), ALL)
    before = location.record_path().stat().st_ino
    for worker in (one, other, location.worker()):
        assert await fetch(worker, location.asset(default_ttl_s=0.0), ALL) == BODY
    assert location.server.body_bytes_sent == PAGE.size_bytes
    assert len(location.server.requests) == 4
    assert location.record_path().stat().st_ino != before  # written again, with a later time
    assert kinds(location) == ["assets"]
    await fetch(location.worker(), location.asset(), ALL)
    assert len(location.server.requests) == 4


async def test_changed_small_object_is_new_for_new_readers_and_old_for_open_ones(
    location: Location,
) -> None:
    worker = location.worker()
    reader = await worker.open(location.asset(default_ttl_s=0.0), ALL)
    changed = Pattern(300, seed=10)
    location.server.put("film", changed, etag='"2"')
    assert await fetch(worker, location.asset(default_ttl_s=0.0), Span(0, 300)) == changed.read(
        Span(0, 300)
    )
    assert await reader.read(ALL) == BODY
    reader.close()


async def test_response_requested_before_a_write_is_served_and_not_stored(
    location: Location,
) -> None:
    worker = location.worker()
    location.server.hold_responses()
    reading = asyncio.create_task(fetch(worker, location.asset(), ALL))
    await location.server.wait_for_requests(1)
    worker.refuse_older(location.asset().key)
    location.server.release_responses()
    assert await reading == BODY
    assert not location.record_path().exists()
    assert await fetch(worker, location.asset(), ALL) == BODY
    assert len(location.server.requests) == 2


async def test_small_object_is_held_in_memory_while_the_disk_is_full(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = location.worker()
    opened = os.open

    def full(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, "no space")
        return opened(path, flags, mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        assert await fetch(worker, location.asset(), ALL) == BODY
        await fills_ended(worker)
    assert kinds(location) == []
    assert location.events("disk_write_failed")
    assert await fetch(worker, location.asset(), ALL) == BODY
    assert kinds(location) == ["assets"]


async def test_small_response_passes_through_a_cache_that_can_store_nothing(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = location.worker()

    def full(*_arguments: object) -> None:
        raise CacheFullError("no space")

    monkeypatch.setattr(worker.store, "save_small", lambda _record, _body: None)
    monkeypatch.setattr(worker.store, "make_extent", full)
    request = CacheRequest(
        location.asset(), location.origin, OriginRequest("GET", "film"), {}, WHOLE
    )
    outcome = await ResponseCache(worker).respond(request)
    assert isinstance(outcome, Passed)
    assert b"".join([piece async for piece in outcome.response.body()]) == BODY
    assert len(location.server.requests) == 1


async def test_truncated_file_of_a_small_object_is_fetched_again(location: Location) -> None:
    worker = location.worker()
    reader = await worker.open(location.asset(), ALL)
    os.truncate(location.record_path(), location.record_path().stat().st_size - 1000)
    assert await reader.read(ALL) == BODY
    reader.close()
    assert location.events("extent_dropped")
    assert await fetch(location.worker(), location.asset(), ALL) == BODY


async def test_small_object_with_a_damaged_body_is_fetched_again(location: Location) -> None:
    await fetch(location.worker(), location.asset(), ALL)
    data = location.record_path().read_bytes()
    location.record_path().write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert await fetch(location.worker(), location.asset(), ALL) == BODY
    assert len(location.server.requests) == 2


async def test_evicted_small_object_is_closed_and_fetched_again(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_module, "EVICTED_CHECK_S", 0.01)
    worker = location.worker()
    await fetch(worker, location.asset(), ALL)
    reader = await worker.open(location.asset(), ALL)
    evictor = Evictor(location.root, 1)
    assert [file.kind for file in evictor.evict()] == ["assets"]
    evictor.close()
    assert await reader.read(ALL) == BODY  # from the open file
    reader.close()
    await until(lambda: worker.counts.gauges[Gauge.OPEN_EXTENTS] == 0)
    assert worker.open_versions == ()
    assert await fetch(worker, location.asset(), ALL) == BODY
    assert len(location.server.requests) == 2


async def test_used_small_object_is_touched_for_eviction(location: Location) -> None:
    worker = location.worker()
    reader = await worker.open(location.asset(), ALL)
    os.utime(location.record_path(), (0, 0))
    reader.open_object.files.touch()
    reader.close()
    assert location.record_path().stat().st_atime > 0


async def test_closed_file_of_a_small_object_is_opened_again(location: Location) -> None:
    worker = location.worker(open_extents=1)
    await fetch(worker, location.asset(), ALL)
    reader = await worker.open(location.asset(), ALL)
    for number in range(3):
        location.server.put(f"other-{number}", PAGE)
        await fetch(worker, location.asset(f"other-{number}"), ALL)
    await until(lambda: worker.counts.gauges[Gauge.OPEN_EXTENTS] <= 1)
    reader.open_object.close_extents(1)
    assert await reader.read(ALL) == BODY
    reader.close()
    assert location.server.body_bytes_sent == 4 * PAGE.size_bytes


async def test_lost_file_of_a_small_object_is_filled_into_an_extent(location: Location) -> None:
    worker = location.worker()
    reader = await worker.open(location.asset(), ALL)
    location.record_path().unlink()
    reader.position = 2 * CHUNK_BYTES * 1024  # elsewhere, so that its file may be closed
    assert reader.open_object.close_extents(1) == 1
    assert await reader.read(ALL) == BODY
    reader.close()
    assert location.server.requests[1].headers["if-match"] == '"1"'


@pytest.mark.parametrize("etag", ['"1"', ""])
async def test_evicted_small_object_is_fetched_whole_and_stored_again(
    location: Location, etag: str
) -> None:
    location.server.put("film", PAGE, etag=etag, last_modified_s=None)
    worker = location.worker()
    await fetch(worker, location.asset(), ALL)
    location.record_path().unlink()
    assert await fetch(worker, location.asset(), ALL) == BODY  # before the worker has closed it
    assert await fetch(location.worker(), location.asset(), ALL) == BODY
    assert len(location.server.requests) == 2
    assert kinds(location) == ["assets"]


async def test_small_object_that_another_worker_has_replaced_is_read_from_its_file(
    location: Location,
) -> None:
    location.server.put("film", PAGE, etag="", last_modified_s=None)
    one, other = location.worker(), location.worker()
    for worker in (one, other):
        await fetch(worker, location.asset(), ALL)
    changed = Pattern(300, seed=10)
    location.server.put("film", changed, etag="", last_modified_s=None)
    expected = changed.read(Span(0, 300))
    assert await fetch(other, location.asset(default_ttl_s=0.0), Span(0, 300)) == expected
    assert await fetch(one, location.asset(), Span(0, 300)) == expected
    assert len(location.server.requests) == 2


@pytest.mark.parametrize("size_bytes", [PAGE.size_bytes, 3 * CHUNK_BYTES])
async def test_object_without_validators_whose_files_are_gone_is_fetched_again(
    location: Location, size_bytes: int
) -> None:
    content = Pattern(size_bytes, seed=4)
    whole = Span(0, size_bytes)
    location.server.put("film", content, etag="", last_modified_s=None)
    await fetch(location.worker(), location.asset(), whole)
    worker = location.worker()
    (await worker.open(location.asset())).close()  # opens no file
    for file in scan(location.root):
        if file.kind == "extents" or size_bytes == PAGE.size_bytes:
            os.unlink(file.path)
    assert await fetch(worker, location.asset(), whole) == content.read(whole)
    assert await fetch(worker, location.asset(), whole) == content.read(whole)
    assert len(location.server.requests) == 2


async def test_body_of_a_small_object_stays_stored_when_a_validation_cannot_be(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = location.worker()
    await fetch(worker, location.asset(default_ttl_s=0.0), ALL)
    write = os.write

    def almost_full(fd: int, data: bytes) -> int:
        if len(data) > PAGE.size_bytes:
            raise OSError(errno.ENOSPC, "no space")
        return write(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", almost_full)
        assert await fetch(worker, location.asset(default_ttl_s=0.0), ALL) == BODY
    assert await fetch(location.worker(), location.asset(), ALL) == BODY
    assert location.server.body_bytes_sent == PAGE.size_bytes


async def test_record_of_a_large_object_is_saved_without_a_look_for_its_body(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A HEAD stores a record; none of its extents is looked for."""
    worker = location.worker()
    opened: list[str] = []
    find_extent = worker.store.find_extent

    def find(digest: bytes, body_bytes: int) -> object:
        opened.append(digest.hex())
        return find_extent(digest, body_bytes)

    monkeypatch.setattr(worker.store, "find_extent", find)
    reader = await worker.open(location.asset())
    reader.close()
    assert [request.method for request in location.server.requests] == ["HEAD"]
    assert location.record_path().exists()
    assert opened == []

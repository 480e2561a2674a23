"""What one reader sees, and a hundred at once."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from streamedge.cache.fill_plan import Pace
from streamedge.cache.open_object import Failure
from streamedge.cache.reader import Reader
from streamedge.cache.storage.extent import CHUNK_BYTES, EXTENT_BYTES, Extent
from streamedge.errors import CacheFullError, OriginError
from streamedge.spans import Span
from tests.support.http.location import Location, fetch, fills_ended, run_location
from tests.support.origins.scripted_origin import Pattern, Reply
from tests.support.patience import PATIENCE_S

FILM = Pattern(6 * CHUNK_BYTES + 777, seed=9)
ALL = Span(0, FILM.size_bytes)


@pytest.fixture
async def location(cache_root: Path) -> AsyncIterator[Location]:
    async with run_location(cache_root) as location:
        location.server.put("film", FILM)
        yield location


@pytest.fixture
async def reader(location: Location) -> AsyncIterator[Reader]:
    """A reader of the film, of which nothing is cached."""
    reader = await location.worker().open(location.asset())
    yield reader
    reader.close()


class Wait:
    """A callback given to ``when_ready``, and the results it was called with."""

    def __init__(self, reader: Reader, want: Span, **options: Any) -> None:
        self.results: list[Failure | None] = []
        self.called = asyncio.Event()
        self.cancel = reader.when_ready(want, self._woken, **options)

    async def end(self) -> None:
        """Waits for the call."""
        async with asyncio.timeout(PATIENCE_S):
            await self.called.wait()

    def _woken(self, failure: Failure | None) -> None:
        self.results.append(failure)
        self.called.set()


# --- ready bytes ----------------------------------------------------------------------------


async def test_byte_is_ready_as_soon_as_the_origin_has_sent_it(
    location: Location, reader: Reader
) -> None:
    stops = [1, 2, 1000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 5]
    location.server.hold("film", at=0)
    assert reader.ready(0, FILM.size_bytes) is None
    at = 0
    for stop in stops:
        location.server.release("film", stop - at)
        at = stop
        while (ready_end := reader.ready_end(0, FILM.size_bytes)) < stop:
            await reader.wait(Span(ready_end, FILM.size_bytes), eager=True)
        assert ready_end == stop
        assert reader.copy(Span(0, stop)) == FILM.read(Span(0, stop))
        assert location.server.body_bytes_sent == stop
    location.server.release("film")
    assert await reader.read(ALL) == FILM.read(ALL)
    assert location.server.body_bytes_sent == FILM.size_bytes


async def test_ready_has_the_file_and_the_offset(reader: Reader) -> None:
    await reader.read(ALL)
    ready = reader.ready(100, 300)
    assert ready is not None
    assert os.pread(ready.fd, ready.size_bytes, ready.offset) == FILM.read(Span(100, 300))
    assert reader.ready(FILM.size_bytes, FILM.size_bytes + 1) is None
    assert reader.is_complete(0)
    assert not reader.is_complete(EXTENT_BYTES)


async def test_read_is_clipped_to_the_end_of_the_object(reader: Reader) -> None:
    assert await reader.read(Span(FILM.size_bytes - 3, FILM.size_bytes + 3)) == FILM.read(
        Span(FILM.size_bytes - 3, FILM.size_bytes)
    )
    assert await reader.read(Span(FILM.size_bytes, FILM.size_bytes + 3)) == b""
    assert await reader.read(Span(5, 5)) == b""
    assert reader.size_bytes == FILM.size_bytes


async def test_hundred_cold_readers_share_one_read_of_each_byte(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "round_trip_bytes", 1 << 30)  # readers wait for so quick an origin
    film = Pattern(5_000_000, seed=10)
    location.server.put("film", film)
    dice = random.Random(1)
    workers = [location.worker(), location.worker()]

    async def read_somewhere(number: int) -> None:
        start = dice.randrange(film.size_bytes)
        span = Span(start, min(film.size_bytes, start + dice.randrange(1, 600_000)))
        assert await fetch(workers[number % 2], location.asset(), span) == film.read(span)

    await asyncio.gather(*(read_somewhere(number) for number in range(100)))
    all_bytes = Span(0, film.size_bytes)
    assert await fetch(workers[0], location.asset(), all_bytes) == film.read(all_bytes)
    assert await fetch(workers[1], location.asset(), all_bytes) == film.read(all_bytes)
    assert location.server.body_bytes_sent == location.bytes_requested() == film.size_bytes


async def test_reader_that_leaves_stops_no_fill(location: Location, reader: Reader) -> None:
    location.server.hold("film", at=CHUNK_BYTES)
    waiting = asyncio.ensure_future(reader.read(ALL))
    await reader.wait(Span(0, 1), eager=True)
    waiting.cancel()
    await asyncio.wait([waiting])
    reader.close()
    location.server.release("film")
    (worker,) = location.workers
    await fills_ended(worker)
    extent = location.extent(FILM.size_bytes)
    assert extent is not None
    assert extent.settle()
    worker.store.close_extent(extent)


# --- waiters --------------------------------------------------------------------------------


async def test_waiter_is_called_once_and_never_from_within(
    location: Location, reader: Reader
) -> None:
    for eager in (True, False):
        wait = Wait(reader, ALL, eager=eager)
        assert wait.results == []
        await wait.end()
        await fills_ended(location.workers[0])
        assert wait.results == [None]
        wait.cancel()


async def test_cancelled_waiter_is_not_called(location: Location, reader: Reader) -> None:
    wait = Wait(reader, ALL, eager=True)
    wait.cancel()
    wait.cancel()
    await reader.read(ALL)
    assert wait.results == []


async def test_waiter_gets_the_error_of_a_fill_that_cannot_start(
    location: Location, reader: Reader
) -> None:
    location.server.script(Reply(status=403))
    waits = [Wait(reader, ALL, eager=eager) for eager in (True, False)]
    for wait in waits:
        await wait.end()
        (failure,) = wait.results
        assert isinstance(failure, OriginError)


async def test_waiters_for_other_bytes_continue_when_a_fill_fails(
    location: Location, reader: Reader
) -> None:
    """The failure is for waiters for the bytes of the fill; the others start their own."""
    location.server.hold("film")
    failing = Wait(reader, Span(0, CHUNK_BYTES), eager=True)
    await location.server.wait_for_requests(2)
    other = Wait(reader, Span(4 * CHUNK_BYTES, 5 * CHUNK_BYTES), eager=True)
    await location.server.wait_for_requests(3)
    (worker,) = location.workers
    first = next(task for task in worker.running_tasks if not task.done())
    fills = {fill.span.start: fill for fill in reader.open_object.fills}
    assert set(fills) == {0, 4 * CHUNK_BYTES}
    first.cancel()
    await asyncio.wait([first])
    assert len(failing.results) + len(other.results) == 1
    location.server.release("film")
    await asyncio.gather(*(wait.end() for wait in (failing, other)))
    assert sum(isinstance(wait.results[0], OriginError) for wait in (failing, other)) == 1


async def test_full_cache_is_reported_to_the_waiter(
    location: Location, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Extent:
        raise CacheFullError("full")

    monkeypatch.setattr(location.workers[0].store, "make_extent", full)
    wait = Wait(reader, ALL)
    assert wait.results == []
    await wait.end()
    assert isinstance(wait.results[0], CacheFullError)
    reader.prefetch(ALL)
    with pytest.raises(CacheFullError) as caught:
        await reader.wait(ALL)
    assert isinstance(caught.value.__cause__, CacheFullError)


async def test_waiter_may_cancel_another_when_it_is_called(
    location: Location, reader: Reader
) -> None:
    location.server.hold("film", at=0)
    cancelled: list[Wait] = []
    done = asyncio.Event()

    def cancel_next(_: Failure | None) -> None:
        cancelled[0].cancel()
        done.set()

    reader.when_ready(ALL, cancel_next)
    cancelled.append(Wait(reader, ALL))
    last = Wait(reader, ALL)
    location.server.release("film")
    await done.wait()
    await last.end()
    assert cancelled[0].results == []


async def test_error_in_a_waiter_does_not_stop_the_others(
    location: Location, reader: Reader
) -> None:
    location.server.hold("film", at=10)  # so that no end of a fill wakes a waiter
    defects: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: defects.append(context))

    def woken(_: Failure | None) -> None:
        raise ZeroDivisionError

    reader.when_ready(Span(0, 1), woken)
    other = Wait(reader, ALL)
    await other.end()
    location.server.release("film")
    assert await reader.read(ALL) == FILM.read(ALL)
    assert [type(defect["exception"]) for defect in defects] == [ZeroDivisionError]


async def test_each_waiter_gets_its_own_copy_of_an_error(
    location: Location, reader: Reader
) -> None:
    location.server.script(Reply(status=403))
    errors = await asyncio.gather(
        *(reader.wait(ALL, eager=True) for _ in range(3)), return_exceptions=True
    )
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert isinstance(error, OriginError)
        assert isinstance(error.__cause__, OriginError)


# --- how far ahead --------------------------------------------------------------------------


@pytest.mark.parametrize(("lead_bytes", "extents"), [(0, 1), (EXTENT_BYTES, 2), (1 << 40, 3)])
async def test_prefetch_requests_no_further_ahead_than_the_lead(
    location: Location, lead_bytes: int, extents: int
) -> None:
    film = Pattern(3 * EXTENT_BYTES, seed=11)
    location.server.put("film", film)
    location.server.hold("film")
    worker = location.worker()
    reader = await worker.open(location.asset())
    for _each_asks_for_one_more in range(4):
        reader.prefetch(Span(0, film.size_bytes), lead_bytes)
    await location.server.wait_for_requests(1 + extents)
    spans = [request.span for request in location.server.requests[1:]]
    assert sorted(span for span in spans if span is not None) == [
        Span(index * EXTENT_BYTES, (index + 1) * EXTENT_BYTES) for index in range(extents)
    ]
    assert len(worker.running_tasks) == extents
    reader.close()


async def test_empty_prefetch_sends_no_request(location: Location, reader: Reader) -> None:
    reader.prefetch(Span(FILM.size_bytes, FILM.size_bytes + 10))
    reader.prefetch(Span(10, 10))
    assert not location.workers[0].running_tasks


async def test_second_close_of_a_reader_has_no_effect(location: Location, reader: Reader) -> None:
    await reader.read(ALL)
    other = await location.workers[0].open(location.asset())
    reader.close()
    reader.close()
    assert await other.read(ALL) == FILM.read(ALL)
    other.close()

"""One read of each byte, resumed where it stopped, never mixed with another version."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import pytest

from streamedge.cache import fill as fill_module
from streamedge.cache.fill import Fill
from streamedge.cache.objects import Cache
from streamedge.cache.reader import Reader
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.extent import CHUNK_BYTES, EXTENT_BYTES, Extent
from streamedge.cache.storage.records import Asset
from streamedge.cache.storage.store import MEMORY_EXTENTS_MAX
from streamedge.errors import CacheFullError, OriginError, OriginFailure
from streamedge.ops.metrics import Counter, Gauge
from streamedge.origin import OriginHead, OriginRead, Version
from streamedge.spans import Span
from tests.support.http.location import (
    LAST_MODIFIED_S,
    Location,
    fetch,
    fills_ended,
    run_location,
    set_word,
    words_of,
)
from tests.support.origins.scripted_origin import Pattern, Reply

FILM = Pattern(10 * CHUNK_BYTES + 777, seed=2)
ALL = Span(0, FILM.size_bytes)
HEAD = OriginHead(Version('"1"', FILM.size_bytes, LAST_MODIFIED_S), "video/mp4")
STOP = 3 * CHUNK_BYTES + 123  # within a chunk


@pytest.fixture
async def location(cache_root: Path) -> AsyncIterator[Location]:
    async with run_location(cache_root, read_timeout_s=0.25) as location:
        location.server.put("film", FILM)
        yield location


@pytest.fixture
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fill_module, "backoff_s", lambda _attempt, _jitter: 0.0)


def uncached_reader(worker: Cache, asset: Asset, size_bytes: int = FILM.size_bytes) -> Reader:
    """A reader of a version without any cached byte; no request was sent yet."""
    return worker.reopen(
        asset, OriginHead(Version('"1"', size_bytes, LAST_MODIFIED_S), "video/mp4")
    )


async def failure_of(reader: Reader, span: Span) -> OriginError:
    with pytest.raises(OriginError) as caught:
        await reader.read(span)
    reader.close()
    return caught.value


class StubOrigin:
    """Replays its script: failures, or the pieces of a response and its end."""

    def __init__(self, *script: OriginError | list[int | OriginError]) -> None:
        self.script = list(script)
        self.requests: list[tuple[Span | None, Version | None]] = []
        self.reads: list[StubRead] = []

    async def head(self, name: str) -> OriginHead:
        raise AssertionError("the head is not requested")

    async def read(
        self,
        name: str,
        span: Span | None = None,
        *,
        if_match: Version | None = None,
        if_none_match: Version | None = None,
    ) -> OriginRead | None:
        self.requests.append((span, if_match))
        assert span is not None
        result = self.script.pop(0) if self.script else list[int | OriginError]([span.size])
        if isinstance(result, OriginError):
            raise result
        self.reads.append(StubRead(span, result))
        return self.reads[-1]

    async def close(self) -> None:
        raise AssertionError("not the cache's to close")


class StubRead:
    """Brings pieces of so many bytes, or fails."""

    def __init__(self, span: Span, script: list[int | OriginError]) -> None:
        self.head = HEAD
        self.span = span
        self.script = script
        self.closed = False

    async def pieces(self) -> AsyncIterator[bytes]:
        at = self.span.start
        for step in self.script:
            if isinstance(step, OriginError):
                raise step
            yield FILM.read(Span(at, at + step))
            at += step

    async def close(self) -> None:
        self.closed = True


def broken(failure: OriginFailure = OriginFailure.BROKEN) -> OriginError:
    return OriginError(failure, f"scripted {failure.value}")


# --- each byte once -------------------------------------------------------------------------


async def test_each_byte_is_read_from_the_origin_once(location: Location) -> None:
    worker = location.worker()
    assert await fetch(worker, location.asset(), ALL) == FILM.read(ALL)
    assert await fetch(worker, location.asset(), ALL) == FILM.read(ALL)
    assert location.server.body_bytes_sent == location.bytes_requested() == FILM.size_bytes
    assert worker.counts.gathered(Counter.FILLS, "complete") == len(location.server.requests)
    assert worker.counts.gauges[Gauge.RUNNING_FILLS] == 0


async def test_complete_fill_holds_no_lock(location: Location) -> None:
    worker, other = location.worker(), location.worker()
    await fetch(worker, location.asset(), ALL)
    extent = location.extent(FILM.size_bytes)
    assert extent is not None
    assert extent.lock(Span(0, extent.chunks)) == Span(0, 11)
    assert extent.settle()
    other.store.close_extent(extent)


async def test_only_missing_bytes_are_requested(location: Location) -> None:
    worker = location.worker()
    await fetch(worker, location.asset(), Span(4 * CHUNK_BYTES, 4 * CHUNK_BYTES + 1))
    assert await fetch(worker, location.asset(), ALL) == FILM.read(ALL)
    requests = [request.span for request in location.server.requests]
    assert sorted(span for span in requests if span is not None) == [
        Span(0, 4 * CHUNK_BYTES),
        Span(4 * CHUNK_BYTES, 5 * CHUNK_BYTES),
        Span(5 * CHUNK_BYTES, FILM.size_bytes),
    ]


# --- resuming -------------------------------------------------------------------------------


async def test_broken_fill_resumes_at_its_position_against_the_same_version(
    location: Location,
) -> None:
    worker = location.worker(retries=10)
    server = location.server
    server.hold("film", at=STOP)
    reader = await worker.open(location.asset(), ALL)
    await reader.wait(Span(STOP - 1, STOP), eager=True)
    await server.refuse()
    server.release("film")
    await server.accept()
    assert await reader.read(ALL) == FILM.read(ALL)
    reader.close()
    first, second = server.requests
    assert second.span == Span(STOP, FILM.size_bytes)
    assert second.headers["if-match"] == '"1"'
    assert first.body_bytes_sent == STOP
    assert location.bytes_requested() == FILM.size_bytes


@pytest.mark.usefixtures("without_pauses")
@pytest.mark.parametrize(
    "turn",
    [
        Reply(reset_at=STOP),
        Reply(cut_at=STOP),
        Reply(stall_at=STOP),
        Reply(cut_at=STOP, chunked=True),
        Reply(chunked=True, extra=b"x" * 100_000),
        Reply(status=503),
        Reply(status=429),
        Reply(raw=b"HTTP/1.1 206 Partial Content\r\n\r\n"),
        Reply(raw=b"nonsense\r\n\r\n"),
    ],
    ids=["reset", "cut", "stall", "cut chunked", "too long", "503", "429", "no length", "no HTTP"],
)
async def test_temporary_failure_is_hidden_from_the_reader(location: Location, turn: Reply) -> None:
    worker = location.worker()
    location.server.script(turn)
    reader = uncached_reader(worker, location.asset())
    assert await reader.read(ALL) == FILM.read(ALL)
    reader.close()
    again = location.server.requests[1]
    assert again.headers["if-match"] == '"1"'
    assert again.span is not None
    assert again.span.end == FILM.size_bytes


@pytest.mark.usefixtures("without_pauses")
async def test_origin_that_ignores_ranges_gives_the_right_bytes(location: Location) -> None:
    worker = location.worker()
    location.server.script(Reply(stall_at=STOP))
    location.server.script(Reply(ignore_range=True))
    reader = uncached_reader(worker, location.asset())
    assert await reader.read(ALL) == FILM.read(ALL)
    reader.close()
    extent = location.extent(FILM.size_bytes)
    assert extent is not None
    assert [extent.resume(chunk) for chunk in range(11)] == [CHUNK_BYTES] * 10 + [777]
    worker.store.close_extent(extent)


@pytest.mark.parametrize("ignore_conditions", [False, True])
async def test_changed_object_is_never_mixed_with_its_old_version(
    location: Location, ignore_conditions: bool
) -> None:
    """RFC 9110 §13.1.1: If-Match; and for servers that do not know it, the response's own ETag."""
    worker = location.worker(retries=10)
    server = location.server
    changed = Pattern(FILM.size_bytes, seed=3)
    server.hold("film", at=STOP)
    reader = await worker.open(location.asset(), ALL)
    await reader.wait(Span(STOP - 1, STOP), eager=True)
    server.put("film", changed, etag='"2"')
    server.script(Reply(ignore_conditions=ignore_conditions))
    await server.refuse()
    server.release("film")
    await server.accept()
    with pytest.raises(OriginError) as caught:
        await reader.read(ALL)
    assert caught.value.failure is OriginFailure.CHANGED
    assert reader.ready_end(0, FILM.size_bytes) == STOP
    assert await reader.read(Span(0, STOP)) == FILM.read(Span(0, STOP))
    assert await fetch(worker, location.asset(), ALL) == changed.read(ALL)
    assert await reader.read(Span(0, STOP)) == FILM.read(Span(0, STOP))
    reader.close()
    assert location.events("fill_failed")[0]["at"] == STOP


# --- giving up ------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_pauses")
@pytest.mark.parametrize("failure", [each for each in OriginFailure if each.retryable])
async def test_temporary_failure_is_retried_within_the_budget(
    location: Location, failure: OriginFailure
) -> None:
    worker = location.worker(retries=2)
    origin = StubOrigin(broken(failure), broken(failure), [FILM.size_bytes])
    reader = uncached_reader(worker, Asset("k", "film", origin, "main", TtlRules()))
    assert await reader.read(ALL) == FILM.read(ALL)
    reader.close()
    assert origin.requests == [(Span(0, FILM.size_bytes), HEAD.version)] * 3


@pytest.mark.usefixtures("without_pauses")
async def test_fill_fails_with_the_cause_when_its_retries_are_used_up(location: Location) -> None:
    worker = location.worker(retries=2)
    origin = StubOrigin(*(broken(OriginFailure.TIMEOUT) for _ in range(3)))
    reader = uncached_reader(worker, Asset("k", "film", origin, "main", TtlRules()))
    with pytest.raises(OriginError, match="scripted timeout") as caught:
        await reader.read(ALL)
    assert caught.value.failure is OriginFailure.TIMEOUT
    assert isinstance(caught.value.__cause__, OriginError)
    assert worker.counts.gathered(Counter.FILLS, "failed") == 1
    assert location.events("fill_failed")[0]["error"] == "scripted timeout"
    # The next read starts another fill.
    assert await reader.read(ALL) == FILM.read(ALL)
    reader.close()


@pytest.mark.parametrize("failure", [each for each in OriginFailure if not each.retryable])
async def test_permanent_failure_is_not_retried(location: Location, failure: OriginFailure) -> None:
    worker = location.worker(retries=5)
    origin = StubOrigin(broken(failure))
    reader = uncached_reader(worker, Asset("k", "film", origin, "main", TtlRules()))
    assert (await failure_of(reader, ALL)).failure is failure
    assert len(origin.requests) == 1


@pytest.mark.usefixtures("without_pauses")
async def test_retry_budget_counts_attempts_without_progress(location: Location) -> None:
    worker = location.worker(retries=1)
    script: list[OriginError | list[int | OriginError]] = [[1000, broken()] for _ in range(6)]
    for at in (2, 5):  # one idle attempt between those with bytes
        script.insert(at, broken())
    origin = StubOrigin(*script, broken(), broken())
    reader = uncached_reader(worker, Asset("k", "film", origin, "main", TtlRules()))
    error = await failure_of(reader, ALL)
    assert error.failure is OriginFailure.BROKEN
    starts = [span.start for span, _ in origin.requests if span is not None]
    assert starts == [0, 1000, 2000, 2000, 3000, 4000, 4000, 5000, 6000, 6000]
    assert all(read.closed for read in origin.reads)


async def test_fill_fails_when_the_origin_sends_no_bytes(
    location: Location, without_pauses: None
) -> None:
    worker = location.worker(retries=1)
    location.server.script(Reply(silent=True), times=2)
    error = await failure_of(uncached_reader(worker, location.asset()), ALL)
    assert error.failure is OriginFailure.TIMEOUT
    assert len(location.server.requests) == 2


async def test_pauses_between_retries_follow_the_backoff(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[int] = []

    def pause(attempt: int, jitter: float) -> float:
        assert 0 <= jitter < 1
        requests.append(attempt)
        return 0.0

    monkeypatch.setattr(fill_module, "backoff_s", pause)
    worker = location.worker(retries=3)
    origin = StubOrigin(broken(), broken(), broken(), [5, broken()])
    reader = uncached_reader(worker, Asset("k", "film", origin, "main", TtlRules()))
    assert await reader.read(ALL) == FILM.read(ALL)
    reader.close()
    assert requests == [1, 2, 3, 0]


async def test_cancelled_fill_releases_its_locks(location: Location) -> None:
    worker, other = location.worker(), location.worker()
    location.server.hold("film", at=STOP)
    reader = await worker.open(location.asset(), ALL)
    await reader.wait(Span(STOP - 1, STOP), eager=True)
    (task,) = worker.running_tasks
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reader.ready_end(0, FILM.size_bytes) == STOP
    assert worker.counts.gauges[Gauge.RUNNING_FILLS] == 0
    extent = location.extent(FILM.size_bytes)
    assert extent is not None
    assert extent.lock(Span(0, 11)) == Span(0, 11)
    other.store.close_extent(extent)
    await location.server.until(lambda: location.server.connections_open == 0)
    reader.close()


# --- locks and damage -----------------------------------------------------------------------


async def test_claim_begins_at_the_first_missing_and_free_byte(
    location: Location,
) -> None:
    worker = location.worker()
    reader = uncached_reader(worker, location.asset())
    owner = reader.open_object
    mine = owner.extent_to_fill(0)
    other = location.extent(FILM.size_bytes)
    assert other is not None
    other.write(0, FILM.read(Span(0, CHUNK_BYTES + 50)))  # after the fill was planned
    assert other.lock(Span(6, 8)) == Span(6, 8)
    fill = Fill(owner, Span(0, 11 * CHUNK_BYTES), 0)
    assert fill.claim()
    assert fill.span == Span(CHUNK_BYTES + 50, 6 * CHUNK_BYTES)
    assert fill.position == CHUNK_BYTES + 50
    assert other.lock(Span(0, 1)) == Span(0, 1)
    assert other.lock(Span(1, 2)).size == 0
    assert not Fill(owner, Span(6 * CHUNK_BYTES, 8 * CHUNK_BYTES), 0).claim()
    last = Fill(owner, Span(8 * CHUNK_BYTES, 11 * CHUNK_BYTES), 0)
    assert last.claim()
    assert last.span == Span(8 * CHUNK_BYTES, FILM.size_bytes)
    mine.unlock(Span(0, 11))
    worker.store.close_extent(other)
    reader.close()


async def test_torn_chunk_is_filled_from_its_start(location: Location) -> None:
    worker = location.worker()
    reader = uncached_reader(worker, location.asset())
    extent = reader.open_object.extent_to_fill(0)
    extent.write(0, FILM.read(Span(0, CHUNK_BYTES + 50)))
    set_word(extent, 1, 1, 1)
    assert await reader.read(ALL) == FILM.read(ALL)
    assert location.server.requests[0].span == Span(CHUNK_BYTES, FILM.size_bytes)
    reader.close()


async def test_damaged_chunk_stays_locked_while_it_is_filled(location: Location) -> None:
    """Checking a chunk of an earlier era must not release the lock that its fill holds."""
    worker = location.worker()
    reader = uncached_reader(worker, location.asset())
    extent = reader.open_object.extent_to_fill(0)
    extent.write(0, FILM.read(Span(0, 2 * CHUNK_BYTES)))
    set_word(extent, 1, 1, 1)
    for chunk in range(2):
        set_word(extent, chunk, 2, extent.era - 1)
    fill = Fill(reader.open_object, Span(0, 4 * CHUNK_BYTES), 0)
    assert fill.claim()
    assert fill.span == Span(CHUNK_BYTES, 4 * CHUNK_BYTES)
    other = location.extent(FILM.size_bytes)
    assert other is not None
    assert other.lock(Span(1, 2)).size == 0
    extent.unlock(Span(0, 11))
    worker.store.close_extent(other)
    reader.close()


# --- a disk that refuses --------------------------------------------------------------------


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Its one number is how many writes to disk succeed; then the disk is full."""
    left = [0]
    real = Extent.write

    def write(extent: Extent, position: int, data: bytes | memoryview) -> None:
        if extent.path:
            if left[0] == 0:
                raise OSError(errno.ENOSPC, "no space left")
            left[0] -= 1
        real(extent, position, data)

    monkeypatch.setattr(Extent, "write", write)
    return left


@pytest.mark.parametrize("writes", [0, 1, 2])
async def test_full_disk_is_replaced_by_memory(
    location: Location, full_disk: list[int], writes: int
) -> None:
    worker = location.worker()
    full_disk[0] = writes
    reader = await worker.open(location.asset(), ALL)
    assert await reader.read(ALL) == FILM.read(ALL)
    assert await reader.read(ALL) == FILM.read(ALL)
    extent = location.extent(FILM.size_bytes)
    assert extent is not None
    valid = [words_of(extent, chunk)[0] for chunk in range(11)]
    assert 0 <= sum(valid) < FILM.size_bytes
    assert (sum(valid) > 0) == (writes > 0)
    assert [extent.resume(chunk) for chunk in range(11)] == valid
    worker.store.close_extent(extent)
    assert worker.store.memory_extents == 1
    reader.close()
    assert worker.store.memory_extents == 0
    assert len(location.events("disk_write_failed")) == 1
    assert location.events("disk_recovered") == []
    # Once there is space, the missing bytes are fetched and stored.
    full_disk[0] = 1 << 30
    before = location.bytes_requested()
    assert await fetch(worker, location.asset(), ALL) == FILM.read(ALL)
    await fills_ended(worker)
    assert location.bytes_requested() - before <= FILM.size_bytes - sum(valid)
    assert len(location.events("disk_recovered")) == 1


async def test_memory_extents_are_limited_with_an_error(
    location: Location, full_disk: list[int]
) -> None:
    worker = location.worker()
    film = Pattern((MEMORY_EXTENTS_MAX + 2) * EXTENT_BYTES, seed=4)
    location.server.put("film", film)
    readers = [await worker.open(location.asset()) for _ in range(MEMORY_EXTENTS_MAX + 1)]
    for index, reader in enumerate(readers[:-1]):
        span = Span(index * EXTENT_BYTES, index * EXTENT_BYTES + 10)
        assert await reader.read(span) == film.read(span)
    last = Span(MEMORY_EXTENTS_MAX * EXTENT_BYTES, MEMORY_EXTENTS_MAX * EXTENT_BYTES + 10)
    with pytest.raises(CacheFullError):
        await readers[-1].read(last)
    readers.pop(2).close()
    assert await readers[-1].read(last) == film.read(last)
    for reader in readers:
        reader.close()
    assert worker.store.memory_extents == 0


async def test_memory_extent_is_freed_behind_its_reader(
    location: Location, full_disk: list[int]
) -> None:
    worker = location.worker()
    film = Pattern((MEMORY_EXTENTS_MAX + 2) * EXTENT_BYTES, seed=4)
    location.server.put("film", film)
    reader = await worker.open(location.asset())
    for index in range(MEMORY_EXTENTS_MAX + 2):
        span = Span(index * EXTENT_BYTES, index * EXTENT_BYTES + 10)
        assert await reader.read(span) == film.read(span)
        await fills_ended(worker)
    reader.close()


async def test_read_across_two_memory_extents_is_complete(
    location: Location, full_disk: list[int]
) -> None:
    worker = location.worker()
    film = Pattern(EXTENT_BYTES + 10 * CHUNK_BYTES, seed=4)
    location.server.put("film", film)
    span = Span(EXTENT_BYTES - 1000, EXTENT_BYTES + 1000)
    assert await fetch(worker, location.asset(), span) == film.read(span)


@pytest.mark.parametrize("size_bytes", [100, FILM.size_bytes])
async def test_cache_without_a_writable_folder_still_serves(
    tmp_path: Path, size_bytes: int
) -> None:
    root = tmp_path / "cache"
    root.write_text("a file where the folder should be")
    film = Pattern(size_bytes, seed=2)
    async with run_location(root) as location:
        location.server.put("film", film)
        worker = location.worker()
        for _ in range(2):
            assert await fetch(worker, location.asset(), Span(0, size_bytes)) == film.read(
                Span(0, size_bytes)
            )
            await fills_ended(worker)
        assert len(location.events("disk_write_failed")) == 1
        assert location.events("disk_recovered") == []
        assert location.server.body_bytes_sent == 2 * size_bytes


async def test_failed_unlock_of_a_full_disk_leaves_no_chunk_locked(
    location: Location, full_disk: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may need memory to release a part of a lock."""
    worker = location.worker(retries=0)
    real, failures = Extent.unlock, [OSError(errno.ENOLCK, "No locks available")]

    def unlock(extent: Extent, chunks: Span) -> None:
        if extent.path and chunks.size and failures:
            raise failures.pop()
        real(extent, chunks)

    reader = uncached_reader(worker, location.asset())
    monkeypatch.setattr(Extent, "unlock", unlock)
    with pytest.raises(CacheFullError, match="No locks available"):
        await reader.read(ALL)
    await fills_ended(worker)
    assert failures == []
    extent = location.extent(FILM.size_bytes)
    assert extent is not None
    assert extent.lock(Span(0, extent.chunks)) == Span(0, extent.chunks)
    extent.close()
    assert await reader.read(ALL) == FILM.read(ALL)  # in memory
    reader.close()


class StubPieces:
    """A response in pieces that end at ``cuts``."""

    def __init__(self, head: OriginHead, cuts: list[int]) -> None:
        self.head = head
        self.span = Span(0, cuts[-1])
        self.is_closed = False
        self._cuts = cuts

    async def pieces(self) -> AsyncIterator[bytes]:
        for start, end in pairwise([0, *self._cuts]):
            yield FILM.read(Span(start, end))

    async def close(self) -> None:
        self.is_closed = True


async def test_bytes_behind_a_failed_write_are_not_stored(
    location: Location, full_disk: list[int]
) -> None:
    worker = location.worker()
    reader = await worker.open(location.asset(), Span(0, 0))
    cuts = [CHUNK_BYTES, 2 * CHUNK_BYTES + 500, FILM.size_bytes]
    read = StubPieces(reader.head, cuts)
    full_disk[0] = 1  # the first chunk; the second is refused while 500 bytes of the third wait
    reader.open_object.adopt(read)
    await fills_ended(worker)
    assert read.is_closed
    assert reader.ready_end(0, FILM.size_bytes) == FILM.size_bytes
    assert reader.copy(ALL) == FILM.read(ALL)
    reader.close()


async def test_internal_error_of_a_fill_reaches_its_readers(location: Location) -> None:
    class DefectiveOrigin(StubOrigin):
        async def read(
            self,
            name: str,
            span: Span | None = None,
            *,
            if_match: Version | None = None,
            if_none_match: Version | None = None,
        ) -> OriginRead:
            raise RuntimeError("a defect")

    worker = location.worker(retries=0)
    reader = uncached_reader(worker, Asset("k", "film", DefectiveOrigin(), "main", TtlRules()))
    error = await failure_of(reader, ALL)
    assert "a defect" in str(error)
    assert "stopping" not in str(error)


async def test_fill_that_cannot_store_releases_its_chunks_to_another_worker(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, other = location.worker(retries=0), location.worker()

    def fail(*_arguments: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    def refuse(*_arguments: object) -> NoReturn:
        raise CacheFullError("no memory either")

    with monkeypatch.context() as patch:
        patch.setattr(Extent, "write", fail)
        patch.setattr(worker.store, "make_memory_extent", refuse)
        reader = uncached_reader(worker, location.asset())
        with pytest.raises(CacheFullError):
            await reader.read(ALL)
        reader.close()
        await fills_ended(worker)
    extent = location.extent(FILM.size_bytes)
    assert extent is not None
    free = extent.lock(Span(0, extent.chunks))
    assert free == Span(0, extent.chunks)
    extent.unlock(free)
    extent.close()
    assert await fetch(other, location.asset(), ALL) == FILM.read(ALL)


async def test_version_without_validators_is_kept_when_its_reader_leaves_at_the_last_byte(
    location: Location,
) -> None:
    location.server.put("film", FILM, etag="", last_modified_s=None)
    worker = location.worker()
    reader = await worker.open(location.asset(), ALL)
    failures: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    def leave(failure: object) -> None:
        reader.close()
        failures.set_result(failure)

    reader.when_ready(Span(FILM.size_bytes - 1, FILM.size_bytes), leave, eager=True)
    assert await failures is None
    await fills_ended(worker)
    requests = len(location.server.requests)
    again = await worker.open(location.asset(), ALL)
    assert await again.read(ALL) == FILM.read(ALL)
    again.close()
    assert len(location.server.requests) == requests

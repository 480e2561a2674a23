"""An operator's reads of cached bytes: what is cached, up to the first byte that is missing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streamedge.cache.storage.cached_bytes import CachedBytes
from streamedge.cache.storage.extent import CHUNK_BYTES, EXTENT_BYTES, HEADER_BYTES
from streamedge.cache.storage.inspection import CacheInspector
from streamedge.cache.storage.records import key_hash
from streamedge.spans import Span
from tests.support.http.location import Location, fetch, fills_ended, run_location
from tests.support.origins.scripted_origin import Pattern
from tests.support.patience import PATIENCE_S

FILM = Pattern(EXTENT_BYTES + 3 * CHUNK_BYTES + 10, seed=3)
SMALL = Pattern(5000, seed=4)
LIMIT_BYTES = 1 << 30


@pytest.fixture
async def location(cache_root: Path) -> AsyncIterator[Location]:
    async with run_location(cache_root) as location:
        location.server.put("film", FILM)
        location.server.put("small", SMALL)
        yield location


def open_cached(
    location: Location, name: str = "film", limit_bytes: int = LIMIT_BYTES
) -> CachedBytes:
    cached = CacheInspector(location.root).find(key_hash(location.asset(name).key).digest)
    assert cached is not None
    return CachedBytes(location.root, cached, limit_bytes)


async def test_reads_cross_extents_and_end_at_the_first_missing_byte(location: Location) -> None:
    worker = location.worker()
    last = EXTENT_BYTES + CHUNK_BYTES
    await fetch(worker, location.asset(), Span(EXTENT_BYTES - CHUNK_BYTES, last))
    await fills_ended(worker)
    requests = len(location.server.requests)
    film = open_cached(location)
    start = EXTENT_BYTES - CHUNK_BYTES
    across = Span(EXTENT_BYTES - 100, EXTENT_BYTES + 100)
    assert film.read(across) == FILM.read(across)
    assert not film.is_cut
    assert film.read(Span(start - 10, start + 10)) == b""
    assert film.is_cut
    film.close()
    assert len(location.server.requests) == requests


async def test_limit_closing_and_eviction_end_reads(location: Location) -> None:
    await fetch(location.worker(), location.asset(), Span(0, FILM.size_bytes))
    limited = open_cached(location, limit_bytes=1000)
    assert limited.read(Span(0, 2000)) == FILM.read(Span(0, 1000))
    assert limited.is_cut
    limited.close()
    film = open_cached(location)
    assert film.read(Span(0, 10)) == FILM.read(Span(0, 10))
    film.close()
    film.close()
    assert film.read(Span(0, 10)) == b""
    evicted = open_cached(location)
    for path in location.root.glob("extents/*/*"):
        path.unlink()
    assert evicted.read(Span(0, 10)) == b""
    evicted.close()


def open_extents(location: Location) -> list[str]:
    """The extents of which this process has a descriptor."""
    paths = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            paths.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in paths if path.startswith(str(location.root / "extents"))]


async def test_closing_does_not_wait_for_a_read_which_closes_the_files_at_its_end(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = location.worker()
    await fetch(worker, location.asset(), Span(0, FILM.size_bytes))
    await fills_ended(worker)
    before = sorted(open_extents(location))
    begun, go_on = threading.Event(), threading.Event()
    pread = os.pread

    def read_slowly(fd: int, size_bytes: int, offset: int) -> bytes:
        if offset >= HEADER_BYTES:
            begun.set()
            go_on.wait(PATIENCE_S)
        return pread(fd, size_bytes, offset)

    film = open_cached(location)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", read_slowly)
        reading = asyncio.ensure_future(asyncio.to_thread(film.read, Span(0, FILM.size_bytes)))
        assert await asyncio.to_thread(begun.wait, PATIENCE_S)
        film.close()  # in this thread, in which the read could never go on
        assert not reading.done()
        assert len(open_extents(location)) > len(before)
        go_on.set()
        assert await reading == FILM.read(Span(0, EXTENT_BYTES))
    assert sorted(open_extents(location)) == before


async def test_lack_of_descriptors_is_not_taken_for_a_missing_file(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = location.worker()
    await fetch(worker, location.asset(), Span(0, 100))
    await fetch(worker, location.asset("small"), Span(0, SMALL.size_bytes))
    await fills_ended(worker)
    film, small = open_cached(location), open_cached(location, "small")

    def refuse(*_arguments: object, **_options: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        patch.setattr(Path, "read_bytes", refuse)
        for one in (film, small):
            with pytest.raises(OSError, match="Too many"):
                one.read(Span(0, 10))
    assert film.read(Span(0, 10)) == FILM.read(Span(0, 10))
    assert small.read(Span(0, 10)) == SMALL.read(Span(0, 10))
    assert not film.is_cut
    film.close()
    small.close()


async def test_small_object_is_read_from_its_record_unless_it_is_damaged(
    location: Location,
) -> None:
    await fetch(location.worker(), location.asset("small"), Span(0, SMALL.size_bytes))
    small = open_cached(location, "small")
    assert small.read(Span(10, 4000)) == SMALL.read(Span(10, 4000))
    small.close()
    damaged = open_cached(location, "small")
    digest = key_hash(location.asset("small").key).digest
    path = location.root / "assets" / digest[:2] / digest
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert damaged.read(Span(0, 10)) == b""
    damaged.close()

"""Posters of films in the cache: made of cached bytes alone, within limits."""

from __future__ import annotations

import errno
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import av
import pytest

from streamedge.cache.storage.extent import CHUNK_BYTES
from streamedge.cache.storage.inspection import CachedObject, CacheInspector, RangeState
from streamedge.cache.storage.records import key_hash
from streamedge.media import posters as posters_module
from streamedge.media.containers import process as process_module
from streamedge.media.containers.process import HelperLimits
from streamedge.media.posters import HELPER_MODULE, PosterError, Posters, PostersBusyError, is_film
from streamedge.media.sniffing import FileKind
from streamedge.spans import Span
from tests.support.http.location import Location, fetch, fills_ended, run_location
from tests.support.media.container_samples import container_file

ROOT = Path(__file__).parents[2]
LIMITS = HelperLimits(1, 512 << 20, 30.0)
MP4S = ("film.mp4", "film-moov-last.mp4", "hevc", "av1-opus", "vp9-ac3", "fragmented", "film.flv")
BROKEN_HELPER = "tests.support.media.broken_helper"

Failure = tuple[str, str, str]


@pytest.fixture
async def location(cache_root: Path) -> AsyncIterator[Location]:
    async with run_location(cache_root) as location:
        yield location


def inspected(location: Location, name: str) -> CachedObject:
    cached = CacheInspector(location.root).find(key_hash(location.asset(name).key).digest)
    assert cached is not None
    return cached


async def cache_film(
    location: Location, name: str, data: bytes, span: Span | None = None
) -> CachedObject:
    """Puts a film at the origin, and all of it or a span into the cache."""
    location.server.put(name, data, content_type="video/mp4")
    worker = location.workers[0] if location.workers else location.worker()
    await fetch(worker, location.asset(name), span or Span(0, len(data)))
    await fills_ended(worker)
    return inspected(location, name)


def posters_of(
    location: Location, failures: list[Failure] | None = None, module: str = HELPER_MODULE
) -> Posters:
    reports: list[Failure] = [] if failures is None else failures
    return Posters(location.root, LIMITS, lambda *one: reports.append(one), module=module)


def size_of(jpeg: bytes) -> tuple[int, int]:
    """Width and height of a picture that can be decoded."""
    with av.open(io.BytesIO(jpeg), "r", format="jpeg_pipe") as container:
        frame = next(container.decode(video=0))
        return frame.width, frame.height


@pytest.mark.parametrize("name", MP4S)
async def test_film_has_a_poster(
    location: Location, media: Callable[[str], bytes], name: str
) -> None:
    posters = posters_of(location)
    cached = await cache_film(location, name, media(name))
    requests = len(location.server.requests)
    width, height = size_of(await posters.poster(cached))
    assert 2 <= width <= 160
    assert 2 <= height <= 90
    assert len(location.server.requests) == requests
    await posters.close()


@pytest.mark.parametrize("name", ["film.webm", "film.ts", "av1.mkv"])
async def test_container_file_has_a_poster(location: Location, name: str) -> None:
    posters = posters_of(location)
    cached = await cache_film(location, name, container_file(name))
    assert size_of(await posters.poster(cached)) > (1, 1)
    await posters.close()


async def test_poster_waits_for_the_bytes_that_it_needs_and_requests_none(
    location: Location, media: Callable[[str], bytes]
) -> None:
    posters = posters_of(location)
    data = bytes(media("film.mp4"))
    data += (8 + 3 * CHUNK_BYTES).to_bytes(4, "big") + b"free" + bytes(3 * CHUNK_BYTES)
    cached = await cache_film(location, "film", data, Span(len(data) - 100, len(data)))
    requests = len(location.server.requests)
    for _attempt in range(2):
        with pytest.raises(PosterError, match="not cached"):
            await posters.poster(cached)
    assert len(location.server.requests) == requests
    cached = await cache_film(location, "film", data)
    assert await posters.poster(cached)
    await posters.close()


async def test_film_has_a_poster_once_its_bytes_are_checked(
    location: Location, media: Callable[[str], bytes]
) -> None:
    posters = posters_of(location)
    checked = await cache_film(location, "film.mp4", media("film.mp4"))
    ranges = tuple(one._replace(state=RangeState.UNCHECKED) for one in checked.ranges)
    with pytest.raises(PosterError, match="not cached"):
        await posters.poster(replace(checked, ranges=ranges))
    assert await posters.poster(checked)
    await posters.close()


async def test_what_is_no_film_has_no_poster(
    location: Location, media: Callable[[str], bytes]
) -> None:
    posters = posters_of(location)
    song = await cache_film(location, "song.mp4", media("song.m4a"))
    with pytest.raises(PosterError, match="no video that can be decoded"):
        await posters.poster(song)
    text = await cache_film(location, "text.mp4", b"hello " * 1000)
    with pytest.raises(PosterError, match="no film that the edge knows"):
        await posters.poster(text)
    location.server.put("page.html", b"<p>", content_type="text/html")
    await fetch(location.workers[0], location.asset("page.html"), Span(0, 3))
    assert not is_film(inspected(location, "page.html"))
    assert is_film(song)
    await posters.close()


async def test_helper_that_breaks_off_is_reported_and_its_film_is_refused(
    location: Location, media: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    failures: list[Failure] = []
    cached = await cache_film(location, "film.mp4", media("film.mp4"))
    for mode, reason in (("crash", "crash"), ("grow", "memory"), ("read_too_much", "crash")):
        monkeypatch.setattr(posters_module, "FORMATS", dict.fromkeys(FileKind, mode))
        failures.clear()
        posters = posters_of(location, failures, module=BROKEN_HELPER)
        for _attempt in range(2):
            with pytest.raises(PosterError, match="cannot be read"):
                await posters.poster(cached)
        ((_name, reported, _text),) = failures
        assert reported == reason
        await posters.close()


async def test_film_that_broke_a_helper_gets_another_one_later(
    location: Location, media: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(posters_module, "FORMATS", dict.fromkeys(FileKind, "crash"))
    monkeypatch.setattr(process_module, "FAILED_S", 0.0)
    failures: list[Failure] = []
    cached = await cache_film(location, "film.mp4", media("film.mp4"))
    posters = posters_of(location, failures, module=BROKEN_HELPER)
    for attempt in (1, 2):
        with pytest.raises(PosterError, match="cannot be read"):
            await posters.poster(cached)
        assert len(failures) == attempt
    await posters.close()


async def test_poster_is_refused_while_no_helper_can_be_started_and_made_later(
    location: Location, media: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[Failure] = []
    posters = posters_of(location, failures)
    cached = await cache_film(location, "film.mp4", media("film.mp4"))

    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    for place in ("containers.process.subprocess.Popen", "posters.CachedBytes.read"):
        with monkeypatch.context() as patch:
            patch.setattr(f"streamedge.media.{place}", refuse)
            for _attempt in range(2):
                with pytest.raises(PostersBusyError):
                    await posters.poster(cached)
    ((_name, reason, detail),) = failures
    assert (reason, detail) == ("start", "[Errno 12] Cannot allocate memory")
    assert await posters.poster(cached)
    await posters.close()


async def test_without_the_extra_there_is_no_poster(
    location: Location, media: Callable[[str], bytes]
) -> None:
    cached = await cache_film(location, "film.mp4", media("film.mp4"))
    posters = Posters(location.root, LIMITS, lambda *_one: None, is_available=lambda: False)
    with pytest.raises(PosterError, match=r"streamedge\[media\]"):
        await posters.poster(cached)
    await posters.close()


async def test_posters_in_memory_are_bounded(
    location: Location, media: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    posters = posters_of(location)
    first = await cache_film(location, "film.mp4", media("film.mp4"))
    second = await cache_film(location, "film.flv", media("film.flv"))
    size_bytes = len(await posters.poster(first))
    monkeypatch.setattr(posters_module, "POSTERS_BYTES", size_bytes + 2 * 512)
    await posters.poster(second)
    assert posters.memory_bytes <= size_bytes + 2 * 512
    assert await posters.poster(first)
    await posters.close()

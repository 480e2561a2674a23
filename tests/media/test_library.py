"""streamedge/media/library.py: the kind of an object, and one index for all its viewers."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path

import pytest

from streamedge.cache.objects import Cache
from streamedge.cache.reader import CacheResult
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.records import Asset
from streamedge.errors import CacheFullError, MediaError, MediaFault, OriginError, OriginFailure
from streamedge.media.flv.layout import FlvLayout
from streamedge.media.flv.medium import FlvMedium
from streamedge.media.library import MediaLibrary
from streamedge.media.medium import End, Medium, NeedData, Run
from streamedge.media.mp3.medium import Mp3Medium
from streamedge.media.track_choice import TrackChoice
from streamedge.origin.http.origin import HttpOrigin
from tests.media.test_packager import edge_of
from tests.support.media.multitrack import multitrack_film
from tests.support.origins.scripted_origin import Reply
from tests.support.patience import PATIENCE_S
from tests.support.rtmp.rtmp_media import avc_mp4, keyframe, sample_file

Media = Callable[[str], bytes]
MOOV_BYTES = 1 << 20


def titles_of(
    cache: Cache, *, memory_bytes: int = 64 << 20, moov_bytes: int = MOOV_BYTES
) -> MediaLibrary:
    return MediaLibrary(
        cache, memory_bytes=memory_bytes, index_bytes=memory_bytes, moov_bytes=moov_bytes
    )


def asset(origin: HttpOrigin, name: str, ttl_s: float = 3600) -> Asset:
    return Asset(f"site\n{name}", name, origin, "site", TtlRules(default_ttl_s=ttl_s))


@pytest.mark.parametrize(
    ("name", "kind", "has_video", "enhanced"),
    [
        ("film.mp4", FlvMedium, True, set()),
        ("film-moov-last.mp4", FlvMedium, True, set()),
        ("film.flv", FlvMedium, True, set()),
        ("song.m4a", FlvMedium, False, set()),
        ("song.mp3", Mp3Medium, False, set()),
        ("aac-in-mov", FlvMedium, True, set()),
        ("av1-opus", FlvMedium, True, {"av01", "Opus"}),
        ("hevc", FlvMedium, True, {"hvc1"}),
    ],
)
async def test_first_bytes_decide_the_kind_of_file(
    media: Media, cache_root: Path, name: str, kind: type, has_video: bool, enhanced: set[str]
) -> None:
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("no.extension", media(name))
        titles = titles_of(cache)
        medium: Medium = await titles.open(asset(origin, "no.extension"))
        assert type(medium) is kind
        assert medium.name == "no.extension"
        assert medium.result is CacheResult.MISS
        assert medium.head.has_video == has_video
        assert medium.head.enhanced == enhanced
        assert medium.head.duration_ms > 1_000
        medium.close()
        again = await titles.open(asset(origin, "no.extension"))
        assert again.result is CacheResult.HIT
        assert again.head is medium.head or kind is Mp3Medium
        again.close()
        await titles.close()


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", MediaFault.STRUCTURE_INVALID),
        (b"plain text", MediaFault.STRUCTURE_INVALID),
        (b"\0\0\0\x08free" * 3, MediaFault.STRUCTURE_INVALID),
        (b"FLV", MediaFault.STRUCTURE_INVALID),
        (b"ID3\4\0\0\0\0\0\0" + bytes(5000), MediaFault.STRUCTURE_INVALID),
        ("unsupported", MediaFault.NO_SUPPORTED_TRACK),
    ],
)
async def test_file_of_another_kind_is_refused(
    media: Media, cache_root: Path, data: bytes | str, fault: MediaFault
) -> None:
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("file", media(data) if isinstance(data, str) else data)
        titles = titles_of(cache)
        for _ in range(2):
            with pytest.raises(MediaError) as refused:
                await titles.open(asset(origin, "file"))
            assert refused.value.fault is fault
        assert all(version.idle for version in cache.open_versions)


async def played_bytes(medium: Medium) -> int:
    """The bytes of all runs of a medium."""
    mark, count = await medium.locate(0), 0
    async with asyncio.timeout(PATIENCE_S):
        while True:
            run = medium.next_run(mark, 1000, None)
            if isinstance(run, End):
                return count
            if isinstance(run, NeedData):
                came: asyncio.Future[object] = asyncio.get_running_loop().create_future()
                medium.when_ready(run.span, came.set_result)
                assert await came is None
                continue
            if isinstance(run, Run):
                count += run.span.size
            mark = run.following


@pytest.mark.parametrize("name", ["film.mp4", "film-moov-last.mp4", "song.mp3"])
@pytest.mark.parametrize("control", ["no-store", "private", "max-age=0", "max-age=60"])
@pytest.mark.parametrize("etag", ['"1"', 'W/"1"', ""])
async def test_unstorable_object_plays_to_its_end(
    media: Media, cache_root: Path, name: str, control: str, etag: str
) -> None:
    """Each play gets one whole version, even if the origin cannot resume a response."""
    async with edge_of(cache_root) as (server, cache, origin):
        cache.quick_abort_bytes = 0  # a fill without readers ends
        fields = (("Cache-Control", control),)
        server.put("film", media(name), etag=etag, last_modified_s=None, headers=fields)
        titles = titles_of(cache)
        played = []
        for _play in range(2):
            before = len(server.requests)
            medium = await titles.open(asset(origin, "film"))
            played.append(await played_bytes(medium))
            medium.close()
            assert (len(server.requests) == before) == (control == "max-age=60" and _play == 1)
        assert played[0] == played[1] > len(media(name)) * 0.9
        await titles.close()


@pytest.mark.parametrize("coding", ["gzip", "BR", "aws-chunked, gzip"])
async def test_object_in_a_content_coding_is_refused_by_the_codings_name(
    cache_root: Path, coding: str
) -> None:
    async with edge_of(cache_root) as (server, cache, origin):
        fields = (("Content-Encoding", coding),)
        server.put("film.mp4", avc_mp4([keyframe()] * 10, 40), headers=fields)
        with pytest.raises(MediaError, match=r"(?i)Content-Encoding (gzip|br)") as refused:
            await titles_of(cache).open(asset(origin, "film.mp4"))
        assert refused.value.fault is MediaFault.CODED


@pytest.mark.parametrize("coding", ["utf-8", "aws-chunked", "identity"])
async def test_object_with_a_meaningless_coding_is_played(cache_root: Path, coding: str) -> None:
    async with edge_of(cache_root) as (server, cache, origin):
        fields = (("Content-Encoding", coding),)
        server.put("film.mp4", avc_mp4([keyframe()] * 10, 40), headers=fields)
        (await titles_of(cache).open(asset(origin, "film.mp4"))).close()


async def test_index_over_the_limit_is_not_read(cache_root: Path) -> None:
    data = avc_mp4([keyframe()] * 1000, 40)
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mp4", data)
        with pytest.raises(MediaError):
            await titles_of(cache, moov_bytes=2000).open(asset(origin, "film.mp4"))


async def test_faults_are_reported_once(media: Media, cache_root: Path) -> None:
    data = media("film.mp4")  # its index is at the start
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mp4", data[: len(data) * 9 // 10])
        reported: list[tuple[str, tuple[str, ...]]] = []
        titles = MediaLibrary(
            cache, memory_bytes=64 << 20, index_bytes=64 << 20, moov_bytes=MOOV_BYTES,
            report=lambda name, faults: reported.append((name, faults)),
        )  # fmt: skip
        for _ in range(2):
            medium = await titles.open(asset(origin, "film.mp4"))
            assert medium.head.has_video
            medium.close()
        ((name, faults),) = reported
        assert name == "film.mp4"
        assert all("lie past the file's end" in fault for fault in faults)
        await titles.close()


async def test_concurrent_opens_build_one_index(media: Media, cache_root: Path) -> None:
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mp4", media("film.mp4"))
        server.hold("film.mp4", at=1000)
        titles = titles_of(cache)
        opening = [asyncio.ensure_future(titles.open(asset(origin, "film.mp4"))) for _ in range(9)]
        await server.until(lambda: server.body_bytes_sent == 1000)
        # The first one is cancelled; the others still get the index.
        opening.pop(0).cancel()
        server.release("film.mp4")
        media_opened = await asyncio.gather(*opening)
        assert len({id(medium.head) for medium in media_opened}) == 1
        for medium in media_opened:
            medium.close()
        assert len(server.requests) <= 2
        assert all(version.idle or version.fills for version in cache.open_versions)


async def test_new_version_has_a_new_index(media: Media, cache_root: Path) -> None:
    async with edge_of(cache_root) as (server, cache, origin):
        titles = titles_of(cache)
        lengths = []
        for etag, name in (('"1"', "film.mp4"), ('"2"', "song.m4a")):
            server.put("film", media(name), etag=etag)
            medium = await titles.open(asset(origin, "film", ttl_s=0))
            lengths.append(round(medium.head.duration_ms, -3))
            medium.close()
        assert lengths == [20_000, 30_000]


async def test_each_choice_of_tracks_is_cached_by_itself(cache_root: Path) -> None:
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film", multitrack_film())
        titles = titles_of(cache)
        counts = []
        for choice in (
            TrackChoice(), TrackChoice("0"), TrackChoice("deu"),
            TrackChoice("1"), TrackChoice("eng"), TrackChoice("fra"),
            TrackChoice(is_multitrack=True),
        ):  # fmt: skip
            (await titles.open(asset(origin, "film"), choice)).close()
            keys = {version.asset.key for version in cache.open_versions}
            counts.append(len(keys - {asset(origin, "film").key}))
        assert counts == [1, 1, 1, 2, 2, 3, 4]


async def test_wrong_choice_is_not_cached_as_an_index(cache_root: Path) -> None:
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film", multitrack_film())
        server.put("song", sample_file("song.mp3"))
        titles = titles_of(cache)
        for name in ("film", "song"):
            with pytest.raises(MediaError) as failed:
                await titles.open(asset(origin, name), TrackChoice("spa"))
            assert failed.value.fault is MediaFault.NO_SUCH_TRACK
        assert titles.memory_bytes == 0
        assert all(version.idle or version.fills for version in cache.open_versions)


async def test_memory_is_limited_and_the_least_recently_used_index_is_dropped(
    media: Media, cache_root: Path
) -> None:
    async with edge_of(cache_root) as (server, cache, origin):
        titles = titles_of(cache, memory_bytes=300_000)
        for number in range(8):
            server.put(f"film{number}", media("film.mp4"))
            (await titles.open(asset(origin, f"film{number}"))).close()
            (await titles.open(asset(origin, "film0"))).close()
            assert titles.memory_bytes <= 300_000
        requests_before = len(server.requests)
        (await titles.open(asset(origin, "film0"))).close()
        assert len(server.requests) == requests_before
        # The cached bytes of a packaged version do not count as an index.
        gc.collect()
        layouts = [each for each in gc.get_objects() if isinstance(each, FlvLayout)]
        assert sum(layout.memory_size_bytes for layout in layouts) <= 300_000


async def test_playing_index_counts_against_the_limit_until_it_ends(
    media: Media, cache_root: Path
) -> None:
    async with edge_of(cache_root) as (server, cache, origin):
        for number in range(20):
            server.put(f"film{number}", media("film.mp4"))
        titles = titles_of(cache, memory_bytes=300_000)
        playing: list[Medium] = []
        try:
            for number in range(20):
                playing.append(await titles.open(asset(origin, f"film{number}")))  # noqa: PERF401
        except CacheFullError as exc:
            assert "limits.titles" in str(exc)  # noqa: PT017
        assert 2 <= len(playing) < 20
        assert titles.memory_bytes <= 300_000
        titles.drop_indexes()  # running plays continue, and count
        assert titles.memory_bytes > 100_000
        with pytest.raises(CacheFullError):
            await titles.open(asset(origin, "film19"))
        for medium in playing:
            medium.close()
            medium.close()
        assert titles.memory_bytes == 0
        (await titles.open(asset(origin, "film19"))).close()


async def test_dropped_layout_is_built_again_for_packaging(media: Media, cache_root: Path) -> None:
    data = media("film.mp4")
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mp4", data)
        titles = titles_of(cache)
        medium = await titles.open(asset(origin, "film.mp4"))
        titles.drop_indexes()
        mark, sent = await medium.locate(0), 0
        while not isinstance(run := medium.next_run(mark, 1000, None), End):
            if isinstance(run, Run):
                mark, sent = run.following, sent + run.span.size
                continue
            assert isinstance(run, NeedData)
            ready = asyncio.get_running_loop().create_future()
            cancel = medium.when_ready(run.span, ready.set_result)
            assert await asyncio.wait_for(ready, PATIENCE_S) is None
            cancel()
        assert sent > len(data) * 0.9
        medium.close()
        await titles.close()


async def test_cancelled_waiter_leaves_no_lease_on_the_index(
    media: Media, cache_root: Path
) -> None:
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mp4", media("film.mp4"))
        server.hold("film.mp4", at=1000)
        titles = titles_of(cache)
        opening = [asyncio.ensure_future(titles.open(asset(origin, "film.mp4"))) for _ in range(3)]
        await server.until(lambda: server.body_bytes_sent == 1000)
        for each in opening:
            each.cancel()
        server.release("film.mp4")
        await asyncio.gather(*opening, return_exceptions=True)
        (await titles.open(asset(origin, "film.mp4"))).close()
        assert titles.memory_bytes > 0
        titles.drop_indexes()
        assert titles.memory_bytes == 0


@pytest.mark.parametrize(
    ("status", "times", "failure"),
    [(404, 1, OriginFailure.NOT_FOUND), (503, 2, OriginFailure.UNAVAILABLE)],
)
async def test_failure_of_the_origin_is_raised(
    media: Media, cache_root: Path, status: int, times: int, failure: OriginFailure
) -> None:
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mp4", media("film-moov-last.mp4"))
        titles = titles_of(cache)
        server.script(Reply(), times=1)
        server.script(Reply(status=status), times=times)  # the index after the media
        with pytest.raises(OriginError) as failed:
            await titles.open(asset(origin, "film.mp4"))
        assert failed.value.failure is failure
        assert all(version.idle for version in cache.open_versions)
        (await titles.open(asset(origin, "film.mp4"))).close()

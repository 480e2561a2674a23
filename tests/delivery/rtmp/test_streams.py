"""streamedge/delivery/rtmp/streams.py: distributions, names and refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from streamedge.access.admission import AccessRules
from streamedge.access.geo import CountryDatabase
from streamedge.cache.objects import Cache
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.store import Store
from streamedge.delivery.hosts import HostTable, OriginBinding
from streamedge.delivery.rtmp.protocol.events import Connect
from streamedge.delivery.rtmp.stream_access import Client, Rejection
from streamedge.delivery.rtmp.stream_names import ApplicationMatch
from streamedge.delivery.rtmp.streams import (
    Admission,
    RefusalError,
    RtmpDistribution,
    StreamResolver,
    refusal_of,
    tc_url_host,
)
from streamedge.errors import (
    CacheFullError,
    MediaError,
    MediaFault,
    OriginError,
    OriginFailure,
)
from streamedge.keys import join_key
from streamedge.media.library import MediaLibrary
from streamedge.media.medium import MediumHead
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counts
from streamedge.origin.http.origin import HttpOrigin
from tests.support.event_loop import until
from tests.support.media.multitrack import multitrack_film
from tests.support.origins.scripted_origin import Reply, ScriptedOrigin
from tests.support.rtmp.rtmp_media import sample_file

OPEN = AccessRules()


class Streams:
    """A StreamResolver of distributions over one scripted origin."""

    def __init__(self, server: ScriptedOrigin, cache: Cache, origin: HttpOrigin) -> None:
        self.server = server
        self.cache = cache
        binding = OriginBinding("site", "http site", origin, origin)
        self.distributions = [
            RtmpDistribution(id, (alias,), binding, TtlRules(), (application,), strict, OPEN)
            for id, alias, application, strict in (
                ("EFILM", "film.example", "cfx/st", False),
                ("ESTRICT", "film.example", "strict", True),
                ("EBELOW", "*.example", "below", False),
            )
        ]
        titles = MediaLibrary(
            cache, memory_bytes=64 << 20, index_bytes=64 << 20, moov_bytes=1 << 20
        )
        self.streams = StreamResolver(HostTable(self.distributions), titles, CountryDatabase(None))

    async def open(
        self, name: str, *announced: str, strict: bool = False, capabilities: int = 0
    ) -> str:
        """The object that a name means."""
        return (await self.open_head(name, *announced, strict=strict, capabilities=capabilities))[0]

    async def open_head(
        self, name: str, *announced: str, strict: bool = False, capabilities: int = 0
    ) -> tuple[str, MediumHead]:
        """The object that a name means, and the head of its medium."""
        distribution = self.distributions[strict]
        tc_url = connect("rtmp://film.example/cfx/st", "cfx/st")
        client = Client(replace(tc_url, capabilities_ex=capabilities), "127.0.0.1")
        admission = Admission(distribution, ApplicationMatch("cfx/st"), client)
        medium = await self.streams.open(admission, name, frozenset(announced))
        medium.close()
        return medium.name, medium.head

    def is_idle(self) -> bool:
        """Whether no reader is open."""
        return all(not version.reader_count for version in self.cache.open_versions)


@pytest.fixture
async def streams(cache_root: Path) -> AsyncIterator[Streams]:
    async with ScriptedOrigin() as server:
        origin = HttpOrigin(server.url)
        log = open_log(str(cache_root.parent / "log"), "test")
        cache = Cache(Store(cache_root, 0, log), log, Counts(), open_extents=64, retries=0)
        yield Streams(server, cache, origin)
        await cache.close()
        await origin.close()


def connect(tc_url: str, app: str) -> Connect:
    return Connect(1.0, app, tc_url, "", "", "", (), {}, {}, 0, {})


@pytest.mark.parametrize(
    ("tc_url", "app", "expected"),
    [
        ("rtmp://film.example/cfx/st", "cfx/st", ("EFILM", "")),
        ("rtmp://film.example:1935/cfx/st/dir", "cfx/st/dir", ("EFILM", "dir")),
        ("rtmp://FILM.example./strict", "strict", ("ESTRICT", "")),
        ("rtmp://film.example/below", "below", ("EBELOW", "")),
        ("rtmp://other.example/below", "below", ("EBELOW", "")),
    ],
)
async def test_client_is_admitted_to_the_distribution_of_its_host(
    streams: Streams, tc_url: str, app: str, expected: tuple[str, str]
) -> None:
    admission = streams.streams.admit(Client(connect(tc_url, app), "127.0.0.1"))
    assert isinstance(admission, Admission)
    assert (admission.distribution.id, admission.match.folder) == expected


@pytest.mark.parametrize(
    ("tc_url", "app", "word"),
    [
        ("rtmp://film.example/live", "live", "InvalidInstance"),
        ("rtmp://other.example/cfx/st", "cfx/st", "InvalidInstance"),
        ("rtmp://elsewhere/cfx/st", "cfx/st", "DistributionNotFound"),
        ("", "cfx/st", "DistributionNotFound"),
        ("nonsense", "cfx/st", "DistributionNotFound"),
    ],
)
async def test_client_of_no_distribution_is_rejected(
    streams: Streams, tc_url: str, app: str, word: str
) -> None:
    rejection = streams.streams.admit(Client(connect(tc_url, app), "127.0.0.1"))
    assert isinstance(rejection, Rejection)
    assert (rejection.code, rejection.word) == ("NetConnection.Connect.InvalidApp", word)
    assert rejection.reason == f"{word}: application {app!r} of {tc_url!r}"


@pytest.mark.parametrize(
    ("tc_url", "host"),
    [
        ("rtmp://a.example:1935/vod", "a.example:1935"),
        ("rtmp://[::1]:1935/vod", "[::1]:1935"),
        ("rtmp://a.example", "a.example"),
        ("a.example/vod", ""),
        ("", ""),
    ],
)
def test_host_is_read_from_tc_url(tc_url: str, host: str) -> None:
    assert tc_url_host(tc_url) == host


async def test_likeliest_existing_object_is_opened(streams: Streams) -> None:
    streams.server.put("film.mp4", sample_file("film.mp4"))
    streams.server.put("film.flv", sample_file("film.flv"))
    streams.server.put("song.mp3", sample_file("song.mp3"))
    streams.server.put("bare", sample_file("film.mp4"))
    assert await streams.open("film") == "film.flv"
    assert await streams.open("mp4:film") == "film.mp4"
    assert await streams.open("mp3:song") == "song.mp3"
    assert await streams.open("song") == "song.mp3"
    assert await streams.open("bare") == "bare"
    assert await streams.open("mp4:bare") == "bare"
    # The opens of less likely objects are cancelled.
    await until(streams.is_idle)


async def test_stalled_candidate_does_not_delay_the_likeliest_one(
    streams: Streams,
) -> None:
    streams.server.put("film.mp4", sample_file("film.mp4"))
    streams.server.put("film.flv", sample_file("film.flv"))
    streams.server.hold("film.mp4")
    assert await streams.open("film") == "film.flv"
    streams.server.release("film.mp4")


async def test_object_of_a_name_is_remembered(streams: Streams) -> None:
    streams.server.put("song.mp3", sample_file("song.mp3"))
    assert await streams.open("song") == "song.mp3"
    requests_before = len(streams.server.requests)
    assert await streams.open("song") == "song.mp3"
    assert len(streams.server.requests) == requests_before  # no second request to the origin
    # A deleted object is searched again.
    streams.server.remove("song.mp3")
    streams.server.put("song.flv", sample_file("film.flv"))
    for name in ("song.mp3", "song.flv"):  # the deleted object, and the one that was missing
        streams.cache.store.forget_record(join_key("http site", name))
    streams.cache.drop_all()
    assert await streams.open("song") == "song.flv"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("", "NetStream.Play.StreamNotFound"),
        ("../film.mp4", "NetStream.Play.StreamNotFound"),
        ("nothing", "NetStream.Play.StreamNotFound"),
        ("nothing.mp4", "NetStream.Play.StreamNotFound"),
        ("text.mp4", "NetStream.Play.FileStructureInvalid"),
        ("mjpeg.mov", "NetStream.Play.NoSupportedTrackFound"),
    ],
)
async def test_unplayable_name_is_refused_with_its_code(
    streams: Streams, name: str, code: str
) -> None:
    streams.server.put("text.mp4", b"text" * 100)
    streams.server.put("mjpeg.mov", sample_file("unsupported"))
    with pytest.raises(RefusalError) as refused:
        await streams.open(name)
    assert refused.value.code == code
    assert streams.is_idle()


async def test_failing_origin_outranks_a_missing_object(streams: Streams) -> None:
    # The origin fails for one of four candidates: the stream may exist.
    streams.server.script(Reply(status=503), times=1)
    with pytest.raises(RefusalError) as refused:
        await streams.open("film")
    assert refused.value.code == "NetStream.Play.Failed"
    with pytest.raises(RefusalError) as refused:
        await streams.open("film")
    assert refused.value.code == "NetStream.Play.StreamNotFound"


async def test_strict_distribution_requires_announced_codecs(streams: Streams) -> None:
    streams.server.put("film.mp4", sample_file("av1-opus"))
    assert await streams.open("film.mp4") == "film.mp4"
    for announced in ((), ("av01",), ("hvc1", "Opus")):
        with pytest.raises(RefusalError) as refused:
            await streams.open("film.mp4", *announced, strict=True)
        assert refused.value.code == "NetStream.Play.Failed"
        assert refused.value.kind == "codec_not_announced"
        assert streams.is_idle()
    assert "Opus" in str(refused.value) or "av01" in str(refused.value)
    assert await streams.open("film.mp4", "av01", "Opus", strict=True) == "film.mp4"
    assert await streams.open("film.mp4", "*", strict=True) == "film.mp4"


async def test_strict_distribution_sends_one_track_if_the_codecs_of_others_were_not_announced(
    streams: Streams,
) -> None:
    streams.server.put("film.mp4", multitrack_film())
    for announced, tracks in (((), set()), (("mp4a",), {"mp4a"}), (("*",), {"mp4a"})):
        _, head = await streams.open_head("film.mp4", *announced, strict=True, capabilities=2)
        assert head.multitrack == tracks
        assert bool(head.track_maps) == bool(tracks)
        assert streams.is_idle()


@pytest.mark.parametrize(
    ("capabilities", "has_all"), [(0, False), (1, False), (2, True), (7, True)]
)
async def test_clients_that_announce_multitrack_get_all_tracks(
    streams: Streams, capabilities: int, has_all: bool
) -> None:
    streams.server.put("film.mp4", multitrack_film())
    _, head = await streams.open_head("film.mp4", capabilities=capabilities)
    assert bool(head.multitrack) == has_all
    _, head = await streams.open_head("film.mp4?audio=en", capabilities=capabilities)
    assert not head.multitrack


async def test_cancelled_open_leaves_no_reader_open(streams: Streams) -> None:
    streams.server.put("film.flv", sample_file("film.flv"))
    streams.server.hold_responses()
    opening = asyncio.ensure_future(streams.open("film"))
    await streams.server.wait_for_requests(4)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    streams.server.release_responses()
    assert await streams.open("film") == "film.flv"
    assert streams.is_idle()


@pytest.mark.parametrize(
    ("failure", "code", "kind"),
    [
        (MediaError(MediaFault.STRUCTURE_INVALID, "x"), "NetStream.Play.FileStructureInvalid",
         "structure_invalid"),
        (MediaError(MediaFault.NO_SUPPORTED_TRACK, "x"), "NetStream.Play.NoSupportedTrackFound",
         "no_supported_track"),
        (MediaError(MediaFault.NO_SUCH_TRACK, "x"), "NetStream.Play.Failed", "no_such_track"),
        (CacheFullError("x"), "NetStream.Play.Failed", "cache_full"),
        (OriginError(OriginFailure.FORBIDDEN, "x"), "NetStream.Play.StreamNotFound", "forbidden"),
        (OriginError(OriginFailure.TIMEOUT, "x"), "NetStream.Play.Failed", "timeout"),
    ],
)  # fmt: skip
def test_failure_becomes_its_netstream_code(failure: Exception, code: str, kind: str) -> None:
    refusal = refusal_of(failure)
    assert (refusal.code, refusal.kind) == (code, kind)
    assert refusal_of(refusal) is refusal


def test_unexpected_failure_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        refusal_of(ZeroDivisionError())

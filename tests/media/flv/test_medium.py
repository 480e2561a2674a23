"""streamedge/media/flv/medium.py: one viewer's reader, and the head."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from streamedge.cache.open_object import Failure
from streamedge.cache.reader import CacheResult
from streamedge.media.flv import head as flv_head
from streamedge.media.flv.medium import AHEAD_LEAD_BYTES, FlvMedium, medium_head
from streamedge.media.flv.scan_index import ScanIndex
from streamedge.media.flv.tags import TagType
from streamedge.media.medium import RUN_MS, End, NeedData, Position, Run
from streamedge.spans import Span
from tests.support.media.media_oracle import feed
from tests.support.media.memory_reader import MemoryReader
from tests.support.rtmp.rtmp_media import tags_flv

Media = Callable[[str], bytes]


def opened(data: bytes, ready_bytes: int | None = None) -> tuple[FlvMedium, MemoryReader]:
    head, _ = feed(flv_head.read_head(len(data)), data)
    reader = MemoryReader(data, ready_bytes)
    index = ScanIndex(head, len(data))
    medium = FlvMedium("a.flv", medium_head(head), index, reader.as_reader, reader.as_reader)
    return medium, reader


@pytest.mark.parametrize("name", ["film.flv", "film-keyframes.flv"])
def test_head_has_what_players_need(media: Media, name: str) -> None:
    medium, _ = opened(media(name))
    head = medium.head
    assert head.metadata["duration"] == head.duration_ms / 1000
    assert 20_000 <= head.duration_ms <= 20_100
    assert (head.metadata["videocodecid"], head.metadata["audiocodecid"]) == (7, 10)
    headers = medium.sequence_headers(Position(0, 0))
    assert [kind for kind, _ in headers] == [TagType.VIDEO, TagType.AUDIO]
    assert "keyframes" not in head.metadata  # positions in a file that the player never sees
    assert head.enhanced == frozenset()
    assert head.has_video
    assert (medium.name, medium.result) == ("a.flv", CacheResult.HIT)


async def test_runs_are_spans_of_the_reader(media: Media) -> None:
    data = media("film.flv")
    medium, reader = opened(data)
    mark = await medium.locate(0)
    position = mark.position
    while isinstance(run := medium.next_run(mark, RUN_MS, None), Run):
        assert run.reader is reader.as_reader
        assert run.body is None
        assert run.span.start == position
        position, mark = run.span.end, run.following
    assert isinstance(run, End)
    assert position == len(data)
    assert reader.prefetched == []  # all of it is cached


async def test_following_bytes_are_prefetched() -> None:
    data = tags_flv(60, frame_bytes=8_000)
    medium, reader = opened(data, 1_000_000)
    mark = await medium.locate(0)
    run = medium.next_run(mark, RUN_MS, None)
    assert isinstance(run, Run)
    assert reader.prefetched[0].start == run.span.end
    assert reader.prefetched[0].size >= AHEAD_LEAD_BYTES
    while isinstance(run := medium.next_run(mark, RUN_MS, None), Run):
        mark = run.following
    assert isinstance(run, NeedData)
    woken: list[Failure | None] = []
    medium.when_ready(run.span, woken.append)
    reader.release(len(data))
    assert woken == [None]
    assert isinstance(medium.next_run(mark, RUN_MS, None), Run)
    take_back = medium.when_ready(Span(len(data), len(data)), woken.append)
    take_back()


def test_close_closes_the_reader(media: Media) -> None:
    medium, reader = opened(media("film.flv"))
    medium.close()
    assert reader.closed


async def test_locate_after_returns_the_first_later_tag(media: Media) -> None:
    medium, _ = opened(media("film.flv"))
    mark = await medium.locate_after(5_000)
    run = medium.next_run(mark, 0, None)
    assert isinstance(run, Run)
    assert 5_000 < run.time_ms <= 5_030

"""streamedge/media/mp3/medium.py: frames wrapped as they are sent."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from streamedge.media.flv.scan import scan_tags
from streamedge.media.medium import RUN_MS, End, NeedData, Position, Run
from streamedge.media.mp3 import head as mp3_head
from streamedge.media.mp3.medium import Mp3Medium
from tests.support.media.media_oracle import demux, feed
from tests.support.media.memory_reader import MemoryReader

Media = Callable[[str], bytes]


def opened(data: bytes, ready_bytes: int | None = None) -> tuple[Mp3Medium, MemoryReader]:
    head, _ = feed(mp3_head.read_head(len(data)), data)
    reader = MemoryReader(data, ready_bytes)
    return Mp3Medium("song.mp3", head, reader.as_reader, reader.as_reader), reader


def walk(
    medium: Mp3Medium, mark: Position, length_ms: int, until_ms: int | None = None
) -> list[Run]:
    runs: list[Run] = []
    while True:
        run = medium.next_run(mark, length_ms, until_ms)
        if isinstance(run, End):
            return runs
        assert isinstance(run, Run)
        runs.append(run)
        mark = run.following


@pytest.mark.parametrize("name", ["song.mp3", "song", "song-22050"])
@pytest.mark.parametrize("length_ms", [0, RUN_MS, 2 * RUN_MS])
async def test_every_frame_is_sent_once_at_its_time(
    media: Media, name: str, length_ms: int
) -> None:
    data = media(name)
    medium, _ = opened(data)
    runs = walk(medium, await medium.locate(0), length_ms)
    bodies, times = [], []
    for run in runs:
        assert run.body is not None
        tags = scan_tags(run.body)
        assert tags.end == len(run.body)
        assert (run.tag_type == 8) == (tags.count == 1)
        assert run.time_ms == int(tags.timestamp_ms[0])
        times += tags.timestamp_ms.tolist()
        for position, size in zip(tags.position.tolist(), tags.size_bytes.tolist(), strict=True):
            bodies.append(run.body[position + 12 : position + size - 4])
    packets = demux(data).packets["audio"]
    assert len(bodies) == len(packets)
    assert times == [packet.dts_ms for packet in packets]
    assert all(body in data for body in bodies)


async def test_head_has_what_players_need(media: Media) -> None:
    medium, _ = opened(media("song.mp3"))
    assert medium.head.duration_ms == 30_000
    assert medium.head.metadata["audiocodecid"] == 2
    assert medium.head.metadata["duration"] == 30.0
    assert not medium.head.has_video
    assert medium.sequence_headers(Position(0, 0)) == ()


async def test_located_positions_begin_with_a_frame_inside_the_file(media: Media) -> None:
    data = media("song.mp3")
    medium, reader = opened(data)
    for time_ms in (0, 1, 3_000, 15_000, 29_999, 10**9):
        mark = await medium.locate(time_ms)
        assert data[mark.position] == 0xFF
        assert data[mark.position + 1] & 0xE0 == 0xE0
        assert mark.time_ms <= time_ms
        assert min(time_ms, 29_000) - mark.time_ms <= 30
        assert walk(medium, mark, RUN_MS)
    assert reader.read_bytes < 200_000


async def test_duration_ends_the_runs(media: Media) -> None:
    medium, _ = opened(media("song.mp3"))
    runs = walk(medium, await medium.locate(0), RUN_MS, until_ms=2999)
    assert 2970 <= runs[-1].following.time_ms <= 3030
    (one,) = walk(medium, await medium.locate(0), 0, until_ms=0)
    assert one.tag_type == 8


async def test_needed_span_begins_with_the_first_missing_byte(media: Media) -> None:
    data = media("song.mp3")
    medium, _ = opened(data)
    mark = await medium.locate(10_000)
    for ready_bytes in (0, 3, 100):
        medium, reader = opened(data, mark.position + ready_bytes)
        needed = medium.next_run(mark, RUN_MS, None)
        assert isinstance(needed, NeedData)
        assert needed.span.start == reader.available_bytes
    medium, _ = opened(data, mark.position + 2_000)
    run = medium.next_run(mark, RUN_MS, None)
    assert isinstance(run, Run)
    assert run.span.end <= mark.position + 2_000


async def test_large_junk_between_frames_is_skipped(media: Media) -> None:
    data = media("song.mp3")
    middle = len(data) // 2
    junk = data[:middle] + bytes(24 << 20) + data[middle:]
    medium, _ = opened(junk)
    runs = walk(medium, await medium.locate(0), RUN_MS)
    assert sum(scan_tags(run.body or b"").count for run in runs) >= 1145


async def test_following_bytes_are_prefetched_and_close_closes_the_reader(media: Media) -> None:
    data = media("song.mp3")
    medium, reader = opened(data, 100_000)
    run = medium.next_run(await medium.locate(0), RUN_MS, None)
    assert isinstance(run, Run)
    assert reader.prefetched[0].start == run.span.end
    medium.close()
    assert reader.closed

"""streamedge/media/flv/index.py: the tags of a run, and the position of a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.errors import OriginError, OriginFailure
from streamedge.media.flv import head as flv_head
from streamedge.media.flv import tags as flv
from streamedge.media.flv.head import KeyframeIndex
from streamedge.media.flv.index import LayoutIndex, TagIndex, TagRange
from streamedge.media.flv.layout import FlvLayout
from streamedge.media.flv.scan import scan_tags
from streamedge.media.flv.scan_index import ScanIndex
from streamedge.media.medium import RUN_BYTES_MAX, RUN_MS, End, NeedData, Position, Skip
from tests.support.media.media_oracle import feed, flv_of, title_of
from tests.support.media.memory_reader import MemoryReader
from tests.support.rtmp.rtmp_media import avc_mp4, keyframe, tags_flv

Media = Callable[[str], bytes]


def scanned(data: bytes) -> ScanIndex:
    head, _ = feed(flv_head.read_head(len(data)), data)
    return ScanIndex(head, len(data))


def laid_out(data: bytes) -> tuple[LayoutIndex, bytes]:
    layout = FlvLayout(title_of(data))
    return LayoutIndex(layout), flv_of(layout, data)


def both(media: Media, name: str) -> tuple[TagIndex, bytes]:
    data = media(name)
    return (scanned(data), data) if name.endswith(".flv") else laid_out(data)


async def walk(
    index: TagIndex, reader: MemoryReader, length_ms: int, until_ms: int | None = None
) -> list[tuple[int, TagRange]]:
    """All tag ranges from the beginning on, with their positions."""
    mark = await index.locate(reader.as_reader, 0)
    tag_ranges: list[tuple[int, TagRange]] = []
    while True:
        tag_range = index.tag_range(reader.as_reader, mark, length_ms, until_ms)
        if isinstance(tag_range, End):
            return tag_ranges
        if isinstance(tag_range, Skip):
            assert tag_range.following.position > mark.position
            mark = tag_range.following
            continue
        assert isinstance(tag_range, TagRange)
        assert tag_range.end > mark.position
        tag_ranges.append((mark.position, tag_range))
        mark = tag_range.following


@pytest.mark.parametrize("name", ["film.mp4", "film.flv", "film-keyframes.flv", "video-only"])
@pytest.mark.parametrize("length_ms", [0, RUN_MS, 2 * RUN_MS])
async def test_tag_ranges_are_whole_tags_without_gaps(
    media: Media, name: str, length_ms: int
) -> None:
    index, data = both(media, name)
    for _ in range(2):  # the second time from the cache
        tag_ranges = await walk(index, MemoryReader(data), length_ms)
        for (_, tag_range), (start, _) in pairwise(tag_ranges):
            assert tag_range.end == start
        assert tag_ranges[-1][1].end == len(data)
        for start, tag_range in tag_ranges:
            tags = scan_tags(data[start : tag_range.end])
            assert tags.end == tag_range.end - start
            assert tag_range.time_ms == int(tags.timestamp_ms[0])
            assert int(tags.timestamp_ms[-1]) - tag_range.time_ms < max(1, 2 * length_ms)
            assert (tag_range.tag_type is None) == (tags.count > 1)
            if tag_range.tag_type is not None:
                assert tag_range.tag_type == data[start]
        if length_ms:
            assert len(tag_ranges) < 60


async def test_script_tag_alone_is_not_audio() -> None:
    data = tags_flv(2)
    data += flv.tag(18, b"\x02\0\x0aonCuePoint", 2000) + flv.tag(8, b"\x2fx", 2000)
    tag_ranges = await walk(scanned(data), MemoryReader(data), 0)
    assert [tag_range.tag_type for _, tag_range in tag_ranges[-2:]] == [18, 8]


@pytest.mark.parametrize("name", ["film.mp4", "film.flv"])
async def test_no_tag_is_later_than_until(media: Media, name: str) -> None:
    index, data = both(media, name)
    tag_ranges = await walk(index, MemoryReader(data), RUN_MS, until_ms=4321)
    whole = scan_tags(data[tag_ranges[0][0] :])
    assert tag_ranges[-1][1].end - tag_ranges[0][0] == int(
        whole.position[int((whole.timestamp_ms <= 4321).sum())]
    )


@pytest.mark.parametrize("name", ["film.mp4", "film.flv"])
async def test_needed_span_begins_with_the_first_missing_byte(media: Media, name: str) -> None:
    index, data = both(media, name)
    reader = MemoryReader(data)
    mark = await index.locate(reader.as_reader, 10_000)
    for ready_bytes in (0, 1, 5, 11, 40):
        reader = MemoryReader(data, mark.position + ready_bytes)
        needed = index.tag_range(reader.as_reader, mark, RUN_MS, None)
        # A reader is woken for the byte at ``needed.start``: a cached byte would wake it again and
        # again.
        assert isinstance(needed, NeedData)
        assert needed.span.start == mark.position + ready_bytes
    reader = MemoryReader(data, mark.position + 60_000)
    tag_range = index.tag_range(reader.as_reader, mark, RUN_MS, None)
    assert isinstance(tag_range, TagRange)
    assert tag_range.end <= reader.available_bytes


async def test_tag_larger_than_a_run_is_a_run() -> None:
    frames = [keyframe()] * 4
    frames[2] = keyframe(RUN_BYTES_MAX + 1_000_000)
    index, data = laid_out(avc_mp4(frames, 40))
    for tags in (index, scanned(data)):
        tag_ranges = await walk(tags, MemoryReader(data), RUN_MS)
        sizes = [tag_range.end - start for start, tag_range in tag_ranges]
        assert max(sizes) > RUN_BYTES_MAX
        assert tag_ranges[-1][1].end == len(data)
        # Half of the tag is cached: the rest is requested.
        large = sizes.index(max(sizes))
        mark = Position(tag_ranges[large][0], tag_ranges[large][1].time_ms, 2)
        reader = MemoryReader(data, mark.position + 500_000)
        needed = tags.tag_range(reader.as_reader, mark, RUN_MS, None)
        assert isinstance(needed, NeedData)
        assert needed.span.start == reader.available_bytes
        assert needed.span.end >= tag_ranges[large][1].end


async def test_audio_before_the_first_video_frame_is_played(media: Media) -> None:
    for name in ("mp3-in-mp4", "av1-opus"):
        index, data = laid_out(media(name))
        mark = await index.locate(MemoryReader(data).as_reader, 0)
        assert (mark.time_ms, mark.row, data[mark.position]) == (0, 0, 8)
    data = tags_flv(4, listed=True)
    head = data.index(b"\x17\x01") - 11
    sound = flv.tag(8, b"\x2fearly", 0)
    longer = data[:head] + sound + data[head:]
    assert (await scanned(longer).locate(MemoryReader(longer).as_reader, 0)).position == head


@pytest.mark.parametrize("name", ["film.mp4", "film.flv", "film-keyframes.flv"])
async def test_located_positions_are_keyframes(media: Media, name: str) -> None:
    index, data = both(media, name)
    start = (await index.locate(MemoryReader(data).as_reader, 0)).position
    tags = scan_tags(data[start:])
    for time_ms in (1, 1999, 2100, 7777, 19_999, 10**9):
        mark = await index.locate(MemoryReader(data).as_reader, time_ms)
        is_key = (tags.flags & flv.TagFlag.KEYFRAME != 0) & (tags.timestamp_ms <= time_ms)
        row = int(is_key.nonzero()[0][-1]) if is_key.any() else None
        if row is None:
            assert mark.time_ms <= 100
            continue
        assert mark.position == start + int(tags.position[row])
        assert abs(mark.time_ms - int(tags.timestamp_ms[row])) <= 1


@pytest.mark.parametrize("name", ["film.mp4", "film.flv", "film-keyframes.flv"])
async def test_locate_after_returns_the_first_later_tag(media: Media, name: str) -> None:
    index, data = both(media, name)
    start = (await index.locate(MemoryReader(data).as_reader, 0)).position
    tags = scan_tags(data[start:])
    for time_ms in (0, 1000, 9_990, 19_000):
        mark = await index.locate_after(MemoryReader(data).as_reader, time_ms)
        row = int((tags.timestamp_ms > time_ms).nonzero()[0][0])
        assert mark.position == start + int(tags.position[row])
    mark = await index.locate_after(MemoryReader(data).as_reader, 10**6)
    reader = MemoryReader(data)
    assert isinstance(index.tag_range(reader.as_reader, mark, RUN_MS, None), End)


async def test_search_reads_few_windows_of_a_large_file() -> None:
    data = tags_flv(400, frame_bytes=4000)
    index = scanned(data)
    for target_ms in (360_000, 12_345, 399_999, 200_000):
        reader = MemoryReader(data, 0)
        mark = await index.locate(reader.as_reader, target_ms)
        assert mark.time_ms == target_ms // 2000 * 2000
        assert data[mark.position] == 9
        assert data[mark.position + 11] == 0x17
        assert reader.read_bytes < 3_000_000
    # The results of one viewer's search shorten the next one's.
    reader = MemoryReader(data, 0)
    await index.locate(reader.as_reader, 360_500)
    assert reader.read_bytes < 1_200_000


@pytest.mark.parametrize("lie", ["seconds are milliseconds", "other places", "stale", "sparse"])
async def test_keyframe_list_is_verified_before_use(lie: str) -> None:
    data = tags_flv(60, listed=True)
    head, _ = feed(flv_head.read_head(len(data)), data)
    assert head.keyframes is not None
    times, positions = head.keyframes.time_ms, head.keyframes.position
    if lie == "seconds are milliseconds":
        times = times * 1000
    elif lie == "other places":
        positions = positions + 7
    elif lie == "stale":
        positions = np.minimum(positions // 2, len(data) - 100)
    else:
        times, positions = times[:2], positions[:2]
    wrong_head = replace(head, keyframes=KeyframeIndex(times, positions))
    index = ScanIndex(wrong_head, len(data))
    for target_ms in (15_000, 30_500, 44_000, 59_999):
        mark = await index.locate(MemoryReader(data).as_reader, target_ms)
        assert mark.time_ms == target_ms // 2000 * 2000
        assert data[mark.position + 11] == 0x17


async def test_search_ends_when_the_origin_fails() -> None:
    data = tags_flv(60)
    reader = MemoryReader(data)
    reader.failure = OriginError(OriginFailure.TIMEOUT, "silent")
    with pytest.raises(OriginError):
        await scanned(data).locate(reader.as_reader, 30_000)


async def test_truncated_file_ends_before_its_last_tag() -> None:
    data = tags_flv(10)
    head, _ = feed(flv_head.read_head(len(data)), data)
    for cut in (3, 500, 1_500):
        index = ScanIndex(head, len(data) - cut)
        tag_ranges = await walk(index, MemoryReader(data[:-cut]), RUN_MS)
        assert len(data) - cut - 2_100 < tag_ranges[-1][1].end <= len(data) - cut


@settings(max_examples=40, deadline=None)
@given(at=st.integers(300, 39_000), junk=st.binary(min_size=1, max_size=64))
async def test_damage_is_skipped(at: int, junk: bytes) -> None:
    data = tags_flv(8, frame_bytes=100)
    whole = scan_tags(data, 13)
    damaged = data[:at] + junk + data[at + len(junk) :]
    index = scanned(damaged)
    tag_ranges = await walk(index, MemoryReader(damaged), 0)
    # The damaged tags are lost, and at most the bytes that the last of them claims.
    touched = (whole.position < at + len(junk)) & (whole.position + whole.size_bytes > at)
    assert len(tag_ranges) >= whole.count - int(touched.sum()) - 30
    await index.locate(MemoryReader(damaged).as_reader, 5_000)

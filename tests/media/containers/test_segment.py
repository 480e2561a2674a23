"""streamedge/media/containers/segment.py: tables are read as they were written, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.errors import MediaError
from streamedge.media.containers import segment as segments
from streamedge.media.containers.segment import SegmentFlag, SegmentTable, SegmentTag

TAGS = st.lists(
    st.builds(
        SegmentTag,
        st.integers(0, 1 << 31),
        st.sampled_from([SegmentFlag(0), SegmentFlag.VIDEO, SegmentFlag.VIDEO | SegmentFlag(2)]),
        st.binary(min_size=1, max_size=40),
    ),
    max_size=8,
).map(lambda tags: sorted(tags, key=lambda tag: tag.time_ms))


def parse(data: bytes) -> SegmentTable:
    return segments.parse_table(data[: segments.table_size_bytes(data, len(data))])


@given(TAGS, st.none() | st.integers(0, 1 << 31))
def test_table_has_the_tags_that_were_written(
    tags: list[SegmentTag], following: int | None
) -> None:
    data = segments.encode_segment(tags, following)
    table = parse(data)
    assert table.following == following
    assert table.count == len(tags)
    assert table.positions[-1] == len(data)
    for row, tag in enumerate(tags):
        assert data[table.positions[row] : table.positions[row + 1]] == tag.data
        assert table.times_ms[row] == tag.time_ms
        assert table.flags[row] == tag.flags


@given(TAGS, st.integers(0, 1 << 31))
def test_rows_are_found_by_time(tags: list[SegmentTag], time_ms: int) -> None:
    table = parse(segments.encode_segment(tags, None))
    times = [tag.time_ms for tag in tags]
    assert table.row_at(time_ms) == sum(time < time_ms for time in times)
    assert table.row_after(time_ms) == sum(time <= time_ms for time in times)
    keyframes = [
        row
        for row, tag in enumerate(tags)
        if tag.flags & SegmentFlag.KEYFRAME and tag.time_ms <= time_ms
    ]
    assert table.last_start(time_ms, has_video=True) == (keyframes[-1] if keyframes else None)
    for row in range(table.count):
        assert table.last_row_within(row, table.positions[row]) == row
        assert table.last_row_within(row, table.positions[-1]) == table.count


@given(TAGS, st.data())
def test_changed_table_is_read_or_refused(tags: list[SegmentTag], draw: st.DataObject) -> None:
    data = bytearray(segments.encode_segment(tags, 1))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    size = draw.draw(st.integers(0, len(data)))
    for candidate in (bytes(data), bytes(data[:size])):
        try:
            table = parse(candidate)
        except MediaError:
            continue
        assert list(table.positions) == sorted(set(table.positions))
        assert table.positions[-1] == len(candidate)
        assert list(table.times_ms) == sorted(table.times_ms)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_refused(data: bytes) -> None:
    try:
        parse(data)
    except MediaError:
        return


def test_too_many_tags_or_bytes_are_refused() -> None:
    tag = SegmentTag(0, SegmentFlag(0), b"x")
    with pytest.raises(MediaError, match="frames in a segment"):
        segments.encode_segment([tag] * (segments.TAGS_MAX + 1), None)
    large = SegmentTag(0, SegmentFlag(0), bytes(segments.SEGMENT_BYTES_MAX // 4 + 1))
    with pytest.raises(MediaError, match="64 MiB"):
        segments.encode_segment([large] * 4, None)

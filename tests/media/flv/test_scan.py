"""streamedge/media/flv/scan.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.media.flv import tags as flv
from streamedge.media.flv.scan import Stop, resynchronise, rewrite_tags, scan_tags
from streamedge.media.flv.tags import TagFlag, TagType

Media = Callable[[str], bytes]

THREE = (
    flv.tag(TagType.VIDEO, b"\x17\x01\0\0\0frame", 0)
    + flv.tag(TagType.AUDIO, b"\xaf\x01sound", 20)
    + flv.tag(TagType.VIDEO, b"\x27\x01\0\0\0frame", 0x01020304)
)


def test_complete_tags_of_a_buffer_are_scanned() -> None:
    tags = scan_tags(b"head" + THREE, 4)
    assert tags.position.tolist() == [4, 29, 51]
    assert tags.size_bytes.tolist() == [25, 22, 25]
    assert tags.timestamp_ms.tolist() == [0, 20, 0x01020304]
    assert tags.flags.tolist() == [
        TagFlag.VIDEO | TagFlag.MEDIA | TagFlag.KEYFRAME,
        TagFlag.AUDIO | TagFlag.MEDIA,
        TagFlag.VIDEO | TagFlag.MEDIA,
    ]
    assert tags.end == 4 + len(THREE)


def test_incomplete_tags_wait_for_more_bytes() -> None:
    whole = scan_tags(THREE)
    for length in range(len(THREE)):
        tags = scan_tags(THREE[:length])
        assert tags.count == sum(
            position + size <= length
            for position, size in zip(
                whole.position.tolist(), whole.size_bytes.tolist(), strict=True
            )
        )
        rest = scan_tags(THREE, tags.end)
        assert tags.count + rest.count == 3


def test_whole_file_is_scanned(media: Media) -> None:
    data = media("film.flv")
    tags = scan_tags(data, 13)
    assert tags.end == len(data)
    assert int(tags.size_bytes.sum()) == len(data) - 13


@pytest.mark.parametrize(
    ("position", "value"),
    [(24, 0), (25 + 10, 0), (25 + 20, 1), (47 + 24, 9), (0, 0x29)],
    ids=["PreviousTagSize", "StreamID", "PreviousTagSize of sound", "the last one", "filter flag"],
)
def test_wrong_fields_do_not_end_the_scan(position: int, value: int) -> None:
    odd = bytearray(THREE)
    odd[position] = value
    tags = scan_tags(odd, file_end=len(odd))
    assert (tags.count, tags.end, tags.stop) == (3, len(THREE), Stop.FILE_END)
    assert tags.is_plain == (bytes(odd) == THREE)
    assert rewrite_tags(odd, tags.timestamp_ms) == THREE


def test_stream_ids_are_sent_unchanged() -> None:
    other = bytearray(THREE)
    other[10] = other[25 + 10] = other[47 + 10] = 1
    assert scan_tags(other).is_plain


def test_tags_of_unknown_types_are_skipped() -> None:
    data = THREE[:25] + flv.tag(15, bytes(9), 7) + THREE[25:]
    tags = scan_tags(data)
    assert tags.count == 3
    assert not tags.is_plain
    assert rewrite_tags(data, tags.timestamp_ms) == THREE


def test_rewritten_tags_have_the_times_they_are_given() -> None:
    times = np.array([5, 6, 7])
    written = rewrite_tags(THREE, times)
    assert scan_tags(written).timestamp_ms.tolist() == [5, 6, 7]
    assert len(written) == len(THREE)


def test_negative_times_are_read() -> None:
    data = bytearray(THREE)
    data[4:8] = b"\xff\xff\xdf\xff"
    assert scan_tags(data).timestamp_ms.tolist()[0] == -33


@pytest.mark.parametrize("junk", [bytes(100), b"junk" * 9, b"\x08\xff\xff\xff" + bytes(20)])
def test_scan_stops_at_damage(junk: bytes) -> None:
    data = THREE + junk
    tags = scan_tags(data + THREE, file_end=len(data + THREE))
    assert (tags.count, tags.end, tags.stop) == (3, len(THREE), Stop.DAMAGE)
    offset = resynchronise(data[len(THREE) :] + THREE, is_file_end=True, tags_needed=2)
    assert offset == len(junk)


def test_last_tag_may_lack_its_previous_tag_size() -> None:
    tags = scan_tags(THREE[:-4], file_end=len(THREE) - 4)
    assert (tags.count, tags.end, tags.is_plain) == (3, len(THREE) - 4, False)
    assert rewrite_tags(THREE[:-4], tags.timestamp_ms) == THREE
    assert scan_tags(THREE[:-5], file_end=len(THREE) - 5).count == 2


def test_boundary_is_found_from_any_position(media: Media) -> None:
    data = media("film.flv")
    positions = set(scan_tags(data, 13).position.tolist())
    for start in range(13, len(data) - 60_000, 7919):
        offset = resynchronise(data[start : start + 60_000])
        assert offset is not None
        assert start + offset == min(position for position in positions if position >= start)


def test_boundary_at_the_end_of_a_file_is_found() -> None:
    assert resynchronise(b"xyz" + THREE) is None
    near = flv.tag(TagType.AUDIO, b"\x2fa", 10) + flv.tag(TagType.AUDIO, b"\x2fb", 20)
    assert resynchronise(b"xyz" + near) is None
    assert resynchronise(b"xyz" + near, is_file_end=True) == 3
    assert resynchronise(b"xyz" + near + b"x", is_file_end=True) is None


def test_boundary_of_tags_with_wrong_sizes_is_found(media: Media) -> None:
    data = bytearray(media("film.flv")[:60_000])
    tags = scan_tags(bytes(data), 13)
    for end in (tags.position + tags.size_bytes).tolist():
        data[end - 4 : end] = bytes(4)
    first = int(tags.position[20])
    assert resynchronise(data[first - 100 :]) in (tags.position - (first - 100)).tolist()


@given(st.binary(max_size=300), st.integers(0, 100))
def test_any_bytes_are_scanned(data: bytes, cut: int) -> None:
    for candidate in (data, THREE + data, THREE[cut:] + data):
        assert resynchronise(candidate) in (None, *range(len(candidate)))
        for file_end in (None, len(candidate), len(candidate) + 50):
            tags = scan_tags(candidate, file_end=file_end)
            assert tags.end <= len(candidate)
            assert int(tags.size_bytes.sum()) <= tags.end
            if tags.stop is Stop.BUFFER_END:
                assert tags.needed_end > len(candidate)
            if tags.count:
                last = int(tags.position[-1] + tags.size_bytes[-1])
                written = rewrite_tags(candidate[:last], np.abs(tags.timestamp_ms) % 1000)
                again = scan_tags(written)
                assert (again.count, again.end) == (tags.count, len(written))


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_damaged_file_is_scanned(media: Media, data: st.DataObject) -> None:
    damaged = bytearray(media("film.flv")[13:50_000])
    for spot in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=5)):
        damaged[spot] = data.draw(st.integers(0, 255))
    tags = scan_tags(damaged)
    assert int(tags.size_bytes.sum()) <= tags.end
    if tags.is_plain and tags.count and tags.position[0] == 0:
        assert int(tags.size_bytes.sum()) == tags.end

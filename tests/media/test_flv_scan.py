"""streamedge/media/flv_scan.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.errors import MediaError, MediaFault
from streamedge.media import flv
from streamedge.media.flv import TagFlag, TagType
from streamedge.media.flv_scan import resynchronise, scan_tags

Media = Callable[[str], bytes]

THREE = (
    flv.tag(TagType.VIDEO, b"\x17\x01\0\0\0frame", 0)
    + flv.tag(TagType.AUDIO, b"\xaf\x01sound", 20)
    + flv.tag(TagType.VIDEO, b"\x27\x01\0\0\0frame", 0x01020304)
)


def test_tags_of_a_buffer() -> None:
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


def test_whole_file(media: Media) -> None:
    data = media("film.flv")
    tags = scan_tags(data, 13)
    assert tags.end == len(data)
    assert int(tags.size_bytes.sum()) == len(data) - 13


@pytest.mark.parametrize(
    ("position", "value"), [(0, 10), (0, 41), (10, 1), (24, 0), (25, 0), (3, 11)]
)
def test_damage_is_found(position: int, value: int) -> None:
    damaged = bytearray(THREE)
    damaged[position] = value
    with pytest.raises(MediaError) as caught:
        scan_tags(damaged)
    assert caught.value.fault is MediaFault.STRUCTURE_INVALID


def test_boundaries_are_found_from_anywhere(media: Media) -> None:
    data = media("film.flv")
    positions = set(scan_tags(data, 13).position.tolist())
    for start in range(13, len(data) - 60_000, 7919):
        found = resynchronise(data[start : start + 60_000])
        assert found is not None
        assert start + found == min(position for position in positions if position >= start)


def test_boundary_at_the_end_of_a_file() -> None:
    assert resynchronise(b"xyz" + THREE) is None
    near = flv.tag(TagType.AUDIO, b"\x2fa", 10) + flv.tag(TagType.AUDIO, b"\x2fb", 20)
    assert resynchronise(b"xyz" + near) is None
    assert resynchronise(b"xyz" + near, is_file_end=True) == 3
    assert resynchronise(b"xyz" + near + b"x", is_file_end=True) is None


@given(st.binary(max_size=300), st.integers(0, 100))
def test_any_bytes_scan_or_raise(data: bytes, cut: int) -> None:
    for candidate in (data, THREE + data, THREE[cut:] + data):
        assert resynchronise(candidate) in (None, *range(len(candidate)))
        try:
            tags = scan_tags(candidate)
        except MediaError:
            continue
        assert tags.end <= len(candidate)


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_damaged_files_scan_or_raise(media: Media, data: st.DataObject) -> None:
    damaged = bytearray(media("film.flv")[13:50_000])
    for spot in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=5)):
        damaged[spot] = data.draw(st.integers(0, 255))
    try:
        tags = scan_tags(damaged)
    except MediaError:
        return
    assert int(tags.size_bytes.sum()) == tags.end

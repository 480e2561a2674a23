"""streamedge/media/mp4/boxes.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.errors import MediaError
from streamedge.media.mp4 import boxes
from tests.support.media.mp4_writer import box, words


def test_walk_returns_types_and_contents() -> None:
    data = memoryview(box("free") + box("moov", b"abc"))
    assert [(result.type, bytes(result.content)) for result in boxes.walk(data)] == [
        ("free", b""),
        ("moov", b"abc"),
    ]


def test_64_bit_size_and_size_to_the_end_are_read() -> None:
    large = words(1) + b"mdat" + words(0, 19) + b"abc"
    to_the_end = words(0) + b"moov" + b"rest"
    result = list(boxes.walk(memoryview(large + to_the_end)))
    assert [(each.type, bytes(each.content)) for each in result] == [
        ("mdat", b"abc"),
        ("moov", b"rest"),
    ]


@pytest.mark.parametrize(
    "data",
    [words(7) + b"free", words(1) + b"free", words(1) + b"free" + words(0, 15)],
    ids=["too small", "no large size", "small large size"],
)
def test_bytes_that_begin_no_box_end_the_walk(data: bytes) -> None:
    assert [each.type for each in boxes.walk(memoryview(box("skip") + data))] == ["skip"]
    with pytest.raises(MediaError, match="cut off or damaged"):
        boxes.parse_header(memoryview(data), len(data))


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (words(99) + b"free" + b"abc", b"abc"),
        (words(1) + b"free" + words(0xFFFFFFFF, 0xFFFFFFFF) + b"abc", b"abc"),
    ],
    ids=["too large", "huge"],
)
def test_oversized_box_ends_with_its_container(data: bytes, content: bytes) -> None:
    (result,) = boxes.walk(memoryview(data))
    assert bytes(result.content) == content
    with pytest.raises(MediaError, match="claims"):
        boxes.parse_header(memoryview(data), len(data))
    assert boxes.parse_header(memoryview(data), len(data), may_be_cut=True).type == "free"


def test_padding_at_the_end_is_not_a_box() -> None:
    assert len(list(boxes.walk(memoryview(box("frma", b"mp4a") + bytes(4))))) == 1


def test_number_of_boxes_is_limited() -> None:
    with pytest.raises(MediaError, match="more than 4096 boxes"):
        list(boxes.walk(memoryview(box("free") * 5000)))


def test_find_and_require_follow_a_path() -> None:
    data = memoryview(box("mdia", box("minf", box("stbl", b"x"))))
    assert bytes(boxes.require(data, "mdia", "minf", "stbl")) == b"x"
    assert boxes.find(data, "mdia", "dinf") is None
    with pytest.raises(MediaError, match="no mdia/dinf box"):
        boxes.require(data, "mdia", "dinf")


@given(st.binary(max_size=200))
def test_any_bytes_walk_or_raise(data: bytes) -> None:
    try:
        result = list(boxes.walk(memoryview(data)))
    except MediaError:
        return
    assert sum(len(each.content) + 8 for each in result) <= len(data)

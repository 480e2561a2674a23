"""Range headers: RFC 9110 §14.1.2, §14.2 and §15.5.17."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamedge.delivery.web.ranges import RangeAnswer, first_wanted, parse_range
from streamedge.spans import Span

SIZE = 10_000  # as in the examples of RFC 9110 §14.1.2


@pytest.mark.parametrize(
    ("value", "selected"),
    [
        ("bytes=0-499", Span(0, 500)),
        ("bytes=500-999", Span(500, 1000)),
        ("bytes=-500", Span(9500, 10_000)),
        ("bytes=9500-", Span(9500, 10_000)),
        ("bytes=0-0", Span(0, 1)),
        ("bytes=-1", Span(9999, 10_000)),
        ("bytes=0-", Span(0, 10_000)),
        ("bytes=9999-9999", Span(9999, 10_000)),
        ("bytes=9999-10000", Span(9999, 10_000)),
        ("bytes=0-9223372036854775807", Span(0, 10_000)),
        ("bytes=-10001", Span(0, 10_000)),
        ("BYTES=1-2", Span(1, 3)),
        ("bytes = 1 - 2", Span(1, 3)),
        ("bytes=,1-2,", Span(1, 3)),
        ("bytes=10000-", RangeAnswer.UNSATISFIABLE),
        ("bytes=10000-10001", RangeAnswer.UNSATISFIABLE),
        ("bytes=9223372036854775808-", RangeAnswer.UNSATISFIABLE),
        ("bytes=-0", RangeAnswer.UNSATISFIABLE),
        ("bytes=2-1", RangeAnswer.IGNORED),
        ("bytes=20000-10000", RangeAnswer.IGNORED),
        ("bytes=-", RangeAnswer.IGNORED),
        ("bytes=", RangeAnswer.IGNORED),
        ("bytes", RangeAnswer.IGNORED),
        ("", RangeAnswer.IGNORED),
        ("bytes=a-b", RangeAnswer.IGNORED),
        ("bytes=1-2x", RangeAnswer.IGNORED),
        ("bytes=0x1-2", RangeAnswer.IGNORED),
        ("bytes=+1-2", RangeAnswer.IGNORED),
        ("bytes=--1", RangeAnswer.IGNORED),
        ("bytes=1-2,4-5", RangeAnswer.IGNORED),
        ("bytes=0-,0-,0-", RangeAnswer.IGNORED),
        ("items=0-1", RangeAnswer.IGNORED),
        ("bytes=٣-٤", RangeAnswer.IGNORED),  # digits, but not of ASCII
        ("bytes=1-2\n", RangeAnswer.IGNORED),
        ("bytes=" + "9" * 20 + "-", RangeAnswer.IGNORED),
    ],
)
def test_what_a_range_header_selects(value: str, selected: Span | RangeAnswer) -> None:
    assert parse_range(value, SIZE) == selected


@pytest.mark.parametrize("value", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0"])
def test_an_empty_object_has_no_range(value: str) -> None:
    assert parse_range(value, 0) is RangeAnswer.UNSATISFIABLE


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_first_and_last_select_what_they_say(first: int, last: int, size: int) -> None:
    selected = parse_range(f"bytes={first}-{last}", size)
    if last < first:
        assert selected is RangeAnswer.IGNORED
    elif first >= size:
        assert selected is RangeAnswer.UNSATISFIABLE
    else:
        assert selected == Span(first, min(last + 1, size))


@given(
    st.text(max_size=64) | st.from_regex(r"bytes=[-0-9, \t]{0,60}", fullmatch=True),
    st.integers(0, 1 << 62),
)
@example("bytes=" + " ," * 30 + "1-1" + " ," * 30 + "x", 100)
def test_whatever_is_sent_gives_a_span_inside_the_object_or_an_answer(
    value: str, size: int
) -> None:
    selected = parse_range(value, size)
    if isinstance(selected, Span):
        assert 0 <= selected.start < selected.end <= size


@given(
    st.from_regex(r"bytes=[0-9]{0,9}-[0-9]{0,9}", fullmatch=True) | st.text(max_size=32),
    st.integers(0, 1 << 40),
)
def test_what_is_wanted_of_a_cold_object_is_what_its_size_confirms(value: str, size: int) -> None:
    wanted, selected = first_wanted(value), parse_range(value, size)
    if wanted is not None and isinstance(selected, Span):
        assert wanted.intersect(Span(0, size)) == selected
    if wanted is not None and wanted.start >= size:
        assert selected is RangeAnswer.UNSATISFIABLE


@pytest.mark.parametrize("value", ["bytes=-5", "bytes=5-4", "bytes=0-1,3-4", "x", "bytes=-"])
def test_only_the_size_can_tell(value: str) -> None:
    assert first_wanted(value) is None

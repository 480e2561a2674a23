"""Range headers: RFC 9110 §14.1.2, §14.2, §15.3.7.2 and §15.5.17."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamedge.delivery.http.response.ranges import (
    PART_BYTES,
    RANGES_MAX,
    RangeOutcome,
    first_span,
    leading_suffix_bytes,
    parse_ranges,
)
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
        ("bytes=10000-", RangeOutcome.UNSATISFIABLE),
        ("bytes=10000-10001", RangeOutcome.UNSATISFIABLE),
        ("bytes=9223372036854775808-", RangeOutcome.UNSATISFIABLE),
        ("bytes=-0", RangeOutcome.UNSATISFIABLE),
        ("bytes=2-1", RangeOutcome.IGNORED),
        ("bytes=20000-10000", RangeOutcome.IGNORED),
        ("bytes=-", RangeOutcome.IGNORED),
        ("bytes=", RangeOutcome.IGNORED),
        ("bytes", RangeOutcome.IGNORED),
        ("", RangeOutcome.IGNORED),
        ("bytes=a-b", RangeOutcome.IGNORED),
        ("bytes=1-2x", RangeOutcome.IGNORED),
        ("bytes=0x1-2", RangeOutcome.IGNORED),
        ("bytes=+1-2", RangeOutcome.IGNORED),
        ("bytes=--1", RangeOutcome.IGNORED),
        ("items=0-1", RangeOutcome.IGNORED),
        ("bytes=٣-٤", RangeOutcome.IGNORED),  # digits, but not ASCII ones
        ("bytes=1-2\n", RangeOutcome.IGNORED),
        ("bytes=" + "9" * 20 + "-", RangeOutcome.UNSATISFIABLE),
        ("bytes=" + "9" * 5000 + "-" + "9" * 5000, RangeOutcome.UNSATISFIABLE),
        ("bytes=0-18446744073709551615", Span(0, 10_000)),
        ("bytes=0-" + "9" * 5000, Span(0, 10_000)),
        ("bytes=-" + "9" * 5000, Span(0, 10_000)),
        ("bytes=" + "0" * 5000 + "1-" + "0" * 30 + "2", Span(1, 3)),
    ],
)
def test_range_header_selects_its_span(value: str, selected: Span | RangeOutcome) -> None:
    expected = (selected,) if isinstance(selected, Span) else selected
    assert parse_ranges(value, SIZE) == expected


@pytest.mark.parametrize(
    ("value", "selected"),
    [
        ("bytes=0-0,-1", [(0, 1), (9999, 10_000)]),  # RFC 9110 §14.1.2
        ("bytes=0-999, 4500-5499, -1000", [(0, 1000), (4500, 5500), (9000, 10_000)]),  # §14.1.2
        ("bytes=500-600,601-999", [(500, 1000)]),  # §14.1.2: 500 bytes at 500, in two forms
        ("bytes=500-700,601-999", [(500, 1000)]),
        ("bytes=5000-5009,200-209", [(5000, 5010), (200, 210)]),
        ("bytes=5000-5009,200-209,5005-5019", [(5000, 5020), (200, 210)]),
        ("bytes=200-209,5000-5009,0-9,150-160", [(150, 210), (5000, 5010), (0, 10)]),
        ("bytes=0-9,89-99", [(0, 100)]),  # 79 bytes between
        ("bytes=0-9,90-99", [(0, 10), (90, 100)]),  # 80 bytes between
        ("bytes=0-,0-,0-", [(0, 10_000)]),
        ("bytes=0-,5-,-3", [(0, 10_000)]),
        ("bytes=0-0,10000-", [(0, 1)]),
        ("bytes=10000-,20000-30000,7-7", [(7, 8)]),
        ("bytes=-0,7-7", [(7, 8)]),
        ("bytes=1-2 ,\t, ,900-901", [(1, 3), (900, 902)]),
        ("bytes=" + ",".join(f"{at}-{at}" for at in range(0, 1600, 200)),
         [(at, at + 1) for at in range(0, 1600, 200)]),
    ],
)  # fmt: skip
def test_several_ranges_select_their_spans(value: str, selected: list[tuple[int, int]]) -> None:
    assert parse_ranges(value, SIZE) == tuple(Span(*ends) for ends in selected)


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("bytes=10000-,-0,20000-20001", RangeOutcome.UNSATISFIABLE),
        ("bytes=" + "0-0," * RANGES_MAX + "500-500", RangeOutcome.IGNORED),
        ("bytes=0-0,x", RangeOutcome.IGNORED),
        ("bytes=0-0,2-1", RangeOutcome.IGNORED),
        ("bytes=0-0;500-500", RangeOutcome.IGNORED),
        ("bytes=0-0,bytes=500-500", RangeOutcome.IGNORED),
        ("bytes=0-0,500-500,-", RangeOutcome.IGNORED),
        ("bytes=,,,", RangeOutcome.IGNORED),
    ],
)
def test_invalid_ranges_select_nothing(value: str, answer: RangeOutcome) -> None:
    assert parse_ranges(value, SIZE) is answer


@pytest.mark.parametrize("value", ["bytes=0-", "bytes=0-0", "bytes=-0"])
def test_empty_object_satisfies_no_range(value: str) -> None:
    assert parse_ranges(value, 0) is RangeOutcome.UNSATISFIABLE


@pytest.mark.parametrize(
    "value", ["bytes=-1", "bytes=-5", "bytes=0-,-5", "bytes=-18446744073709551616"]
)
def test_suffix_of_an_empty_object_is_ignored(value: str) -> None:
    assert parse_ranges(value, 0) is RangeOutcome.IGNORED


@pytest.mark.parametrize(
    ("value", "suffix_bytes"),
    [("bytes=-5", 5), ("bytes=-5,0-1", 5), ("bytes=0-1,-5", 0), ("bytes=-", 0), ("", 0)],
)
def test_leading_suffix_length_is_parsed(value: str, suffix_bytes: int) -> None:
    assert leading_suffix_bytes(value) == suffix_bytes


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_first_and_last_position_select_their_span(first: int, last: int, size: int) -> None:
    selected = parse_ranges(f"bytes={first}-{last}", size)
    if last < first:
        assert selected is RangeOutcome.IGNORED
    elif first >= size:
        assert selected is RangeOutcome.UNSATISFIABLE
    else:
        assert selected == (Span(first, min(last + 1, size)),)


RANGE = st.one_of(
    st.tuples(st.integers(0, 1500), st.integers(0, 200)).map(lambda one: f"{one[0]}-{sum(one)}"),
    st.integers(0, 1500).map(lambda first: f"{first}-"),
    st.integers(0, 400).map(lambda suffix: f"-{suffix}"),
)


def requested_bytes(spec: str, size: int) -> set[int]:
    """The positions that one range selects (§14.1.2)."""
    first, last = spec.split("-")
    if not first:
        return set(range(max(0, size - int(last)), size))
    return set(range(int(first), min(size, int(last) + 1 if last else size)))


@given(st.lists(RANGE, min_size=1, max_size=RANGES_MAX), st.integers(0, 1500))
def test_spans_cover_exactly_the_requested_bytes_and_small_gaps(
    specs: list[str], size: int
) -> None:
    selected = parse_ranges("bytes=" + ",".join(specs), size)
    requested = set().union(*(requested_bytes(one, size) for one in specs))
    if not requested:
        has_suffix = any(one.startswith("-") and int(one[1:]) for one in specs)
        expected = RangeOutcome.UNSATISFIABLE
        if not size and has_suffix:
            expected = RangeOutcome.IGNORED
        assert selected is expected
        return
    assert isinstance(selected, tuple)
    sent = [position for span in selected for position in range(*span)]
    assert len(sent) == len(set(sent))  # each byte once
    assert requested <= set(sent)
    for span in selected:  # other bytes only in gaps smaller than a part's head
        inside = [position for position in range(*span) if position in requested]
        assert (inside[0], inside[-1]) == (span.start, span.end - 1)
        assert all(far - near <= PART_BYTES for near, far in itertools.pairwise(inside))
    in_place = sorted(selected)
    for near, far in itertools.pairwise(in_place):
        assert far.start - near.end >= PART_BYTES
    # Each part has the position of its first range.
    places = [
        min(
            place
            for place, one in enumerate(specs)
            if requested_bytes(one, size)
            and span.start <= min(requested_bytes(one, size)) < span.end
        )
        for span in selected
    ]
    assert places == sorted(places)


@given(
    st.text(max_size=64) | st.from_regex(r"bytes=[-0-9, \t]{0,60}", fullmatch=True),
    st.integers(0, 1 << 62),
)
@example("bytes=" + " ," * 30 + "1-1" + " ," * 30 + "x", 100)
def test_any_header_gives_spans_inside_the_object_or_an_outcome(value: str, size: int) -> None:
    selected = parse_ranges(value, size)
    if isinstance(selected, tuple):
        assert 1 <= len(selected) <= RANGES_MAX
        for span in selected:
            assert 0 <= span.start < span.end <= size


@given(
    st.from_regex(r"bytes=[0-9]{0,9}-[0-9]{0,9}(,[0-9]{1,4}-[0-9]{0,4}){0,3}", fullmatch=True)
    | st.text(max_size=32),
    st.integers(0, 1 << 40),
)
def test_first_span_of_a_cold_object_agrees_with_its_size(value: str, size: int) -> None:
    requested, selected = first_span(value), parse_ranges(value, size)
    # Only the size shows that a range begins behind the end, and so is none.
    last_start = max([int(start) for start in re.findall(r"(\d+)-", value, re.ASCII)], default=0)
    if requested is not None and last_start < size:
        assert isinstance(selected, tuple)
        assert requested.intersect(Span(0, size)) == selected[0]


@pytest.mark.parametrize(
    ("value", "requested"),
    [
        ("bytes=5-9,1000-1009", Span(5, 10)),
        ("bytes=1000-1009,5-9", Span(1000, 1010)),
        ("bytes=5-9,15-19,1000-", Span(5, 20)),
        ("bytes=5-9,-5", Span(5, 10)),
    ],
)
def test_first_span_of_a_cold_object_joins_near_ranges(value: str, requested: Span) -> None:
    assert first_span(value) == requested


@pytest.mark.parametrize("value", ["bytes=-5", "bytes=-5,0-1", "bytes=5-4", "x", "bytes=-"])
def test_first_span_is_unknown_without_the_size(value: str) -> None:
    assert first_span(value) is None

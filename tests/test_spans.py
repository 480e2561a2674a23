"""Byte ranges: each operation agrees with the set of positions."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.spans import Span

SPANS = st.builds(Span, st.integers(0, 60), st.integers(0, 60))
UNITS = st.integers(1, 20)


def positions(span: Span) -> set[int]:
    return set(range(span.start, span.end))


@settings(deadline=None)
@given(SPANS)
def test_size_is_the_number_of_bytes(span: Span) -> None:
    assert span.size == len(positions(span))


@settings(deadline=None)
@given(SPANS, SPANS)
def test_intersect_has_the_common_positions(one: Span, other: Span) -> None:
    both = one.intersect(other)
    assert positions(both) == positions(one) & positions(other)
    assert both.end >= both.start


@settings(deadline=None)
@given(SPANS, SPANS)
def test_contains_compares_the_positions(one: Span, other: Span) -> None:
    assert one.contains(other) == (positions(other) <= positions(one))


@settings(deadline=None)
@given(SPANS, st.integers(0, 50))
def test_shift_moves_each_position(span: Span, distance: int) -> None:
    assert positions(span.shift(distance)) == {at + distance for at in positions(span)}
    assert span.shift(distance).shift(-distance) == span


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(1, 60), UNITS)
def test_align_is_the_smallest_aligned_span_around(start: int, size: int, unit: int) -> None:
    span = Span(start, start + size)
    aligned = span.align(unit)
    assert aligned.start % unit == aligned.end % unit == 0
    assert aligned.contains(span)
    assert span.start - aligned.start < unit
    assert aligned.end - span.end < unit


@settings(deadline=None)
@given(SPANS, UNITS)
def test_split_cuts_the_span_at_every_multiple(span: Span, unit: int) -> None:
    pieces = list(span.split(unit))
    assert [at for piece in pieces for at in range(*piece)] == list(range(*span))
    assert all(piece.size for piece in pieces)
    assert all(piece.start // unit == (piece.end - 1) // unit for piece in pieces)
    assert all(piece.start % unit == 0 for piece in pieces[1:])

"""Entries, members, presences and positions are read as they were written, or not at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.fleet.entries import Entry, EntryKind, decode_entry, encode_entry, new_entry_id
from streamedge.fleet.members import (
    NAME_CHARACTERS_MAX,
    WEIGHT_MAX,
    Member,
    Presence,
    Role,
    decode_presence,
    member_of,
)
from streamedge.fleet.position import (
    LINES,
    SEQUENCE_BITS,
    format_position,
    line_of,
    parse_position,
    position_at,
    sequence_of,
)
from streamedge.fleet.states import EdgeState

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
TEXTS = st.text(st.characters(codec="utf-8"))
LINE, SEQUENCE = st.integers(0, LINES - 1), st.integers(0, (1 << SEQUENCE_BITS) - 1)
BODY = Member("fra-1").body()


@given(st.builds(position_at, LINE, SEQUENCE), st.builds(position_at, LINE, SEQUENCE))
def test_position_is_read_as_it_was_written_and_a_later_line_is_newer(
    position: int, other: int
) -> None:
    assert parse_position(format_position(position)) == position
    assert (position < other) == (
        (line_of(position), sequence_of(position)) < (line_of(other), sequence_of(other))
    )


@pytest.mark.parametrize(
    "text", ["", "1", "1-", "-1", "a-1", "1-2-3", f"{LINES}-0", f"0-{1 << SEQUENCE_BITS}", "١-1"]
)
def test_text_that_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a position"):
        parse_position(text)


@given(
    st.builds(
        Entry,
        id=st.builds(new_entry_id),
        kind=st.sampled_from(EntryKind),
        edge=TEXTS,
        created_s=st.floats(0, 1e10),
        scope=TEXTS,
        body=st.dictionaries(TEXTS, JSON),
    )
)
def test_entry_is_read_as_it_was_written(entry: Entry) -> None:
    assert decode_entry(encode_entry(entry)) == entry


@given(st.binary() | st.text() | JSON.map(json.dumps))
def test_any_text_is_an_entry_and_a_presence_or_none(text: str | bytes) -> None:
    assert decode_entry(text) is None
    assert decode_presence(text) is None


@given(st.dictionaries(st.sampled_from(sorted(BODY)), JSON))
def test_any_body_is_a_member_or_none(values: dict[str, Any]) -> None:
    member = member_of(BODY | values, 5)
    assert member is None or (0 < member.weight <= WEIGHT_MAX and member.name)


@given(
    st.builds(
        Member,
        name=st.text(min_size=1, max_size=NAME_CHARACTERS_MAX),
        location=st.none() | st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
        addresses=st.lists(TEXTS, max_size=3).map(tuple),
        peer_address=TEXTS,
        weight=st.floats(0, WEIGHT_MAX, exclude_min=True),
        role=st.sampled_from(Role),
        order=st.integers(0, 1 << 60),
    )
)
def test_member_is_read_as_it_was_written(member: Member) -> None:
    assert member_of(json.loads(json.dumps(member.body())), member.order) == member


@pytest.mark.parametrize(
    "values",
    [
        {"name": ""},
        {"name": "x" * (NAME_CHARACTERS_MAX + 1)},
        {"weight": 0},
        {"weight": -1},
        {"weight": WEIGHT_MAX + 1},
        {"weight": float("nan")},
        {"location": [float("inf"), 0]},
        {"location": [1]},
        {"role": "captain"},
    ],
)
def test_member_with_a_value_that_no_rule_can_use_is_none(values: dict[str, Any]) -> None:
    assert member_of(BODY | values, 0) is None


@given(
    st.builds(Presence, TEXTS, st.sampled_from(EdgeState), SEQUENCE, st.integers(0), st.integers(0))
)
def test_presence_is_read_as_it_was_written(presence: Presence) -> None:
    assert decode_presence(presence.encode()) == presence

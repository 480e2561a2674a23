"""Whether a log continues what an edge has applied: against a model that knows both histories."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.fleet.entries import EntryKind
from streamedge.fleet.history import (
    REPUBLISHED_S,
    AppliedEntry,
    History,
    are_consecutive,
    compare_history,
    is_next,
    newest_common,
    to_republish,
)
from streamedge.fleet.position import START, position_at

Log = list[tuple[int, str]]


def log_of(ids: str, line: int = 1) -> Log:
    """Entries with these ids, in one line."""
    return [(position_at(line, number), one) for number, one in enumerate(ids)]


def compared(here: Log, there: Log) -> History:
    """As the follower compares the edge's last entry with the log."""
    position, id_here = here[-1] if here else (START, "")
    first, last = (there[0][0], there[-1][0]) if there else (START, START)
    return compare_history(position, 1, id_here, dict(there).get(position), first, last)


@given(st.integers(0, 8), st.integers(0, 8), st.integers(0, 8))
def test_log_that_only_grows_or_is_trimmed_behind_the_edge_continues(
    applied: int, more: int, trimmed: int
) -> None:
    log = log_of("abcdefghijklmnopq"[: max(1, applied + more)])
    here, there = log[:applied], log[min(trimmed, max(0, applied - 1)) :]
    assert compared(here, there) is History.CONTINUES


@given(st.integers(1, 8), st.integers(1, 8))
def test_log_that_is_trimmed_beyond_the_edge_is_noticed(applied: int, more: int) -> None:
    log = log_of("abcdefghijklmnopq")
    assert compared(log[:applied], log[applied + more - 1 :][1:]) is (
        History.TRIMMED if applied + more < len(log) else History.LOST
    )


@given(st.integers(1, 8), st.integers(0, 7), st.text("xyz", max_size=8))
def test_log_that_has_lost_its_end_is_noticed_whatever_came_instead(
    applied: int, common: int, others: str
) -> None:
    common = min(common, applied - 1)
    here = log_of("abcdefgh"[:applied])
    there = log_of("abcdefgh"[:common] + others)
    assert compared(here, there) is History.LOST
    ids = [dict(there).get(position) for position, _id in reversed(here)]
    newest = newest_common(list(reversed(here)), ids)
    assert newest == (applied - common if common else None)


def test_emptied_log_with_a_new_line_is_lost_and_not_trimmed() -> None:
    assert compared(log_of("abc"), log_of("xyz", line=2)) is History.LOST
    assert compared(log_of("abc"), []) is History.LOST


def test_new_edge_begins_at_the_first_entry_or_takes_the_snapshot() -> None:
    log = log_of("abcdef")
    assert compared([], log) is History.CONTINUES
    assert compared([], log[2:]) is History.TRIMMED


def test_same_id_behind_others_is_not_common() -> None:
    """The lost entry was published again, and got the same number behind another one."""
    here = list(reversed(log_of("abc")))
    assert newest_common(here, ["c", "x", "a"]) == 2


@pytest.mark.parametrize(
    ("position", "following", "expected"),
    [
        ((1, 4), (1, 5), True),
        ((1, 4), (1, 6), False),
        ((1, 4), (1, 4), False),
        ((1, 4), (2, 0), True),
        ((1, 4), (3, 0), True),
        ((1, 4), (2, 1), False),
        ((2, 4), (1, 5), False),
    ],
)
def test_next_entry_leaves_no_gap(
    position: tuple[int, int], following: tuple[int, int], *, expected: bool
) -> None:
    assert is_next(position_at(*position), position_at(*following)) is expected
    assert are_consecutive(position_at(*position), [position_at(*following)]) is expected


def test_gap_behind_the_first_of_several_entries_is_noticed() -> None:
    following = [position_at(1, number) for number in (5, 6, 8)]
    assert are_consecutive(position_at(1, 4), following[:2])
    assert not are_consecutive(position_at(1, 4), following)


def test_lost_entries_of_the_last_hour_are_published_again_and_resources_always() -> None:
    now_s = 10 * REPUBLISHED_S
    recent, old = now_s - REPUBLISHED_S, now_s - REPUBLISHED_S - 1
    lost = [
        AppliedEntry(f"{kind} {applied_s}", kind, applied_s)
        for kind in EntryKind
        for applied_s in (recent, old)
    ]
    expected = {f"{kind} {recent}" for kind in EntryKind if kind is not EntryKind.LINE}
    assert set(to_republish(lost, now_s)) == expected | {f"{EntryKind.RESOURCES} {old}"}

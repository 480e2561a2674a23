"""Marks of uncacheable keys: how long they hold, and how many there are."""

from __future__ import annotations

from streamedge.cache.lookup.hit_for_miss import (
    HIT_FOR_MISS_KEYS_MAX,
    HIT_FOR_MISS_S,
    PROLONGED_AFTER_S,
    HitForMiss,
)

NOW_S = 1_700_000_000.0


def test_mark_holds_for_its_key_and_time_only() -> None:
    marks = HitForMiss()
    assert not marks.holds("page", NOW_S)
    marks.begin("page", NOW_S)
    assert marks.holds("page", NOW_S)
    assert marks.holds("page", NOW_S + HIT_FOR_MISS_S - 1)
    assert not marks.holds("page", NOW_S + HIT_FOR_MISS_S)
    assert not marks.holds("other", NOW_S)


def test_mark_is_prolonged_by_each_uncacheable_response() -> None:
    marks = HitForMiss()
    marks.begin("page", NOW_S)
    marks.begin("page", NOW_S + 50)
    assert marks.holds("page", NOW_S + HIT_FOR_MISS_S + 1)
    assert len(marks) == 1


def test_mark_that_is_less_than_a_second_old_keeps_its_end() -> None:
    marks = HitForMiss()
    marks.begin("page", NOW_S, 7)
    marks.begin("page", NOW_S + PROLONGED_AFTER_S / 2, 7)
    assert not marks.holds("page", NOW_S + HIT_FOR_MISS_S)
    marks.begin("page", NOW_S + PROLONGED_AFTER_S, 7)
    assert marks.holds("page", NOW_S + HIT_FOR_MISS_S)
    marks.begin("page", NOW_S + PROLONGED_AFTER_S, 8)
    assert marks.is_empty("page", NOW_S + PROLONGED_AFTER_S, 8)


def test_mark_from_before_the_clock_went_back_is_set_again() -> None:
    marks = HitForMiss()
    marks.begin("page", NOW_S)
    marks.begin("page", NOW_S - 3600)
    assert marks.holds("page", NOW_S - 3600)


def test_mark_ends_with_a_response_that_can_be_stored() -> None:
    marks = HitForMiss()
    marks.begin("page", NOW_S)
    marks.end("page")
    marks.end("page")
    assert not marks.holds("page", NOW_S)
    assert len(marks) == 0


def test_mark_from_before_the_clock_went_back_does_not_hold() -> None:
    marks = HitForMiss()
    marks.begin("page", NOW_S)
    assert not marks.holds("page", NOW_S - 3600)


def test_oldest_mark_makes_room() -> None:
    marks = HitForMiss()
    for number in range(HIT_FOR_MISS_KEYS_MAX + 1):
        marks.begin(f"page {number}", NOW_S)
    assert len(marks) == HIT_FOR_MISS_KEYS_MAX
    assert not marks.holds("page 0", NOW_S)
    assert marks.holds("page 1", NOW_S)


def test_mark_shows_that_nothing_is_stored_until_another_lookup_ends() -> None:
    marks = HitForMiss()
    marks.begin("page", NOW_S, 7)
    assert marks.is_empty("page", NOW_S, 7)
    assert not marks.is_empty("page", NOW_S, 8)
    assert not marks.is_empty("page", NOW_S + HIT_FOR_MISS_S, 7)
    assert not marks.is_empty("page", NOW_S - 3600, 7)
    assert not marks.is_empty("other", NOW_S, 7)


def test_mark_of_a_key_with_a_stored_response_does_not_show_that_nothing_is_stored() -> None:
    marks = HitForMiss()
    marks.begin("page", NOW_S, 7)
    marks.begin("page", NOW_S)
    assert marks.holds("page", NOW_S)
    assert not marks.is_empty("page", NOW_S, 7)

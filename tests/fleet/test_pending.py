"""The order in which queued writes of several edges are sent, and the bodies of their entries."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.fleet.pending import HeldWrite, Turn, held_write_of, turn_of

OWN = HeldWrite("key", "a", 5, "main", "film", False, '"e"', 3, 1.5, (("x", "y"),), since=20)
EARLIER = replace(OWN, holder="b", serial=1, since=10)
LATER = replace(OWN, holder="b", serial=1, since=30)


def turn(*writes: HeldWrite, serial: int = 5, silent: tuple[str, ...] = ()) -> Turn:
    return turn_of(serial, "a", writes, silent, waits_for_place=False)


def test_write_waits_for_earlier_ones_of_other_edges_alone() -> None:
    assert turn(OWN) is Turn.SEND
    assert turn(OWN, LATER) is Turn.SEND
    assert turn(OWN, EARLIER) is Turn.WAIT


def test_write_overtakes_only_if_no_earlier_holder_answers() -> None:
    another = replace(EARLIER, holder="c")
    assert turn(OWN, EARLIER, silent=("b",)) is Turn.OVERTAKE
    assert turn(OWN, EARLIER, another, silent=("b",)) is Turn.WAIT
    assert turn(OWN, replace(EARLIER, is_overtaken=True), another, silent=("c",)) is Turn.OVERTAKE


def test_overtaken_write_is_not_sent() -> None:
    assert turn(replace(OWN, is_overtaken=True), LATER) is Turn.SUPERSEDED
    assert turn(replace(OWN, is_overtaken=True)) is Turn.SUPERSEDED


def test_write_without_a_place_is_later_than_all_others() -> None:
    assert turn(serial=6) is Turn.SEND  # the engine does not answer
    assert turn(OWN, serial=6) is Turn.SEND
    assert turn(EARLIER, serial=6) is Turn.WAIT
    assert turn_of(6, "a", (), (), waits_for_place=True) is Turn.WAIT


def test_write_that_a_later_one_of_its_edge_follows_needs_no_turn() -> None:
    assert turn(OWN, EARLIER, serial=4) is Turn.SEND


@given(st.permutations(["a", "b", "c"]), st.sets(st.sampled_from(["a", "b", "c"])))
def test_of_several_edges_exactly_one_may_send(order: list[str], silent: set[str]) -> None:
    """And one that is silent for another is never waited for, so no two wait for each other."""
    writes = [
        replace(OWN, holder=holder, since=since) for since, holder in enumerate(order, start=1)
    ]
    turns = {holder: turn_of(5, holder, writes, (), waits_for_place=False) for holder in order}
    assert [holder for holder, one in turns.items() if one is Turn.SEND] == [order[0]]
    last = turn_of(5, order[-1], writes, silent, waits_for_place=False)
    assert last is (Turn.OVERTAKE if silent >= set(order[:-1]) else Turn.WAIT)


def test_body_of_an_entry_gives_the_write_back() -> None:
    body = json.loads(json.dumps(OWN.body()))
    assert held_write_of(body, "a", 99) == OWN  # its own place, not the repeated entry's
    assert held_write_of(replace(OWN, since=0).body(), "a", 99) == replace(OWN, since=99)


@pytest.mark.parametrize("name", ["key", "serial", "origin", "kind", "etag", "size_bytes"])
def test_body_without_a_member_is_no_write(name: str) -> None:
    body = OWN.body()
    del body[name]
    assert held_write_of(body, "a", 1) is None

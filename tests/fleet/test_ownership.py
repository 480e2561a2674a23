"""Weighted rendezvous hashing: shares, orders, and what a change of members moves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.fleet.members import Member, Role
from streamedge.fleet.ownership import owners, rank_of, ranks

KEYS = [f"object-{number}" for number in range(8000)]
NAMES = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=12, unique=True)
WEIGHTS = st.floats(0.001, 1000)


def fleet(*names: str) -> list[Member]:
    return [Member(name, peer_address=f"{name}:7443") for name in names]


def owner(key: str, members: list[Member]) -> str:
    return ranks(key, 0, members)[0].name


@given(st.text(), st.integers(0, 1 << 20), NAMES, st.data())
def test_order_depends_on_the_set_of_members_alone(
    key: str, extent: int, names: list[str], data: st.DataObject
) -> None:
    members = [Member(name, weight=data.draw(WEIGHTS)) for name in names]
    order = ranks(key, extent, members)
    assert sorted(order, key=id) == sorted(members, key=id)
    assert ranks(key, extent, data.draw(st.permutations(members))) == order
    assert [rank_of(one.name, key, extent, members) for one in order] == list(range(len(order)))
    assert rank_of("no member", key, extent, members) is None


@given(st.text(), st.integers(0, 1 << 20), NAMES, st.data())
def test_member_that_joins_or_leaves_changes_no_order_of_the_others(
    key: str, extent: int, names: list[str], data: st.DataObject
) -> None:
    members = [Member(name, weight=data.draw(WEIGHTS)) for name in names]
    gone = data.draw(st.sampled_from(members))
    others = [one for one in members if one is not gone]
    assert ranks(key, extent, others) == [
        one for one in ranks(key, extent, members) if one is not gone
    ]


@given(st.text(), NAMES, st.data())
def test_member_with_more_weight_falls_behind_no_other(
    key: str, names: list[str], data: st.DataObject
) -> None:
    members = [Member(name) for name in names]
    light = data.draw(st.sampled_from(members))
    heavy = replace(light, weight=data.draw(st.floats(1, 1000)))
    changed = [heavy if one is light else one for one in members]
    before, after = rank_of(light.name, key, 0, members), rank_of(light.name, key, 0, changed)
    assert before is not None
    assert after is not None
    assert after <= before
    others = [one.name for one in ranks(key, 0, members) if one is not light]
    assert [one.name for one in ranks(key, 0, changed) if one is not heavy] == others


@pytest.mark.parametrize("count", [2, 10])
def test_one_more_member_takes_its_share_and_nothing_else_moves(count: int) -> None:
    before, after = (fleet(*(f"e-{n}" for n in range(size))) for size in (count, count + 1))
    moved = [key for key in KEYS if owner(key, before) != owner(key, after)]
    assert {owner(key, after) for key in moved} == {f"e-{count}"}
    assert len(moved) / len(KEYS) <= 1 / (count + 1) + 0.01


def test_shares_are_those_of_the_weights() -> None:
    weights = {"a": 1.0, "b": 1.0, "c": 2.0, "d": 4.0}
    members = [Member(name, weight=weight) for name, weight in weights.items()]
    counts = Counter(owner(key, members) for key in KEYS)
    for name, weight in weights.items():
        assert abs(counts[name] / len(KEYS) - weight / 8) < 0.02


def test_extents_of_an_object_are_spread() -> None:
    members = fleet("fra-1", "ams-1", "par-1")
    counts = Counter(ranks("film", extent, members)[0].name for extent in range(3000))
    assert all(abs(count / 3000 - 1 / 3) < 0.05 for count in counts.values())


def test_owners_are_the_members_of_the_tier_that_serve_and_can_be_reached() -> None:
    members = {
        "fra-1": Member("fra-1", peer_address="fra:7443"),
        "ams-1": Member("ams-1", peer_address="ams:7443", role=Role.DRAINING),
        "par-1": Member("par-1", peer_address="par:7443", role=Role.REMOVED),
        "rom-1": Member("rom-1"),
        "lon-1": Member("lon-1", peer_address="lon:7443"),
    }
    tier = ("fra-1", "ams-1", "par-1", "rom-1", "not-joined-yet")
    assert owners(tier, members) == [members["fra-1"]]

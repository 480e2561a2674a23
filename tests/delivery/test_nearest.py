"""Which edge a viewer is redirected to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.coordination.live_edges import ASSIGNMENT_S, ASSIGNMENTS, Assignments
from streamedge.fleet.nearest import by_distance
from tests.support.fleet.places import EDGES, VIEWERS, Places

NAMES = [edge.name for edge in EDGES]


@pytest.mark.parametrize(
    ("address", "edge"),
    [("127.0.0.2", None), ("127.0.0.3", "tyo-1"), ("127.0.0.4", "nyc-1"), ("127.0.0.1", None)],
)
def test_viewer_is_sent_to_the_nearest_edge_unless_that_is_this_one(
    address: str, edge: str | None
) -> None:
    assert Places().nearest().elsewhere(address) == edge


@given(
    st.sets(st.sampled_from(NAMES)),
    st.sampled_from(NAMES),
    st.sampled_from(["127.0.0.1", "127.0.0.9", *VIEWERS]),
)
def test_next_edge_is_the_nearest_other_one(up: set[str], own_name: str, address: str) -> None:
    nearest = Places(own_name=own_name, up=sorted(up)).nearest()
    others = [edge for edge in EDGES if edge.name in up - {own_name}]
    for _ in range(2):
        edge = nearest.next_edge(address)
        if address in VIEWERS and others:
            assert edge == by_distance(VIEWERS[address], others)[0].name
        else:
            assert edge in {one.name for one in others} or (edge is None and not others)


def test_viewers_whose_place_is_unknown_are_spread() -> None:
    nearest = Places().nearest()
    assert {nearest.next_edge(f"127.9.0.{number}") for number in range(50)} == {"tyo-1", "nyc-1"}
    assert Places(hears_fleet=False).nearest().next_edge("127.0.0.3") is None


def test_edge_that_is_not_up_is_not_chosen() -> None:
    places = Places(up=["fra-1", "nyc-1"])

    assert places.nearest().elsewhere("127.0.0.3") is None  # Frankfurt is nearer to Osaka


def test_draining_edge_sends_its_own_viewers_away() -> None:
    assert Places(up=["tyo-1", "nyc-1"]).nearest().elsewhere("127.0.0.2") == "nyc-1"


def test_edge_that_does_not_hear_its_fleet_redirects_no_viewer() -> None:
    assert Places(hears_fleet=False).nearest().elsewhere("127.0.0.3") is None


def test_fleet_without_live_edges_redirects_no_viewer() -> None:
    assert Places(up=[]).nearest().elsewhere("127.0.0.3") is None


def test_viewer_stays_with_its_edge_while_that_is_up() -> None:
    places = Places(up=["fra-1", "nyc-1"], own_name="nyc-1")
    nearest = places.nearest()
    assert nearest.elsewhere("127.0.0.3") == "fra-1"

    places.up = ["fra-1", "tyo-1", "nyc-1"]
    for _ in range(10):
        places.now_s += ASSIGNMENT_S / 2
        assert nearest.elsewhere("127.0.0.3") == "fra-1"
    places.up = ["tyo-1", "nyc-1"]
    assert nearest.elsewhere("127.0.0.3") == "tyo-1"
    places.up = ["fra-1", "tyo-1", "nyc-1"]
    assert nearest.elsewhere("127.0.0.3") == "tyo-1"


def test_viewer_is_assigned_again_after_a_pause() -> None:
    places = Places(up=["fra-1", "nyc-1"])
    nearest = places.nearest()
    assert nearest.elsewhere("127.0.0.3") is None

    places.up = ["fra-1", "tyo-1", "nyc-1"]
    places.now_s += ASSIGNMENT_S + 20
    assert nearest.elsewhere("127.0.0.3") == "tyo-1"


def test_workers_share_what_viewers_were_assigned() -> None:
    places = Places(up=["fra-1", "nyc-1"], own_name="nyc-1")
    first, second = places.nearest(), places.nearest()
    assert first.elsewhere("127.0.0.3") == "fra-1"

    places.up = ["fra-1", "tyo-1", "nyc-1"]
    assert second.elsewhere("127.0.0.3") == "fra-1"


def test_own_name_is_served_before_the_fleet_is_known() -> None:
    assert Places(own_name="FRA-1", members=[], up=[]).nearest().names == {"fra-1"}


@given(st.lists(st.sets(st.sampled_from(NAMES)), max_size=12))
def test_choice_is_always_up_and_changes_only_if_it_must(history: list[set[str]]) -> None:
    places = Places(own_name="elsewhere")
    nearest, before = places.nearest(), None
    for up in history:
        places.up = sorted(up)
        chosen = nearest.elsewhere("127.0.0.3")
        if not up:
            assert chosen is None
            continue
        assert chosen in up
        if before in up:
            assert chosen == before
        else:
            live = [edge for edge in EDGES if edge.name in up]
            assert chosen == by_distance(VIEWERS["127.0.0.3"], live)[0].name
        before = chosen


@given(
    st.dictionaries(st.text(max_size=40), st.sampled_from(NAMES), max_size=50),
    st.floats(0, 1e9),
)
def test_assignment_is_the_last_one_or_none(assigned: dict[str, str], now_s: float) -> None:
    assignments = Assignments()
    for viewer, name in assigned.items():
        assignments.put(viewer, name, now_s)

    for viewer, name in assigned.items():
        assert assignments.get(viewer, NAMES, now_s) in {name, None}
        assert assignments.get(viewer, [], now_s) is None
    assert assignments.get("another viewer", NAMES, now_s) is None


def test_assignments_of_many_viewers_replace_each_other() -> None:
    assignments = Assignments()
    for number in range(2 * ASSIGNMENTS):
        assignments.put(f"viewer {number}", NAMES[number % 3], 0.0)

    assigned = [
        assignments.get(f"viewer {number}", NAMES, 0.0) for number in range(2 * ASSIGNMENTS)
    ]
    right = [name == NAMES[number % 3] for number, name in enumerate(assigned) if name is not None]
    assert all(right)
    assert len(right) > ASSIGNMENTS / 2

"""Distances on the earth, the edges' own host names, and which edges redirects may use."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.fleet.members import Member, Role
from streamedge.fleet.nearest import (
    EARTH_RADIUS_KM,
    LiveEdges,
    by_distance,
    decode_live_edges,
    distance_km,
    live_edges,
    split_edge_label,
    with_edge_label,
)
from tests.support.fleet.places import BOSTON, EDGES, FRANKFURT, NEW_YORK, OSAKA, PARIS, TOKYO

NAMES = frozenset({"fra-1", "tyo-1", "10"})
LOCATIONS = st.tuples(st.floats(-90, 90, allow_nan=False), st.floats(-180, 180, allow_nan=False))


@pytest.mark.parametrize(
    ("first", "second", "km"),
    [(FRANKFURT, PARIS, 479), (FRANKFURT, TOKYO, 9337), (NEW_YORK, BOSTON, 306)],
)
def test_distance_is_that_of_the_great_circle(
    first: tuple[float, float], second: tuple[float, float], km: float
) -> None:
    assert distance_km(first, second) == pytest.approx(km, rel=0.01)


@given(LOCATIONS, LOCATIONS)
def test_distance_is_symmetric_and_at_most_half_of_the_earth(
    first: tuple[float, float], second: tuple[float, float]
) -> None:
    distance = distance_km(first, second)

    assert 0 <= distance <= 3.1416 * EARTH_RADIUS_KM
    assert distance == pytest.approx(distance_km(second, first), abs=1e-6)
    assert distance_km(first, first) == 0


def test_members_come_in_the_order_of_their_distance() -> None:
    def names(place: tuple[float, float]) -> list[str]:
        return [member.name for member in by_distance(place, EDGES)]

    assert names(PARIS) == ["fra-1", "nyc-1", "tyo-1"]
    assert names(OSAKA) == ["tyo-1", "fra-1", "nyc-1"]
    assert names(BOSTON) == ["nyc-1", "fra-1", "tyo-1"]


def test_distance_across_the_date_line_is_short() -> None:
    fiji, samoa = Member("fiji", (-17.7, 178.0)), Member("samoa", (-13.8, -172.0))

    assert by_distance((-16.5, -179.9), [samoa, fiji])[0] is fiji
    assert distance_km((0.0, 179.5), (0.0, -179.5)) < 120


def test_equal_distances_are_ordered_by_name() -> None:
    members = [replace(EDGES[0], name=name) for name in ("b", "a", "c")]

    assert [member.name for member in by_distance(PARIS, members)] == ["a", "b", "c"]


def test_member_without_a_location_is_left_out() -> None:
    assert by_distance(PARIS, [Member("nowhere"), EDGES[0]]) == [EDGES[0]]


@pytest.mark.parametrize(
    ("host", "label", "rest"),
    [
        ("fra-1.cdn.example.com", "fra-1", "cdn.example.com"),
        ("FRA-1.cdn.example.com:8080", "fra-1", "cdn.example.com:8080"),
        ("tyo-1.edge", "tyo-1", "edge"),
        ("fra-1.fra-1.example.com", "fra-1", "fra-1.example.com"),
        ("cdn.example.com", "", "cdn.example.com"),
        ("fra-1", "", "fra-1"),
        ("fra-1.", "", "fra-1."),
        ("fra-2.cdn.example.com", "", "fra-2.cdn.example.com"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1:80", "", "10.0.0.1:80"),
        ("[::1]:80", "", "[::1]:80"),
        ("", "", ""),
    ],
)
def test_label_of_an_edge_is_split_off(host: str, label: str, rest: str) -> None:
    assert split_edge_label(host, NAMES) == (label, rest)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("cdn.example.com", "fra-1.cdn.example.com"),
        ("cdn.example.com:8443", "fra-1.cdn.example.com:8443"),
        ("localhost", "fra-1.localhost"),
        ("127.0.0.1:8080", None),
        ("127.0.0.1", None),
        ("[::1]:8080", None),
        ("", None),
    ],
)
def test_edge_has_no_name_below_an_address(host: str, expected: str | None) -> None:
    assert with_edge_label(host, "FRA-1") == expected


HOSTS = st.from_regex(
    r"[a-z][a-z0-9-]{0,9}(\.[a-z][a-z0-9-]{0,9}){0,3}(:[0-9]{1,5})?", fullmatch=True
)


@given(HOSTS, st.sampled_from(sorted(NAMES)))
def test_splitting_undoes_joining(host: str, name: str) -> None:
    joined = with_edge_label(host, name)

    assert joined is not None
    assert split_edge_label(joined, NAMES) == (name, host)


def test_only_members_that_serve_and_are_up_get_redirects() -> None:
    fra, tyo, nyc = EDGES
    members = [
        fra,
        replace(tyo, role=Role.DRAINING),
        replace(nyc, role=Role.REMOVED),
        Member("blind", None, ("192.0.2.9",)),
        Member("hidden", PARIS),
        Member("x" * 64, PARIS, ("192.0.2.9",)),
        Member("down", PARIS, ("192.0.2.9",)),
    ]
    present = [member.name for member in members if member.name != "down"]

    live = live_edges(members, present)

    assert live.up == (fra,)
    # A viewer may still come with the name of an edge that no longer gets redirects.
    assert live.names == {"fra-1", "tyo-1", "blind", "hidden", "x" * 64, "down"}


def test_live_edges_are_decoded_as_they_were_encoded() -> None:
    live = live_edges(EDGES, ["fra-1", "nyc-1"])

    assert decode_live_edges(live.encode()) == live
    assert decode_live_edges(b"") == LiveEdges()

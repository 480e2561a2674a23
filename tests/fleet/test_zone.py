"""The records of a fleet's zone. ``tests/cli/test_fleet_zone.py`` has them in a real PowerDNS."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.fleet.members import Member, Role
from streamedge.fleet.zone import (
    CONTENT_BYTES_MAX,
    NAME_CHARACTERS_MAX,
    RecordSet,
    ZoneError,
    common_zone,
    format_zone,
    is_own_record,
    is_within,
    registered_names,
    zone_records,
)
from tests.support.fleet.places import EDGES, FRANKFURT, PARIS

ALIAS = "cdn.example.com"


def by_name(records: list[RecordSet]) -> dict[tuple[str, str], tuple[str, ...]]:
    return {(record.name, record.type): record.contents for record in records}


def test_alias_has_a_record_for_each_ip_version_and_each_edge_has_a_name() -> None:
    records = by_name(zone_records([ALIAS], EDGES, check_port=8080))

    v4, v6 = records[f"{ALIAS}.", "LUA"]
    assert v4.startswith('A ";')
    assert v6.startswith('AAAA ";')
    assert f"http://{ALIAS}:8080/healthz/traffic" in v4
    assert "{50.11,8.68,{'192.0.2.1'}}" in v4
    assert "{50.11,8.68,{'2001:db8::1'}}" in v6
    assert "192.0.2.3" in v4
    assert "192.0.2" not in v6
    del records[f"{ALIAS}.", "LUA"]
    assert records == {
        (f"fra-1.{ALIAS}.", "A"): ("192.0.2.1",),
        (f"fra-1.{ALIAS}.", "AAAA"): ("2001:db8::1",),
        (f"tyo-1.{ALIAS}.", "A"): ("192.0.2.2",),
        (f"tyo-1.{ALIAS}.", "AAAA"): ("2001:db8::2",),
        (f"nyc-1.{ALIAS}.", "A"): ("192.0.2.3",),
        (f"_streamedge.{ALIAS}.", "TXT"): ('"fra-1" "nyc-1" "tyo-1"',),
    }


def test_removed_edges_and_those_without_an_address_are_left_out_and_draining_ones_stay() -> None:
    fra, tyo, nyc = EDGES
    members = [replace(fra, role=Role.DRAINING), replace(tyo, role=Role.REMOVED)]
    members += [replace(nyc, addresses=())]

    records = zone_records([ALIAS], members, check_port=80)

    assert {record.name for record in records} == {
        f"{ALIAS}.",
        f"fra-1.{ALIAS}.",
        f"_streamedge.{ALIAS}.",
    }
    assert zone_records([ALIAS], members[1:], check_port=80) == []


def test_pattern_has_a_wildcard_record_and_no_names_of_edges() -> None:
    records = zone_records(["*.Example.com", "*"], EDGES, check_port=80)

    [record] = records
    assert (record.name, record.type) == ("*.example.com.", "LUA")
    assert "http://check.example.com:80/" in record.contents[0]


def test_alias_that_is_the_name_of_an_edge_stays_an_alias() -> None:
    records = zone_records([ALIAS, f"fra-1.{ALIAS}"], EDGES[:1], check_port=80)

    assert [one.type for one in records if one.name == f"fra-1.{ALIAS}."] == ["LUA"]
    assert f"fra-1.fra-1.{ALIAS}." in {one.name for one in records}


def test_edge_whose_name_is_no_label_has_no_name_of_its_own() -> None:
    long = Member("x" * 64, FRANKFURT, ("192.0.2.1",))

    [record] = zone_records([ALIAS], [long], check_port=80)

    assert record.type == "LUA"


@pytest.mark.parametrize("alias", ["a." * 126 + "example", "x" * 64 + ".example.com"])
def test_alias_that_is_too_long_is_refused(alias: str) -> None:
    with pytest.raises(ZoneError, match="no host name"):
        zone_records([alias], EDGES, check_port=80)


def test_name_of_an_edge_that_is_too_long_is_refused() -> None:
    alias = ("a" * 60 + ".") * 4 + "b" * (NAME_CHARACTERS_MAX - 244)
    assert len(alias) == NAME_CHARACTERS_MAX

    with pytest.raises(ZoneError, match=r"shorter alias or a shorter edge\.name"):
        zone_records([alias], EDGES, check_port=80)


def test_record_that_does_not_fit_is_refused() -> None:
    members = [
        Member(f"edge-{number}", PARIS, (f"192.0.{number >> 8}.{number & 255}",))
        for number in range(3000)
    ]
    with pytest.raises(ZoneError, match=f"{CONTENT_BYTES_MAX} that fit"):
        zone_records([ALIAS], members, check_port=80)


@pytest.mark.parametrize(
    ("aliases", "zone"),
    [
        ([ALIAS], ALIAS),
        (["*.example.com"], "example.com"),
        ([ALIAS, "media.example.com", "*"], "example.com"),
        (["example.com", ALIAS], "example.com"),
        (["b.a.example.com", "c.b.a.example.com"], "b.a.example.com"),
        (["localhost"], "localhost"),
    ],
)
def test_zone_is_what_the_aliases_have_in_common(aliases: list[str], zone: str) -> None:
    assert common_zone(aliases) == zone


@pytest.mark.parametrize(
    ("aliases", "advice"),
    [
        ([ALIAS, "cdn.example.org"], "--zone"),
        ([ALIAS, "media.other.com"], "--zone"),
        (["*"], "add host names"),
        ([], "add host names"),
    ],
)
def test_aliases_without_a_common_zone_are_refused(aliases: list[str], advice: str) -> None:
    with pytest.raises(ZoneError, match=advice):
        common_zone(aliases)


def test_zone_contains_whole_labels() -> None:
    assert is_within("cdn.example.com.", "Example.com")
    assert is_within("example.com", "example.com.")
    assert not is_within("badexample.com", "example.com")


def test_zone_file_begins_with_its_authority() -> None:
    records = zone_records([ALIAS], EDGES[:1], check_port=80, ttl_s=60)

    lines = format_zone("example.com", records, []).splitlines()

    assert lines[0] == "$ORIGIN example.com."
    assert lines[1].split() == [
        "example.com.",
        "3600",
        "IN",
        "SOA",
        "ns1.example.com.",
        "hostmaster.example.com.",
        "1",
        "10800",
        "3600",
        "604800",
        "60",
    ]
    assert lines[2].split() == ["example.com.", "3600", "IN", "NS", "ns1.example.com."]
    assert lines[3].startswith(f'{ALIAS}.\t60\tIN\tLUA\tA ";local edges')
    assert f"fra-1.{ALIAS}.\t60\tIN\tA\t192.0.2.1" in lines
    servers = format_zone("example.com", records, ["a.ns.net", "b.ns.net."])
    assert "NS\ta.ns.net.\n" in servers
    assert "NS\tb.ns.net.\n" in servers


LOCATIONS = st.none() | st.tuples(
    st.floats(-90, 90, allow_nan=False), st.floats(-180, 180, allow_nan=False)
)
MEMBERS = st.lists(
    st.builds(
        Member,
        name=st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
        location=LOCATIONS,
        addresses=st.lists(st.ip_addresses().map(str), max_size=3).map(tuple),
        role=st.sampled_from(Role),
    ),
    max_size=6,
    unique_by=lambda member: member.name.lower(),
)
LABEL = r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?"
ALIASES = st.lists(
    st.from_regex(rf"(\*\.)?{LABEL}(\.{LABEL}){{1,3}}", fullmatch=True) | st.just("*"), max_size=4
)


@given(ALIASES, MEMBERS, st.integers(1, 65_535))
def test_zone_has_each_address_of_each_serving_edge_and_no_other(
    aliases: list[str], members: list[Member], port: int
) -> None:
    records = zone_records(aliases, members, check_port=port)

    keys = [(record.name, record.type) for record in records]
    assert len(keys) == len(set(keys))
    serving = [member for member in members if member.role is not Role.REMOVED]
    addresses = {ip_address(text).compressed for member in serving for text in member.addresses}
    for record in records:
        assert record.contents
        if record.type == "LUA":
            for content in record.contents:
                kind, _, script = content.partition(" ")
                assert script[0] == script[-1] == '"'
                assert not set('"\\\n') & set(script[1:-1])
                assert is_own_record(content)
                version = 4 if kind == "A" else 6
                listed = set(re.findall(r"'([0-9a-f.:]+)'", script)) & addresses
                assert listed == {one for one in addresses if ip_address(one).version == version}
        elif record.type in {"A", "AAAA"}:
            label, _, alias = record.name.partition(".")
            [member] = [one for one in serving if one.name.lower() == label]
            own = {ip_address(text).compressed for text in member.addresses}
            assert set(record.contents) <= own
            assert (record.name, record.type) not in {(f"{one}.", "LUA") for one in aliases}
            registry = by_name(records)[f"_streamedge.{alias}", "TXT"][0]
            assert record.name in registered_names(alias, registry)

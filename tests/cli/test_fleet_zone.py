"""The fleet's zone in a real PowerDNS: pushed through its API, queried by dig from many places."""

from __future__ import annotations

import json
import random
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from streamedge.cli.fleet.powerdns import PowerDns, PowerDnsError, zone_for
from streamedge.cli.fleet.zone import FleetZone, ZoneOptions, push_zone, zone_file
from streamedge.fleet.members import Member, Role
from streamedge.fleet.nearest import Location, by_distance
from streamedge.fleet.zone import ZoneError
from tests.support.dns.powerdns_server import API_KEY, PowerDnsServer, run_powerdns
from tests.support.dns.traffic_checks import TrafficChecks, run_traffic_checks
from tests.support.fleet.places import BOSTON, FRANKFURT, NEW_YORK, OSAKA, PARIS, TOKYO
from tests.support.process.ports import free_ports

ALIAS = "cdn.example.com"
FRA, TYO, NYC = "127.1.0.1", "127.1.0.2", "127.1.0.3"
EDGES = (
    Member("fra-1", FRANKFURT, (FRA, "2001:db8::1")),
    Member("tyo-1", TOKYO, (TYO,)),
    Member("nyc-1", NEW_YORK, (NYC, "::1")),
)
IN_PARIS, IN_OSAKA, IN_BOSTON, NOWHERE = (f"10.{number}.7.0/24" for number in (1, 2, 3, 4))
IN_PARIS_6 = "2001:db8:1::/48"
RANDOM = random.Random(7)
PLACES: dict[str, Location] = {
    "10.1.0.0/16": PARIS,
    "10.2.0.0/16": OSAKA,
    "10.3.0.0/16": BOSTON,
    IN_PARIS_6: PARIS,
    **{
        f"10.{number}.0.0/16": (RANDOM.uniform(-80, 80), RANDOM.uniform(-180, 180))
        for number in range(100, 120)
    },
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PowerDnsServer]:
    with run_powerdns(tmp_path_factory.mktemp("powerdns"), PLACES) as server:
        yield server


@pytest.fixture
def server(running: PowerDnsServer) -> Iterator[PowerDnsServer]:
    """The server, without zones at the end."""
    yield running
    for zone in PowerDns(running.url, API_KEY).zones():
        api(running, "DELETE", f"/zones/{zone}.")


@pytest.fixture
def checks() -> Iterator[TrafficChecks]:
    with run_traffic_checks([FRA, TYO, NYC, "::1"]) as running:
        yield running


def api(server: PowerDnsServer, method: str, path: str, body: object = None) -> object:
    request = urllib.request.Request(
        f"{server.url}/api/v1/servers/localhost{path}",
        None if body is None else json.dumps(body).encode(),
        {"X-API-Key": API_KEY},
        method=method,
    )
    with urllib.request.urlopen(request) as response:
        content = response.read()
    return json.loads(content) if content else None


def push(server: PowerDnsServer, fleet: FleetZone, options: ZoneOptions | None = None) -> list[str]:
    dns = ("127.0.0.1", server.port)
    return list(push_zone(fleet, options or ZoneOptions(), server.url, server.key_file, dns))


def changed(lines: list[str]) -> list[str]:
    """The lines of changed record sets."""
    return [line for line in lines if line.split(":")[0] in {"added", "replaced", "removed"}]


def test_clients_get_the_nearest_edge_from_the_first_query_on(
    server: PowerDnsServer, checks: TrafficChecks
) -> None:
    lines = push(server, FleetZone([ALIAS, "*"], EDGES, checks.port))

    assert lines[-3:] == [
        f"{ALIAS}: 7 changes.",
        f"Queried 127.0.0.1 port {server.port} for every alias: it checks the edges from now on.",
        "Waiting 1.5 s until it has checked all of them.",
    ]
    for _ in range(3):
        assert server.dig(ALIAS, subnet=IN_PARIS) == [FRA]
        assert server.dig(ALIAS, subnet=IN_OSAKA) == [TYO]
        assert server.dig(ALIAS, subnet=IN_BOSTON) == [NYC]
        assert server.dig(ALIAS, subnet=IN_PARIS_6) == [FRA]
    assert server.dig(f"tyo-1.{ALIAS}") == [TYO]
    assert server.dig(f"nyc-1.{ALIAS}", "AAAA") == ["::1"]
    server.until(lambda: f"{ALIAS}:{checks.port}" in checks.hosts)


def test_order_of_powerdns_is_that_of_the_program(
    server: PowerDnsServer, checks: TrafficChecks
) -> None:
    push(server, FleetZone([ALIAS], EDGES, checks.port))

    for network, place in PLACES.items():
        if network != IN_PARIS_6:
            nearest = by_distance(place, EDGES)[0].addresses[0]
            assert server.dig(ALIAS, subnet=network.replace("/16", "/24")) == [nearest], place


def test_dead_and_draining_edges_leave_and_come_back(
    server: PowerDnsServer, checks: TrafficChecks
) -> None:
    push(server, FleetZone([ALIAS], EDGES, checks.port))

    checks.stop(TYO)
    server.until(lambda: server.dig(ALIAS, subnet=IN_OSAKA) == [FRA])
    checks.statuses[FRA] = 503
    server.until(lambda: server.dig(ALIAS, subnet=IN_OSAKA) == [NYC])
    assert server.dig(ALIAS, subnet=IN_PARIS) == [NYC]
    checks.start(TYO)
    server.until(lambda: server.dig(ALIAS, subnet=IN_OSAKA) == [TYO])
    checks.statuses[FRA] = 200
    server.until(lambda: server.dig(ALIAS, subnet=IN_PARIS) == [FRA])


def test_nearest_edge_is_the_answer_if_none_is_up(
    server: PowerDnsServer, checks: TrafficChecks
) -> None:
    push(server, FleetZone([ALIAS], EDGES, checks.port))
    server.until(lambda: len(checks.hosts) > 0)
    checks.statuses |= dict.fromkeys((FRA, TYO, NYC), 503)
    checks.hosts.clear()
    server.until(lambda: len(checks.hosts) > 0)

    def answers() -> list[list[str]]:
        return [server.dig(ALIAS, subnet=subnet) for subnet in (IN_PARIS, IN_OSAKA, IN_BOSTON)]

    nearest = [[FRA], [TYO], [NYC]]
    server.until(lambda: answers() == nearest)  # it learns of the edges one after the other
    assert [answers() for _time in range(5)] == [nearest] * 5


def test_ipv6_has_its_own_edges_and_checks(server: PowerDnsServer, checks: TrafficChecks) -> None:
    push(server, FleetZone([ALIAS], EDGES, checks.port))

    server.until(lambda: server.dig(ALIAS, "AAAA", subnet=IN_BOSTON) == ["::1"])
    # Nothing listens at the address in Frankfurt.
    server.until(lambda: server.dig(ALIAS, "AAAA", subnet=IN_PARIS) == ["::1"])


def test_client_at_an_unknown_place_gets_an_edge_that_is_up(
    server: PowerDnsServer, checks: TrafficChecks
) -> None:
    push(server, FleetZone([ALIAS], EDGES, checks.port))

    assert server.dig(ALIAS, subnet=NOWHERE) == server.dig(ALIAS) == [FRA]
    checks.statuses[FRA] = 503
    server.until(lambda: server.dig(ALIAS, subnet=NOWHERE) == [NYC])


def test_edge_without_a_location_comes_last(server: PowerDnsServer, checks: TrafficChecks) -> None:
    edges = [replace(EDGES[0], location=None), EDGES[1]]
    push(server, FleetZone([ALIAS], edges, checks.port))

    assert server.dig(ALIAS, subnet=IN_PARIS) == [TYO]
    checks.stop(TYO)
    server.until(lambda: server.dig(ALIAS, subnet=IN_PARIS) == [FRA])


def test_edge_with_several_addresses_answers_with_those_that_are_up(
    server: PowerDnsServer, checks: TrafficChecks
) -> None:
    edges = [replace(EDGES[0], addresses=(FRA, NYC)), EDGES[1]]
    push(server, FleetZone([ALIAS], edges, checks.port))

    assert sorted(server.dig(ALIAS, subnet=IN_PARIS)) == [FRA, NYC]
    checks.statuses[FRA] = 503
    server.until(lambda: server.dig(ALIAS, subnet=IN_PARIS) == [NYC])
    checks.statuses[NYC] = 503
    server.until(lambda: server.dig(ALIAS, subnet=IN_PARIS) == [TYO])


def test_fleet_of_one_answers_with_its_edge(server: PowerDnsServer, checks: TrafficChecks) -> None:
    push(server, FleetZone([ALIAS], EDGES[1:2], checks.port))

    checks.stop(TYO)
    assert server.dig(ALIAS, subnet=IN_PARIS) == [TYO]


def test_pattern_answers_for_every_name_below_it(
    server: PowerDnsServer, checks: TrafficChecks
) -> None:
    push(server, FleetZone(["*.media.example.com"], EDGES, checks.port))

    assert server.dig("a.media.example.com", subnet=IN_OSAKA) == [TYO]
    assert server.dig("b.a.media.example.com", subnet=IN_BOSTON) == [NYC]
    server.until(lambda: f"check.media.example.com:{checks.port}" in checks.hosts)


def test_second_push_changes_what_has_changed(
    server: PowerDnsServer, checks: TrafficChecks
) -> None:
    push(server, FleetZone([ALIAS, "media.example.com"], EDGES, checks.port))
    api(
        server,
        "PATCH",
        "/zones/example.com.",
        {
            "rrsets": [
                {
                    "name": "www.cdn.example.com.",
                    "type": "A",
                    "ttl": 60,
                    "changetype": "REPLACE",
                    "records": [{"content": "192.0.2.99", "disabled": False}],
                }
            ]
        },
    )

    assert changed(push(server, FleetZone([ALIAS, "media.example.com"], EDGES, checks.port))) == []
    edges = [EDGES[0], replace(EDGES[1], role=Role.REMOVED), EDGES[2]]
    assert changed(push(server, FleetZone([ALIAS], edges, checks.port))) == [
        "replaced: cdn.example.com LUA",
        "replaced: _streamedge.cdn.example.com TXT",
        "removed: _streamedge.media.example.com TXT",
        "removed: fra-1.media.example.com A",
        "removed: fra-1.media.example.com AAAA",
        "removed: media.example.com LUA",
        "removed: nyc-1.media.example.com A",
        "removed: nyc-1.media.example.com AAAA",
        "removed: tyo-1.cdn.example.com A",
        "removed: tyo-1.media.example.com A",
    ]
    assert server.dig(f"tyo-1.{ALIAS}") == []
    assert server.dig(f"www.{ALIAS}") == ["192.0.2.99"]
    options = ZoneOptions(ttl_s=5)
    assert "replaced: cdn.example.com LUA" in push(
        server, FleetZone([ALIAS], edges, checks.port), options
    )


def test_records_go_into_the_closest_zone_that_exists(
    server: PowerDnsServer, checks: TrafficChecks
) -> None:
    for zone in ("example.com", "media.example.com"):
        body = {"name": f"{zone}.", "kind": "Native", "nameservers": [f"ns1.{zone}."]}
        api(server, "POST", "/zones", body)

    lines = push(
        server, FleetZone([ALIAS, "a.media.example.com", "x.example.org"], EDGES, checks.port)
    )

    assert [line for line in lines if line.endswith("changes.")] == [
        "example.com: 7 changes.",
        "media.example.com: 7 changes.",
        "x.example.org: 7 changes.",
    ]
    assert server.dig("x.example.org", subnet=IN_OSAKA) == [TYO]


def test_given_zone_is_made_and_has_only_its_own_names(
    server: PowerDnsServer, checks: TrafficChecks
) -> None:
    fleet = FleetZone([ALIAS, "cdn.example.org"], EDGES, checks.port)
    options = ZoneOptions(zone="Example.com.", nameservers=["ns.example.net"])
    push(server, fleet, options)

    assert server.dig("example.com", "NS") == ["ns.example.net."]
    assert server.dig(ALIAS, subnet=IN_OSAKA) == [TYO]
    assert server.dig("cdn.example.org", subnet=IN_OSAKA) == []


@pytest.mark.parametrize(
    ("name", "record_type", "content"),
    [
        (ALIAS, "A", "192.0.2.99"),
        (ALIAS, "CNAME", "elsewhere.example.net."),
        (ALIAS, "LUA", "A \"return '192.0.2.99'\""),
        (f"tyo-1.{ALIAS}", "CNAME", "elsewhere.example.net."),
    ],
)
def test_records_of_the_operator_are_not_replaced(
    server: PowerDnsServer, name: str, record_type: str, content: str
) -> None:
    record = {"content": content, "disabled": False}
    records = {"name": f"{name}.", "type": record_type, "ttl": 60, "records": [record]}
    zone = {"name": "example.com.", "kind": "Native", "nameservers": ["ns1.example.com."]}
    api(server, "POST", "/zones", zone | {"rrsets": [records]})

    with pytest.raises(PowerDnsError, match=rf"{name} {record_type}; remove them"):
        push(server, FleetZone([ALIAS], EDGES, 80))


def test_wrong_key_is_refused(server: PowerDnsServer, tmp_path: Path) -> None:
    wrong = tmp_path / "key"
    wrong.write_text("wrong")
    fleet = FleetZone([ALIAS], EDGES, 80)

    with pytest.raises(PowerDnsError, match=r"refuses the key \(401\).*api-key"):
        list(push_zone(fleet, ZoneOptions(), server.url, wrong, None))


@pytest.mark.parametrize("content", [None, b"", b"two\nlines", "schlüssel".encode(), b"\xff"])
def test_file_without_a_key_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(PowerDnsError, match=str(file)):
        list(push_zone(FleetZone([ALIAS], EDGES, 80), ZoneOptions(), "http://[::1]:1", file, None))


def test_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    file = tmp_path / "key"
    file.write_text("key")

    url = f"127.0.0.1:{port}"
    with pytest.raises(PowerDnsError, match=f"no PowerDNS answers at http://{url}"):
        list(push_zone(FleetZone([ALIAS], EDGES, 80), ZoneOptions(), url, file, None))


@pytest.mark.parametrize("url", ["ftp://a.example", "http://", "file:///etc/passwd"])
def test_url_that_is_no_api_is_refused(url: str) -> None:
    with pytest.raises(PowerDnsError, match="no URL of PowerDNS's API"):
        PowerDns(url, "key")


def test_dns_address_that_does_not_answer_is_named(
    server: PowerDnsServer, checks: TrafficChecks
) -> None:
    (port,) = free_ports(1)
    fleet = FleetZone([ALIAS], EDGES, checks.port)

    with pytest.raises(PowerDnsError, match="--dns HOST:PORT"):
        list(push_zone(fleet, ZoneOptions(), server.url, server.key_file, ("127.0.0.1", port)))


def test_powerdns_without_lua_records_is_named(tmp_path: Path) -> None:
    with (
        run_powerdns(tmp_path / "powerdns", {}, enable_lua_records="no") as server,
        pytest.raises(PowerDnsError, match="enable-lua-records=yes"),
    ):
        push(server, FleetZone([ALIAS], EDGES, 80))


def test_fleet_without_addresses_or_a_port_is_refused() -> None:
    nowhere = [replace(EDGES[0], addresses=())]

    with pytest.raises(ZoneError, match=r"edge\.addresses"):
        zone_file(FleetZone([ALIAS], nowhere, 80), ZoneOptions())
    with pytest.raises(ZoneError, match="--port"):
        zone_file(FleetZone([ALIAS], EDGES, 0), ZoneOptions())
    assert "com:8080/" in zone_file(FleetZone([ALIAS], EDGES, 0), ZoneOptions(port=8080))


def test_zone_without_an_alias_is_refused() -> None:
    with pytest.raises(ZoneError, match=f"no alias is in the zone example.org: {ALIAS}"):
        zone_file(FleetZone([ALIAS], EDGES, 80), ZoneOptions(zone="example.org"))


def test_closest_zone_is_chosen() -> None:
    zones = ["example.com", "cdn.example.com", "example.org"]

    assert zone_for("a.cdn.example.com", zones) == "cdn.example.com"
    assert zone_for("*.cdn.example.com", zones) == "cdn.example.com"
    assert zone_for("media.example.com", zones) == "example.com"
    assert zone_for("example.net", zones) is None

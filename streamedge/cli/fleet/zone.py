"""``streamedge fleet zone``: makes the fleet's DNS zone, and pushes it to PowerDNS."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from streamedge.cli.admin_client import Admin, call
from streamedge.cli.fleet.powerdns import PowerDns, PowerDnsError, query, zone_for
from streamedge.config.schema.values import Address
from streamedge.fleet.members import Member, member_of
from streamedge.fleet.zone import (
    RecordSet,
    ZoneError,
    common_zone,
    format_zone,
    is_within,
    zone_records,
)

DNS_PORT = 53
CHECKED_WITHIN_S = 0.5  # checks of edges that are up; each takes a round trip


class ZoneOptions(NamedTuple):
    """``zone`` "": chosen by the aliases; ``port`` 0: of this edge's first HTTP listener."""

    zone: str = ""
    port: int = 0
    ttl_s: int = 30
    nameservers: Sequence[str] = ()


class FleetZone(NamedTuple):
    """The names and the edges that the admin address has answered with."""

    aliases: Sequence[str]
    members: Sequence[Member]
    port: int


def read_zone(admin: Admin) -> FleetZone:
    """Asks the edge for what is in the zone. Raises AdminError."""
    document: dict[str, Any] = call(admin, "GET", "/fleet/zone")
    members = (member_of(body, 0) for body in document["members"])
    edges = [member for member in members if member is not None]
    return FleetZone(document["aliases"], edges, document["port"])


def records_of(fleet: FleetZone, options: ZoneOptions) -> list[RecordSet]:
    """All records. Raises ZoneError."""
    port = options.port or fleet.port
    if not port:
        raise ZoneError("PowerDNS checks edges over HTTP, and listen.http is empty: give --port")
    if not any(member.addresses for member in fleet.members):
        raise ZoneError("no edge of the fleet has addresses: set edge.addresses in their configs")
    return zone_records(fleet.aliases, fleet.members, check_port=port, ttl_s=options.ttl_s)


def zone_file(fleet: FleetZone, options: ZoneOptions) -> str:
    """The zone as a file. Raises ZoneError."""
    zone = (options.zone or common_zone(fleet.aliases)).rstrip(".").lower()
    records = _within(zone, records_of(fleet, options))
    if not records:
        names = ", ".join(sorted(set(fleet.aliases) - {"*"}))
        raise ZoneError(f"no alias is in the zone {zone}: {names}")
    return format_zone(zone, records, options.nameservers)


def push_zone(
    fleet: FleetZone, options: ZoneOptions, url: str, api_key_file: Path, dns: Address | None
) -> Iterator[str]:
    """Pushes the records, queries PowerDNS for each alias, and returns lines for the operator.

    The first query makes PowerDNS check the edges. If anything has changed, this waits until it has
    checked all of them, so that viewers get checked ones. Raises ZoneError or PowerDnsError.
    """
    records = records_of(fleet, options)
    server = PowerDns(url, _read_key(api_key_file))
    by_zone = _by_zone(fleet, options, records, server)
    is_changed = False
    for zone, own in by_zone.items():
        changes = server.push(zone, own, options.nameservers)
        is_changed = is_changed or bool(changes)
        for change in changes:
            yield f"{change.word}: {change.name.rstrip('.')} {change.type}"
        yield f"{zone}: {len(changes) or 'no'} change{'' if len(changes) == 1 else 's'}."
    host, port = dns or (server.host, DNS_PORT)
    for record in chain.from_iterable(by_zone.values()):
        if record.type == "LUA":
            name = record.name.rstrip(".").replace("*.", "check.", 1)
            types = [content.split(" ", 1)[0] for content in record.contents]
            answers = [query(host, port, name, kind) for kind in types]
            if not all(answers):
                raise PowerDnsError(
                    f"PowerDNS has the records of {name}, but does not answer with an edge: set"
                    " enable-lua-records=yes and launch=…,geoip in pdns.conf, and see its log"
                )
    yield f"Queried {host} port {port} for every alias: it checks the edges from now on."
    if is_changed:
        wait_s = server.check_interval_s() + CHECKED_WITHIN_S
        yield f"Waiting {wait_s:g} s until it has checked all of them."
        time.sleep(wait_s)


def _by_zone(
    fleet: FleetZone, options: ZoneOptions, records: Sequence[RecordSet], server: PowerDns
) -> dict[str, list[RecordSet]]:
    """The records by zone: the given one, those that PowerDNS has, or a new one for the rest."""
    if options.zone:
        zone = options.zone.rstrip(".").lower()
        return {zone: _within(zone, records)}
    present = server.zones()
    without_zone = [
        alias for alias in fleet.aliases if alias != "*" and zone_for(alias, present) is None
    ]
    closest = [zone_for(alias, present) for alias in fleet.aliases]
    zones = {home for home in closest if home is not None}
    if without_zone or not zones:
        zones.add(common_zone(without_zone))
    by_zone: dict[str, list[RecordSet]] = {zone: [] for zone in sorted(zones)}
    for record in records:
        home = zone_for(record.name.rstrip("."), zones)
        if home is not None:
            by_zone[home].append(record)
    return by_zone


def _within(zone: str, records: Sequence[RecordSet]) -> list[RecordSet]:
    return [record for record in records if is_within(record.name, zone)]


def _read_key(path: Path) -> str:
    try:
        key = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no text"
        raise PowerDnsError(f"{path} cannot be read: {reason}") from exc
    if not key or not key.isascii() or not key.isprintable():
        raise PowerDnsError(f"{path}: expected one line, the value of api-key in pdns.conf")
    return key

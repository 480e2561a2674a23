"""The DNS zone of a fleet, for PowerDNS: which edge a host name leads to. Pure.

A name of a distribution gets a LUA record (PowerDNS Authoritative Server 4.4 or later, with
``enable-lua-records`` and a GeoIP database of cities). It sorts the edges by their distance from
the client's network, and ``ifurlup`` answers with the first one whose traffic check is 200. The
locations are those of the config, so the database needs not know the edges' addresses.

Every edge also has a name of its own below each alias, to which viewers are redirected
(EDGE.ALIAS).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from streamedge.fleet.members import Member, Role

TTL_S = 30
TRAFFIC_CHECK_PATH = "/healthz/traffic"
CHECK_TIMEOUT_S = 2


@dataclass(frozen=True, slots=True)
class RecordSet:
    """The records of one name and type. ``contents`` are as in a zone file."""

    name: str
    type: str
    ttl_s: int
    contents: tuple[str, ...]


def zone_records(
    aliases: Iterable[str], members: Sequence[Member], *, check_port: int, ttl_s: int = TTL_S
) -> list[RecordSet]:
    """The record sets of all aliases; of a pattern "*.example.com", those of the pattern itself.

    Edges that are removed, or have no address, are left out. ``check_port``: of the edges' HTTP
    listeners, which answer the traffic check.
    """
    serving = [member for member in members if member.addresses and member.role is not Role.REMOVED]
    records: list[RecordSet] = []
    for alias in sorted(set(aliases) - {"*"}):
        for record_type in ("A", "AAAA"):
            edges = [
                (member, addresses)
                for member in serving
                if (addresses := _addresses(member, record_type))
            ]
            if not edges:
                continue
            content = f'{record_type} "{_script(alias, edges, check_port)}"'
            records.append(RecordSet(f"{alias}.", "LUA", ttl_s, (content,)))
            if not alias.startswith("*."):
                records += [
                    RecordSet(f"{member.name.lower()}.{alias}.", record_type, ttl_s, addresses)
                    for member, addresses in edges
                ]
    return _joined(records)


def format_zone(zone: str, records: Iterable[RecordSet]) -> str:
    """The records as lines of a zone file."""
    lines = [
        f"{record.name}\t{record.ttl_s}\tIN\t{record.type}\t{content}"
        for record in records
        for content in record.contents
    ]
    return "\n".join([f"$ORIGIN {zone}.", *lines, ""])


def _joined(records: Iterable[RecordSet]) -> list[RecordSet]:
    """One set for each name and type: a name may have a LUA record for A and one for AAAA."""
    joined: dict[tuple[str, str], RecordSet] = {}
    for record in records:
        key = record.name, record.type
        before = joined.get(key)
        contents = record.contents if before is None else before.contents + record.contents
        joined[key] = RecordSet(record.name, record.type, record.ttl_s, contents)
    return list(joined.values())


def _addresses(member: Member, record_type: str) -> tuple[str, ...]:
    version = 4 if record_type == "A" else 6
    return tuple(text for text in member.addresses if ip_address(text).version == version)


def _script(alias: str, edges: Sequence[tuple[Member, tuple[str, ...]]], check_port: int) -> str:
    """The Lua code of one record: single-quoted strings only, because the record is quoted.

    ``latlon()`` gives "LATITUDE LONGITUDE" of the client, "0.000000 0.000000" if it is unknown:
    then the order is that of the list. Edges without a location come last.
    """
    host = alias.replace("*.", "check.", 1)
    table = ",".join(_row(member, addresses) for member, addresses in edges)
    return (
        f";local edges={{{table}}} "
        "local lat,lon=latlon():match('^(%S+)%s+(%S+)') lat,lon=tonumber(lat),tonumber(lon) "
        "local located=lat and lon and (lat~=0 or lon~=0) local r=math.pi/180 "
        "for i,e in ipairs(edges) do e[4]=i+9 if located and e[1] then "
        "e[4]=math.sin((e[1]-lat)*r/2)^2+"
        "math.cos(lat*r)*math.cos(e[1]*r)*math.sin((e[2]-lon)*r/2)^2 end end "
        "table.sort(edges,function(a,b) return a[4]<b[4] end) "
        "local sets={} for i,e in ipairs(edges) do sets[i]=e[3] end "
        f"return ifurlup('http://{host}:{check_port}{TRAFFIC_CHECK_PATH}',sets,"
        f"{{timeout={CHECK_TIMEOUT_S}}})"
    )


def _row(member: Member, addresses: Sequence[str]) -> str:
    """An edge in the Lua table: latitude, longitude, addresses."""
    place = "nil,nil" if member.location is None else "{:g},{:g}".format(*member.location)
    quoted = ",".join(f"'{address}'" for address in addresses)
    return f"{{{place},{{{quoted}}}}}"

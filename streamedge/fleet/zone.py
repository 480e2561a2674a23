"""The DNS zone of a fleet, for PowerDNS: which edge a host name leads to. Pure.

A name of a distribution gets a LUA record (PowerDNS Authoritative Server 4.4 or later, with
``enable-lua-records`` and a GeoIP database of cities). It sorts the edges by their distance from
the client's network; the first one whose traffic check is 200 (``ifurlup``) is the answer. The
locations are those of the config, so the database needs not know the edges' addresses.

Every edge also has a name of its own below each alias, to which viewers are redirected
(EDGE.ALIAS). A TXT record at _streamedge.ALIAS lists those names, so that a later push knows which
records it may remove.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from streamedge.errors import StreamEdgeError
from streamedge.fleet.members import Member, Role
from streamedge.fleet.nearest import LABEL_CHARACTERS_MAX, has_own_host_name

TTL_S = 30
TRAFFIC_CHECK_PATH = "/healthz/traffic"
CHECK_TIMEOUT_S = 2
NAME_CHARACTERS_MAX = 253  # of a host name (RFC 1035 §2.3.4), without the dot at its end
CONTENT_BYTES_MAX = 60_000  # of a LUA record; a DNS message has 65,535
REGISTRY_LABEL = "_streamedge"
_SOA_TIMES = "10800 3600 604800 60"  # refresh, retry, expire, time for negative answers


class ZoneError(StreamEdgeError):
    """No zone can be made; the message says what to change."""


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

    Edges that are removed, or have no address, are left out; draining ones stay, because their
    traffic check is not 200. ``check_port``: of the edges' HTTP listeners, which answer the check.
    Raises ZoneError.
    """
    names = {alias.lower() for alias in aliases} - {"*"}
    serving = sorted(
        (one for one in members if one.addresses and one.role is not Role.REMOVED),
        key=lambda member: member.name,
    )
    records: list[RecordSet] = []
    for alias in sorted(names):
        _check_name(alias)
        own_names: list[str] = []
        for record_type in ("A", "AAAA"):
            edges = [
                (member, addresses)
                for member in serving
                if (addresses := _addresses(member, record_type))
            ]
            if not edges:
                continue
            content = f'{record_type} "{_script(alias, edges, check_port)}"'
            if len(content) > CONTENT_BYTES_MAX:
                raise ZoneError(
                    f"the record of {alias} would have {len(content)} bytes, more than the"
                    f" {CONTENT_BYTES_MAX} that fit: give the edges fewer addresses"
                )
            records.append(RecordSet(f"{alias}.", "LUA", ttl_s, (content,)))
            for member, addresses in edges:
                name = f"{member.name.lower()}.{alias}"
                if alias.startswith("*.") or name in names or not has_own_host_name(member):
                    continue
                _check_name(name)
                records.append(RecordSet(f"{name}.", record_type, ttl_s, addresses))
                own_names.append(member.name.lower())
        if own_names:
            registry = " ".join(f'"{name}"' for name in sorted(set(own_names)))
            records.append(RecordSet(f"{REGISTRY_LABEL}.{alias}.", "TXT", ttl_s, (registry,)))
    return _joined(records)


def common_zone(aliases: Iterable[str]) -> str:
    """The zone of all aliases: the longest name that all of them end with. Raises ZoneError."""
    names = sorted({alias.lower().removeprefix("*.") for alias in aliases} - {"*"})
    if not names:
        raise ZoneError(
            'no distribution has a host name in aliases, and "*" has no records: add host names'
        )
    common = names[0].split(".")
    for name in names[1:]:
        labels = name.split(".")
        while common and labels[-len(common) :] != common:
            del common[0]
    if len(common) < min(2, len(names[0].split("."))):
        raise ZoneError(f"choose a zone with --zone: {', '.join(names)} have none in common")
    return ".".join(common)


def is_within(name: str, zone: str) -> bool:
    """Whether a name is a zone's, or below it; both may end with a dot."""
    name, zone = name.rstrip(".").lower(), zone.rstrip(".").lower()
    return name == zone or name.endswith(f".{zone}")


def is_own_record(content: str) -> bool:
    """Whether a LUA record is one of ``zone_records``."""
    return TRAFFIC_CHECK_PATH in content and "ifurlup" in content


def registered_names(alias: str, content: str) -> list[str]:
    """The names of edges, with a dot at the end, that the TXT record of an alias lists."""
    labels = content.replace('"', " ").split()
    return [f"{label}.{alias.rstrip('.')}." for label in labels]


def format_zone(zone: str, records: Iterable[RecordSet], nameservers: Collection[str]) -> str:
    """The records as lines of a zone file, with an SOA record."""
    servers = [f"{server.rstrip('.')}." for server in nameservers] or [f"ns1.{zone}."]
    soa = f"{servers[0]} hostmaster.{zone}. 1 {_SOA_TIMES}"
    head = [f"{zone}.\t3600\tIN\tSOA\t{soa}"]
    head += [f"{zone}.\t3600\tIN\tNS\t{server}" for server in servers]
    lines = [
        f"{record.name}\t{record.ttl_s}\tIN\t{record.type}\t{content}"
        for record in records
        for content in record.contents
    ]
    return "\n".join([f"$ORIGIN {zone}.", *head, *lines, ""])


def _check_name(name: str) -> None:
    labels = name.split(".")
    if len(name) > NAME_CHARACTERS_MAX or max(map(len, labels)) > LABEL_CHARACTERS_MAX:
        raise ZoneError(
            f"{name} is no host name: at most {NAME_CHARACTERS_MAX} characters, and"
            f" {LABEL_CHARACTERS_MAX} between dots; use a shorter alias or a shorter edge.name"
        )


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
    addresses = map(ip_address, member.addresses)
    return tuple(one.compressed for one in addresses if one.version == version)


def _script(alias: str, edges: Sequence[tuple[Member, tuple[str, ...]]], check_port: int) -> str:
    """The Lua code of one record: single-quoted strings only, because the record is quoted.

    ``latlon()`` returns "LATITUDE LONGITUDE" of the client, "0.000000 0.000000" if it is unknown:
    then the order is that of the list. Edges without a location come last. The nearest edge is the
    answer if none is up, or none was checked yet.

    ``ifurlup`` returns the addresses of the first set that are up, or all addresses of all sets.
    Each edge is checked beside the next one, whose addresses come last: so the last address tells
    whether the edge itself is up. PowerDNS goes on checking the addresses of earlier queries, so
    every query names all of them, not only those that are near to its client.
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
        f"local url,options='http://{host}:{check_port}{TRAFFIC_CHECK_PATH}',"
        f"{{timeout={CHECK_TIMEOUT_S},selector='all',backupSelector='all'}} "
        "local owner={} for i,e in ipairs(edges) do for _,a in ipairs(e[3]) do owner[a]=i end end "
        "local answer for i,e in ipairs(edges) do "
        "local up=ifurlup(url,{e[3],edges[i%#edges+1][3]},options) "
        "if not answer and owner[up[#up]]==i then answer=up end end "
        "return answer or edges[1][3]"
    )


def _row(member: Member, addresses: Sequence[str]) -> str:
    """An edge in the Lua table: latitude, longitude, addresses."""
    place = "nil,nil" if member.location is None else "{:g},{:g}".format(*member.location)
    quoted = ",".join(f"'{address}'" for address in addresses)
    return f"{{{place},{{{quoted}}}}}"

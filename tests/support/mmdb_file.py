"""Writes MMDB files for tests: search tree, data section, metadata.

It follows https://maxmind.github.io/MaxMind-DB/ (format 2.0) and shares no code with the reader,
so that neither hides a bug of the other. Networks may overlap; the narrower one counts.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from ipaddress import IPv4Network, ip_network

MARKER = b"\xab\xcd\xefMaxMind.com"
_SEPARATOR = bytes(16)
_TEXT, _DOUBLE, _UINT16, _UINT32, _MAP, _UINT64, _ARRAY, _BOOLEAN = 2, 3, 5, 6, 7, 9, 11, 14

Node = list["Node | int | None"]
"""Two branches: a node, the offset of a record, or nothing."""


def mmdb(
    records: Mapping[str, object],
    *,
    ip_version: int = 6,
    record_bits: int = 24,
    built: int = 1_700_000_000,
    database_type: str = "Test-Country",
) -> bytes:
    """A file with records by network; in a file of IP version 6, IPv4 is under ::/96."""
    root: Node = [None, None]
    data = b""
    networks = {ip_network(name): record for name, record in records.items()}
    for network in sorted(networks, key=lambda one: one.prefixlen + 96 * (one.version == 4)):
        bits = format(int(network.network_address), f"0{network.max_prefixlen}b")
        path = bits[: network.prefixlen]
        if ip_version == 6 and isinstance(network, IPv4Network):
            path = "0" * 96 + path
        _insert(root, path, len(data))
        data += encode(networks[network])
    nodes = _flatten(root)
    return (
        _tree(nodes, record_bits)
        + _SEPARATOR
        + data
        + MARKER
        + encode(
            {
                "binary_format_major_version": (_UINT16, 2),
                "binary_format_minor_version": (_UINT16, 0),
                "build_epoch": (_UINT64, built),
                "database_type": database_type,
                "description": {"en": "Written by a test"},
                "ip_version": (_UINT16, ip_version),
                "languages": ["en"],
                "node_count": (_UINT32, len(nodes)),
                "record_size": (_UINT16, record_bits),
            }
        )
    )


def country(code: str, *, registered: str = "") -> dict[str, object]:
    """A record in MaxMind's schema."""
    record: dict[str, object] = {"continent": {"code": "XX", "geoname_id": (_UINT32, 6_255_148)}}
    if code:
        record["country"] = {"iso_code": code, "names": {"en": f"Land {code}"}}
    if registered:
        record["registered_country"] = {"iso_code": registered}
    return record


def city(latitude: float, longitude: float) -> dict[str, object]:
    """A record of a city database in MaxMind's schema."""
    radius = (_UINT16, 20)  # in kilometres; PowerDNS uses no location without it
    place = {"latitude": float(latitude), "longitude": float(longitude)}
    return {"location": {"accuracy_radius": radius, **place}}


def encode(value: object) -> bytes:
    """Encodes a value of the data section; a pair is a type's number and an unsigned integer."""
    match value:
        case str():
            return _control(_TEXT, len(value.encode())) + value.encode()
        case bool():
            return _control(_BOOLEAN, int(value))
        case int():
            return encode((_UINT32, value))
        case float():
            return _control(_DOUBLE, 8) + struct.pack(">d", value)
        case dict():
            parts = [encode(name) + encode(one) for name, one in value.items()]
            return _control(_MAP, len(parts)) + b"".join(parts)
        case list():
            return _control(_ARRAY, len(value)) + b"".join(encode(one) for one in value)
        case (int(kind), int(number)):
            octets = number.to_bytes((number.bit_length() + 7) // 8)
            return _control(kind, len(octets)) + octets
    raise TypeError(f"no type for {value!r}")


def _control(kind: int, size: int) -> bytes:
    head, more = (size, b"") if size < 29 else (29, bytes([size - 29]))
    return bytes([kind << 5 | head]) + more if kind <= 7 else bytes([head, kind - 7]) + more


def _insert(root: Node, path: str, offset: int) -> None:
    node = root
    for bit in map(int, path[:-1]):
        branch = node[bit]
        if not isinstance(branch, list):
            branch = node[bit] = [branch, branch]
        node = branch
    node[int(path[-1])] = offset


def _flatten(root: Node) -> list[Node]:
    nodes = [root]
    for node in nodes:
        nodes += [branch for branch in node if isinstance(branch, list)]
    return nodes


def _tree(nodes: list[Node], record_bits: int) -> bytes:
    numbers = {id(node): number for number, node in enumerate(nodes)}

    def record(branch: Node | int | None) -> int:
        if branch is None:
            return len(nodes)
        if isinstance(branch, int):
            return len(nodes) + len(_SEPARATOR) + branch
        return numbers[id(branch)]

    tree = b""
    for left, right in nodes:
        first, second = record(left), record(right)
        if record_bits == 28:
            shared = first >> 24 << 4 | second >> 24
            tree += (first & 0xFFFFFF).to_bytes(3) + bytes([shared])
            tree += (second & 0xFFFFFF).to_bytes(3)
        else:
            tree += first.to_bytes(record_bits // 8) + second.to_bytes(record_bits // 8)
    return tree

"""Client addresses behind trusted proxies: X-Forwarded-For and X-Forwarded-Proto.

Only proxies in the networks of ``listen.proxies`` are trusted. Malformed header values are
ignored, never an error. ``canonical`` is the one text form of an address inside the edge. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

ADDRESS_CHARACTERS_MAX = 64  # an IPv6 address has at most 45; a zone may follow
HOPS_MAX = 32  # trusted proxies in a row
PARSED_MAX = 4096  # cache entries


@lru_cache(maxsize=PARSED_MAX)
def parse_address(text: str) -> IpAddress | None:
    """Parses an address without port and brackets; None if ``text`` is not one.

    An IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2) gives the IPv4 address.
    """
    if len(text) > ADDRESS_CHARACTERS_MAX:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


@lru_cache(maxsize=PARSED_MAX)
def canonical(text: str) -> str:
    """The one text form of an address; other text is returned unchanged."""
    address = parse_address(text)
    return text if address is None else str(address)


def is_trusted(address: str, trusted: Sequence[IpNetwork]) -> bool:
    """Whether one of the networks contains the address; False for other text."""
    parsed = parse_address(address) if trusted else None
    return parsed is not None and any(parsed in network for network in trusted)


def forwarded_address(x_forwarded_for: str, trusted: Sequence[IpNetwork]) -> str:
    """The viewer's address from a trusted proxy's X-Forwarded-For; "" if it has none.

    Each proxy appends the address of its client. The chain is read from its end and only past
    trusted proxies, so entries from a viewer or an untrusted proxy are never used. An entry that is
    not an address ends the search too. ``x_forwarded_for`` is all lines joined by commas (RFC 9110
    §5.3); entries may have a port.
    """
    address = ""
    entries = [entry.strip(" \t") for entry in x_forwarded_for.split(",")]
    hops = [entry for entry in reversed(entries) if entry]  # RFC 9110 §5.6.1.2: some are empty
    for hop in hops[:HOPS_MAX]:
        # A zone has a meaning only on its own machine (RFC 4007 §6), and may have any characters.
        parsed = None if "%" in hop else parse_address(_without_port(hop))
        if parsed is None:
            return address
        address = str(parsed)
        if not is_trusted(address, trusted):
            return address
    return address


def forwarded_secure(x_forwarded_proto: str, *, secure: bool) -> bool:
    """Whether the viewer uses TLS, from a trusted proxy's X-Forwarded-Proto.

    The last of several values is from the connected proxy. ``secure``: whether the connection to
    the edge uses TLS, which is the result if the field is missing or invalid.
    """
    protocol = x_forwarded_proto.rpartition(",")[2].strip(" \t").lower()
    return protocol == "https" if protocol in {"http", "https"} else secure


def _without_port(entry: str) -> str:
    """``[::1]:80``, ``[::1]`` and ``10.0.0.1:80`` without port and brackets."""
    if entry.startswith("["):
        address, bracket, port = entry[1:].partition("]")
        is_clean = bracket and (not port or (port[0] == ":" and _is_port(port[1:])))
        return address if is_clean and ":" in address else ""
    if entry.count(":") == 1:
        address, _, port = entry.partition(":")
        return address if _is_port(port) else ""
    return entry


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535

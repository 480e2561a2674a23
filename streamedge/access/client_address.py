"""Whose word counts for where a viewer is: addresses, networks of proxies, X-Forwarded-For.

Owns how an address is spelled inside the edge (``canonical``) and how far a chain of proxies is
believed: a proxy that the config names tells who came to it, and nobody else is listened to. Pure;
what is wrong in a field is never an error, it is only not believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

ADDRESS_CHARACTERS_MAX = 64  # an IPv6 address has 45 at most; a zone's name may follow
HOPS_MAX = 32  # proxies in a row that are believed
PARSED_MAX = 4096  # remembered


@lru_cache(maxsize=PARSED_MAX)
def parse_address(text: str) -> IpAddress | None:
    """The address that ``text`` is, without port and brackets; None when it is none.

    An IPv4 address that is written as an IPv6 one (RFC 4291 §2.5.5.2) is the IPv4 address.
    """
    if len(text) > ADDRESS_CHARACTERS_MAX:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def canonical(text: str) -> str:
    """The one spelling of an address; what is none stays as it is."""
    address = parse_address(text)
    return text if address is None else str(address)


def is_trusted(address: str, trusted: Sequence[IpNetwork]) -> bool:
    """Whether one of the networks has the address; nobody is trusted whose address is none."""
    parsed = parse_address(address) if trusted else None
    return parsed is not None and any(parsed in network for network in trusted)


def forwarded_address(x_forwarded_for: str, trusted: Sequence[IpNetwork]) -> str:
    """The viewer's address by a trusted proxy's X-Forwarded-For; "" when it names nobody.

    Each proxy appends the address of who came to it, so the chain is walked from its end, and past
    trusted proxies only: whatever an untrusted one has written, or a viewer, is out of reach. An
    entry that is no address ends the walk too. ``x_forwarded_for`` is all lines joined by commas
    (RFC 9110 §5.3); entries may carry a port.
    """
    address = ""
    rest = x_forwarded_for
    for _hop in range(HOPS_MAX):
        entry = ""
        while rest and not entry:  # empty elements of a list do not count (RFC 9110 §5.6.1.2)
            rest, _, entry = rest.rpartition(",")
            entry = entry.strip(" \t")
        # A zone means something on its own machine only (RFC 4007 §6), and may have any characters.
        named = None if "%" in entry else parse_address(_without_port(entry))
        if named is None:
            return address
        address = str(named)
        if not is_trusted(address, trusted):
            return address
    return address


def forwarded_secure(x_forwarded_proto: str, *, secure: bool) -> bool:
    """Whether the viewer came over TLS, by a trusted proxy's X-Forwarded-Proto.

    Of several values the last is the word of the proxy that is connected. ``secure`` is whether it
    came over TLS itself; that counts when the field is missing or means nothing.
    """
    said = x_forwarded_proto.rpartition(",")[2].strip(" \t").lower()
    return said == "https" if said in {"http", "https"} else secure


def _without_port(entry: str) -> str:
    """``[::1]:80``, ``[::1]`` and ``10.0.0.1:80`` without what is not the address."""
    if entry.startswith("["):
        address, bracket, port = entry[1:].partition("]")
        is_clean = bracket and (not port or (port[0] == ":" and _is_port(port[1:])))
        return address if is_clean and ":" in address else ""
    if entry.count(":") == 1:
        address, _, port = entry.partition(":")
        return address if _is_port(port) else ""
    return entry


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text[:6]) <= 65535 and len(text) <= 5

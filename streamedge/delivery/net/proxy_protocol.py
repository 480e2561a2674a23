"""PROXY headers, versions 1 and 2: what a proxy says of a connection before its first byte.

Owns the notation of https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt ("the spec"
below). Pure: it takes what has come so far and says who is at the other end, that more has to
come, or, by ``ProxyHeaderError``, that this is no header. Whose header may be believed is decided
elsewhere (``arrivals``).
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from streamedge.access.client_address import canonical
from streamedge.errors import StreamEdgeError

V1_BYTES_MAX = 107  # with CRLF (the spec, §2.1)
V2_BYTES_MAX = 16 + 4096  # addresses and TLVs; a TLS client's name and the like take some hundreds

_V1_BEGINNING = b"PROXY "
_V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED_BYTES = 16
# Addresses, then ports: no sign, no leading zero, one space each (the spec, §2.1).
_V1_TCP = re.compile(rb"PROXY TCP([46]) ([0-9a-fA-F.:]{2,39}) ([0-9a-fA-F.:]{2,39}) (\d+) (\d+)")
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: .*)?")
_PORT = re.compile(rb"0|[1-9]\d{0,4}")
_LOCAL, _PROXY = 0x20, 0x21  # version 2, command
# The bytes of an address block by family and transport (the spec, §2.2).
_TCP4, _TCP6 = 0x11, 0x21
_BLOCK_BYTES = {0x00: 0, _TCP4: 12, 0x12: 12, _TCP6: 36, 0x22: 36, 0x31: 216, 0x32: 216}


class ProxyHeaderError(StreamEdgeError):
    """What a connection begins with is no PROXY header; the message says what is wrong."""


class ProxyHeader(NamedTuple):
    """A whole header.

    ``source`` is who came to the proxy, address and port; None when the proxy speaks for itself
    (LOCAL) or names nobody (UNKNOWN, UNSPEC, UNIX sockets, datagrams): then the connection's own
    address counts. ``size_bytes``: where the connection's own bytes begin.
    """

    source: tuple[str, int] | None
    size_bytes: int


def parse_proxy_header(data: bytes) -> ProxyHeader | None:
    """The header at the beginning of ``data``; None: more has to come. Raises ProxyHeaderError."""
    if _begins(data, _V2_SIGNATURE):
        return _parse_v2(data)
    if _begins(data, _V1_BEGINNING):
        return _parse_v1(data)
    raise ProxyHeaderError("no PROXY header")


def _begins(data: bytes, beginning: bytes) -> bool:
    """Whether ``data`` begins with ``beginning``, or is a beginning of it."""
    return data[: len(beginning)] == beginning[: len(data)]


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, V1_BYTES_MAX)
    if end < 0:
        if len(data) >= V1_BYTES_MAX:
            raise ProxyHeaderError("a PROXY line without an end")
        return None
    line, size_bytes = data[:end], end + 2
    if _V1_UNKNOWN.fullmatch(line):
        return ProxyHeader(None, size_bytes)
    match = _V1_TCP.fullmatch(line)
    if match is None:
        raise ProxyHeaderError("a PROXY line in no known form")
    family, source, destination, *ports = match.groups()
    if not all(_PORT.fullmatch(port) and int(port) <= 65535 for port in ports):
        raise ProxyHeaderError("a PROXY line with a port that is none")
    kind = IPv4Address if family == b"4" else IPv6Address
    try:
        address = str(kind(source.decode("ascii")))
        kind(destination.decode("ascii"))
    except ValueError as exc:
        raise ProxyHeaderError(f"a PROXY line with an address that is none: {exc}") from exc
    return ProxyHeader((canonical(address), int(ports[0])), size_bytes)


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) > 12 and data[12] not in {_LOCAL, _PROXY}:
        raise ProxyHeaderError(f"a PROXY header of version and command {data[12]:#04x}")
    # What LOCAL says of addresses is not looked at (the spec, §2.2).
    is_local = len(data) > 12 and data[12] == _LOCAL
    if len(data) > 13 and not is_local and data[13] not in _BLOCK_BYTES:
        raise ProxyHeaderError(f"a PROXY header of family and transport {data[13]:#04x}")
    if len(data) < _V2_FIXED_BYTES:
        return None
    size_bytes = _V2_FIXED_BYTES + int.from_bytes(data[14:16])
    if size_bytes > V2_BYTES_MAX:
        raise ProxyHeaderError(f"a PROXY header of {size_bytes} bytes")
    block_bytes = 0 if is_local else _BLOCK_BYTES[data[13]]
    if size_bytes < _V2_FIXED_BYTES + block_bytes:
        raise ProxyHeaderError("a PROXY header without room for its addresses")
    if len(data) < size_bytes:
        return None
    if is_local or data[13] not in {_TCP4, _TCP6}:
        return ProxyHeader(None, size_bytes)
    if data[13] == _TCP4:
        source, port = str(IPv4Address(data[16:20])), data[24:26]
    else:
        source, port = canonical(str(IPv6Address(data[16:32]))), data[48:50]
    return ProxyHeader((source, int.from_bytes(port)), size_bytes)

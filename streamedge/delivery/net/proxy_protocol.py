"""Parses PROXY headers, versions 1 and 2: a proxy sends the client address ahead of its data.

The format is https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt ("the spec" below). Pure:
it takes the bytes received so far and returns a header or None while it is incomplete, or raises
``ProxyHeaderError``. Module ``accept`` decides which proxies are trusted.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from streamedge.access.client_address import canonical
from streamedge.errors import StreamEdgeError

V1_BYTES_MAX = 107  # with CRLF (the spec, §2.1)
V2_BYTES_MAX = 16 + 4096  # addresses and TLVs; a typical header has some hundred bytes

_V1_PREFIX = b"PROXY "
_V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED_BYTES = 16
# Addresses, then ports without sign or leading zero, separated by one space (the spec, §2.1).
_V1_TCP = re.compile(rb"PROXY TCP([46]) ([0-9a-fA-F.:]{2,39}) ([0-9a-fA-F.:]{2,39}) (\d+) (\d+)")
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: .*)?")
_PORT = re.compile(rb"0|[1-9]\d{0,4}")
_LOCAL, _PROXY = 0x20, 0x21  # version 2 and command
# Size in bytes of the address block, by family and transport (the spec, §2.2).
_TCP4, _TCP6 = 0x11, 0x21
_BLOCK_BYTES = {0x00: 0, _TCP4: 12, 0x12: 12, _TCP6: 36, 0x22: 36, 0x31: 216, 0x32: 216}


class ProxyHeaderError(StreamEdgeError):
    """A connection does not begin with a valid PROXY header; the message says why."""


class ProxyHeader(NamedTuple):
    """A complete header.

    ``source`` is the address and port of the proxy's client. It is None for the proxy's own
    connections (LOCAL) and for a client without an IP address over TCP (UNKNOWN, UNSPEC, UNIX
    sockets, datagrams): then the address of the connection itself counts. ``size_bytes`` is the
    length of the header; the client's data follows it.
    """

    source: tuple[str, int] | None
    size_bytes: int


def parse_proxy_header(data: bytes) -> ProxyHeader | None:
    """The header that ``data`` begins with; None while incomplete. Raises ProxyHeaderError."""
    if _matches_prefix(data, _V2_SIGNATURE):
        return _parse_v2(data)
    if _matches_prefix(data, _V1_PREFIX):
        return _parse_v1(data)
    raise ProxyHeaderError("no PROXY header")


def _matches_prefix(data: bytes, prefix: bytes) -> bool:
    """Whether ``data`` begins with ``prefix``, or may do so when more bytes arrive."""
    return data[: len(prefix)] == prefix[: len(data)]


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, V1_BYTES_MAX)
    if end < 0:
        if len(data) >= V1_BYTES_MAX:
            raise ProxyHeaderError("a PROXY line without CRLF")
        return None
    line, size_bytes = data[:end], end + 2
    if _V1_UNKNOWN.fullmatch(line):
        return ProxyHeader(None, size_bytes)
    match = _V1_TCP.fullmatch(line)
    if match is None:
        raise ProxyHeaderError("a malformed PROXY line")
    family, source, destination, *ports = match.groups()
    if not all(_PORT.fullmatch(port) and int(port) <= 65535 for port in ports):
        raise ProxyHeaderError("a PROXY line with an invalid port")
    parse_address = IPv4Address if family == b"4" else IPv6Address
    try:
        address = str(parse_address(source.decode("ascii")))
        parse_address(destination.decode("ascii"))
    except ValueError as exc:
        raise ProxyHeaderError(f"a PROXY line with an invalid address: {exc}") from exc
    return ProxyHeader((canonical(address), int(ports[0])), size_bytes)


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) > 12 and data[12] not in {_LOCAL, _PROXY}:
        raise ProxyHeaderError(f"a PROXY header with unknown version or command {data[12]:#04x}")
    # A LOCAL header's addresses are ignored (the spec, §2.2).
    is_local = len(data) > 12 and data[12] == _LOCAL
    if len(data) > 13 and not is_local and data[13] not in _BLOCK_BYTES:
        raise ProxyHeaderError(f"a PROXY header with unknown family or transport {data[13]:#04x}")
    if len(data) < _V2_FIXED_BYTES:
        return None
    size_bytes = _V2_FIXED_BYTES + int.from_bytes(data[14:16])
    if size_bytes > V2_BYTES_MAX:
        raise ProxyHeaderError(f"a PROXY header of {size_bytes} bytes")
    block_bytes = 0 if is_local else _BLOCK_BYTES[data[13]]
    if size_bytes < _V2_FIXED_BYTES + block_bytes:
        raise ProxyHeaderError("a PROXY header that is too short for its addresses")
    if len(data) < size_bytes:
        return None
    if is_local or data[13] not in {_TCP4, _TCP6}:
        return ProxyHeader(None, size_bytes)
    if data[13] == _TCP4:
        source, port = str(IPv4Address(data[16:20])), data[24:26]
    else:
        source, port = canonical(str(IPv6Address(data[16:32]))), data[48:50]
    return ProxyHeader((source, int.from_bytes(port)), size_bytes)

"""PROXY headers: both versions, in one piece, byte by byte, with data behind, and invalid ones."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.net.proxy_protocol import (
    V1_BYTES_MAX,
    V2_BYTES_MAX,
    ProxyHeader,
    ProxyHeaderError,
    parse_proxy_header,
)
from tests.support.http.proxy_headers import V2_SIGNATURE, proxy_v2

# The worst cases and examples of the specification's §2.1.
LONGEST_V1 = (
    b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    b" ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"
)
LONGEST_UNKNOWN = LONGEST_V1.replace(b"TCP6", b"UNKNOWN")
ALL_ONES = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
TLV = b"\x02\x00\x0bexample.com"  # PP2_TYPE_AUTHORITY

HEADERS: dict[bytes, tuple[str, int] | None] = {
    b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n": ("255.255.255.255", 65535),
    LONGEST_V1: (ALL_ONES, 65535),
    LONGEST_UNKNOWN: None,
    b"PROXY UNKNOWN\r\n": None,
    b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n": ("192.168.0.1", 56324),
    b"PROXY TCP4 192.0.2.1 192.0.2.2 0 1\r\n": ("192.0.2.1", 0),
    b"PROXY TCP6 2001:DB8::1 ::1 4711 80\r\n": ("2001:db8::1", 4711),
    b"PROXY TCP6 ::ffff:192.0.2.1 ::1 4711 80\r\n": ("192.0.2.1", 4711),
    proxy_v2("192.0.2.1", 4711): ("192.0.2.1", 4711),
    proxy_v2("2001:db8::1", 4711): ("2001:db8::1", 4711),
    proxy_v2("::ffff:192.0.2.1", 4711): ("192.0.2.1", 4711),
    proxy_v2("192.0.2.1", 4711, behind=TLV): ("192.0.2.1", 4711),
    proxy_v2("2001:db8::1", 4711, behind=TLV * 8): ("2001:db8::1", 4711),
    proxy_v2("192.0.2.1", 4711, behind=bytes(V2_BYTES_MAX - 28)): ("192.0.2.1", 4711),
    V2_SIGNATURE + b"\x20\x00\x00\x00": None,  # LOCAL
    V2_SIGNATURE + b"\x20\x11\x00\x0c" + bytes(12): None,  # LOCAL's addresses do not count
    V2_SIGNATURE + b"\x20\xff\x00\x03abc": None,
    V2_SIGNATURE + b"\x21\x00\x00\x00": None,  # UNSPEC
    V2_SIGNATURE + b"\x21\x00\x00\x0e" + TLV: None,
    V2_SIGNATURE + b"\x21\x12\x00\x0c" + bytes(12): None,  # UDP
    V2_SIGNATURE + b"\x21\x22\x00\x24" + bytes(36): None,
    V2_SIGNATURE + b"\x21\x31\x00\xd8" + bytes(216): None,  # UNIX
    V2_SIGNATURE + b"\x21\x32\x00\xd8" + bytes(216): None,
}


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: repr(header[:40]))
@pytest.mark.parametrize("behind", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\r\n", b"PROXY UNKNOWN\r\n"])
def test_header_size_excludes_the_data_behind(header: bytes, behind: bytes) -> None:
    assert parse_proxy_header(header + behind) == ProxyHeader(HEADERS[header], len(header))


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: repr(header[:40]))
def test_incomplete_header_returns_none(header: bytes) -> None:
    for size in range(len(header)):
        assert parse_proxy_header(header[:size]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01",
        b"\x03",  # RTMP's C0
        b"proxy TCP4",
        b"PROXY\tTCP4",
        b"PROXY \r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        b"PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n\r\n",
        b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2 1 2\r\n",
        b"PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
        b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY UNKNOWN " + b"x" * V1_BYTES_MAX,
        b"PROXY UNKNOWN " + b"x" * (V1_BYTES_MAX - 15) + b"\r\n",  # one too long
        b"\r\n\r\n\x00\r\nQUIT\r",
        V2_SIGNATURE + b"\x11",  # version 1
        V2_SIGNATURE + b"\x31",
        V2_SIGNATURE + b"\x22",  # an unknown command
        V2_SIGNATURE + b"\x21\x10",  # IPv4 without a transport
        V2_SIGNATURE + b"\x21\x13",
        V2_SIGNATURE + b"\x21\x41",
        V2_SIGNATURE + b"\x21\x11\x00\x0b" + bytes(11),
        V2_SIGNATURE + b"\x21\x21\x00\x0c" + bytes(12),
        V2_SIGNATURE + b"\x21\x31\x00\xd7" + bytes(215),
        V2_SIGNATURE + b"\x21\x11\xff\xff",
        V2_SIGNATURE + b"\x20\x00" + struct.pack("!H", V2_BYTES_MAX - 15),
    ],
    ids=repr,
)
def test_invalid_header_is_refused(data: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        parse_proxy_header(data)


def parse_or_refuse(data: bytes) -> ProxyHeader | str | None:
    try:
        return parse_proxy_header(data)
    except ProxyHeaderError:
        return "refused"


@given(
    st.binary(max_size=200)
    | st.binary(max_size=200).map(lambda rest: V2_SIGNATURE + rest)
    | st.tuples(st.sampled_from([0x20, 0x21]), st.binary(max_size=300)).map(
        lambda parts: V2_SIGNATURE + bytes([parts[0]]) + parts[1]
    )
    | st.text("PROXYTCUNKW46 .:0123456789abcdef\r\n", max_size=150).map(
        lambda text: b"PROXY " + text.encode()
    )
)
def test_any_bytes_are_a_header_an_incomplete_one_or_refused(data: bytes) -> None:
    result = parse_or_refuse(data)

    if isinstance(result, ProxyHeader):
        assert len(b"PROXY ") < result.size_bytes <= min(len(data), V2_BYTES_MAX)
        if result.source is not None:
            assert str(ip_address(result.source[0])) == result.source[0]
            assert 0 <= result.source[1] <= 65535
    if result is None:
        assert len(data) < V2_BYTES_MAX
    # Later data does not change the result.
    if result is not None:
        assert parse_or_refuse(data + b"\r\nmore") == result


@given(st.ip_addresses(), st.integers(0, 65535), st.binary(max_size=64))
def test_every_address_and_port_is_parsed(address: object, port: int, behind: bytes) -> None:
    parsed = ip_address(str(address))
    mapped = getattr(parsed, "ipv4_mapped", None)
    family = "TCP4" if parsed.version == 4 else "TCP6"
    lines = f"PROXY {family} {parsed} {parsed} {port} 80\r\n".encode()

    for header in (lines, proxy_v2(str(parsed), port)):
        assert parse_proxy_header(header + behind) == ProxyHeader(
            (str(mapped or parsed), port), len(header)
        )

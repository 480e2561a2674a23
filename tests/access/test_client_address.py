"""The client address behind proxies, and which proxies are trusted."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.access.client_address import (
    HOPS_MAX,
    canonical,
    forwarded_address,
    forwarded_secure,
    is_trusted,
    parse_address,
)

# Proxies in private networks; viewers in those for documentation (RFC 5737, RFC 3849).
TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("field", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1, 10.0.0.2", "192.0.2.1"),
        ("192.0.2.1,10.0.0.2,\t10.0.0.3", "192.0.2.1"),
        ("192.0.2.66, 192.0.2.1, 10.0.0.2", "192.0.2.1"),  # the viewer's own claim is out of reach
        ("10.0.0.66, 192.0.2.1", "192.0.2.1"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),  # only proxies: the farthest one
        ("unknown, 10.0.0.2", "10.0.0.2"),
        ("192.0.2.1, unknown", ""),
        ("192.0.2.1, _hidden, 10.0.0.2", "10.0.0.2"),
        ("", ""),
        (" , ,", ""),
        ("192.0.2.1, , 10.0.0.2, ", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("192.0.2.1:65535", "192.0.2.1"),
        ("192.0.2.1:65536", ""),
        ("192.0.2.1:99999", ""),
        ("192.0.2.1:065535", ""),
        ("192.0.2.1:", ""),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443, fd00::1", "2001:db8::1"),
        ("[2001:db8::1", ""),
        ("[2001:db8::1]443", ""),
        ("[2001:db8::1]:", ""),
        ("[2001:db8::1]:65536", ""),
        ("[192.0.2.1]", ""),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("192.0.2.1, ::ffff:10.0.0.2", "192.0.2.1"),
        ("192.0.2.010", ""),
        ("192.0.2.1/24", ""),
        ('"192.0.2.1"', ""),
        ("fe80::1%eth0", ""),
        ('2001:db8::1%"x', ""),
        ('[2001:db8::1%"x]:443, fd00::1', "fd00::1"),
        ("1" * 10_000, ""),
    ],
)
def test_forwarded_chain_is_read_from_its_end(field: str, address: str) -> None:
    assert forwarded_address(field, TRUSTED) == address


def test_forwarded_chain_is_read_up_to_the_limit() -> None:
    chain = [f"10.0.0.{number}" for number in range(HOPS_MAX + 1, 0, -1)]

    assert forwarded_address(", ".join(chain), TRUSTED) == f"10.0.0.{HOPS_MAX}"


@pytest.mark.parametrize(
    ("field", "secure", "is_https"),
    [
        ("https", False, True),
        ("http", True, False),
        ("HTTPS", False, True),
        ("http, https", False, True),
        ("https, http", True, False),
        ("", True, True),
        ("", False, False),
        ("wss", False, False),
        ("https,", False, False),
    ],
)
def test_forwarded_proto_is_that_of_the_nearest_proxy(
    field: str, secure: bool, is_https: bool
) -> None:
    assert forwarded_secure(field, secure=secure) is is_https


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.255.0.1", True),
        ("::ffff:10.0.0.1", True),
        ("fd12::1", True),
        ("11.0.0.1", False),
        ("2001:db8::1", False),
        ("", False),
        ("10.0.0.1:80", False),
        ("localhost", False),
    ],
)
def test_address_in_a_trusted_network_is_trusted(address: str, trusted: bool) -> None:
    assert is_trusted(address, TRUSTED) is trusted
    assert not is_trusted(address, ())


def test_address_has_one_canonical_form() -> None:
    assert canonical("::FFFF:192.0.2.1") == "192.0.2.1"
    assert canonical("2001:DB8:0:0::1") == "2001:db8::1"
    assert canonical("fe80::1%eth0") == "fe80::1%eth0"
    assert canonical("nowhere") == "nowhere"


@given(st.text(max_size=300) | st.text("0123456789abcdef.:,[] %", max_size=300))
def test_any_field_gives_a_canonical_address_or_none(field: str) -> None:
    address = forwarded_address(field, TRUSTED)

    assert address == "" or str(ip_address(address)) == address


@given(st.lists(st.ip_addresses()), st.ip_addresses(v=4), st.text(max_size=60))
def test_viewer_cannot_claim_another_address(
    proxies: list[object], viewer: object, text: str
) -> None:
    """Whatever a viewer sends, the result is the first untrusted address from the end."""
    parsed = parse_address(str(viewer))
    assert parsed is not None
    behind = ", ".join(["", *(str(proxy) for proxy in proxies if is_trusted(str(proxy), TRUSTED))])
    if not is_trusted(str(parsed), TRUSTED):
        assert forwarded_address(f"{text},{viewer}{behind}", TRUSTED) == str(parsed)

"""Host names find their distribution, and names their asset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest

from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.control.invalidations import comparable, parse_item
from streamedge.delivery.hosts import Distribution, HostTable, OriginBinding, host_name
from streamedge.origin import Origin
from streamedge.origin.objects import ObjectUpstream


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that is found by host name."""

    id: str
    aliases: tuple[str, ...]


TABLE = HostTable(
    [
        Claim("any", ("*",)),
        Claim("wide", ("*.example.com",)),
        Claim("narrow", ("*.video.example.com",)),
        Claim("exact", ("cdn.example.com", "CDN2.Example.Com")),
        Claim("ipv6", ("::1",)),
    ]
)


@pytest.mark.parametrize(
    ("host", "ids"),
    [
        ("cdn.example.com", ["exact", "wide", "any"]),
        ("CDN.EXAMPLE.COM", ["exact", "wide", "any"]),
        ("cdn.example.com:8080", ["exact", "wide", "any"]),
        ("cdn.example.com.", ["exact", "wide", "any"]),
        ("cdn.example.com.:8080", ["exact", "wide", "any"]),
        (" cdn2.example.com ", ["exact", "wide", "any"]),
        ("a.video.example.com", ["narrow", "wide", "any"]),
        ("a.b.video.example.com", ["narrow", "wide", "any"]),
        ("video.example.com", ["wide", "any"]),
        ("example.com", ["any"]),
        ("notexample.com", ["any"]),
        ("cdn.example.com.evil.org", ["any"]),
        ("[::1]:8080", ["ipv6", "any"]),
        ("127.0.0.1:8080", ["any"]),
        ("", ["any"]),
    ],
)
def test_most_specific_host_claim_comes_first(host: str, ids: list[str]) -> None:
    assert [claim.id for claim in TABLE.find(host)] == ids


def test_unknown_host_has_no_entries() -> None:
    table = HostTable([Claim("exact", ("cdn.example.com",)), Claim("wide", ("*.example.org",))])
    assert table.find("other.example.com") == []
    assert table.find("example.org") == []


def test_equal_claims_keep_the_order_of_the_config() -> None:
    table = HostTable([Claim("first", ("*",)), Claim("second", ("*",))])
    assert [claim.id for claim in table.find("a")] == ["first", "second"]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("Example.COM:80", "example.com"),
        ("example.com.", "example.com"),
        ("[2001:DB8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("::1", "::1"),
    ],
)
def test_host_name_has_no_capitals_port_final_dot_or_brackets(host: str, name: str) -> None:
    assert host_name(host) == name


def test_asset_key_depends_on_the_origins_identity_not_on_its_name() -> None:
    origin = cast("Origin", object())
    rules = TtlRules(default_ttl_s=60.0)

    def distribution(name: str, identity: str) -> Distribution:
        return Distribution(
            "E", ("*",), OriginBinding(name, identity, origin, ObjectUpstream(origin)), rules
        )

    asset = distribution("old", "http https://a.example").asset("film.mp4")
    renamed = distribution("new", "http https://a.example").asset("film.mp4")
    other = distribution("old", "http https://b.example").asset("film.mp4")
    assert asset.key == renamed.key
    assert asset.key != other.key
    assert asset.name == "film.mp4"
    assert asset.origin is origin
    assert asset.rules is rules
    assert renamed.origin_name == "new"
    spelled = distribution("old", "http https://a.example").asset("50%20off?.mp4")
    assert parse_item("/50%2520off%3F.mp4").text == comparable(spelled.subject.target)

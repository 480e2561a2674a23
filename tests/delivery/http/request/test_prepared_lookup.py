"""What equal requests share of their request to the cache."""

from __future__ import annotations

from typing import cast

from streamedge.cache.origin_requests import WHOLE, CacheRequest
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.records import Asset
from streamedge.delivery.http.request.cache_request import Interim, PreparedLookup
from streamedge.delivery.http.request.request import WebRequest, web_request
from streamedge.delivery.http.request.routing import Route
from streamedge.origin import Fields, Origin, OriginRequest, Upstream

ROUTE = cast(Route, None)  # the builder needs none


def request(address: str = "192.0.2.1", range_field: str = "") -> WebRequest:
    fields = [(b"host", b"a.example")]
    if range_field:
        fields.append((b"range", range_field.encode()))
    return web_request(
        "GET",
        b"/film",
        fields,
        client=f"{address}:1",
        address=address,
        proxies=(),
        keep_alive=True,
        started_s=0.0,
        secure=False,
        http_version="1.1",
    )


class Builder:
    """Counts how often a cache request is built."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, interim: Interim | None) -> CacheRequest:
        self.count += 1
        asset = Asset(f"key {self.count}", "film", cast(Origin, None), "main", TtlRules())
        return CacheRequest(
            asset,
            cast(Upstream, None),
            OriginRequest("GET", "film", "q=1", (("accept", "1"),), interim=interim, path="film"),
            {"host": "a.example"},
            WHOLE,
            applies_request_directives=True,
            selected_by={"accept": "1"},
            suffix_bytes=7,
        )


def test_cache_request_is_built_twice_and_then_shared_by_equal_requests() -> None:
    """A request that comes once takes no memory."""
    lookup, build = PreparedLookup(ROUTE), Builder()
    lookup.cache_request(request(), build, None)
    assert not lookup.is_prepared
    second = lookup.cache_request(request(), build, None)
    assert lookup.is_prepared
    assert lookup.cache_request(request(), build, None) == second
    assert build.count == 2


def test_other_address_or_range_gets_another_cache_request() -> None:
    lookup, build = PreparedLookup(ROUTE), Builder()
    for number in range(3):
        lookup.cache_request(request(), build, None)
        other = lookup.cache_request(request("192.0.2.2"), build, None)
        part = lookup.cache_request(request("192.0.2.2", "bytes=0-1"), build, None)
        assert len({other.asset.key, part.asset.key}) == 2
        assert build.count == 3 * (number + 1)


def test_each_request_has_its_own_callback_for_interim_responses() -> None:
    lookup, build = PreparedLookup(ROUTE), Builder()

    def first(status: int, fields: Fields) -> None: ...

    def second(status: int, fields: Fields) -> None: ...

    for interim in (first, second, first, None):
        cache_request = lookup.cache_request(request(), build, interim)
        assert cache_request.origin_request.interim is interim
        plain = build(None)
        assert cache_request.origin_request.fields == plain.origin_request.fields
        assert cache_request.origin_request.path == "film"
        assert (cache_request.want, cache_request.suffix_bytes) == (WHOLE, 7)
        assert cache_request.applies_request_directives
        assert cache_request.selected_by == {"accept": "1"}

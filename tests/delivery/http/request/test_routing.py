"""The bucket and key of an S3 client's request; access and response use the same ones."""

from __future__ import annotations

from typing import cast

import pytest

from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.delivery.hosts import HostTable, OriginBinding
from streamedge.delivery.http.policy.behaviors import Behavior
from streamedge.delivery.http.request.routing import (
    Route,
    RouteError,
    Rule,
    WebDistribution,
    find_route,
)
from streamedge.origin import Origin, Upstream

SIGNED = {"authorization": "AWS4-HMAC-SHA256 Credential=a, SignedHeaders=host, Signature=0"}
V2_QUERY = "AWSAccessKeyId=a&Signature=b%3D&Expires=1"


def binding(name: str, bucket: str = "", *, is_site: bool = False) -> OriginBinding:
    return OriginBinding(
        name,
        name,
        cast(Origin, None),
        cast(Upstream, None),
        is_site=is_site,
        bucket=bucket,
    )


FILMS, SITE = binding("films", "films"), binding("site", is_site=True)
MIXED = (
    Rule(Behavior("api/*", "site"), SITE, TtlRules()),
    Rule(Behavior("*", "films"), FILMS, TtlRules()),
)


def table(*aliases: str, rules: tuple[Rule, ...] = MIXED) -> HostTable[WebDistribution]:
    return HostTable([WebDistribution("E", aliases or ("*",), rules, "index.html")])


@pytest.mark.parametrize(
    ("host", "path", "name"),
    [
        ("cdn.example", "/films/dir/film.mp4", "dir/film.mp4"),
        ("cdn.example", "/films/films/a", "films/a"),
        ("cdn.example", "/films//a", "/a"),
        ("cdn.example", "/films", ""),
        ("cdn.example", "/films/", ""),
        ("films.cdn.example:8080", "/dir/film.mp4", "dir/film.mp4"),
        ("films.cdn.example", "/films/a", "films/a"),
        ("films.cdn.example", "/", ""),
        ("films", "/a", "a"),
        ("films", "/films/a", "a"),
    ],
)
@pytest.mark.parametrize("query", ["", V2_QUERY])
def test_bucket_is_found_in_path_or_host(host: str, path: str, name: str, query: str) -> None:
    headers = {} if query else SIGNED
    result = find_route(table(), host, path.encode(), query, headers)
    assert isinstance(result, Route)
    assert (result.name, result.query, result.is_s3) == (name, "", True)
    assert result.is_bucket is (name == "")
    assert result.rule.binding is FILMS


def test_bucket_in_the_path_wins_over_a_host_that_resembles_it() -> None:
    """films.example.com is the distribution's own name, and example.com is not an edge."""
    hosts = table("films.example.com")
    result = find_route(hosts, "films.example.com", b"/films/a", "", SIGNED)
    assert isinstance(result, Route)
    assert result.name == "a"
    result = find_route(hosts, "films.example.com", b"/a", "", SIGNED)
    assert isinstance(result, Route)
    assert result.name == "a"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/other/film.mp4", 404, "NoSuchBucket"),
        ("/films2/a", 404, "NoSuchBucket"),
        ("/", 501, ""),
        ("/films/api/a", 403, ""),
        ("/films/a/../b", 400, ""),
    ],
)
def test_request_for_an_unknown_bucket_reaches_no_object(path: str, status: int, code: str) -> None:
    result = find_route(table(), "cdn.example", path.encode(), "", SIGNED)
    assert isinstance(result, RouteError)
    assert (result.status, result.code) == (status, code)


@pytest.mark.parametrize("path", ["/api/films", "/films/a", "/other/a", "/"])
def test_request_without_an_s3_signature_is_no_s3_request(path: str) -> None:
    result = find_route(table(), "films.cdn.example", path.encode(), "Signature=a&Expires=1", {})
    assert isinstance(result, Route)
    assert not result.is_s3
    assert result.query == "Signature=a&Expires=1"


def test_s3_signature_for_a_site_is_left_to_the_site() -> None:
    result = find_route(table(), "cdn.example", b"/api/films/a", "", SIGNED)
    assert isinstance(result, Route)
    assert (result.name, result.is_s3, result.rule.binding) == ("api/films/a", False, SITE)
    sites = table(rules=(Rule(Behavior("*", "site"), SITE, TtlRules()),))
    result = find_route(sites, "films.cdn.example", b"/films/a", "", SIGNED)
    assert isinstance(result, Route)
    assert (result.name, result.is_s3) == ("films/a", False)

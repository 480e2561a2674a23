"""RFC 9111 as viewers see it: what is stored, reused and revalidated.

No test waits until a response is stale: the origin's Age makes it as old as needed.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from tests.support.http.http_viewer import Response, fetch, open_viewer
from tests.support.http.web_edge import WebEdge, serve_web
from tests.support.origins.scripted_origin import Reply

Lines = tuple[tuple[str, str], ...]

STRICT = {"strict": True}
APPLIES = {"viewer_directives": True}
WRITES = {"methods": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]}
FORWARDS: dict[str, Any] = {
    "tables": {"origin_request_policies": {"all": {"headers": "all", "cookies": "all"}}},
    "rules": {"origin_request_policy": "all"},
}
OLD = (("Cache-Control", "max-age=60"), ("Age", "61"))


def put(
    edge: WebEdge,
    name: str = "a",
    *fields: tuple[str, str],
    body: bytes = b"one",
    etag: str = "",
    modified_s: int | None = None,
) -> None:
    edge.origin.put(name, body, etag=etag, last_modified_s=modified_s, headers=fields)


def cache_status(response: Response) -> dict[str, str | bool]:
    """The members of Cache-Status, without the cache's name and the time to live."""
    name, *members = response.fields["cache-status"].split("; ")
    assert name == "StreamEdge/test"
    pairs = [member.partition("=") for member in members]
    return {name: value or True for name, _, value in pairs if name != "ttl"}


def later(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


# --- freshness (RFC 9111 §4.2, RFC 9213) -----------------------------------------------------

# A number stands for the date that many seconds from now.
FRESHNESS: list[tuple[dict[str, Any], tuple[tuple[str, str | int], ...], bool]] = [
    ({}, (("Cache-Control", "max-age=60"),), True),
    ({}, OLD, False),
    ({}, (("Cache-Control", "max-age=0, s-maxage=60"),), True),
    ({}, (("Cache-Control", "max-age=60, s-maxage=0"),), False),
    ({}, (("Expires", 3600),), True),
    ({}, (("Expires", -3600),), False),
    ({}, (("Expires", "0"),), False),
    ({}, (("Expires", "0"), ("Cache-Control", "max-age=60")), True),
    ({}, (("Date", -120), ("Cache-Control", "max-age=60")), False),
    ({}, (("Date", -120), ("Cache-Control", "max-age=180")), True),
    ({}, (("CDN-Cache-Control", "max-age=60"), ("Cache-Control", "no-store")), True),
    ({}, (("CDN-Cache-Control", "no-store"), ("Cache-Control", "max-age=60")), False),
    ({}, (("Cache-Control", "no-cache"),), False),
    ({}, (("Cache-Control", "no-store"),), False),
    ({}, (("Cache-Control", "private, max-age=60"),), False),
    ({}, (("Cache-Control", "must-understand, no-store, max-age=60"),), True),
    ({"default_ttl": "1h"}, (), True),
    ({"default_ttl": "0s"}, (), False),
    ({"min_ttl": "1m"}, (("Cache-Control", "max-age=0"),), True),
    ({"min_ttl": "1m"}, (("Cache-Control", "no-store"),), True),
    ({"max_ttl": "0s", "default_ttl": "0s"}, (("Cache-Control", "max-age=60"),), False),
    (STRICT, (), False),
    (STRICT, (("Last-Modified", -86_400),), True),
    (STRICT | {"min_ttl": "1m"}, (("Cache-Control", "no-store"),), False),
]


@pytest.mark.parametrize(("policy", "fields", "is_fresh"), FRESHNESS)
async def test_stored_response_is_reused_while_it_is_fresh(
    cache_root: Path,
    policy: dict[str, Any],
    fields: tuple[tuple[str, str | int], ...],
    is_fresh: bool,
) -> None:
    lines = [(name, later(value) if isinstance(value, int) else value) for name, value in fields]
    async with serve_web(cache_root, policy=policy) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", *lines)
        assert cache_status(await viewer.get("/a"))["fwd"] == "uri-miss"
        again = await viewer.get("/a")
        assert (again.status, again.body) == (200, b"one")
        assert ("hit" in cache_status(again)) == is_fresh
        assert len(edge.origin.requests) == (1 if is_fresh else 2)


async def test_age_continues_from_the_origins_age(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", ("Cache-Control", "max-age=600"), ("Age", "100"))
        await viewer.get("/a")
        again = await viewer.get("/a")
        assert 100 <= int(again.fields["age"]) < 200
        assert "hit; ttl=" in again.fields["cache-status"]
        ttl_s = int(again.fields["cache-status"].rpartition("ttl=")[2])
        assert 400 < ttl_s <= 500


# --- Vary (§4.1) -----------------------------------------------------------------------------


async def test_two_variants_of_one_url_are_stored_side_by_side(cache_root: Path) -> None:
    async with serve_web(cache_root, **FORWARDS) as edge, open_viewer(edge.port) as viewer:
        varying = (("Vary", "Accept-Language"), ("Cache-Control", "max-age=60"))
        for body in (b"english", b"deutsch"):
            edge.origin.script(Reply(status=200, headers=varying, body=body))
        english = await viewer.get("/a", accept_language="en")
        german = await viewer.get("/a", accept_language="de")
        assert (english.body, german.body) == (b"english", b"deutsch")
        assert cache_status(german)["fwd"] == "vary-miss"
        for _again in range(2):
            assert (await viewer.get("/a", accept_language="en")).body == b"english"
            assert (await viewer.get("/a", accept_language="de")).body == b"deutsch"
        assert len(edge.origin.requests) == 2


async def test_changed_vary_replaces_the_old_one(cache_root: Path) -> None:
    """The latest Vary counts; older variants are not found any more."""
    async with serve_web(cache_root, **FORWARDS) as edge, open_viewer(edge.port) as viewer:
        fresh = ("Cache-Control", "max-age=60")
        edge.origin.script(Reply(status=200, headers=(("Vary", "X-A"), fresh), body=b"by a"))
        edge.origin.script(Reply(status=200, headers=(("Vary", "X-B"), fresh), body=b"by b"))
        edge.origin.script(Reply(status=200, headers=(("Vary", "X-B"), fresh), body=b"other b"))
        assert (await viewer.get("/a", x_a="1")).body == b"by a"
        assert (await viewer.get("/a", x_a="2", x_b="1")).body == b"by b"
        assert (await viewer.get("/a", x_a="1", x_b="1")).body == b"by b"
        assert (await viewer.get("/a", x_b="2")).body == b"other b"
        assert len(edge.origin.requests) == 3
        edge.origin.script(Reply(status=200, headers=(fresh,), body=b"for all"))
        assert (await viewer.get("/a", x_b="3")).body == b"for all"
        assert (await viewer.get("/a", x_b="1")).body == b"for all"
        assert len(edge.origin.requests) == 4


async def test_vary_selects_by_the_fields_that_the_origin_got(cache_root: Path) -> None:
    """A field that Connection lists is not forwarded, so it cannot have changed the response."""
    async with serve_web(cache_root, **FORWARDS) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", ("Vary", "Accept-Language"), ("Cache-Control", "max-age=60"))
        await viewer.get("/a", accept_language="de", connection="accept-language")
        assert (await viewer.get("/a")).cache == "Hit"
        put(edge, "a", ("Vary", "Accept-Language"), ("Cache-Control", "max-age=60"), body=b"de")
        for cache in ("Miss", "Hit", "Hit"):
            german = await viewer.get("/a", accept_language="de")
            assert (german.body, german.cache) == (b"de", cache)
        assert (await viewer.get("/a")).body == b"one"
        assert len(edge.origin.requests) == 2


@pytest.mark.parametrize("name", ["cookie", "user_agent", "accept_language", "x_device"])
async def test_vary_by_a_field_that_the_origin_never_got_selects_nothing(
    cache_root: Path, name: str
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        vary = name.replace("_", "-")
        put(edge, "a", ("Vary", vary), ("Cache-Control", "max-age=60"))
        for number in range(5):
            for _general_and_fast in range(2):
                assert (await viewer.get("/a", **{name: f"value={number}"})).body == b"one"
        assert len(edge.origin.requests) == 1


async def test_response_with_vary_star_is_not_stored(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", ("Vary", "*"), ("Cache-Control", "max-age=60"))
        for _again in range(2):
            response = await viewer.get("/a")
            assert response.body == b"one"
            assert "stored" not in cache_status(response)
        assert len(edge.origin.requests) == 2


# --- validation (§4.3) -----------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"etag": '"1"'}, {"modified_s": 1_700_000_000}])
async def test_304_updates_the_stored_fields(cache_root: Path, fields: dict[str, Any]) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", *OLD, ("X-Old", "1"), **fields)
        await viewer.get("/a")
        put(edge, "a", ("Cache-Control", "max-age=99"), ("X-New", "2"), **fields)
        confirmed = await viewer.get("/a")
        hit = await viewer.get("/a")
        first, second = edge.origin.requests
        assert "if-none-match" not in first.headers
        assert second.headers.keys() & {"if-none-match", "if-modified-since"}
        assert second.body_bytes_sent == 0
        assert cache_status(confirmed) == {"fwd": "stale", "fwd-status": "304"}
        assert cache_status(hit) == {"hit": True}
        for response in (confirmed, hit):
            assert response.body == b"one"
            assert response.fields["cache-control"] == "max-age=99"
            assert (response.fields["x-old"], response.fields["x-new"]) == ("1", "2")
            assert int(response.fields["age"]) < 60


async def test_viewer_condition_is_evaluated_by_the_edge(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", ("Cache-Control", "max-age=60"), etag='"1"')
        await viewer.get("/a")
        assert (await viewer.get("/a", if_none_match='"1"')).status == 304
        assert (await viewer.get("/a", if_none_match='"2"')).status == 200
        assert len(edge.origin.requests) == 1


async def test_304_to_a_viewer_condition_is_passed_on(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", ("Cache-Control", "no-store"), etag='"1"')
        await viewer.get("/a")
        response = await viewer.get("/a", if_none_match='"1"')
        assert (response.status, response.fields["etag"]) == (304, '"1"')
        assert (await viewer.get("/a", if_none_match='"2"')).body == b"one"


@pytest.mark.parametrize("directive", ["must-revalidate", "proxy-revalidate"])
async def test_response_with_must_revalidate_is_never_served_stale(
    cache_root: Path, directive: str
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", ("Cache-Control", f"max-age=60, {directive}"), ("Age", "61"), etag='"1"')
        put(edge, "b", ("Cache-Control", "max-age=60"), ("Age", "61"), etag='"1"')
        for path in ("/a", "/b"):
            assert (await viewer.get(path)).status == 200
        edge.origin.script(Reply(status=503), times=2)
        assert (await viewer.get("/a")).status == 503
        assert (await viewer.get("/b")).status == 200


@pytest.mark.parametrize("directive", ["no-cache", "private"])
async def test_fields_listed_in_no_cache_are_not_reused(cache_root: Path, directive: str) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        control = f'max-age=60, {directive}="x-mine, set-cookie"'
        put(edge, "a", ("Cache-Control", control), ("X-Mine", "1"), ("Set-Cookie", "a=1"))
        await viewer.get("/a")
        hit = await viewer.get("/a")
        assert cache_status(hit) == {"hit": True}
        assert "x-mine" not in hit.fields
        assert hit.cookies == ()


@pytest.mark.parametrize("directive", ["no-cache", "private"])
async def test_fields_listed_in_no_cache_reach_the_first_viewer(
    cache_root: Path, directive: str
) -> None:
    """§5.2.2.4, §5.2.2.7: removed for later requests, but not for this one; the same with a 304."""
    async with (
        serve_web(cache_root, policy=APPLIES) as edge,
        open_viewer(edge.port) as viewer,
    ):
        control = f'max-age=60, {directive}="x-mine, set-cookie"'
        fields = (("Cache-Control", control), ("X-Mine", "1"), ("Set-Cookie", "a=1"))
        put(edge, "a", *fields, ("Set-Cookie", "b=2"), etag='"1"')
        first = await viewer.get("/a")
        assert (first.fields["x-mine"], first.cookies) == ("1", ("a=1", "b=2"))
        hit = await viewer.get("/a")
        assert ("x-mine" in hit.fields, hit.cookies) == (False, ())
        put(edge, "a", *fields, etag='"1"')
        confirmed = await viewer.get("/a", cache_control="no-cache")
        assert confirmed.cache == "RefreshHit"
        assert (confirmed.fields["x-mine"], confirmed.cookies) == ("1", ("a=1",))
        hit = await viewer.get("/a")
        assert ("x-mine" in hit.fields, hit.cookies) == (False, ())


@pytest.mark.parametrize("name", ["etag", "Last-Modified", "content-type"])
async def test_response_whose_validators_are_withheld_is_not_stored(
    cache_root: Path, name: str
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", ("Cache-Control", f'max-age=60, private="{name}"'), etag='"1"')
        for _each_time in range(2):
            response = await viewer.get("/a")
            assert (response.cache, response.fields["etag"]) == ("Miss", '"1"')


async def test_304_updates_the_content_type_of_the_stored_body(cache_root: Path) -> None:
    """§3.2: every field except those that describe the stored bytes."""
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", *OLD, etag='"1"', modified_s=1_600_000_000)
        await viewer.get("/a")
        edge.origin.put(
            "a",
            b"one",
            last_modified_s=1_700_000_000,
            content_type="image/png",
            headers=(("Cache-Control", "max-age=60"),),
        )
        modified = formatdate(1_700_000_000, usegmt=True)
        for cache in ("RefreshHit", "Hit", "Hit"):
            response = await viewer.get("/a")
            assert (response.cache, response.body) == (cache, b"one")
            assert response.fields["content-type"] == "image/png"
            assert response.fields["last-modified"] == modified
        assert (await viewer.get("/a", if_modified_since=modified)).status == 304
        before = formatdate(1_699_999_999, usegmt=True)
        assert (await viewer.get("/a", if_modified_since=before)).status == 200
        assert len(edge.origin.requests) == 2
        assert (await fetch(edge.port, "/a")).body == b"one"


async def test_304_with_a_new_vary_does_not_validate(cache_root: Path) -> None:
    async with serve_web(cache_root, **FORWARDS) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", *OLD, etag='"1"')
        await viewer.get("/a", accept_language="de")
        put(edge, "a", ("Cache-Control", "max-age=60"), ("Vary", "Accept-Language"), etag='"1"')
        await viewer.get("/a", accept_language="de")
        put(edge, "a", ("Cache-Control", "max-age=60"), ("Vary", "Accept-Language"), body=b"two")
        assert (await viewer.get("/a", accept_language="en")).body == b"two"
        assert (await viewer.get("/a", accept_language="de")).body == b"one"


async def test_stored_error_is_not_served_for_a_newer_error(cache_root: Path) -> None:
    """§4.2.4 is about responses; the time for which errors are stored starts again."""
    async with (
        serve_web(cache_root, policy={"error_ttl": "0s"}) as edge,
        open_viewer(edge.port) as viewer,
    ):
        directives = ("Cache-Control", "max-age=60, stale-if-error=600")
        edge.origin.script(Reply(status=503, headers=(directives, ("Age", "61")), body=b"first"))
        edge.origin.script(Reply(status=503, headers=(directives,), body=b"second"))
        assert (await viewer.get("/a")).body == b"first"
        assert (await viewer.get("/a")).body == b"second"
        again = await viewer.get("/a")
        assert (again.body, cache_status(again)) == (b"second", {"hit": True})
        assert len(edge.origin.requests) == 2


# --- request directives (§5.2.1) --------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "applied", "request_count"),
    [
        ({"cache_control": "no-cache"}, APPLIES, 2),
        ({"cache_control": "no-cache"}, {}, 1),
        ({"cache_control": "no-cache"}, STRICT, 2),
        ({"pragma": "no-cache"}, APPLIES, 2),
        ({"pragma": "no-cache"}, {}, 1),
        ({"cache_control": "max-age=5"}, APPLIES, 2),
        ({"cache_control": "max-age=5"}, {}, 1),
        ({"cache_control": "max-age=59"}, APPLIES, 1),
        ({"cache_control": "min-fresh=600"}, APPLIES, 2),
        ({"cache_control": "min-fresh=600"}, {}, 1),
        ({"cache_control": "only-if-cached"}, APPLIES, 1),
    ],
)
async def test_request_directives_are_applied(
    cache_root: Path, fields: dict[str, str], applied: dict[str, Any], request_count: int
) -> None:
    async with serve_web(cache_root, policy=applied) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", ("Cache-Control", "max-age=60"), ("Age", "10"))
        await viewer.get("/a")
        assert (await viewer.get("/a", **fields)).body == b"one"
        assert len(edge.origin.requests) == request_count


@pytest.mark.parametrize(("applied", "request_count"), [(APPLIES, 1), ({}, 2)])
async def test_max_stale_allows_a_stale_response(
    cache_root: Path, applied: dict[str, Any], request_count: int
) -> None:
    async with serve_web(cache_root, policy=applied) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", *OLD)
        await viewer.get("/a")
        assert (await viewer.get("/a", cache_control="max-stale=500")).body == b"one"
        assert len(edge.origin.requests) == request_count


async def test_immutable_response_is_not_reloaded(cache_root: Path) -> None:
    async with serve_web(cache_root, policy=APPLIES) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", ("Cache-Control", "max-age=60, immutable"), ("Age", "10"))
        await viewer.get("/a")
        await viewer.get("/a", cache_control="max-age=0")
        assert len(edge.origin.requests) == 1


@pytest.mark.parametrize(("applied", "status", "request_count"), [(APPLIES, 504, 0), ({}, 200, 1)])
async def test_only_if_cached_does_not_reach_the_origin(
    cache_root: Path, applied: dict[str, Any], status: int, request_count: int
) -> None:
    async with serve_web(cache_root, policy=applied) as edge, open_viewer(edge.port) as viewer:
        put(edge)
        assert (await viewer.get("/a", cache_control="only-if-cached")).status == status
        assert len(edge.origin.requests) == request_count


@pytest.mark.parametrize(("applied", "stored"), [(APPLIES, False), ({}, True)])
async def test_response_to_a_no_store_request_is_not_stored(
    cache_root: Path, applied: dict[str, Any], stored: bool
) -> None:
    async with serve_web(cache_root, policy=applied) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", ("Cache-Control", "max-age=60"))
        assert (
            "stored" in cache_status(await viewer.get("/a", cache_control="no-store"))
        ) == stored
        await viewer.get("/a")
        assert len(edge.origin.requests) == (1 if stored else 2)


# --- stale responses (RFC 5861) ---------------------------------------------------------------


async def test_stale_while_revalidate_serves_at_once_and_revalidates_once(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        control = ("Cache-Control", "max-age=60, stale-while-revalidate=999")
        put(edge, "a", control, ("Age", "61"), etag='"1"')
        await viewer.get("/a")
        edge.origin.hold_responses()
        put(edge, "a", control, body=b"two", etag='"2"')
        for _again in range(3):
            stale = await viewer.get("/a")
            assert (stale.status, stale.body) == (200, b"one")
            assert cache_status(stale) == {"hit": True}
            assert "ttl=-" in stale.fields["cache-status"]
        await edge.origin.wait_for_requests(2)
        edge.origin.release_responses()
        # Until the new response is there, viewers get the old one.
        while (response := await viewer.get("/a")).body == b"one":
            pass
        assert (response.body, cache_status(response)) == (b"two", {"hit": True})
        assert len(edge.origin.requests) == 2


@pytest.mark.parametrize("kind", ["refused", "500", "timeout"])
async def test_stale_if_error_serves_the_stale_response(cache_root: Path, kind: str) -> None:
    async with (
        serve_web(
            cache_root, limits={"origin_retries": 0}, origin_keys={"read_timeout": "100ms"}
        ) as edge,
        open_viewer(edge.port) as viewer,
    ):
        put(edge, "a", ("Cache-Control", "max-age=60, stale-if-error=999"), ("Age", "61"))
        put(edge, "b", ("Cache-Control", "max-age=60, stale-if-error=0"), ("Age", "61"))
        for path in ("/a", "/b"):
            assert (await viewer.get(path)).status == 200
        if kind == "refused":
            await edge.origin.refuse()
        elif kind == "500":
            edge.origin.script(Reply(status=500), times=2)
        else:
            edge.origin.script(Reply(silent=True), times=2)
        stale = await viewer.get("/a")
        assert (stale.status, stale.body) == (200, b"one")
        assert cache_status(stale)["fwd"] == "stale"
        assert (await viewer.get("/b")).status == {"refused": 502, "500": 500, "timeout": 504}[kind]


async def test_404_is_not_an_error_for_stale_if_error(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", ("Cache-Control", "max-age=60, stale-if-error=999"), ("Age", "61"))
        await viewer.get("/a")
        edge.origin.script(Reply(status=404))
        assert (await viewer.get("/a")).status == 404


# --- Authorization and private (§3.5, §5.2.2.7) -----------------------------------------------


@pytest.mark.parametrize(
    ("control", "stored"),
    [
        ("max-age=60", False),
        ("max-age=60, public", True),
        ("s-maxage=60", True),
        ("max-age=60, must-revalidate", True),
    ],
)
async def test_response_to_authorization_is_stored_only_if_allowed(
    cache_root: Path, control: str, stored: bool
) -> None:
    forwards = {"own": {"headers": ["Authorization"]}}
    async with (
        serve_web(
            cache_root,
            rules={"origin_request_policy": "own"},
            tables={"origin_request_policies": forwards},
        ) as edge,
        open_viewer(edge.port) as viewer,
    ):
        put(edge, "a", ("Cache-Control", control))
        assert (
            "stored" in cache_status(await viewer.get("/a", authorization="Basic eA=="))
        ) == stored
        await viewer.get("/a")
        assert len(edge.origin.requests) == (1 if stored else 2)
        assert edge.origin.requests[0].headers["authorization"] == "Basic eA=="


async def test_authorization_that_is_not_forwarded_has_no_effect(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", ("Cache-Control", "max-age=60"))
        assert "stored" in cache_status(await viewer.get("/a", authorization="Basic eA=="))
        assert "authorization" not in edge.origin.requests[0].headers


# --- errors (negative caching) ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "status", "fields", "is_stored"),
    [
        ({}, 404, (), True),
        ({}, 500, (), True),
        ({}, 503, (), True),
        ({"error_ttl": "0s"}, 404, (), False),
        ({}, 404, (("Cache-Control", "no-store"),), False),
        ({}, 400, (), False),
        ({}, 403, (), False),
        ({}, 403, (("Cache-Control", "max-age=60"),), True),
        ({}, 301, (("Location", "/b"),), True),
        ({}, 302, (("Location", "/b"), ("Cache-Control", "no-cache")), False),
        (STRICT, 404, (), False),
        (STRICT, 404, (("Cache-Control", "max-age=60"),), True),
    ],
)
async def test_errors_and_redirects_are_stored(
    cache_root: Path, policy: dict[str, Any], status: int, fields: Lines, is_stored: bool
) -> None:
    async with serve_web(cache_root, policy=policy) as edge, open_viewer(edge.port) as viewer:
        put(edge, body=b"an object")
        edge.origin.script(Reply(status=status, headers=fields, body=b"sorry"))
        assert (await viewer.get("/a")).body == b"sorry"
        again = await viewer.get("/a")
        assert (again.status, again.body) == (
            (status, b"sorry") if is_stored else (200, b"an object")
        )
        if is_stored and "location" in dict(fields):
            assert again.fields["location"] == "/b"


# --- writes (§4.4) ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    ("status", "fields", "changed"),
    [
        (200, (), {"/a"}),
        (204, (), {"/a"}),
        (303, (("Location", "/b"),), {"/a", "/b"}),
        (201, (("Location", "http://edge/b"),), {"/a", "/b"}),
        (200, (("Content-Location", "b"),), {"/a", "/b"}),
        (200, (("Location", "http://other/b"),), {"/a"}),
        (404, (), set()),
        (500, (("Location", "/b"),), set()),
    ],
)
async def test_write_invalidates_the_stored_response(
    cache_root: Path, method: str, status: int, fields: Lines, changed: set[str]
) -> None:
    async with (
        serve_web(cache_root, rules=WRITES) as edge,
        serve_web(cache_root, rules=WRITES, beside=edge) as other,
        open_viewer(edge.port) as viewer,
        open_viewer(other.port) as elsewhere,
    ):
        for name in ("a", "b"):
            put(edge, name, ("Cache-Control", "max-age=60"))
            for worker in (viewer, elsewhere):
                await worker.get(f"/{name}")
        assert len(edge.origin.requests) == 2
        edge.origin.script(Reply(status=status, headers=fields))
        assert (await viewer.get("/a", method, content_length="0")).status == status
        for name in ("a", "b"):
            put(edge, name, ("Cache-Control", "max-age=60"), body=b"two")
        for worker in (elsewhere, viewer):
            for path in ("/a", "/b"):
                expected = b"two" if path in changed else b"one"
                assert (await worker.get(path)).body == expected, path
        assert len(edge.origin.requests) == 3 + len(changed)


async def test_write_invalidates_every_variant(cache_root: Path) -> None:
    policy = {"headers": ["X-Key"], "cookies": "all"}
    async with (
        serve_web(cache_root, policy=policy, rules=WRITES) as edge,
        open_viewer(edge.port) as viewer,
    ):
        put(edge, "a", ("Cache-Control", "max-age=60"), ("Vary", "X-Key, Cookie"))
        asks = [{}, {"x_key": "1"}, {"cookie": "c=1"}, {"x_key": "1", "cookie": "c=1"}]
        for fields in asks:
            await viewer.get("/a", **fields)
        edge.origin.script(Reply(status=204))
        await viewer.get("/a", "DELETE", x_key="2")
        put(edge, "a", ("Cache-Control", "max-age=60"), ("Vary", "X-Key, Cookie"), body=b"two")
        for fields in asks:
            assert (await viewer.get("/a", **fields)).body == b"two"


async def test_redirect_of_a_safe_method_invalidates_nothing(cache_root: Path) -> None:
    async with serve_web(cache_root, rules=WRITES) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", ("Cache-Control", "max-age=60"))
        await viewer.get("/a")
        edge.origin.script(Reply(status=200))
        assert (await viewer.get("/a", "OPTIONS")).status == 200
        assert cache_status(await viewer.get("/a")) == {"hit": True}


# --- HEAD ------------------------------------------------------------------------------------


async def test_head_is_answered_from_a_stored_get(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", ("Cache-Control", "max-age=60"), etag='"1"')
        whole = await viewer.get("/a")
        head = await viewer.get("/a", "HEAD")
        assert (head.status, cache_status(head)) == (200, {"hit": True})
        assert head.fields["content-length"] == whole.fields["content-length"] == "3"
        assert head.fields["etag"] == '"1"'
        assert len(edge.origin.requests) == 1


async def test_cold_head_is_forwarded_as_head_and_stores_nothing(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", ("Cache-Control", "max-age=60"))
        assert (await viewer.get("/a", "HEAD")).fields["content-length"] == "3"
        assert (await viewer.get("/a")).body == b"one"
        assert [seen.method for seen in edge.origin.requests] == ["HEAD", "GET"]


async def test_head_that_matches_a_stored_get_freshens_it(cache_root: Path) -> None:
    """§4.3.5, with an origin that answers a conditional HEAD with 200."""
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", *OLD, etag='"1"')
        await viewer.get("/a")
        put(edge, "a", ("Cache-Control", "max-age=60"), ("X-New", "1"), etag='"1"')
        edge.origin.script(Reply(ignore_conditions=True))
        head = await viewer.get("/a", "HEAD")
        assert (head.status, cache_status(head)["fwd-status"]) == (200, "200")
        assert head.fields["x-new"] == "1"
        whole = await viewer.get("/a")
        assert (whole.body, whole.fields["x-new"], cache_status(whole)) == (
            b"one",
            "1",
            {"hit": True},
        )
        assert [seen.method for seen in edge.origin.requests] == ["GET", "HEAD"]


@pytest.mark.parametrize(("etag", "body"), [('"2"', b"one"), ('"1"', b"longer"), ('"2"', b"two")])
async def test_head_of_another_version_invalidates_a_stored_get(
    cache_root: Path, etag: str, body: bytes
) -> None:
    """The stored response is fresh; a viewer's no-cache forces the HEAD."""
    async with (
        serve_web(cache_root, policy=APPLIES) as edge,
        open_viewer(edge.port) as viewer,
    ):
        put(edge, "a", ("Cache-Control", "max-age=60"), etag='"1"')
        await viewer.get("/a")
        put(edge, "a", ("Cache-Control", "max-age=60"), etag=etag, body=body)
        edge.origin.script(Reply(ignore_conditions=True))
        head = await viewer.get("/a", "HEAD", cache_control="no-cache")
        assert (head.status, head.fields["etag"]) == (200, etag)
        assert head.fields["content-length"] == str(len(body))
        assert (await viewer.get("/a")).body == body
        assert [seen.method for seen in edge.origin.requests] == ["GET", "HEAD", "GET"]


async def test_head_without_a_validator_keeps_a_stored_get(cache_root: Path) -> None:
    async with (
        serve_web(cache_root, policy=APPLIES) as edge,
        open_viewer(edge.port) as viewer,
    ):
        put(edge, "a", ("Cache-Control", "max-age=60"))
        await viewer.get("/a")
        await viewer.get("/a", "HEAD", cache_control="no-cache")
        assert cache_status(await viewer.get("/a")) == {"hit": True}
        assert [seen.method for seen in edge.origin.requests] == ["GET", "HEAD"]


# --- fields (§3.1, RFC 9110 §7.6, RFC 9211, RFC 8586) ----------------------------------------


async def test_hop_by_hop_fields_are_neither_passed_nor_stored(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        hop = (("Connection", "X-Mine, keep-alive"), ("X-Mine", "1"), ("Keep-Alive", "timeout=5"))
        put(edge, "a", ("Cache-Control", "max-age=60"), *hop, ("X-Own", "1"))
        put(edge, "b", ("Cache-Control", "no-store"), *hop, ("X-Own", "1"))
        for path in ("/a", "/a", "/b"):
            response = await viewer.get(path)
            assert response.fields["x-own"] == "1"
            assert not response.fields.keys() & {"connection", "x-mine", "keep-alive"}


async def test_fields_that_a_viewer_lists_in_connection_are_not_forwarded(cache_root: Path) -> None:
    async with serve_web(cache_root, **FORWARDS) as edge, open_viewer(edge.port) as viewer:
        put(edge)
        await viewer.get(
            "/a", connection="X-Mine, keep-alive", x_mine="1", x_own="1", te="trailers"
        )
        (seen,) = edge.origin.requests
        assert seen.headers["x-own"] == "1"
        assert not seen.headers.keys() & {"x-mine", "te", "keep-alive"}


@pytest.mark.parametrize("control", ["max-age=60", "no-store"])
async def test_set_cookie_lines_are_not_joined(cache_root: Path, control: str) -> None:
    cookies = ("a=1; Expires=Wed, 21 Oct 2099 07:28:00 GMT", "b=2")
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", ("Cache-Control", control), *(("Set-Cookie", one) for one in cookies))
        for _again in range(2):
            assert (await viewer.get("/a")).cookies == cookies


async def test_strict_rules_store_no_set_cookie_without_permission(cache_root: Path) -> None:
    async with serve_web(cache_root, policy=STRICT) as edge, open_viewer(edge.port) as viewer:
        modified = ("Last-Modified", later(-86_400))
        put(edge, "a", modified, ("Set-Cookie", "a=1"))
        assert "stored" not in cache_status(await viewer.get("/a"))
        put(edge, "b", modified, ("Set-Cookie", "a=1"), ("Cache-Control", "max-age=60"))
        assert "stored" in cache_status(await viewer.get("/b"))


async def test_cache_status_shows_how_a_request_was_handled(cache_root: Path) -> None:
    async with serve_web(cache_root, rules=WRITES) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", ("Cache-Control", "max-age=60"), ("Age", "20"), etag='"1"')
        miss, hit = await viewer.get("/a"), await viewer.get("/a")
        assert cache_status(miss) == {"fwd": "uri-miss", "fwd-status": "200", "stored": True}
        assert cache_status(hit) == {"hit": True}
        put(edge, "b", *OLD)
        await viewer.get("/b")
        stale = await viewer.get("/b")
        assert cache_status(stale) == {"fwd": "stale", "fwd-status": "200", "stored": True}
        put(edge, "c", ("Cache-Control", "no-store"))
        assert cache_status(await viewer.get("/c")) == {"fwd": "uri-miss", "fwd-status": "200"}
        edge.origin.script(Reply(status=200))
        posted = await viewer.get("/a", "POST", content_length="0")
        assert cache_status(posted) == {"fwd": "method", "fwd-status": "200"}


async def test_via_and_cdn_loop_are_sent_to_the_origin(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", ("Cache-Control", "max-age=60"), ("Via", "1.1 inner"))
        for _again in range(2):
            response = await viewer.get("/a", via="1.1 proxy", cdn_loop="other; hits=1")
            assert response.fields["via"] == "1.1 inner, 1.1 test (StreamEdge)"
        (seen,) = edge.origin.requests
        assert seen.headers["via"] == "1.1 proxy, 1.1 test (StreamEdge)"
        assert seen.headers["cdn-loop"] == "other; hits=1, streamedge-test"


@pytest.mark.parametrize("loop", ["streamedge-test", "a, streamedge-test; n=1"])
async def test_looping_request_is_refused(cache_root: Path, loop: str) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", ("Cache-Control", "max-age=60"))
        for _cold_then_warm in range(2):
            assert (await viewer.get("/a", cdn_loop=loop)).status == 508
            assert (await fetch(edge.port, "/a")).status == 200
        assert len(edge.origin.requests) == 1

"""Redirects of large objects to the nearest edge, and the edges' own host names."""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from streamedge.fleet.members import Member
from streamedge.ops.metrics import Counter, Gauge, pair
from streamedge.spans import Span
from tests.support.event_loop import until
from tests.support.fleet.places import EDGES, Places
from tests.support.http.http2_edge import open_http2, serve_http2
from tests.support.http.http_viewer import Response, open_viewer
from tests.support.http.signers import custom_policy, rsa_signer
from tests.support.http.web_edge import WebEdge, serve_web
from tests.support.origins.scripted_origin import Pattern

ALIAS = "cdn.example.com"
LARGE, SMALL = Pattern(2 << 20, seed=1), Pattern(100_000, seed=2)
OSAKA, PARIS, NOWHERE = "127.0.0.3", "127.0.0.2", "127.0.0.1"
SIGNER = rsa_signer()
KEYS: dict[str, Any] = {
    "public_keys": {SIGNER.key_id: {"pem": SIGNER.public_pem.decode()}},
    "key_groups": {"viewers": {"keys": [SIGNER.key_id]}},
}
FLEET: dict[str, Any] = {"fleet": {"engine": "redis://127.0.0.1:1/0"}}


def serve(
    root: Path,
    places: Places | None = None,
    *,
    rules: dict[str, Any] | None = None,
    tables: dict[str, Any] | None = None,
    aliases: tuple[str, ...] = (ALIAS,),
    **more: Any,
) -> AbstractAsyncContextManager[WebEdge]:
    """An edge in Frankfurt, of a fleet with edges in Tokyo and New York."""
    return serve_web(
        root,
        nearest=(places or Places()).nearest(),
        rules={"nearest": True, **(rules or {})},
        tables=FLEET | (tables or {}),
        aliases=aliases,
        **more,
    )


def put_films(edge: WebEdge) -> None:
    edge.origin.put("large.mp4", LARGE)
    edge.origin.put("small.mp4", SMALL)


async def get(
    edge: WebEdge,
    path: str,
    method: str = "GET",
    *,
    host: str = ALIAS,
    viewer: str = OSAKA,
    **fields: str,
) -> Response:
    async with open_viewer(edge.port, local_host=viewer) as connection:
        return await connection.get(path, method, host=host, **fields)


async def test_large_object_is_redirected_on_a_miss_and_on_a_hit(cache_root: Path) -> None:
    async with serve(cache_root) as edge:
        put_films(edge)
        for _ in range(3):
            response = await get(edge, "/large.mp4?a=1&b=%20", host=f"{ALIAS}:8080")
            assert response.status == 302
            assert response.fields["location"] == (f"http://tyo-1.{ALIAS}:8080/large.mp4?a=1&b=%20")
            assert response.fields["cache-control"] == "no-store"
            assert response.fields["access-control-allow-origin"] == "*"
            stored = await get(edge, "/large.mp4?a=1&b=%20", viewer=PARIS)
            assert (stored.status, len(stored.body)) == (200, LARGE.size_bytes)
        assert edge.counts.gathered(Counter.EDGE_REDIRECTS, pair("tyo-1", "http")) == 3


async def test_redirect_of_a_miss_stops_its_fill(cache_root: Path) -> None:
    async with serve(cache_root) as edge:
        edge.origin.put("film.mp4", Pattern(1 << 30))
        edge.origin.hold("film.mp4", at=100_000)

        assert (await get(edge, "/film.mp4")).status == 302
        await until(lambda: not edge.counts.gauges[Gauge.RUNNING_FILLS])
        assert edge.origin.body_bytes_sent <= 100_000


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_small_objects_are_served_here(cache_root: Path, method: str) -> None:
    async with serve(cache_root) as edge:
        put_films(edge)
        for _ in range(3):
            assert (await get(edge, "/small.mp4", method)).status == 200
            assert (await get(edge, "/large.mp4", method)).status == 302


async def test_ranges_are_redirected_by_the_size_of_the_object(cache_root: Path) -> None:
    async with serve(cache_root) as edge:
        put_films(edge)
        for _ in range(3):
            assert (await get(edge, "/large.mp4", range="bytes=0-9")).status == 302
            small = await get(edge, "/small.mp4", range="bytes=0-9")
            assert (small.status, len(small.body)) == (206, 10)


async def test_objects_from_one_mebibyte_on_are_redirected_by_default(cache_root: Path) -> None:
    async with serve(cache_root) as edge:
        edge.origin.put("from.mp4", Pattern(1 << 20))
        edge.origin.put("below.mp4", Pattern((1 << 20) - 1))
        for _ in range(2):
            assert (await get(edge, "/from.mp4")).status == 302
            assert (await get(edge, "/below.mp4")).status == 200


async def test_size_of_redirected_objects_is_configured(cache_root: Path) -> None:
    async with serve(cache_root, rules={"nearest_from": "100000B"}) as edge:
        put_films(edge)
        edge.origin.put("smaller.mp4", Pattern(99_999))
        for _ in range(2):
            assert (await get(edge, "/small.mp4")).status == 302
            assert (await get(edge, "/smaller.mp4")).status == 200


@pytest.mark.parametrize("viewer", [PARIS, NOWHERE])
async def test_viewer_near_this_edge_or_at_an_unknown_place_stays(
    cache_root: Path, viewer: str
) -> None:
    async with serve(cache_root) as edge:
        put_films(edge)
        for _ in range(3):
            assert (await get(edge, "/large.mp4", viewer=viewer)).status == 200


async def test_distribution_without_nearest_redirects_no_viewer(cache_root: Path) -> None:
    async with serve(cache_root, rules={"nearest": False}) as edge:
        put_films(edge)
        assert (await get(edge, "/large.mp4")).status == 200
        assert (await get(edge, "/large.mp4", host=f"tyo-1.{ALIAS}")).status == 421


async def test_errors_and_validations_are_not_redirected(cache_root: Path) -> None:
    async with serve(cache_root) as edge:
        put_films(edge)
        etag = (await get(edge, "/large.mp4", "HEAD", viewer=PARIS)).fields["etag"]
        for _ in range(3):
            assert (await get(edge, "/missing.mp4")).status == 404
            assert (await get(edge, "/large.mp4", if_none_match=etag)).status == 304
            assert (await get(edge, "/large.mp4", if_match='"other"')).status == 412
            assert (await get(edge, "/large.mp4", if_none_match='"other"')).status == 302


@pytest.mark.parametrize("label", ["fra-1", "FRA-1", "tyo-1"])
async def test_request_to_a_name_of_an_edge_is_served_as_one_to_the_alias(
    cache_root: Path, label: str
) -> None:
    async with serve(cache_root, origin_keys={"host": "viewer"}) as edge:
        put_films(edge)
        for _ in range(3):
            response = await get(edge, "/large.mp4", host=f"{label}.{ALIAS}:8080")
            assert (response.status, response.body) == (200, LARGE.read(Span(0, LARGE.size_bytes)))
        assert {request.headers["host"] for request in edge.origin.requests} == {f"{ALIAS}:8080"}
        # One key: the alias has the object, too.
        assert (await get(edge, "/large.mp4", viewer=PARIS, host=f"{ALIAS}:8080")).cache == "Hit"


async def test_name_of_no_edge_is_not_served(cache_root: Path) -> None:
    async with serve(cache_root) as edge:
        put_films(edge)
        assert (await get(edge, "/large.mp4", host=f"ams-1.{ALIAS}")).status == 421
        assert (await get(edge, "/large.mp4", host=f"fra-1.tyo-1.{ALIAS}")).status == 421


async def test_name_of_a_new_edge_is_served(cache_root: Path) -> None:
    places = Places()
    async with serve(cache_root, places) as edge:
        put_films(edge)
        for _ in range(2):
            assert (await get(edge, "/large.mp4", host=f"ams-1.{ALIAS}")).status == 421
        places.members = [*EDGES, Member("ams-1")]
        await edge.server.handler.follow_edge_names()
        for _ in range(2):
            assert (await get(edge, "/large.mp4", host=f"ams-1.{ALIAS}")).status == 200


async def test_alias_that_begins_like_an_edge_is_itself(cache_root: Path) -> None:
    async with serve(cache_root, aliases=(ALIAS, f"tyo-1.{ALIAS}")) as edge:
        put_films(edge)
        response = await get(edge, "/large.mp4", host=f"tyo-1.{ALIAS}")
        assert response.status == 302
        assert response.fields["location"] == f"http://tyo-1.tyo-1.{ALIAS}/large.mp4"


async def test_patterns_have_names_of_edges_too(cache_root: Path) -> None:
    async with serve(cache_root, aliases=("*.example.com",)) as edge:
        put_films(edge)
        location = (await get(edge, "/large.mp4")).fields["location"]
        assert location == f"http://tyo-1.{ALIAS}/large.mp4"
        assert (await get(edge, "/large.mp4", host=f"tyo-1.{ALIAS}")).status == 200


async def test_host_that_is_an_address_is_not_redirected(cache_root: Path) -> None:
    async with serve(cache_root, aliases=("*",)) as edge:
        put_films(edge)
        for _ in range(2):
            assert (await get(edge, "/large.mp4", host="127.0.0.1:8080")).status == 200
            assert (await get(edge, "/large.mp4", host="[::1]")).status == 200


@pytest.mark.parametrize("in_cookies", [False, True])
async def test_signature_for_the_alias_is_valid_at_the_target(
    cache_root: Path, *, in_cookies: bool
) -> None:
    async with serve(cache_root, rules={"trusted_key_groups": ["viewers"]}, tables=KEYS) as edge:
        put_films(edge)
        until_s = int(time.time() + 600)
        policy = custom_policy(f"http://{ALIAS}/*", until_s)
        signed = urlsplit(SIGNER.url(f"http://{ALIAS}/large.mp4", policy=policy))
        path, fields = f"{signed.path}?{signed.query}", {}
        if in_cookies:
            pairs = (pair.split("=", 1) for pair in signed.query.split("&"))
            fields = {"cookie": "; ".join(f"CloudFront-{name}={value}" for name, value in pairs)}
            path = signed.path
        for _ in range(2):
            redirect = await get(edge, path, **fields)
            assert redirect.status == 302
            target = urlsplit(redirect.fields["location"])
            assert target.netloc == f"tyo-1.{ALIAS}"
            followed = f"{target.path}?{target.query}" if target.query else target.path
            assert followed == path
            served = await get(edge, followed, host=target.netloc, **fields)
            assert (served.status, len(served.body)) == (200, LARGE.size_bytes)
            assert (await get(edge, "/large.mp4", host=target.netloc)).status == 403
            assert (await get(edge, "/large.mp4")).status == 403


async def test_url_signed_for_the_name_of_an_edge_is_refused(cache_root: Path) -> None:
    async with serve(cache_root, rules={"trusted_key_groups": ["viewers"]}, tables=KEYS) as edge:
        put_films(edge)
        until_s = int(time.time() + 600)
        signed = urlsplit(SIGNER.url(f"http://tyo-1.{ALIAS}/large.mp4", expires_s=until_s))
        response = await get(edge, f"{signed.path}?{signed.query}", host=f"tyo-1.{ALIAS}")
        assert response.status == 403


async def test_cors_policy_replaces_the_field_of_the_redirect(cache_root: Path) -> None:
    tables = {"response_headers_policies": {"own": {"cors": {"origins": ["https://a.example"]}}}}
    async with serve(cache_root, rules={"response_headers_policy": "own"}, tables=tables) as edge:
        put_films(edge)
        response = await get(edge, "/large.mp4", origin="https://a.example")
        assert response.fields["access-control-allow-origin"] == "https://a.example"
        response = await get(edge, "/large.mp4", origin="https://b.example")
        assert "access-control-allow-origin" not in response.fields


async def test_redirect_to_https_keeps_the_name_of_the_edge(cache_root: Path) -> None:
    async with serve(cache_root, rules={"viewer_protocol": "redirect-to-https"}) as edge:
        put_films(edge)
        response = await get(edge, "/large.mp4", host=f"tyo-1.{ALIAS}")
        assert response.fields["location"] == f"https://tyo-1.{ALIAS}/large.mp4"


async def test_viewer_stays_with_its_edge_while_that_is_up(cache_root: Path) -> None:
    places = Places(up=["fra-1", "nyc-1"])
    async with serve(cache_root, places) as edge:
        put_films(edge)
        assert (await get(edge, "/large.mp4")).status == 200
        places.up = ["fra-1", "tyo-1", "nyc-1"]
        assert (await get(edge, "/large.mp4")).status == 200
        places.up = ["tyo-1", "nyc-1"]
        location = (await get(edge, "/large.mp4")).fields["location"]
        assert location == f"http://tyo-1.{ALIAS}/large.mp4"


async def test_requests_with_an_absolute_target_are_redirected_alike(cache_root: Path) -> None:
    async with serve(cache_root) as edge:
        put_films(edge)
        response = await get(edge, f"http://{ALIAS}/large.mp4")
        assert response.fields["location"] == f"http://tyo-1.{ALIAS}/large.mp4"
        response = await get(edge, f"http://tyo-1.{ALIAS}/large.mp4", host=f"tyo-1.{ALIAS}")
        assert response.status == 200


async def test_log_shows_the_redirect(cache_root: Path) -> None:
    async with serve(cache_root) as edge:
        put_films(edge)
        await get(edge, "/large.mp4")
        await until(lambda: bool(edge.lines()))
        [line] = edge.lines()
        assert (line["status"], line["distribution"]) == (302, "EWEB")


async def test_http2_redirects_alike(cache_root: Path) -> None:
    places = Places(up=["tyo-1", "nyc-1"])  # the viewer's address is not known: by XFF
    async with serve_http2(
        cache_root,
        names=((ALIAS, f"*.{ALIAS}"),),
        nearest=places.nearest(),
        rules={"nearest": True},
        tables=FLEET | {"listen": {"proxies": ["127.0.0.1"]}},
        aliases=(ALIAS,),
    ) as served:
        edge, _client = served
        put_films(edge)
        forwarded = {"x-forwarded-for": OSAKA, "x-forwarded-proto": "https"}
        for _ in range(3):
            async with open_http2(served, name=ALIAS) as viewer:
                response = await viewer.get("/large.mp4?a=1", host=ALIAS, **forwarded)
                assert response.status == 302
                assert response.fields["location"] == f"https://tyo-1.{ALIAS}/large.mp4?a=1"
                name = f"tyo-1.{ALIAS}"
                served_there = await viewer.get("/large.mp4?a=1", host=name, **forwarded)
                assert (served_there.status, len(served_there.body)) == (200, LARGE.size_bytes)
                assert (await viewer.get("/small.mp4", host=ALIAS, **forwarded)).status == 200


async def test_large_object_that_is_not_stored_is_passed_through_here(cache_root: Path) -> None:
    async with serve(cache_root) as edge:
        edge.origin.put("private.mp4", LARGE, headers=(("cache-control", "private"),))
        for _ in range(3):
            response = await get(edge, "/private.mp4")
            assert (response.status, len(response.body)) == (200, LARGE.size_bytes)

"""Signed URLs and cookies over HTTP: access by signature, address and country."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from streamedge.spans import Span
from tests.support.http.http_viewer import fetch, open_viewer
from tests.support.http.signers import custom_policy, rsa_signer
from tests.support.http.web_edge import WebEdge, serve_web
from tests.support.mmdb_file import country, mmdb
from tests.support.origins.fake_bucket import BUCKET, FakeBucket
from tests.support.origins.scripted_origin import Pattern

FILM = Pattern(300_000, seed=1)
WHOLE = FILM.read(Span(0, FILM.size_bytes))
HOST = "edge"  # sent by the viewer
SIGNER = rsa_signer()
OTHER = rsa_signer("KOTHER")
TABLES: dict[str, Any] = {
    "public_keys": {one.key_id: {"pem": one.public_pem.decode()} for one in (SIGNER, OTHER)},
    "key_groups": {"viewers": {"keys": [SIGNER.key_id]}},
}
SIGNED = {"trusted_key_groups": ["viewers"]}


def moment(after_s: float) -> int:
    return int(time.time() + after_s)


def url(path: str = "/film.mp4", query: str = "") -> str:
    return f"http://{HOST}{path}{query}"


def canned(path: str = "/film.mp4", query: str = "", *, after_s: float = 600) -> str:
    """The target of a URL signed with a canned policy."""
    return target(SIGNER.url(url(path, query), expires_s=moment(after_s)))


def custom(resource: str, path: str = "/film.mp4", **more: Any) -> str:
    """The target of a URL signed with a custom policy."""
    return target(SIGNER.url(url(path), policy=custom_policy(resource, moment(600), **more)))


def target(signed: str) -> str:
    parts = urlsplit(signed)
    return f"{parts.path}?{parts.query}"


def cookies(signed: str) -> str:
    """The cookies with the same policy and signature as a signed URL."""
    pairs = dict(pair.split("=", 1) for pair in urlsplit(signed).query.split("&"))
    return "; ".join(f"CloudFront-{name}={value}" for name, value in pairs.items())


def put(edge: WebEdge) -> None:
    edge.origin.put("film.mp4", FILM, etag='"v1"', content_type="video/mp4")


def reasons(edge: WebEdge) -> list[str]:
    return [line["reason"] for line in edge.lines() if line["status"] == 403]


async def test_signed_request_is_served_cold_and_warm(cache_root: Path) -> None:
    async with serve_web(cache_root, rules=SIGNED, tables=TABLES) as edge:
        put(edge)
        async with open_viewer(edge.port) as viewer:
            for expected in ("Miss", "Hit", "Hit"):
                response = await viewer.get(canned())
                assert (response.status, response.cache) == (200, expected)
                assert response.body == WHOLE
            part = await viewer.get(custom(url("/*")), range="bytes=5-9")
            assert part.body == WHOLE[5:10]
            assert (await viewer.get(canned(), "HEAD")).status == 200
        assert len(edge.origin.requests) == 1


async def test_signature_is_neither_forwarded_nor_keyed(cache_root: Path) -> None:
    policy = {"query_strings": "all"}
    async with serve_web(cache_root, rules=SIGNED, tables=TABLES, policy=policy) as edge:
        put(edge)
        for _ in range(2):
            assert (await fetch(edge.port, canned(query="?v=1"))).status == 200
        (seen,) = edge.origin.requests
        assert seen.path == "/film.mp4?v=1"


@pytest.mark.parametrize("path", ["/film.mp4", "/film.mp4?v=1"])
async def test_invalid_signature_is_refused_without_its_cause(cache_root: Path, path: str) -> None:
    async with serve_web(cache_root, rules=SIGNED, tables=TABLES) as edge:
        put(edge)
        assert (await fetch(edge.port, canned())).status == 200  # it is cached
        forged = [
            path,
            canned(after_s=-1),
            canned("/other.mp4").replace("other", "film"),
            custom(url("/series/*")),
            custom(url("/*"), from_s=moment(300)),
            custom(url("/*"), networks="192.0.2.0/24"),
            target(OTHER.url(url(), expires_s=moment(60))),
            target(OTHER.url(url(), expires_s=moment(60))).replace("KOTHER", SIGNER.key_id),
            canned() + "&Expires=1",
            canned().replace("film", "%66ilm"),
        ]
        answers = [await fetch(edge.port, one) for one in forged]
        assert [answer.status for answer in answers] == [403] * len(forged)
        assert len({answer.body for answer in answers}) == 1
        assert len(set(reasons(edge))) >= 5
        assert len(edge.origin.requests) == 1


async def test_hit_is_refused_after_the_signature_has_expired(cache_root: Path) -> None:
    async with serve_web(cache_root, rules=SIGNED, tables=TABLES) as edge:
        put(edge)
        signed = canned()
        async with open_viewer(edge.port) as viewer:
            for _ in range(3):
                assert (await viewer.get(signed)).status == 200
            now_s = time.time
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(time, "time", lambda: now_s() + 3600)
                assert (await viewer.get(signed)).status == 403
            assert (await viewer.get(signed)).status == 200
        assert reasons(edge) == ["expired"]


async def test_signed_cookies_are_accepted_and_the_url_takes_precedence(cache_root: Path) -> None:
    async with serve_web(cache_root, rules=SIGNED, tables=TABLES) as edge:
        put(edge)
        good = cookies(SIGNER.url(url(), expires_s=moment(60)))
        wide = cookies(SIGNER.url(url(), policy=custom_policy(url("/*"), moment(60))))
        for cookie in (good, f"a=b; {wide}; c=d", f"a=b\r\nCookie: {wide}\r\nCookie: c=d"):
            for _cold_then_warm in range(2):
                assert (await fetch(edge.port, "/film.mp4", cookie=cookie)).status == 200
        assert (await fetch(edge.port, canned(after_s=-1), cookie=good)).status == 403
        assert (await fetch(edge.port, "/other.mp4", cookie=good)).status == 403


async def test_remembered_hit_checks_the_viewer_address(cache_root: Path) -> None:
    async with serve_web(
        cache_root,
        rules=SIGNED,
        tables={**TABLES, "listen": {"proxies": ["127.0.0.0/8"]}},
    ) as edge:
        put(edge)
        signed = custom(url("/*"), networks="192.0.2.0/24")

        async def get(address: str) -> int:
            return (await fetch(edge.port, signed, x_forwarded_for=address)).status

        assert [await get("192.0.2.7") for _ in range(3)] == [200] * 3
        assert await get("198.51.100.7") == 403
        assert await get("192.0.2.7, 198.51.100.7") == 403
        assert await get("192.0.2.8") == 200


async def test_forwarded_address_is_ignored_without_trusted_proxies(cache_root: Path) -> None:
    async with serve_web(cache_root, rules=SIGNED, tables=TABLES) as edge:
        put(edge)
        here = custom(url("/*"), networks="127.0.0.0/8")
        there = custom(url("/*"), networks="192.0.2.0/24")
        for _cold_then_warm in range(2):
            answer = await fetch(edge.port, here, x_forwarded_for="192.0.2.7")
            assert answer.status == 200
            answer = await fetch(edge.port, there, x_forwarded_for="192.0.2.7")
            assert answer.status == 403


async def test_behavior_overrides_the_access_rules_of_its_distribution(cache_root: Path) -> None:
    rules = {
        **SIGNED,
        "behaviors": [{"path": "open/*", "trusted_key_groups": []}],
    }
    async with serve_web(cache_root, rules=rules, tables=TABLES) as edge:
        edge.origin.put("open/logo.png", b"logo")
        put(edge)
        for _cold_then_warm in range(2):
            assert (await fetch(edge.port, "/open/logo.png")).status == 200
            assert (await fetch(edge.port, "/open/../film.mp4")).status == 400
            assert (await fetch(edge.port, "/open/%2e%2e/film.mp4")).status == 400
            assert (await fetch(edge.port, "/film.mp4")).status == 403


async def test_any_changed_byte_invalidates_the_signature(cache_root: Path) -> None:
    async with serve_web(cache_root, rules=SIGNED, tables=TABLES) as edge:
        put(edge)
        signed = canned()
        assert (await fetch(edge.port, signed)).status == 200
        async with open_viewer(edge.port) as viewer:
            for at in range(1, len(signed)):
                changed = signed[:at] + ("B" if signed[at] == "A" else "A") + signed[at + 1 :]
                answer = await viewer.get(changed)
                assert answer.status == 403, changed
        assert len(edge.origin.requests) == 1


async def test_countries_are_checked_cold_and_warm(cache_root: Path, tmp_path: Path) -> None:
    database = tmp_path / "countries.mmdb"
    database.write_bytes(mmdb({"192.0.2.0/24": country("DE"), "198.51.100.0/24": country("FR")}))
    rules = {
        "countries": {"allow": ["DE"]},
        "behaviors": [
            {"path": "everywhere/*", "countries": {}},
            {"path": "known/*", "countries": {"deny": ["DE"], "unknown": "deny"}},
        ],
    }
    tables = {
        "listen": {"proxies": ["127.0.0.0/8"]},
        "countries": {"database": str(database), "unknown": "allow"},
    }
    german, french, unknown = "192.0.2.7", "198.51.100.7", "203.0.113.7"
    served = {
        "/film.mp4": {german, unknown},
        "/everywhere/film.mp4": {german, french, unknown},
        "/known/film.mp4": {french},
    }
    async with serve_web(cache_root, rules=rules, tables=tables) as edge:
        for path in served:
            edge.origin.put(path.removeprefix("/"), FILM)
        for _cold_then_warm in range(3):
            for path, addresses in served.items():
                for address in (german, french, unknown):
                    answer = await fetch(edge.port, path, x_forwarded_for=address)
                    assert answer.status == (200 if address in addresses else 403)
        assert set(reasons(edge)) == {"country"}


async def test_repeated_slashes_bypass_no_rule(cache_root: Path) -> None:
    rules = {"behaviors": [{"path": "private/*", "trusted_key_groups": ["viewers"]}]}
    async with serve_web(cache_root, rules=rules, tables=TABLES) as edge:
        # The response of an origin that merges repeated slashes.
        for name in ("private/film.mp4", "/private/film.mp4", "//private/film.mp4"):
            edge.origin.put(name, FILM)
        edge.origin.put("open//film.mp4", FILM)
        for path in ("//private/film.mp4", "///private/film.mp4", "/%2F/private/film.mp4"):
            for _cold_then_warm in range(2):
                assert (await fetch(edge.port, path)).status in {400, 403}
        assert (await fetch(edge.port, "/open//film.mp4")).status == 200
        assert [seen.path for seen in edge.origin.requests] == ["/open//film.mp4"]


async def test_s3_client_gets_only_the_signed_object(cache_root: Path) -> None:
    """A signature is verified for the object, without the bucket in the path."""
    aws = "AWS4-HMAC-SHA256 Credential=x/s3/aws4_request, SignedHeaders=host, Signature=00"
    async with FakeBucket() as bucket:
        bucket.objects = {f"{BUCKET}/a": b"inside", "secret": b"outside", "open/a": b"open"}
        tables = {
            **TABLES,
            "origins": {
                "main": {
                    **{"type": "s3", "bucket": BUCKET, "endpoint": bucket.url},
                    "anonymous": True,
                }
            },
        }
        rules = {**SIGNED, "behaviors": [{"path": "open/*", "trusted_key_groups": []}]}
        async with serve_web(cache_root, rules=rules, tables=tables) as edge:
            folder = url(f"/{BUCKET}/*")
            for _cold_then_warm in range(2):
                async with open_viewer(edge.port) as viewer:
                    seen = await viewer.get(custom(folder, f"/{BUCKET}/a"))
                    assert seen.body == b"inside"
                    moved = await viewer.get(custom(folder, f"/{BUCKET}/secret"), authorization=aws)
                    assert moved.status == 403
                    assert b"<Code>AccessDenied</Code>" in moved.body
                    own = custom(url("/secret"), f"/{BUCKET}/secret")
                    assert (await viewer.get(own, authorization=aws)).body == b"outside"
                    path = f"/{BUCKET}/open/a"
                    assert (await viewer.get(path, authorization=aws)).body == b"open"
                    assert (await viewer.get(path)).status == 403
                    listing = await viewer.get(f"/{BUCKET}?list-type=2", authorization=aws)
                    assert listing.status == 403

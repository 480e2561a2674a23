"""Pages that replace errors: the same for GET and HEAD, whether or not anything is cached."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from tests.support.http.http_viewer import fetch, open_viewer
from tests.support.http.signers import rsa_signer
from tests.support.http.web_edge import serve_web
from tests.support.origins.scripted_origin import Reply

FRESH = (("Cache-Control", "max-age=60"),)
PAGE = b"<h1>Sorry</h1>"
SIGNER = rsa_signer("K1")
TABLES: dict[str, Any] = {
    "public_keys": {"K1": {"pem": SIGNER.public_pem.decode()}},
    "key_groups": {"viewers": {"keys": ["K1"]}},
    "response_headers_policies": {
        "application": {"cors": {"origins": ["https://app.example.org"]}}
    },
}


def pages(**keys: Any) -> dict[str, Any]:
    return {"error_pages": [{"status": 404, "path": "/sorry", **keys}]}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("keys", "status"), [({}, 404), ({"response_status": 200}, 200)])
async def test_page_replaces_an_error(
    cache_root: Path, method: str, keys: dict[str, Any], status: int
) -> None:
    async with serve_web(cache_root, rules=pages(**keys)) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("sorry", PAGE, content_type="text/html", headers=FRESH)
        for _cold_then_warm in range(3):
            response = await viewer.get("/none", method)
            assert response.status == status
            assert response.fields["content-type"] == "text/html"
            assert response.fields["content-length"] == str(len(PAGE))
            assert response.body == (PAGE if method == "GET" else b"")
        pages_fetched = [seen for seen in edge.origin.requests if seen.path == "/sorry"]
        assert len(pages_fetched) == 1


async def test_page_replaces_an_error_that_is_not_cached(cache_root: Path) -> None:
    async with serve_web(cache_root, rules=pages()) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("sorry", PAGE, headers=FRESH)
        assert (await viewer.get("/none")).body == PAGE
        edge.origin.script(
            Reply(status=404, headers=(("Cache-Control", "no-store"),), body=b"own", chunked=True)
        )
        response = await viewer.get("/other")
        assert (response.status, response.body) == (404, PAGE)
        assert (await viewer.get("/none")).body == PAGE  # the connection goes on


@pytest.mark.parametrize(
    "page",
    [
        Reply(status=404, body=b"no page"),
        Reply(status=500, body=b"no page"),
        Reply(status=200, headers=(("Cache-Control", "no-store"),), body=b"for one viewer"),
        Reply(reset_at=0),
    ],
)
async def test_error_itself_is_sent_where_its_page_fails(cache_root: Path, page: Reply) -> None:
    limits = {"origin_retries": 0}
    async with serve_web(cache_root, rules=pages(), limits=limits) as edge:
        edge.origin.script(Reply(status=404, body=b"own"))
        edge.origin.script(page)
        response = await fetch(edge.port, "/none")
        assert (response.status, response.body) == (404, b"own")


async def test_page_of_an_error_is_whole_whatever_range_or_condition_it_meets(
    cache_root: Path,
) -> None:
    async with serve_web(cache_root, rules=pages()) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("sorry", PAGE, etag='"p"', headers=FRESH)
        for _cold_then_warm in range(3):
            for fields in ({"range": "bytes=0-2"}, {"if_none_match": '"p"'}, {"if_match": '"x"'}):
                response = await viewer.get("/none", **fields)
                assert (response.status, response.body) == (404, PAGE)


async def test_error_without_a_page_is_passed_on(cache_root: Path) -> None:
    rules = {"error_pages": [{"status": 404, "ttl": "1h"}]}
    async with serve_web(cache_root, rules=rules) as edge, open_viewer(edge.port) as viewer:
        edge.origin.script(Reply(status=404, body=b"own"))
        for _cold_then_warm in range(2):
            assert (await viewer.get("/none")).body == b"own"
        assert len(edge.origin.requests) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "rules",
    [
        {"viewer_protocol": "https-only"},
        {"trusted_key_groups": ["viewers"]},
        {"countries": {"allow": ["DE"], "unknown": "deny"}},
    ],
)
async def test_page_replaces_a_refusal_of_the_edge(
    cache_root: Path, rules: dict[str, Any], method: str
) -> None:
    page = {"error_pages": [{"status": 403, "path": "/sorry", "response_status": 451}]}
    async with serve_web(cache_root, rules=rules | page, tables=TABLES) as edge:
        edge.origin.put("sorry", PAGE, content_type="text/html", headers=FRESH)
        async with open_viewer(edge.port) as viewer:
            for _cold_then_warm in range(3):
                response = await viewer.get("/film.mp4", method)
                assert (response.status, response.fields["content-type"]) == (451, "text/html")
                assert response.body == (PAGE if method == "GET" else b"")
        assert [seen.path for seen in edge.origin.requests] == ["/sorry"]


async def test_page_of_a_refused_method_lists_the_allowed_ones(cache_root: Path) -> None:
    rules = {"error_pages": [{"status": 405, "path": "/sorry"}]}
    async with serve_web(cache_root, rules=rules) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("sorry", PAGE, headers=FRESH)
        for _cold_then_warm in range(2):
            response = await viewer.get("/film.mp4", "DELETE")
            assert (response.status, response.body) == (405, PAGE)
            assert response.fields["allow"] == "GET, HEAD"


async def test_page_does_not_replace_the_edge_s_request_for_another_connection(
    cache_root: Path,
) -> None:
    rules = {"error_pages": [{"status": 421, "path": "/sorry", "response_status": 200}]}
    async with serve_web(cache_root, rules=rules) as edge:
        edge.origin.put("sorry", PAGE, headers=FRESH)
        edge.origin.script(Reply(status=421, body=b"own"))
        response = await fetch(edge.port, "/none")
        assert (response.status, response.body) == (421, b"own")


@pytest.mark.parametrize("status", [404, 200])
async def test_page_is_compressed_and_readable_by_the_pages_of_its_policy(
    cache_root: Path, status: int
) -> None:
    rules = pages(response_status=status) | {
        "compress": True,
        "response_headers_policy": "application",
    }
    async with serve_web(cache_root, rules=rules, tables=TABLES) as edge:
        edge.origin.put("sorry", PAGE * 100, etag='"p"', content_type="text/html", headers=FRESH)
        async with open_viewer(edge.port) as viewer:
            for _cold_then_warm in range(3):
                response = await viewer.get(
                    "/none", accept_encoding="gzip", origin="https://app.example.org"
                )
                assert response.status == status
                assert response.fields["content-encoding"] == "gzip"
                assert gzip.decompress(response.body) == PAGE * 100
                assert response.fields["access-control-allow-origin"] == "https://app.example.org"
                assert {"accept-encoding", "origin"} <= {
                    name.strip().lower() for name in response.fields["vary"].split(",")
                }
                plain = await viewer.get("/none")
                assert (plain.status, plain.body) == (status, PAGE * 100)
                assert "accept-encoding" in plain.fields["vary"].lower()


async def test_page_with_status_200_is_validated_as_the_viewer_asks(cache_root: Path) -> None:
    async with serve_web(cache_root, rules=pages(response_status=200)) as edge:
        edge.origin.put("sorry", PAGE, etag='"p"', headers=FRESH)
        async with open_viewer(edge.port) as viewer:
            for _cold_then_warm in range(3):
                assert (await viewer.get("/none", if_none_match='"p"')).status == 304
                response = await viewer.get("/none", if_none_match='"old"')
                assert (response.status, response.body) == (200, PAGE)
                response = await viewer.get("/none", range="bytes=0-2")
                assert (response.status, response.body) == (200, PAGE)

"""CORS: preflights need no signature, and pages may read error responses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.http.http_viewer import Response, fetch, open_viewer
from tests.support.http.signers import rsa_signer
from tests.support.http.web_edge import WebEdge, serve_web
from tests.support.origins.scripted_origin import Reply

PAGE = "https://page.example"
SIGNER = rsa_signer("K1")
TABLES: dict[str, Any] = {
    "public_keys": {"K1": {"pem": SIGNER.public_pem.decode()}},
    "key_groups": {"viewers": {"keys": ["K1"]}},
    "response_headers_policies": {
        "pages": {
            "cors": {"origins": [PAGE], "credentials": True, "methods": ["GET", "PUT"]},
            "set": {"Cache-Control": "max-age=31536000"},
        }
    },
}
RULES: dict[str, Any] = {
    "methods": ["GET", "HEAD", "OPTIONS"],
    "trusted_key_groups": ["viewers"],
    "response_headers_policy": "pages",
}
OPEN = {**RULES, "trusted_key_groups": []}
PREFLIGHT = {"origin": PAGE, "access_control_request_method": "GET"}


def is_readable(response: Response) -> bool:
    fields = response.fields
    return (
        fields.get("access-control-allow-origin") == PAGE
        and fields.get("access-control-allow-credentials") == "true"
        and "origin" in fields.get("vary", "").lower()
    )


async def ask(edge: WebEdge, path: str, method: str = "GET", **fields: str) -> Response:
    return await fetch(edge.port, path, method, **fields)


async def test_preflight_needs_no_signature(cache_root: Path) -> None:
    async with serve_web(cache_root, rules=RULES, tables=TABLES) as edge:
        edge.origin.script(Reply(status=204))
        response = await ask(edge, "/film.mp4", "OPTIONS", **PREFLIGHT)
        assert response.status == 204
        assert is_readable(response)
        assert response.fields["access-control-allow-methods"] == "GET, PUT"


@pytest.mark.parametrize("fields", [{}, {"origin": PAGE}, {"access_control_request_method": "GET"}])
async def test_other_requests_without_a_signature_are_refused(
    cache_root: Path, fields: dict[str, str]
) -> None:
    async with serve_web(cache_root, rules=RULES, tables=TABLES) as edge:
        assert (await ask(edge, "/film.mp4", "OPTIONS", **fields)).status == 403
        assert (await ask(edge, "/film.mp4", **PREFLIGHT)).status == 403
        assert edge.origin.requests == []


async def test_preflight_is_refused_where_its_method_is_not_served(cache_root: Path) -> None:
    rules = {**RULES, "methods": ["GET", "HEAD"]}
    async with serve_web(cache_root, rules=rules, tables=TABLES) as edge:
        response = await ask(edge, "/film.mp4", "OPTIONS", **PREFLIGHT)
        assert response.status == 405
        assert is_readable(response)


async def test_signature_error_can_be_read_by_the_page(cache_root: Path) -> None:
    async with serve_web(cache_root, rules=RULES, tables=TABLES) as edge:
        response = await ask(edge, "/film.mp4", origin=PAGE)
        assert response.status == 403
        assert is_readable(response)
        assert "cache-control" not in response.fields
        other = await ask(edge, "/film.mp4", origin="https://other.example")
        assert "access-control-allow-origin" not in other.fields


async def test_errors_of_the_edge_can_be_read_by_the_page(cache_root: Path) -> None:
    async with (
        serve_web(cache_root, rules=OPEN, tables=TABLES) as edge,
        open_viewer(edge.port) as one,
    ):
        edge.origin.put("film.mp4", b"film")
        seen = [await one.get("/film.mp4", range="bytes=9-", origin=PAGE) for _twice in range(2)]
        seen += [await one.get("/none", origin=PAGE)]
        seen += [await one.get("/film.mp4", "PUT", origin=PAGE)]
        seen += [await one.get("/film.mp4", if_match='"x"', origin=PAGE)]
        seen += [await one.get("/film.mp4", cdn_loop="streamedge-test", origin=PAGE)]
        await edge.origin.refuse()
        seen += [await one.get("/other", origin=PAGE)]
        assert [response.status for response in seen] == [416, 416, 404, 405, 412, 508, 502]
        assert all(map(is_readable, seen))


async def test_redirect_to_https_can_be_followed_by_the_page(cache_root: Path) -> None:
    rules = {**OPEN, "viewer_protocol": "redirect-to-https"}
    async with serve_web(cache_root, rules=rules, tables=TABLES) as edge:
        response = await ask(edge, "/film.mp4", origin=PAGE)
        assert response.status == 301
        assert is_readable(response)

"""Pages that replace errors: the same for GET and HEAD, whether or not anything is cached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.http.http_viewer import fetch, open_viewer
from tests.support.http.web_edge import serve_web
from tests.support.origins.scripted_origin import Reply

FRESH = (("Cache-Control", "max-age=60"),)
PAGE = b"<h1>Sorry</h1>"


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

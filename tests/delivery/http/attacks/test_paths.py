"""Paths reach a site unchanged (RFC 9110 §7.7), and different paths are different resources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.object_names import is_object_name, object_name, path_name
from streamedge.origin.names import site_path
from tests.support.http.http_viewer import open_viewer
from tests.support.http.signers import rsa_signer
from tests.support.http.web_edge import serve_web
from tests.support.origins.scripted_origin import Reply

FRESH = (("Cache-Control", "max-age=600"),)
AS_SENT = (
    *("/@babel%2Fcore", "/@babel%2fcore", "/@babel/core", "/shop;jsessionid=AB12", "/a;b=c;d/e"),
    *("/v1/models:predict", "/a+b", "/a%2Bb", "/f(x)=1,2", "/caf%E9", "/caf%C3%A9", "/%7Euser"),
    *("/~user", "/%61", "/a", "/a%20b", "/$&!*'", "/a//b", "//a", "/a%3Fb", "/a%23b", "/%25", "/%"),
    *("/a|b", "/[1]", "/a%zz", "/?x", "/"),
)


@pytest.mark.parametrize("query", ["", "?q=a+b%2F%E9;c"])
async def test_site_gets_the_path_as_the_viewer_sent_it(cache_root: Path, query: str) -> None:
    policy = {"query_strings": "all"}
    async with serve_web(cache_root, policy=policy) as edge, open_viewer(edge.port) as viewer:
        paths = [path + query for path in AS_SENT if "?" not in path]
        for number, path in enumerate(paths):
            edge.origin.script(Reply(status=200, headers=FRESH, body=b"%d" % number))
            assert (await viewer.get(path)).body == b"%d" % number
        for number, path in enumerate(paths):
            response = await viewer.get(path)
            assert (response.cache, response.body) == ("Hit", b"%d" % number)
        assert [seen.path for seen in edge.origin.requests] == paths


async def test_origin_prefix_precedes_the_path(cache_root: Path) -> None:
    keys = {"prefix": "a b/c"}
    async with serve_web(cache_root, origin_keys=keys) as edge, open_viewer(edge.port) as viewer:
        edge.origin.script(Reply(status=200))
        await viewer.get("/@x%2Fy")
        assert edge.origin.requests[0].path == "/a%20b/c/@x%2Fy"


async def test_root_object_is_requested_for_the_root(cache_root: Path) -> None:
    rules = {"default_root_object": "my+page@1.html"}
    async with serve_web(cache_root, rules=rules) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("my+page@1.html", b"root", headers=FRESH)
        assert (await viewer.get("/")).body == b"root"
        assert (await viewer.get("/my+page@1.html")).cache == "Hit"
        assert [seen.path for seen in edge.origin.requests] == ["/my+page@1.html"]


@pytest.mark.parametrize("item", ["/@babel%2Fcore", "/@babel/core", "/@babel*", "/%40babel/core"])
async def test_invalidation_matches_every_encoding_of_a_path(cache_root: Path, item: str) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        for number in range(2):
            for path in ("/@babel%2Fcore", "/@babel/core"):
                edge.origin.script(Reply(status=200, headers=FRESH, body=b"%d" % number))
                assert (await viewer.get(path)).body == b"%d" % number
            edge.invalidate(item)
        assert len(edge.origin.requests) == 4


async def test_invalidation_matches_octets_that_are_not_utf8(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.script(Reply(status=200, headers=FRESH), times=2)
        assert (await viewer.get("/caf%E9")).cache == "Miss"
        edge.invalidate("/caf%e9")
        assert (await viewer.get("/caf%E9")).cache == "Miss"


async def test_write_invalidates_only_its_own_path(cache_root: Path) -> None:
    rules = {"methods": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]}
    async with serve_web(cache_root, rules=rules) as edge, open_viewer(edge.port) as viewer:
        for path in ("/a%2Fb", "/a/b"):
            edge.origin.script(Reply(status=200, headers=FRESH))
            await viewer.get(path)
        edge.origin.script(Reply(status=204))
        await viewer.get("/a%2Fb", "DELETE")
        assert edge.origin.requests[-1].path == "/a%2Fb"
        edge.origin.script(Reply(status=200, headers=FRESH))
        assert (await viewer.get("/a/b")).cache == "Hit"
        assert (await viewer.get("/a%2Fb")).cache == "Miss"


@pytest.mark.parametrize("path", ["/admin%2Fx", "/admin;a=1/x", "/%61dmin/x", "//admin/x"])
async def test_no_encoding_of_a_path_bypasses_its_access_rules(cache_root: Path, path: str) -> None:
    signer = rsa_signer("K1")
    tables: dict[str, Any] = {
        "public_keys": {"K1": {"pem": signer.public_pem.decode()}},
        "key_groups": {"viewers": {"keys": ["K1"]}},
    }
    rules = {"behaviors": [{"path": "admin/*", "trusted_key_groups": ["viewers"]}]}
    async with (
        serve_web(cache_root, rules=rules, tables=tables) as edge,
        open_viewer(edge.port) as viewer,
    ):
        assert (await viewer.get(path)).status in {400, 403}
        assert edge.origin.requests == []


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_object_name_is_encoded_as_browsers_do(name: str) -> None:
    """RTMP finds an object under the same name as a browser's request."""
    if object_name("/" + site_path(name)) is not None:
        assert path_name("/" + site_path(name)) == name
        assert is_object_name(name)

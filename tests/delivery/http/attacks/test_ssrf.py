"""No request is sent to a server that the config does not name, whatever a peer sends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.http.http_viewer import open_viewer
from tests.support.http.web_edge import WebEdge, serve_web
from tests.support.origins.scripted_origin import Reply, ScriptedOrigin

TARGETS = [
    ("GET", "http://EVIL/film", "EVIL"),
    ("GET", "http://EVIL/film", "edge"),
    ("GET", "http://edge@EVIL/film", "edge"),
    ("GET", "http://EVIL@edge/film", "edge"),
    ("GET", "https://EVIL/film", "edge"),
    ("GET", "//EVIL/film", "edge"),
    ("GET", "///EVIL/film", "edge"),
    ("GET", "/\\EVIL/film", "edge"),
    ("GET", "/%2f%2fEVIL/film", "edge"),
    ("GET", "/@EVIL/film", "edge"),
    ("GET", "@EVIL/film", "edge"),
    ("GET", ":80@EVIL/film", "edge"),
    ("GET", "/film?url=http://EVIL/", "edge"),
    ("GET", "/film#@EVIL/", "edge"),
    ("GET", "/film", "EVIL"),
    ("GET", "/film", "edge@EVIL"),
    ("GET", "/film", "EVIL/film?"),
    ("OPTIONS", "*", "EVIL"),
    ("CONNECT", "EVIL", "EVIL"),
    ("PUT", "http://EVIL/film", "EVIL"),
]


@pytest.fixture
async def stranger() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as stranger:
        stranger.put("film", b"not for the edge")
        yield stranger


@pytest.fixture(params=["origin", "viewer"])
async def edge(cache_root: Path, request: pytest.FixtureRequest) -> AsyncIterator[WebEdge]:
    every = ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]
    async with serve_web(
        cache_root,
        rules={"methods": every, "origin_request_policy": "AllViewer"},
        origin_keys={"host": request.param, "follow_redirects": 5},
    ) as edge:
        edge.origin.put("film", b"film")
        yield edge


@pytest.mark.parametrize(("method", "target", "host"), TARGETS)
async def test_request_never_selects_another_server(
    edge: WebEdge, stranger: ScriptedOrigin, method: str, target: str, host: str
) -> None:
    evil = f"127.0.0.1:{stranger.port}"
    raw_request = (
        f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nForwarded: host=EVIL;proto=https\r\n"
        "X-Forwarded-Host: EVIL\r\nX-Original-URL: http://EVIL/film\r\nX-Host: EVIL\r\n"
        "Referer: http://EVIL/\r\nOrigin: http://EVIL\r\nContent-Length: 0\r\n"
        "Connection: close\r\n\r\n"
    ).replace("EVIL", evil)
    async with open_viewer(edge.port) as viewer:
        await viewer.send(raw_request.encode())
        head = await viewer.receive_head()
    assert head.status in {200, 400, 403, 404, 405, 421, 501}
    for seen in edge.origin.requests:
        assert seen.path.startswith("/") or seen.path == "*"
    assert not stranger.connections_accepted


async def test_redirect_never_selects_another_server(
    edge: WebEdge, stranger: ScriptedOrigin
) -> None:
    evil = f"127.0.0.1:{stranger.port}"
    places = [f"http://{evil}/film", f"//{evil}/film", f"http://127.0.0.1@{evil}/film"]
    async with open_viewer(edge.port) as viewer:
        for number, place in enumerate(places):
            edge.origin.script(Reply(status=302, headers=(("Location", place),)))
            moved = await viewer.get(f"/old{number}")
            assert (moved.status, moved.fields["location"]) == (302, place)
        edge.origin.script(Reply(status=302, headers=(("Location", f"{edge.origin.url}/film"),)))
        assert (await viewer.get("/new")).body == b"film"
    assert not stranger.connections_accepted
    assert len(edge.origin.requests) == len(places) + 2

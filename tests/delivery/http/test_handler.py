"""From request to response: hosts, names, origin failures, cold and conditional requests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from streamedge.ops.metrics import Counter
from streamedge.spans import Span
from tests.support.http.http_viewer import fetch, open_viewer
from tests.support.http.web_edge import serve_web
from tests.support.origins.scripted_origin import Pattern, Reply

FILM = Pattern(300_000, seed=1)
WHOLE = FILM.read(Span(0, FILM.size_bytes))
MODIFIED_S = 784_111_777
MODIFIED = "Sun, 06 Nov 1994 08:49:37 GMT"
BEFORE = "Sun, 06 Nov 1994 08:49:36 GMT"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("cdn.example.com", 200),
        ("CDN.Example.COM:8080", 200),
        ("a.video.example.org", 200),
        ("video.example.org", 421),
        ("other.example.com", 421),
    ],
)
async def test_request_is_routed_by_its_host(cache_root: Path, host: str, status: int) -> None:
    aliases = ("cdn.example.com", "*.video.example.org")
    async with serve_web(cache_root, aliases=aliases) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film.mp4", FILM)
        for _cold_then_warm in range(2):
            assert (await viewer.get("/film.mp4", host=host)).status == status
        line = edge.lines()[-1]
        assert line.get("distribution") == ("EWEB" if status == 200 else None)


@pytest.mark.parametrize(
    "path",
    [
        "/../film.mp4",
        "/a/../film.mp4",
        "/%2e%2e/film.mp4",
        "/a%2f..%2ffilm.mp4",
        "/film%00.mp4",
        "/a\\film.mp4",
        "/%5c",
        "/%c0%ae%c0%ae/film.mp4",
        "/a/..;/film.mp4",
        "/a/%2e%2e;x=1/film.mp4",
        "/film.mp4%0A",
        "/film%7f.mp4",
    ],
)
async def test_invalid_object_name_never_reaches_the_origin(cache_root: Path, path: str) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        for method in ("GET", "HEAD"):
            assert (await viewer.get(path, method)).status == 400
        assert edge.origin.requests == []


@pytest.mark.parametrize(
    ("reply", "status", "kind"),
    [
        (Reply(status=404), 404, "origin_404"),
        (Reply(status=410), 410, "origin_410"),
        (Reply(status=403), 403, "origin_403"),
        (Reply(status=401), 401, "origin_401"),
        (Reply(status=500), 500, "origin_500"),
        (Reply(status=503), 503, "origin_503"),
        (Reply(raw=b"nonsense\r\n\r\n"), 502, "unavailable"),
    ],
)
async def test_origin_failure_becomes_an_error_response(
    cache_root: Path, reply: Reply, status: int, kind: str
) -> None:
    async with serve_web(cache_root, limits={"origin_retries": 0}) as edge:
        edge.origin.put("film.mp4", FILM)
        edge.origin.script(reply)
        response = await fetch(edge.port, "/film.mp4")
        assert response.status == status
        assert response.cache == "Error"
        assert edge.origin.url.encode() not in response.body
        assert edge.counts.gathered(Counter.ERRORS, kind) == 1
        assert "reason" in edge.lines()[-1]


async def test_unreachable_origin_gives_an_error_response(cache_root: Path) -> None:
    async with serve_web(cache_root, limits={"origin_retries": 0}) as edge:
        edge.origin.put("film.mp4", FILM)
        await edge.origin.refuse()
        assert (await fetch(edge.port, "/film.mp4")).status == 502
        await edge.origin.accept()
        assert (await fetch(edge.port, "/film.mp4")).status == 200


async def test_transient_failure_is_retried(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge:
        edge.origin.put("film.mp4", FILM)
        edge.origin.script(Reply(reset_at=0))
        edge.origin.script(Reply(reset_at=70_000))
        response = await fetch(edge.port, "/film.mp4")
        assert (response.status, response.body) == (200, WHOLE)


async def test_response_has_the_edges_own_fields(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film.mp4", FILM, etag='"v1"', headers=(("Cache-Control", "max-age=60"),))
        cold, warm = await viewer.get("/film.mp4"), await viewer.get("/film.mp4")
        assert (cold.cache, warm.cache) == ("Miss", "Hit")
        for response in (cold, warm):
            assert response.fields["via"] == "1.1 test (StreamEdge)"
            assert re.fullmatch(r"\d+", response.fields["age"])
            assert response.fields["etag"] == '"v1"'
            assert response.fields["cache-control"] == "max-age=60"
            assert response.fields["accept-ranges"] == "bytes"


async def test_general_path_and_fast_path_give_the_same_response(cache_root: Path) -> None:
    """A hit has the same response on both paths."""
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film.mp4", FILM, etag='"v1"', headers=(("X-Own", "1"),))
        await viewer.get("/film.mp4")
        for range_field in ("bytes=0-9", "bytes=5-", "bytes=-7"):
            short = await viewer.get("/film.mp4", range=range_field)
            general = await viewer.get("/film.mp4", range=range_field, if_range='"v1"')
            assert short.body == general.body
            skip = {"date", "age", "x-amz-cf-id"}
            assert {k: v for k, v in short.fields.items() if k not in skip} == {
                k: v for k, v in general.fields.items() if k not in skip
            }


async def test_stale_object_is_revalidated(cache_root: Path) -> None:
    async with serve_web(cache_root, default_ttl="0s") as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film.mp4", FILM, etag='"v1"')
        assert (await viewer.get("/film.mp4")).cache == "Miss"
        unchanged = await viewer.get("/film.mp4")
        assert (unchanged.cache, unchanged.body) == ("RefreshHit", WHOLE)
        changed = Pattern(200_000, seed=9)
        edge.origin.put("film.mp4", changed, etag='"v2"')
        response = await viewer.get("/film.mp4")
        assert (response.cache, response.fields["etag"]) == ("Miss", '"v2"')
        assert response.body == changed.read(Span(0, 200_000))
        assert edge.origin.body_bytes_sent == 500_000


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"if_none_match": '"v1"'}, 304),
        ({"if_none_match": 'W/"v1"'}, 304),
        ({"if_none_match": '"v0"'}, 200),
        ({"if_modified_since": MODIFIED}, 304),
        ({"if_modified_since": BEFORE}, 200),
        ({"if_match": '"v1"'}, 200),
        ({"if_match": '"v0"'}, 412),
        ({"if_unmodified_since": MODIFIED}, 200),
        ({"if_unmodified_since": BEFORE}, 412),
        ({"range": "bytes=1-2", "if_range": '"v1"'}, 206),
        ({"range": "bytes=1-2", "if_range": MODIFIED}, 206),
        ({"range": "bytes=1-2", "if_range": '"v0"'}, 200),
        ({"range": "bytes=1-2", "if_range": 'W/"v1"'}, 200),
        ({"range": "bytes=1-2", "if_none_match": '"v1"'}, 304),
        ({"range": "bytes=300000-"}, 416),
        ({"range": "bytes=300000-", "if_range": '"v0"'}, 200),
        ({"range": "bytes=-0"}, 416),
        ({"range": "bytes=2-1"}, 200),
        ({"range": "bytes=" + "0-1," * 9}, 200),
        ({"range": "lines=1-2"}, 200),
    ],
)
async def test_conditional_request_gets_its_status(
    cache_root: Path, warm: bool, fields: dict[str, str], status: int
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film.mp4", FILM, etag='"v1"', last_modified_s=MODIFIED_S)
        if warm:
            await viewer.get("/film.mp4")
        response = await viewer.get("/film.mp4", **fields)
        assert response.status == status
        assert response.cache == ("Hit" if warm else "Miss")
        if status == 200:
            assert response.body == WHOLE
        if status == 206:
            assert response.body == WHOLE[1:3]
        if status == 416:
            assert response.fields["content-range"] == "bytes */300000"
        if status == 304:
            assert len(edge.origin.requests) == 1
            assert (
                "if-none-match" not in edge.origin.requests[0].headers
            )  # its response is for all viewers
        head = await viewer.get("/film.mp4", "HEAD", **fields)
        assert head.status == (200 if status in {206, 416} else status)
        assert (await viewer.get("/film.mp4")).body == WHOLE


async def test_cold_range_requests_only_its_chunks(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        large = Pattern(1 << 30, seed=3)
        edge.origin.put("film.mp4", large)
        for first in (0, 700 << 20, (1 << 30) - 10):
            response = await viewer.get("/film.mp4", range=f"bytes={first}-{first + 9}")
            assert response.body == large.read(Span(first, first + 10))
        assert edge.origin.body_bytes_sent < 1 << 20


async def test_empty_object_is_served(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("empty", b"")
        for _cold_then_warm in range(2):
            response = await viewer.get("/empty")
            assert (response.status, response.body) == (200, b"")
            assert (await viewer.get("/empty", range="bytes=0-")).status == 416


async def test_response_is_passed_through_when_the_cache_is_full(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamedge.cache.storage.store.MEMORY_EXTENTS_MAX", 0)
    async with serve_web(cache_root) as edge:
        edge.origin.put("film.mp4", FILM)
        (cache_root / "extents").rmdir()
        (cache_root / "extents").touch()
        async with open_viewer(edge.port) as viewer:
            part = await viewer.get("/film.mp4", range="bytes=1-2")
            assert (part.status, part.body) == (206, WHOLE[1:3])
            assert (await viewer.get("/film.mp4")).body == WHOLE


async def test_missing_file_of_a_folder_is_not_found(cache_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "empty").touch()
    (folder / "film").write_bytes(WHOLE)
    tables = {"origins": {"folder": {"type": "directory", "path": str(folder)}}}
    async with (
        serve_web(cache_root, tables=tables, rules={"origin": "folder"}) as edge,
        open_viewer(edge.port) as viewer,
    ):
        for method in ("HEAD", "GET", "HEAD"):
            assert (await viewer.get("/none", method)).status == 404
            assert (await viewer.get("/", method)).status == 404
            assert (await viewer.get("/empty", method)).fields["content-length"] == "0"
            film = await viewer.get("/film", method)
            assert film.fields["content-length"] == str(len(WHOLE))
        conditional = await viewer.get("/none2", if_none_match='"v1"')
        assert conditional.status == 404
        assert (await viewer.get("/none3", range="bytes=5-9")).status == 404
        assert (await viewer.get("/film", range="bytes=900000-")).status == 416
        assert (await viewer.get("/empty", range="bytes=0-0")).status == 416

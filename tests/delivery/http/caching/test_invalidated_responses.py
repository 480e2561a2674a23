"""Invalidations over HTTP: the next responses, and the running ones."""

from __future__ import annotations

import asyncio
import gzip
import random
from pathlib import Path
from typing import Any

import pytest

from streamedge.spans import Span
from tests.support.event_loop import until
from tests.support.http.http_viewer import Response, TruncatedError, Viewer, open_viewer
from tests.support.http.web_edge import WebEdge, serve_web
from tests.support.origins.scripted_origin import Pattern, Reply

FILM = Pattern(3_000_000, seed=4)
HELD_AT = 1_000_000
COMPRESSED_BYTES = 9_000_000  # more than the socket buffers hold
CACHED = (("Cache-Control", "max-age=3600"),)
TEXT = {"content_type": "text/css"}


def put(edge: WebEdge, name: str, body: bytes, *fields: tuple[str, str], **more: Any) -> None:
    edge.origin.put(name, body, etag=f'"{len(body)}"', headers=CACHED + fields, **more)


async def body_and_result(viewer: Viewer, path: str, **fields: str) -> tuple[bytes, str]:
    response = await viewer.get(path, **fields)
    return response.body, response.cache


async def test_every_worker_and_connection_gets_the_new_version(
    cache_root: Path,
) -> None:
    async with (
        serve_web(cache_root) as edge,
        serve_web(cache_root, beside=edge) as other,
        open_viewer(edge.port) as one,
        open_viewer(other.port) as two,
    ):
        put(edge, "a", b"old")
        for viewer in (one, one, two, two):
            assert (await body_and_result(viewer, "/a"))[0] == b"old"
        put(edge, "a", b"newer")
        edge.invalidate("/a")
        assert await body_and_result(one, "/a") == (b"newer", "Miss")
        assert await body_and_result(two, "/a") == (b"newer", "Hit")
        assert await body_and_result(one, "/a", range="bytes=0-2") == (b"new", "Hit")
        assert len(edge.origin.requests) == 2


async def test_soft_invalidation_revalidates_and_serves_the_object(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", b"old")
        await body_and_result(viewer, "/a")
        edge.invalidate("/*", soft=True)
        assert await body_and_result(viewer, "/a") == (b"old", "RefreshHit")
        assert await body_and_result(viewer, "/a") == (b"old", "Hit")
        assert edge.origin.requests[1].headers["if-none-match"] == '"3"'


@pytest.mark.parametrize(
    ("item", "new"),
    [
        ("/a", {"/a"}),
        ("/a?v=1", {"/a?v=1"}),
        ("/a?v=%31", {"/a?v=1"}),
        ("/a?*", {"/a?v=1", "/a?v=2"}),
        ("/a*", {"/a", "/a?v=1", "/a?v=2"}),
        ("/*2", {"/a?v=2"}),
        ("/caf%C3%A9", {"/caf%C3%A9"}),
        ("/café", {"/caf%C3%A9"}),
    ],
)
async def test_path_is_invalidated_with_and_without_query(
    cache_root: Path, item: str, new: set[str]
) -> None:
    targets = ("/a", "/a?v=1", "/a?v=2", "/caf%C3%A9")
    async with (
        serve_web(cache_root, policy={"query_strings": "all"}) as edge,
        open_viewer(edge.port) as viewer,
    ):
        for name in ("a", "café"):
            put(edge, name, b"old")
        for target in targets:
            await body_and_result(viewer, target)
        for name in ("a", "café"):
            put(edge, name, b"newer")
        edge.invalidate(item)
        changed = {
            target for target in targets if (await body_and_result(viewer, target))[0] == b"newer"
        }
        assert changed == new


@pytest.mark.parametrize(
    ("name", "path", "other"),
    [
        ("50%20off.txt", "/50%2520off.txt", "/50%20off.txt"),
        ("what?v=1", "/what%3Fv=1", "/what?v=1"),
    ],
)
async def test_object_is_invalidated_by_its_request_path(
    cache_root: Path, name: str, path: str, other: str
) -> None:
    async with (
        serve_web(cache_root, policy={"query_strings": "all"}) as edge,
        open_viewer(edge.port) as viewer,
    ):
        put(edge, name, b"old")
        for _ in range(2):
            assert (await body_and_result(viewer, path))[0] == b"old"
        put(edge, name, b"newer")
        edge.invalidate(other)
        assert await body_and_result(viewer, path) == (b"old", "Hit")
        edge.invalidate(path)
        assert await body_and_result(viewer, path) == (b"newer", "Miss")


async def test_query_outside_of_the_key_is_ignored(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, "a", b"old")
        assert await body_and_result(viewer, "/a?v=1") == (b"old", "Miss")
        put(edge, "a", b"newer")
        edge.invalidate("/a?v=1")
        assert await body_and_result(viewer, "/a?v=1") == (b"old", "Hit")
        edge.invalidate("/a")
        assert await body_and_result(viewer, "/a?v=1") == (b"newer", "Miss")


async def test_cache_tags_come_from_the_configured_field(cache_root: Path) -> None:
    rules = {"cache_tag_header": "X-Tags"}
    async with serve_web(cache_root, rules=rules) as edge, open_viewer(edge.port) as viewer:
        for name, tags in (("a", "News,front"), ("b", "sport")):
            put(edge, name, b"old", ("X-Tags", tags))
            for _ in range(2):
                await body_and_result(viewer, f"/{name}")
            put(edge, name, b"newer")
        edge.invalidate("#news")
        assert await body_and_result(viewer, "/a") == (b"newer", "Miss")
        assert await body_and_result(viewer, "/b") == (b"old", "Hit")


async def test_invalidation_covers_compressed_representations(cache_root: Path) -> None:
    async with (
        serve_web(cache_root, rules={"compress": True}) as edge,
        open_viewer(edge.port) as viewer,
    ):
        for body in (b"old " * 1000, b"newer " * 1000):
            put(edge, "a.css", body, **TEXT)
            edge.invalidate("/*.css")
            for _ in range(3):
                response = await viewer.get("/a.css", accept_encoding="gzip")
                assert response.fields["content-encoding"] == "gzip"
                assert gzip.decompress(response.body) == body


# Running responses


async def begun(edge: WebEdge, viewer: Viewer, path: str, **fields: str) -> Response:
    """A response whose head was received, and whose body waits for the origin."""
    await viewer.send_request(path, **fields)
    return await viewer.receive_head()


def kinds_of_running() -> dict[str, tuple[dict[str, Any], dict[str, str]]]:
    return {
        "cold": ({}, {}),
        "range": ({}, {"range": "bytes=10-2999999"}),
        "several ranges": ({}, {"range": "bytes=0-9,900000-2999999"}),
    }


@pytest.mark.parametrize("kind", kinds_of_running())
async def test_revocation_aborts_running_responses(cache_root: Path, kind: str) -> None:
    rules, fields = kinds_of_running()[kind]
    async with serve_web(cache_root, rules=rules) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film", FILM, headers=CACHED)
        edge.origin.hold("film", at=HELD_AT)
        head = await begun(edge, viewer, "/film", **fields)
        length = int(head.fields["content-length"])
        edge.invalidate("/film", revoke=True)
        with pytest.raises(TruncatedError):
            await viewer.receive_body(length)
        await until(lambda: bool(edge.lines()))
        (line,) = edge.lines()
        assert line["reason"] == "revoked"
        assert line["bytes"] < length


async def test_revocation_aborts_fast_path_responses(cache_root: Path) -> None:
    async with (
        serve_web(cache_root) as edge,
        open_viewer(edge.port) as first,
        open_viewer(edge.port) as second,
    ):
        edge.origin.put("film", FILM, headers=CACHED)
        edge.origin.hold("film", at=HELD_AT)
        await begun(edge, first, "/film")
        head = await begun(edge, second, "/film")
        assert head.cache == "Hit"
        edge.invalidate("/other", "/film*", revoke=True)
        for viewer in (first, second):
            with pytest.raises(TruncatedError):
                await viewer.receive_body(FILM.size_bytes)
        await until(lambda: len(edge.lines()) == 2)
        assert {line["reason"] for line in edge.lines()} == {"revoked"}


async def test_revocation_aborts_passed_through_responses(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film", FILM, headers=(("Cache-Control", "no-store"),))
        edge.origin.hold("film", at=HELD_AT)
        head = await begun(edge, viewer, "/film")
        edge.invalidate("/film", revoke=True)
        with pytest.raises(TruncatedError):
            await viewer.receive_body(int(head.fields["content-length"]))
        await until(lambda: bool(edge.lines()))
        assert edge.lines()[0]["reason"] == "revoked"


async def test_revocation_aborts_responses_without_a_length(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film", FILM, headers=CACHED)
        edge.origin.script(Reply(chunked=True))
        edge.origin.hold("film", at=HELD_AT)
        head = await begun(edge, viewer, "/film")
        assert "content-length" not in head.fields
        edge.invalidate("/film", revoke=True)

        async def to_the_end() -> None:
            while await viewer.receive_chunk():
                pass

        with pytest.raises(TruncatedError):
            await to_the_end()


async def test_revocation_aborts_compressed_responses(cache_root: Path) -> None:
    """A viewer that stopped reading is still being sent the response."""
    async with (
        serve_web(cache_root, rules={"compress": True}) as edge,
        open_viewer(edge.port, receive_buffer_bytes=4096) as viewer,
    ):
        put(edge, "a.css", random.Random(1).randbytes(COMPRESSED_BYTES), **TEXT)
        head = await begun(edge, viewer, "/a.css", accept_encoding="gzip")
        assert head.fields["content-encoding"] == "gzip"
        edge.invalidate("/a.css", revoke=True)
        with pytest.raises(TruncatedError):
            await viewer.receive_body(int(head.fields["content-length"]))


@pytest.mark.parametrize(
    ("items", "revoke"), [(("/film",), False), (("/films", "/film?x=1", "#film"), True)]
)
async def test_response_that_is_not_revoked_ends_with_one_version(
    cache_root: Path, items: tuple[str, ...], revoke: bool
) -> None:
    async with (
        serve_web(cache_root) as edge,
        open_viewer(edge.port) as viewer,
        open_viewer(edge.port) as later,
    ):
        edge.origin.put("film", FILM, headers=CACHED)
        edge.origin.hold("film", at=HELD_AT)
        await begun(edge, viewer, "/film")
        edge.invalidate(*items, revoke=revoke)
        put(edge, "film", b"newer")
        edge.origin.release("film")
        if not revoke:
            assert await body_and_result(later, "/film") == (b"newer", "Miss")
        assert await viewer.receive_body(FILM.size_bytes) == FILM.read(Span(0, FILM.size_bytes))


async def test_response_validated_after_the_revocation_is_not_aborted(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film", FILM, headers=CACHED)
        edge.invalidate("/film", revoke=True)
        edge.origin.hold("film", at=HELD_AT)
        await begun(edge, viewer, "/film")
        edge.server.revoke(lambda what: what.position <= 0)
        edge.origin.release("film")
        assert len(await viewer.receive_body(FILM.size_bytes)) == FILM.size_bytes


async def test_requests_on_the_waiting_list_get_one_version_each(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as warm:
        put(edge, "a", b"old")
        await body_and_result(warm, "/a")
        await body_and_result(warm, "/a")
        edge.invalidate("/a")
        edge.origin.hold_responses()
        first = asyncio.create_task(body_and_result(warm, "/a"))
        await edge.origin.wait_for_requests(2)
        put(edge, "a", b"newer")
        edge.invalidate("/a")
        async with open_viewer(edge.port) as late:
            after = asyncio.create_task(body_and_result(late, "/a"))
            edge.origin.release_responses()
            assert (await first)[0] == b"old"
            assert (await after)[0] == b"newer"

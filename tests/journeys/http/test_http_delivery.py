"""Journeys: a real edge with a bucket, an HTTP server and a folder serves the right bytes."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamedge.spans import Span
from tests.support.http.http_viewer import TruncatedError, open_viewer, request
from tests.support.http.viewer_edge import HTTP1, HTTP2, VERSIONS, ViewerEdge, run_viewer_edge
from tests.support.origins.s3_server import S3Server
from tests.support.origins.scripted_origin import Pattern, ScriptedOrigin
from tests.support.patience import PATIENCE_S

FILM_BYTES = 3_000_001
FILM = Pattern(FILM_BYTES, seed=5)
WHOLE = FILM.read(Span(0, FILM_BYTES))
over_each_version = pytest.mark.parametrize("version", VERSIONS)


def bucket_toml(s3: S3Server, prefix: str = "") -> str:
    return (
        f'[origins.main]\ntype = "s3"\nbucket = "videos"\nregion = "{s3.region}"\n'
        f'endpoint = "{s3.endpoint}"\naccess_key_id = "{s3.access_key_id}"\n'
        f'secret_access_key = "{s3.secret_access_key}"\nprefix = "{prefix}"\n'
    )


def folder_toml(folder: Path) -> str:
    return f'[origins.main]\ntype = "directory"\npath = "{folder}"\n'


def http_toml(url: str, more: str = "") -> str:
    return f'[origins.main]\ntype = "http"\nurl = "{url}"\n{more}\n'


@contextmanager
def edge_with_origin(kind: str, version: str, tmp_path: Path, s3: S3Server) -> Iterator[ViewerEdge]:
    """An edge with an origin that has FILM as ``dir/film one.mp4``."""
    if kind == "bucket":
        s3.put("videos", "journey/dir/film one.mp4", WHOLE, content_type="video/mp4")
        origin = bucket_toml(s3, "journey/")
    else:
        media = tmp_path / "media"
        (media / "dir").mkdir(parents=True)
        (media / "dir" / "film one.mp4").write_bytes(WHOLE)
        (tmp_path / "secret").write_bytes(b"secret bytes")
        origin = folder_toml(media)
    with run_viewer_edge(version, tmp_path / "edge", origin, workers=2) as edge:
        yield edge


@over_each_version
@pytest.mark.parametrize("kind", ["bucket", "folder"])
def test_objects_and_ranges_are_those_of_the_origin(
    kind: str, version: str, tmp_path: Path, s3: S3Server
) -> None:
    with edge_with_origin(kind, version, tmp_path, s3) as edge:
        url, curl = edge.url("/dir/film%20one.mp4"), edge.curl
        assert curl("--range", "1000000-1999999", url) == WHOLE[1_000_000:2_000_000]  # partly
        assert curl(url) == WHOLE
        assert curl("--range", "-100", url) == WHOLE[-100:]
        head = curl("--head", url).decode().lower()
        assert f"content-length: {FILM_BYTES}\r\n" in head
        assert "content-type: video/mp4\r\n" in head
        etag = re.search(r"^etag: (.*)\r$", head, re.MULTILINE)
        assert etag is not None
        downloads = [tmp_path / "one", tmp_path / "two"]
        curl(url, "-o", str(downloads[0]), url, "-o", str(downloads[1]))
        assert [download.read_bytes() for download in downloads] == [WHOLE, WHOLE]
        assert head.startswith(version.lower())
        with edge.httpx() as client:
            response = client.get("/dir/film%20one.mp4", headers={"If-None-Match": etag[1]})
            assert (response.status_code, response.content) == (304, b"")
            assert response.http_version == ("HTTP/2" if version == HTTP2 else "HTTP/1.1")
            for _again in range(8):
                first, last = sorted(random.sample(range(FILM_BYTES), 2))
                response = client.get(
                    "/dir/film%20one.mp4", headers={"Range": f"bytes={first}-{last}"}
                )
                assert response.status_code == 206
                assert response.content == WHOLE[first : last + 1]
            assert client.get("/dir/none.mp4").status_code == 404
        for outside in ("/../secret", "/%2e%2e/secret", "/dir%2f..%2f../secret", "/dir"):
            command = ["--path-as-is", "--no-fail", "--write-out", "%{http_code}"]
            answer = curl(*command, edge.url("").rstrip("/") + outside)
            assert answer[-3:] in {b"400", b"404"}
            assert b"secret bytes" not in answer


@over_each_version
def test_bucket_that_refuses_the_key_is_a_403(version: str, tmp_path: Path, s3: S3Server) -> None:
    wrong = bucket_toml(s3).replace(s3.secret_access_key, "wrong")
    with run_viewer_edge(version, tmp_path, wrong) as edge, edge.httpx() as client:
        response = client.get("/film.mp4")
        assert response.status_code == 403
        assert s3.access_key_id.encode() not in response.content


@over_each_version
def test_missing_bucket_is_named_in_the_log_and_not_to_viewers(
    version: str, tmp_path: Path, s3: S3Server
) -> None:
    missing = bucket_toml(s3).replace('"videos"', '"no-such-videos"')
    with run_viewer_edge(version, tmp_path, missing) as edge, edge.httpx() as client:
        response = client.get("/film.mp4")
        assert response.status_code == 502
        assert "no-such-videos" not in response.text + str(response.headers)
        text = json.dumps(edge.process.await_log("response"))
        assert "s3://no-such-videos" in text
        assert "the bucket does not exist; check the origin's bucket, region and endpoint" in text


@over_each_version
async def test_random_ranges_of_a_cold_object_have_the_right_bytes(
    version: str, tmp_path: Path
) -> None:
    """The ranges are cached or not, and either worker responds."""
    async with ScriptedOrigin() as origin:
        large = Pattern(150_000_000, seed=7)  # three extents
        origin.put("film.mp4", large)
        with run_viewer_edge(version, tmp_path, http_toml(origin.url), workers=2) as edge:
            rng = random.Random(11)

            async def view() -> None:
                async with edge.viewer() as viewer:
                    for _range in range(15):
                        first = rng.choice([0, 67_108_000, 134_217_000, 149_990_000])
                        first += rng.randrange(5000)
                        last = min(first + rng.randrange(1, 300_000), large.size_bytes) - 1
                        response = await viewer.get("/film.mp4", range=f"bytes={first}-{last}")
                        assert response.status == 206
                        assert response.body == large.read(Span(first, last + 1))

            await asyncio.gather(*(view() for _viewer in range(6)))
            assert origin.body_bytes_sent < 20_000_000  # pieces, each once


@over_each_version
async def test_hundred_viewers_of_a_cold_object_share_one_fill(
    version: str, tmp_path: Path
) -> None:
    async with ScriptedOrigin() as origin:
        origin.put("film.mp4", FILM)
        origin.hold("film.mp4", at=10)
        with run_viewer_edge(version, tmp_path, http_toml(origin.url), workers=2) as edge:
            received = 0

            async def view() -> bytes:
                nonlocal received
                async with edge.viewer() as viewer:
                    await viewer.send_request("/film.mp4")
                    head = await viewer.receive_head()
                    first = await viewer.receive_body(10)
                    received += 1
                    if received == 100:  # all have bytes, and the origin has sent no more
                        assert origin.body_bytes_sent == 10
                        origin.release("film.mp4")
                    rest = int(head.fields["content-length"]) - 10
                    return first + await viewer.receive_body(rest)

            bodies = await asyncio.gather(*(view() for _viewer in range(100)))
            assert all(body == WHOLE for body in bodies)
            assert origin.body_bytes_sent == FILM_BYTES
            assert len(edge.process.await_log("response", 100)) == 100


@over_each_version
async def test_object_replaced_during_a_response_is_never_mixed(
    version: str, tmp_path: Path
) -> None:
    async with ScriptedOrigin() as origin:
        new = Pattern(FILM_BYTES, seed=6)
        new_whole = new.read(Span(0, FILM_BYTES))
        origin.put("film.mp4", FILM, etag='"old"')
        with run_viewer_edge(version, tmp_path, http_toml(origin.url), workers=2) as edge:
            # A part of the old object is cached; then the object changes.
            old = await edge.fetch("/film.mp4", range="bytes=0-99999")
            assert old.body == WHOLE[:100_000]
            origin.put("film.mp4", new, etag='"new"')
            # A worker with the old metadata sends its length, so it must truncate the response.
            truncated = 0
            for _viewer in range(20):
                async with edge.viewer() as viewer:
                    await viewer.send_request("/film.mp4")
                    etag = (await viewer.receive_head()).fields["etag"]
                    if etag == '"new"':
                        assert await viewer.receive_body(FILM_BYTES) == new_whole
                        continue
                    received = await viewer.receive_rest()
                    assert len(received) < FILM_BYTES
                    assert received == WHOLE[: len(received)]
                    truncated += 1
            assert truncated <= 2  # once for each worker


@over_each_version
async def test_failed_origin_truncates_the_response(version: str, tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        origin.put("film.mp4", FILM)
        origin.hold("film.mp4", at=1_000_000)
        limits = "origin_retries = 0"
        with run_viewer_edge(version, tmp_path, http_toml(origin.url), limits=limits) as edge:
            async with edge.viewer() as viewer:
                await viewer.send_request("/film.mp4")
                head = await viewer.receive_head()
                assert head.fields["content-length"] == str(FILM_BYTES)
                received = await viewer.receive_body(1_000_000)
                await origin.refuse()
                rest = await viewer.receive_rest()
            assert received + rest == WHOLE[: len(received + rest)]
            assert len(received + rest) < FILM_BYTES
            (line,) = edge.process.await_log("response")
            assert line["status"] == 200
            assert line["reason"]
            assert (await edge.fetch("/film.mp4", range="bytes=0-9")).status == 206
            # The origin is up again: the fill continues with the missing bytes.
            origin.release("film.mp4")
            sent_before = origin.body_bytes_sent
            await origin.accept()
            assert (await edge.fetch("/film.mp4")).body == WHOLE
            assert origin.body_bytes_sent - sent_before < FILM_BYTES - 900_000


@over_each_version
async def test_silent_origin_is_a_504(version: str, tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        origin.put("film.mp4", FILM)
        origin.hold_responses()
        toml = http_toml(origin.url, 'read_timeout = "200ms"')
        with run_viewer_edge(version, tmp_path, toml, limits="origin_retries = 0") as edge:
            assert (await edge.fetch("/film.mp4")).status == 504
            origin.release_responses()
            assert (await edge.fetch("/film.mp4")).body == WHOLE


@over_each_version
async def test_distributions_have_separate_objects(version: str, tmp_path: Path) -> None:
    async with ScriptedOrigin() as first, ScriptedOrigin() as second:
        first.put("film.mp4", b"first")
        second.put("film.mp4", b"second")
        second.put("own.mp4", b"second's own")
        origins = http_toml(first.url) + http_toml(second.url).replace("main", "other")
        distributions = (
            '[[distributions]]\nid = "E1"\ntype = "web"\norigin = "main"\n'
            'aliases = ["one.example.com"]\n'
            '[[distributions]]\nid = "E2"\ntype = "web"\norigin = "other"\n'
            'aliases = ["*.example.org"]\n'
        )
        with run_viewer_edge(version, tmp_path, origins, distributions=distributions) as edge:
            async with edge.viewer() as viewer:
                for _cold_then_warm in range(2):
                    one = await viewer.get("/film.mp4", host="ONE.example.com:80")
                    two = await viewer.get("/film.mp4", host="a.example.org")
                    assert (one.body, two.body) == (b"first", b"second")
                    assert (await viewer.get("/own.mp4", host="one.example.com")).status == 404
                    assert (await viewer.get("/own.mp4", host="b.example.org")).status == 200
                    assert (await viewer.get("/film.mp4", host="example.org")).status == 421
            ids = {line.get("distribution") for line in edge.process.await_log("response", 10)}
            assert ids == {"E1", "E2", None}


@over_each_version
async def test_viewer_that_stops_reading_is_disconnected_alone(
    version: str, tmp_path: Path
) -> None:
    async with ScriptedOrigin() as origin:
        large = Pattern(32 << 20, seed=8)
        origin.put("film.mp4", large)
        limits = 'http_stall = "500ms"'
        with run_viewer_edge(version, tmp_path, http_toml(origin.url), limits=limits) as edge:
            async with edge.viewer(receive_buffer_bytes=4096) as stalled:
                await stalled.send_request("/film.mp4")
                await stalled.receive_head()
                assert (await edge.fetch("/film.mp4")).body == large.read(Span(0, large.size_bytes))
                edge.process.await_log("response", 2)
                with pytest.raises(TruncatedError):
                    await stalled.receive_body(large.size_bytes)
            reasons = [line.get("reason") for line in edge.process.log("response")]
            assert sorted(reasons, key=str) == [None, "viewer stalled"]


async def test_viewer_that_sends_half_a_request_is_disconnected(tmp_path: Path) -> None:
    toml = folder_toml(tmp_path)
    with run_viewer_edge(HTTP1, tmp_path / "edge", toml, limits='http_idle = "500ms"') as edge:
        async with open_viewer(edge.process.http_port) as viewer:
            await viewer.send(request("/film.mp4")[:-2])
            assert await viewer.receive_rest() == b""


async def test_half_closed_viewer_gets_its_responses(tmp_path: Path) -> None:
    """Both a miss and a hit. When it resets its connection, the edge notices."""
    async with ScriptedOrigin() as origin:
        origin.put("film.mp4", FILM, etag='"v1"')
        with run_viewer_edge(HTTP1, tmp_path, http_toml(origin.url)) as edge:

            def open_connections() -> int:
                metrics = edge.process.admin("/metrics").decode()
                lines = re.findall(r"^streamedge_http_connections\S* (\d+)", metrics, re.MULTILINE)
                return sum(map(int, lines))

            async def until_open(count: int) -> None:
                async with asyncio.timeout(PATIENCE_S):
                    while await asyncio.to_thread(open_connections) != count:
                        pass

            for result in ("Miss", "Hit"):
                async with open_viewer(edge.process.http_port) as viewer:
                    await viewer.send_request("/film.mp4")
                    await viewer.end_input()
                    response = await viewer.receive()
                    assert (response.cache, response.body) == (result, WHOLE)
                    assert await viewer.receive_rest() == b""
            origin.hold_responses()
            async with open_viewer(edge.process.http_port) as viewer:
                await viewer.send_request("/other.mp4")
                await origin.wait_for_requests(2)
                await viewer.end_input()
                await until_open(1)
                viewer.reset()
                await until_open(0)
            origin.release_responses()

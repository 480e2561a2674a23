"""Several ranges in one request: what viewers get, and what is requested from the origin."""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path

import pytest

from streamedge.cache.storage.extent import CHUNK_BYTES
from streamedge.delivery.http.response.ranges import RANGES_MAX
from streamedge.spans import Span
from tests.support.http.http_viewer import Response, TruncatedError, fetch, open_viewer
from tests.support.http.web_edge import serve_web
from tests.support.origins.scripted_origin import Pattern, Reply

FILM = Pattern(40 * CHUNK_BYTES + 777, seed=4)
PATTERN = FILM.read(Span(0, FILM.size_bytes))
FAR = 30 * CHUNK_BYTES


def parts(response: Response) -> list[tuple[str, bytes]]:
    """Content-Range and bytes of each part, as a MIME parser finds them."""
    assert response.status == 206
    assert "content-range" not in response.fields
    raw = f"content-type: {response.fields['content-type']}\r\n\r\n".encode() + response.body
    message = BytesParser(policy=HTTP).parsebytes(raw)
    assert not message.defects
    return [
        (str(part["content-range"]), bytes(part.get_content())) for part in message.iter_parts()
    ]


def part(first: int, end: int) -> tuple[str, bytes]:
    return f"bytes {first}-{end - 1}/{FILM.size_bytes}", PATTERN[first:end]


async def test_several_ranges_are_served_cold_and_warm(cache_root: Path) -> None:
    """The parts have the requested order, from any chunks, and the connection stays open."""
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film.mp4", FILM, etag='"v1"', content_type="video/mp4")
        ranges = f"bytes={FAR}-{FAR + 199_999},5-1004,-77"
        expected = [
            part(FAR, FAR + 200_000),
            part(5, 1005),
            part(FILM.size_bytes - 77, FILM.size_bytes),
        ]
        for result in ("Miss", "Hit"):
            response = await viewer.get("/film.mp4", range=ranges)
            assert parts(response) == expected
            assert response.cache == result
            assert response.fields["etag"] == '"v1"'
        line = edge.lines()[-1]
        assert (line["status"], line["range"]) == (206, ranges)
        assert line["bytes"] > 201_077
        assert (await viewer.get("/film.mp4", range="bytes=0-9")).body == PATTERN[:10]


async def test_cold_object_is_requested_only_for_the_chunks_of_the_ranges(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film.mp4", FILM)
        firsts = [at * CHUNK_BYTES + 100 for at in (20, 3, 33, 11, 7, 15, 25, 29)]
        assert len(firsts) == RANGES_MAX
        ranges = ",".join(f"{first}-{first + 9}" for first in firsts)
        response = await viewer.get("/film.mp4", range=f"bytes={ranges}")
        assert parts(response) == [part(first, first + 10) for first in firsts]
        chunks = [Span(at - 100, at - 100 + CHUNK_BYTES) for at in firsts]
        assert [request.span for request in edge.origin.requests] == chunks
        assert edge.origin.body_bytes_sent == RANGES_MAX * CHUNK_BYTES


async def test_range_across_a_chunk_border_requests_at_most_two_chunks(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film.mp4", FILM)
        near, far = 5 * CHUNK_BYTES, FAR
        ranges = f"bytes={near - 1}-{near},{far - 1}-{far}"
        response = await viewer.get("/film.mp4", range=ranges)
        assert parts(response) == [part(near - 1, near + 1), part(far - 1, far + 1)]
        assert edge.origin.body_bytes_sent == 4 * CHUNK_BYTES


@pytest.mark.parametrize(
    "ranges",
    [
        "bytes=" + "0-0," * RANGES_MAX + "0-0",
        "bytes=" + ",".join(f"{at}-{at}" for at in range(0, 90_000, 10_000)),
    ],
)
async def test_too_many_ranges_get_the_whole_object_once(cache_root: Path, ranges: str) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film.mp4", FILM)
        for _cold_then_warm in range(2):
            response = await viewer.get("/film.mp4", range=ranges)
            assert (response.status, response.body) == (200, PATTERN)
        assert edge.origin.body_bytes_sent == FILM.size_bytes


async def test_overlapping_ranges_send_nothing_twice(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film.mp4", FILM)
        for _cold_then_warm in range(2):
            response = await viewer.get("/film.mp4", range="bytes=" + ",".join(["0-"] * RANGES_MAX))
            assert (response.status, response.body) == (206, PATTERN)
        assert edge.origin.body_bytes_sent == FILM.size_bytes


async def test_unsatisfiable_ranges_get_a_416(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film.mp4", FILM)
        response = await viewer.get("/film.mp4", range="bytes=9999999-,8888888-8888889,-0")
        assert response.status == 416
        assert response.fields["content-range"] == f"bytes */{FILM.size_bytes}"
        assert edge.origin.body_bytes_sent == 0


async def test_head_and_outdated_if_range_ignore_the_ranges(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film.mp4", FILM, etag='"v1"')
        ranges = f"bytes=0-9,{FAR}-{FAR + 9}"
        head = await viewer.get("/film.mp4", "HEAD", range=ranges)
        assert (head.status, head.fields["content-length"]) == (200, str(FILM.size_bytes))
        assert edge.origin.body_bytes_sent == 0
        same = await viewer.get("/film.mp4", range=ranges, if_range='"v1"')
        assert parts(same) == [part(0, 10), part(FAR, FAR + 10)]
        other = await viewer.get("/film.mp4", range=ranges, if_range='"v0"')
        assert (other.status, other.body) == (200, PATTERN)


async def test_failed_part_cuts_the_response(cache_root: Path) -> None:
    async with serve_web(cache_root, limits={"origin_retries": 0}) as edge:
        edge.origin.put("film.mp4", FILM)
        edge.origin.script(Reply())
        edge.origin.script(Reply(status=503))
        async with open_viewer(edge.port) as viewer:
            await viewer.send_request("/film.mp4", range=f"bytes=0-9,{FAR}-{FAR + 9}")
            with pytest.raises(TruncatedError) as cut:
                await viewer.receive()
        assert PATTERN[:10] in cut.value.received
        assert edge.lines()[-1]["reason"]
        response = await fetch(edge.port, "/film.mp4", range=f"bytes=0-9,{FAR}-{FAR + 9}")
        assert parts(response) == [part(0, 10), part(FAR, FAR + 10)]

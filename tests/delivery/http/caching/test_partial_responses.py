"""Origins with unusual responses to a range: the received bytes are used, the rest is requested."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamedge.cache.storage.extent import CHUNK_BYTES
from streamedge.spans import Span
from tests.support.http.http_viewer import TruncatedError, fetch, open_viewer
from tests.support.http.web_edge import serve_web
from tests.support.origins.scripted_origin import Pattern, Reply

FRESH = (("Cache-Control", "max-age=60"),)
SIZE = 20 * CHUNK_BYTES + 777
FILM = Pattern(SIZE, seed=5)
WHOLE = FILM.read(Span(0, SIZE))
AMPLIFIED_MAX = 3 * CHUNK_BYTES

WAYS = {
    "shorter than requested": Reply(range_max=1000),
    "a chunk at a time": Reply(range_max=CHUNK_BYTES),
    "in small blocks": Reply(range_block=4096),
    "in large blocks": Reply(range_block=3 * CHUNK_BYTES + 1),
    "in blocks of the whole": Reply(range_block=1 << 30),
    "412 to every If-Match": Reply(refuse_if_match=True),
    "without a range": Reply(ignore_range=True),
}
RANGES = {
    "the beginning": ("bytes=0-9", Span(0, 10)),
    "within": (f"bytes=70000-{5 * CHUNK_BYTES}", Span(70_000, 5 * CHUNK_BYTES + 1)),
    "to the end": (f"bytes={SIZE - 9}-", Span(SIZE - 9, SIZE)),
    "the last bytes": ("bytes=-100000", Span(SIZE - 100_000, SIZE)),
    "more last bytes than there are": (f"bytes=-{SIZE + 5}", Span(0, SIZE)),
}


@pytest.mark.parametrize("reply", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("range_field", "span"), RANGES.values(), ids=RANGES)
async def test_range_is_served_however_the_origin_responds(
    cache_root: Path, reply: Reply, range_field: str, span: Span
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film", FILM, headers=FRESH)
        edge.origin.script(reply, times=4000)
        for _cold_then_warm in range(2):
            response = await viewer.get("/film", range=range_field)
            assert response.status == 206
            assert response.body == FILM.read(span)
        assert (await viewer.get("/film")).body == WHOLE


async def test_416_to_a_suffix_range_is_retried_without_the_range(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge:
        edge.origin.put("film", FILM, headers=FRESH)
        edge.origin.script(Reply(status=416))
        response = await fetch(edge.port, "/film", range="bytes=-5")
        assert (response.status, response.body) == (206, WHOLE[-5:])


async def test_changed_object_is_not_mixed_with_the_old_one(cache_root: Path) -> None:
    other = Pattern(SIZE, seed=6)
    async with serve_web(cache_root) as edge:
        edge.origin.put("film", FILM, etag='"1"', headers=FRESH)
        assert (await fetch(edge.port, "/film", range="bytes=0-9")).body == WHOLE[:10]
        edge.origin.put("film", other, etag='"2"', headers=FRESH)
        async with open_viewer(edge.port) as viewer:
            await viewer.send_request("/film")
            with pytest.raises(TruncatedError) as cut:
                await viewer.receive()
        assert WHOLE.startswith(cut.value.received)
        assert (await fetch(edge.port, "/film")).body == other.read(Span(0, SIZE))


@pytest.mark.parametrize("range_field", ["bytes=-1", "bytes=0-0"])
@pytest.mark.parametrize("compress", [False, True])
async def test_one_byte_of_a_cold_object_requests_one_chunk(
    cache_root: Path, range_field: str, compress: bool
) -> None:
    large = Pattern(1 << 30, seed=3)
    rules = {"compress": compress}
    async with serve_web(cache_root, rules=rules) as edge:
        edge.origin.put("film", large, headers=FRESH, content_type="text/html")
        response = await fetch(edge.port, "/film", range=range_field, accept_encoding="gzip")
        assert (response.status, len(response.body)) == (206, 1)
        assert edge.origin.body_bytes_sent <= AMPLIFIED_MAX


@pytest.mark.parametrize("cold", [False, True])
async def test_suffix_of_an_empty_object_gets_the_whole_object(
    cache_root: Path, cold: bool
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("empty", b"", headers=FRESH)
        if not cold:
            assert (await viewer.get("/empty")).status == 200
        for _twice in range(2):
            response = await viewer.get("/empty", range="bytes=-5")
            assert (response.status, response.body) == (200, b"")

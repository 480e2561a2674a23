"""Bodies through the cache: parts, chunks, interim responses, trailers, broken connections."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from streamedge.cache.storage.extent import CHUNK_BYTES
from streamedge.spans import Span
from tests.support.event_loop import until
from tests.support.http.http_viewer import Response, TruncatedError, open_viewer, request
from tests.support.http.web_edge import WebEdge, serve_web, waiting_requests
from tests.support.origins.scripted_origin import Pattern, Reply

FILM = Pattern(300_000, seed=1)
WHOLE = FILM.read(Span(0, FILM.size_bytes))
FRESH = ("Cache-Control", "max-age=60")
NOT_PLAIN = {"te": "trailers"}  # so it does not wait in the fast path, but in the handler
PRIVATE = ("Cache-Control", "no-store")


def put(edge: WebEdge, *fields: tuple[str, str], etag: str = '"1"') -> None:
    edge.origin.put("film", FILM, etag=etag, last_modified_s=None, headers=fields or (FRESH,))


def is_hit(response: Response) -> bool:
    return "hit" in response.fields["cache-status"].split("; ")


# --- parts (RFC 9111 §3.3, §3.4) -------------------------------------------------------------


async def test_part_is_stored_and_only_the_rest_is_requested(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge)
        part = await viewer.get("/film", range="bytes=70000-70009")
        assert (part.status, part.body) == (206, WHOLE[70_000:70_010])
        assert part.fields["content-range"] == "bytes 70000-70009/300000"
        (seen,) = edge.origin.requests
        assert seen.span == Span(CHUNK_BYTES, 2 * CHUNK_BYTES)
        again = await viewer.get("/film", range="bytes=65536-131071")
        assert (again.body, is_hit(again)) == (WHOLE[65_536:131_072], True)
        assert len(edge.origin.requests) == 1
        whole = await viewer.get("/film")
        assert (whole.status, whole.body) == (200, WHOLE)
        assert edge.origin.body_bytes_sent == len(WHOLE)
        assert all(seen.headers["if-match"] == '"1"' for seen in edge.origin.requests[1:])


async def test_ranges_are_served_from_a_running_fill(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as one:
        put(edge)
        edge.origin.hold("film", at=100_000)
        await one.send_request("/film")
        await one.receive_head()
        await one.receive_body(100_000)
        async with open_viewer(edge.port) as other:
            part = await other.get("/film", range="bytes=10-19")
            assert (part.status, part.body) == (206, WHOLE[10:20])
            edge.origin.release("film")
            assert (await other.get("/film", range="bytes=-5")).body == WHOLE[-5:]
        assert await one.receive_body(200_000) == WHOLE[100_000:]
        assert len(edge.origin.requests) == 1


@pytest.mark.parametrize(
    ("control", "etag"), [("no-store", '"1"'), ("private", '"1"'), ("max-age=60", "")]
)
async def test_uncacheable_part_is_exactly_the_requested_range(
    cache_root: Path, control: str, etag: str
) -> None:
    """The edge requests whole chunks to store them; a viewer gets only what it requested."""
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, ("Cache-Control", control), etag=etag)
        for _before_and_after_it_is_known in range(2):
            part = await viewer.get("/film", range="bytes=70000-70009")
            assert (part.status, part.body) == (206, WHOLE[70_000:70_010])
            assert part.fields["content-range"] == "bytes 70000-70009/300000"
        assert (await viewer.get("/film")).body == WHOLE


async def test_if_range_of_an_uncacheable_object_is_evaluated_by_the_origin(
    cache_root: Path,
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, PRIVATE)
        edge.origin.script(Reply())  # the request for whole chunks, without use
        edge.origin.script(Reply(ignore_range=True))  # the response for another version
        response = await viewer.get("/film", range="bytes=1-2", if_range='"0"')
        assert (response.status, response.body) == (200, WHOLE)
        assert edge.origin.requests[-1].headers["if-range"] == '"0"'


async def test_200_to_a_range_is_stored_whole(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge)
        edge.origin.script(Reply(ignore_range=True))
        part = await viewer.get("/film", range="bytes=70000-70009")
        assert (part.status, part.body) == (206, WHOLE[70_000:70_010])
        assert (await viewer.get("/film")).body == WHOLE
        assert len(edge.origin.requests) == 1


@pytest.mark.parametrize("etag", ['W/"1"', ""])
async def test_parts_without_a_strong_validator_are_not_combined(
    cache_root: Path, etag: str
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, etag=etag)
        await viewer.get("/film", range="bytes=0-9")
        edge.origin.put("film", b"other" * 60_000, etag=etag, last_modified_s=None)
        assert (await viewer.get("/film")).body == b"other" * 60_000


# --- bodies without a length (RFC 9112 §7.1) -------------------------------------------------


async def test_readers_follow_a_chunked_response(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as one:
        put(edge, etag="")
        edge.origin.script(Reply(chunked=True))
        edge.origin.hold("film", at=1000)
        await one.send_request("/film")
        head = await one.receive_head()
        assert head.fields["transfer-encoding"] == "chunked"
        assert "content-length" not in head.fields
        received = await one.receive_chunk()
        while len(received) < 1000:
            received += await one.receive_chunk()
        async with open_viewer(edge.port) as other:
            await other.send_request("/film")
            await other.receive_head()
            joined = await other.receive_chunk()
            assert joined == received == WHOLE[:1000]
            edge.origin.release("film")
            while chunk := await other.receive_chunk():
                joined += chunk
            assert joined == WHOLE
        while chunk := await one.receive_chunk():
            received += chunk
        assert received == WHOLE
        assert len(edge.origin.requests) == 1
        async with open_viewer(edge.port) as late:
            hit = await late.get("/film")
            assert (hit.body, is_hit(hit)) == (WHOLE, True)
            assert hit.fields["content-length"] == "300000"
            assert (await late.get("/film", range="bytes=-3")).body == WHOLE[-3:]
        assert len(edge.origin.requests) == 1


@pytest.mark.parametrize("control", ["max-age=60", "no-store"])
@pytest.mark.parametrize("fault", [{"cut_at": 100_000}, {"reset_at": 100_000}])
async def test_incomplete_chunked_response_cuts_its_readers(
    cache_root: Path, control: str, fault: dict[str, Any]
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, ("Cache-Control", control), etag="")
        edge.origin.script(Reply(chunked=True, **fault))
        with pytest.raises(TruncatedError) as cut:
            await viewer.get("/film")
        assert cut.value.received == WHOLE[: len(cut.value.received)]
        async with open_viewer(edge.port) as other:
            response = await other.get("/film")
            assert (response.status, response.body, is_hit(response)) == (200, WHOLE, False)
        assert edge.lines()[0]["reason"]


@pytest.mark.parametrize("control", ["max-age=60", "no-store"])
async def test_response_that_ends_with_its_connection_is_served(
    cache_root: Path, control: str
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, ("Cache-Control", control), etag="")
        edge.origin.script(Reply(headers=(("Content-Length", None),)))
        assert (await viewer.get("/film")).body == WHOLE
        again = await viewer.get("/film")
        assert (again.body, is_hit(again)) == (WHOLE, control != "no-store")


@pytest.mark.parametrize("control", ["max-age=60", "no-store"])
@pytest.mark.parametrize("cut", [False, True])
async def test_http_1_0_viewer_gets_a_chunked_response_until_close(
    cache_root: Path, control: str, cut: bool
) -> None:
    """The body ends with the connection; only a reset shows that it is incomplete."""
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, ("Cache-Control", control), etag="")
        edge.origin.script(Reply(chunked=True, cut_at=100_000 if cut else None))
        edge.origin.hold("film", at=1000)
        await viewer.send(b"GET /film HTTP/1.0\r\nHost: edge\r\nConnection: keep-alive\r\n\r\n")
        head = await viewer.receive_head()
        edge.origin.release("film")
        assert not head.fields.keys() & {"transfer-encoding", "content-length"}
        assert head.fields["connection"] == "close"
        received = await viewer.receive_rest()
        assert received == WHOLE[: len(received)]
        assert (received == WHOLE) != cut
        assert ("reason" in edge.lines()[-1]) == cut


async def test_head_of_a_chunked_response_has_no_body(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, PRIVATE, etag="")
        edge.origin.script(Reply(chunked=True))
        assert (await viewer.get("/film", "HEAD")).status == 200
        assert (await viewer.get("/film")).body == WHOLE  # the connection still works


async def test_trailers_are_passed_on(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, PRIVATE, etag="")
        edge.origin.script(Reply(chunked=True, trailers=(("X-Digest", "abc"),)))
        response = await viewer.get("/film")
        assert response.body == WHOLE
        assert response.trailers == ("X-Digest: abc",)
        assert "x-digest" not in response.fields


async def test_trailers_are_not_stored_as_header_fields(cache_root: Path) -> None:
    """RFC 9110 §6.5.1: they must not be merged into the header section."""
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, etag="")
        forged = (("Cache-Control", "max-age=1"), ("Content-Length", "1"), ("X-Late", "1"))
        edge.origin.script(Reply(chunked=True, trailers=forged))
        for _miss_and_hit in range(2):
            response = await viewer.get("/film")
            assert response.body == WHOLE
            assert response.fields["cache-control"] == "max-age=60"
            assert "x-late" not in response.fields


# --- interim answers (RFC 9110 §15.2) --------------------------------------------------------


@pytest.mark.parametrize("control", ["max-age=60", "no-store"])
async def test_interim_responses_are_relayed_and_not_stored(cache_root: Path, control: str) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, ("Cache-Control", control))
        hints = (103, (("Link", "</style.css>; rel=preload"),))
        edge.origin.script(Reply(interim=((102, ()), hints)))
        await viewer.send_request("/film")
        assert (await viewer.receive_head()).status == 102
        early = await viewer.receive_head()
        assert (early.status, early.fields) == (103, {"link": "</style.css>; rel=preload"})
        final = await viewer.receive()
        assert (final.status, final.body) == (200, WHOLE)
        assert "link" not in final.fields
        await viewer.send_request("/film")
        assert (await viewer.receive_head()).status == 200


async def test_interim_responses_are_not_sent_to_http_1_0(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge)
        edge.origin.script(Reply(interim=((103, ()),)))
        await viewer.send(b"GET /film HTTP/1.0\r\nHost: edge\r\n\r\n")
        assert (await viewer.receive_head()).status == 200


# --- concurrent requests ----------------------------------------------------------------------


async def test_fifty_readers_of_a_cold_url_make_one_request(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge:
        put(edge)
        edge.origin.hold_responses()
        getting = [asyncio.create_task(_get(edge.port, **NOT_PLAIN)) for _ in range(50)]
        await edge.origin.wait_for_requests(1)
        await until(lambda: edge.server.stats().requests == 50)
        edge.origin.release_responses()
        responses = await asyncio.gather(*getting)
        assert {response.body for response in responses} == {WHOLE}
        assert len(edge.origin.requests) == 1
        collapsed = ["collapsed" in one.fields["cache-status"] for one in responses]
        assert sorted(collapsed) == [False] + [True] * 49


@pytest.mark.parametrize("control", ["no-store", "private"])
async def test_fifty_viewers_of_a_private_response_make_fifty_requests(
    cache_root: Path, control: str
) -> None:
    """All at the same time: no request waits for a response that is known to be uncacheable."""
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, ("Cache-Control", control))
        assert (await viewer.get("/film")).body == WHOLE
        edge.origin.hold_responses()
        getting = [asyncio.create_task(_get(edge.port)) for _ in range(50)]
        await edge.origin.wait_for_requests(51)
        edge.origin.release_responses()
        assert {response.body for response in await asyncio.gather(*getting)} == {WHOLE}


async def test_waiters_for_a_private_response_send_their_own_requests(
    cache_root: Path,
) -> None:
    async with serve_web(cache_root) as edge:
        put(edge, PRIVATE)
        edge.origin.hold_responses()
        getting = [asyncio.create_task(_get(edge.port, **NOT_PLAIN)) for _ in range(5)]
        await edge.origin.wait_for_requests(1)
        await until(lambda: edge.server.stats().requests == 5)
        edge.origin.release_responses()
        assert {response.body for response in await asyncio.gather(*getting)} == {WHOLE}
        assert len(edge.origin.requests) == 5


async def test_waiters_get_their_own_variant(cache_root: Path) -> None:
    policy = {"all": {"headers": "all"}}
    async with serve_web(
        cache_root,
        tables={"origin_request_policies": policy},
        rules={"origin_request_policy": "all"},
    ) as edge:
        after = asyncio.Event()
        fields = (("Vary", "Accept-Language"), FRESH)
        edge.origin.script(Reply(status=200, headers=fields, body=b"english", after=after))
        edge.origin.script(Reply(status=200, headers=fields, body=b"deutsch"))
        english = asyncio.create_task(_get(edge.port, accept_language="en"))
        await edge.origin.wait_for_requests(1)
        german = asyncio.create_task(_get(edge.port, accept_language="de"))
        again = asyncio.create_task(_get(edge.port, accept_language="en"))
        await until(lambda: edge.server.stats().requests + waiting_requests(edge) == 3)
        after.set()
        assert (await english).body == (await again).body == b"english"
        assert (await german).body == b"deutsch"
        assert len(edge.origin.requests) == 2


async def test_response_requested_before_a_write_is_not_reused_after_it(cache_root: Path) -> None:
    methods = {"methods": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]}
    async with serve_web(cache_root, rules=methods) as edge, open_viewer(edge.port) as viewer:
        put(edge)
        after = asyncio.Event()
        edge.origin.script(Reply(after=after))
        reading = asyncio.create_task(_get(edge.port))
        await edge.origin.wait_for_requests(1)
        edge.origin.script(Reply(status=204))
        assert (await viewer.get("/film", "PUT", content_length="0")).status == 204
        edge.origin.put("film", b"new", etag='"2"', headers=(FRESH,))
        after.set()
        assert (await reading).body == WHOLE  # its request was sent before the write
        for _miss_and_hit in range(2):
            assert (await viewer.get("/film")).body == b"new"
        assert len(edge.origin.requests) == 3


async def _get(port: int, **fields: str) -> Response:
    async with open_viewer(port) as viewer:
        await viewer.send(request("/film", **fields))
        return await viewer.receive()

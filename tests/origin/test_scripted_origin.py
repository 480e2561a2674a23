"""The scripted origin does what its script says, so that tests can rely on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from streamedge.origin.http.origin import HttpOrigin
from streamedge.spans import Span
from tests.support.origins.scripted_origin import Pattern, Reply, ScriptedOrigin, read_all

FILM = Pattern(1_000_000, seed=7)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as server:
        server.put("film.mp4", FILM, etag='"v1"', content_type="video/mp4")
        yield server


@pytest.fixture
async def origin(server: ScriptedOrigin) -> AsyncIterator[HttpOrigin]:
    origin = HttpOrigin(server.url)
    yield origin
    await origin.close()


async def exchange(server: ScriptedOrigin, request: bytes) -> bytes:
    """All bytes of the response; ``request`` must have "Connection: close"."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    "span", [Span(0, 10), Span(65_520, 65_523), Span(10**12, 10**12 + 200_000)]
)
def test_pattern_is_the_same_in_any_pieces(span: Span) -> None:
    content = Pattern(1 << 50, seed=5)
    whole = content.read(span)
    assert len(whole) == span.size
    assert whole == b"".join(content.read(piece) for piece in span.split(777))
    assert whole != Pattern(1 << 50, seed=6).read(span)


def test_pattern_ends_at_its_size() -> None:
    assert len(Pattern(100).read(Span(90, 200))) == 10
    assert Pattern(100).read(Span(200, 300)) == b""


async def test_bytes_are_held_and_released(server: ScriptedOrigin, origin: HttpOrigin) -> None:
    server.put("small", b"0123456789")
    server.hold("small", at=3)
    read = await origin.read("small")
    assert read is not None
    pieces = read.pieces()
    assert await anext(pieces) == b"012"
    server.release("small", 2)
    assert await anext(pieces) == b"34"
    await server.until(lambda: server.body_bytes_sent == 5)
    server.release("small")
    assert b"".join([piece async for piece in pieces]) == b"56789"
    assert server.requests[0].body_bytes_sent == 10
    await read.close()


async def test_hold_applies_to_a_position_for_every_reader(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    server.hold("film.mp4", at=1000)
    assert len(await read_all(await origin.read("film.mp4", Span(0, 1000)))) == 1000
    later_read = await origin.read("film.mp4", Span(2000, 2010))
    assert server.body_bytes_sent == 1000
    server.release("film.mp4")
    assert len(await read_all(later_read)) == 10


@pytest.mark.parametrize("shared", [False, True])
async def test_slow_server_sends_everything(shared: bool) -> None:
    async with ScriptedOrigin(
        first_byte_delay_s=0.001, rate_bytes_per_s=50_000_000, rate_shared=shared
    ) as server:
        content = Pattern(1_000_000)
        server.put("film", content)
        origin = HttpOrigin(server.url)
        bodies = await asyncio.gather(
            *[read_all(await origin.read("film", Span(0, 1_000_000))) for _ in range(3)]
        )
        assert bodies == [content.read(Span(0, 1_000_000))] * 3
        await origin.close()


async def test_script_is_played_in_order_then_forgotten(server: ScriptedOrigin) -> None:
    server.script(Reply(status=503), times=2)
    server.script(Reply(status=404, headers=(("X-Own", "1"),), body=b"gone"))
    first = b"GET /film.mp4 HTTP/1.1\r\nRange: bytes=-3\r\n\r\n"
    last = b"GET /film.mp4 HTTP/1.1\r\nRange: bytes=-3\r\nConnection: close\r\n\r\n"
    answer = await exchange(server, last)
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    answer = await exchange(server, first + last)
    assert b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nX-Own: 1\r\n\r\ngone" in answer
    answer = await exchange(server, last)
    assert b"\r\nContent-Range: bytes 999997-999999/1000000\r\n" in answer
    assert [request.connection for request in await server.wait_for_requests(4)] == [1, 2, 2, 3]


async def test_removed_object_is_404_and_other_methods_are_405(server: ScriptedOrigin) -> None:
    rest = b" /film.mp4 HTTP/1.1\r\nConnection: close\r\n\r\n"
    assert b" 405 " in await exchange(server, b"PUT" + rest)
    server.remove("film.mp4")
    assert b" 404 " in await exchange(server, b"GET" + rest)


async def test_held_responses_are_sent_after_release(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    server.hold_responses()
    reading = [asyncio.create_task(origin.read("film.mp4", Span(0, 10))) for _ in range(3)]
    await server.wait_for_requests(3)
    assert not any(task.done() for task in reading)
    server.release_responses()
    for task in reading:
        assert len(await read_all(await task)) == 10

"""HttpOrigin against a scripted server: every failure and its name."""

from __future__ import annotations

import asyncio
import socket

import pytest

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin.http.origin import HttpOrigin
from streamedge.spans import Span
from tests.origin.http.film import FILM, failure_of
from tests.support.origins.scripted_origin import Reply, ScriptedOrigin, read_all

# --- failures -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (400, OriginFailure.UNAVAILABLE),
        (401, OriginFailure.FORBIDDEN),
        (403, OriginFailure.FORBIDDEN),
        (404, OriginFailure.NOT_FOUND),
        (410, OriginFailure.NOT_FOUND),
        (412, OriginFailure.CHANGED),
        (416, OriginFailure.RANGE_OUTSIDE),
        (429, OriginFailure.UNAVAILABLE),
        (500, OriginFailure.UNAVAILABLE),
        (503, OriginFailure.UNAVAILABLE),
        (204, OriginFailure.UNAVAILABLE),
        (304, OriginFailure.UNAVAILABLE),
    ],
)
async def test_status_maps_to_its_failure(
    server: ScriptedOrigin, origin: HttpOrigin, status: int, failure: OriginFailure
) -> None:
    server.script(Reply(status=status), times=2)
    error = await failure_of(origin, Span(0, 10))
    assert error.failure is failure
    assert str(error) == f"{server.url} 'film.mp4': answered {status}" or status == 416
    with pytest.raises(OriginError) as caught:
        await origin.head("film.mp4")
    assert caught.value.failure is failure


async def test_range_past_the_end_is_refused(origin: HttpOrigin) -> None:
    error = await failure_of(origin, Span(1_000_000, 1_000_001))
    assert error.failure is OriginFailure.RANGE_OUTSIDE
    assert "bytes */1000000" in str(error)


async def test_redirect_is_not_followed(server: ScriptedOrigin, origin: HttpOrigin) -> None:
    location = "http://elsewhere.example/film.mp4?X-Amz-Signature=secret"
    server.script(Reply(status=302, headers=(("Location", location),)))
    error = await failure_of(origin)
    assert error.failure is OriginFailure.UNAVAILABLE
    assert "'elsewhere.example'" in str(error)
    assert "secret" not in str(error)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "content_range",
    [
        None,
        "bytes 0-99/1000000",
        "bytes 101-200/1000000",
        "bytes 100-198/1000000",
        "bytes 100-200/1000000",
        "bytes 100-199/150",
        "bytes 100-199/*",
        "bytes */1000000",
        "items 100-199/1000000",
        "bytes=100-199/1000000",
        "bytes 100-99/1000000",
        "100-199",
    ],
)
async def test_wrong_content_range_is_unavailable(
    server: ScriptedOrigin, origin: HttpOrigin, content_range: str | None
) -> None:
    server.script(Reply(headers=(("Content-Range", content_range),)))
    error = await failure_of(origin, Span(100, 200))
    assert error.failure is OriginFailure.UNAVAILABLE
    assert repr(content_range or "") in str(error)


async def test_unrequested_partial_content_is_unavailable(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    server.script(Reply(status=206, headers=(("Content-Range", "bytes 0-9/10"),), body=b"0" * 10))
    assert (await failure_of(origin)).failure is OriginFailure.UNAVAILABLE


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (Reply(chunked=True), "sends no length"),
        (Reply(headers=(("Content-Length", None),)), "sends no length"),
        (Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"), "the response is not HTTP"),
        (Reply(raw=b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "the response is not HTTP"),
        (Reply(headers=(("X-Long", "x" * 100_000),)), "the response is not HTTP"),
    ],
)
async def test_invalid_response_is_unavailable(
    server: ScriptedOrigin, origin: HttpOrigin, turn: Reply, message: str
) -> None:
    server.script(turn)
    error = await failure_of(origin)
    assert error.failure is OriginFailure.UNAVAILABLE
    assert message in str(error)


@pytest.mark.parametrize(
    "turn",
    [
        Reply(cut_at=0),
        Reply(cut_at=300_000),
        Reply(cut_at=999_999),
        Reply(reset_at=0),
        Reply(reset_at=300_000),
        Reply(raw=b""),
        Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Len"),
    ],
)
async def test_lost_connection_is_broken(
    server: ScriptedOrigin, origin: HttpOrigin, turn: Reply
) -> None:
    server.script(turn)
    error = await failure_of(origin)
    assert error.failure is OriginFailure.BROKEN
    assert error.__cause__ is not None


async def test_bytes_before_a_cut_are_delivered(server: ScriptedOrigin, origin: HttpOrigin) -> None:
    server.script(Reply(cut_at=300_000))
    read = await origin.read("film.mp4")
    assert read is not None
    received = bytearray()

    async def receive() -> None:
        async for piece in read.pieces():
            received.extend(piece)

    with pytest.raises(OriginError, match="700000 of 1000000 bytes missing"):
        await receive()
    assert received == FILM.read(Span(0, 300_000))
    await read.close()


async def test_truncated_chunked_body_is_broken(server: ScriptedOrigin, origin: HttpOrigin) -> None:
    server.script(Reply(chunked=True, cut_at=50))
    assert (await failure_of(origin, Span(0, 100))).failure is OriginFailure.BROKEN


async def test_chunked_body_longer_than_its_range_is_broken(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    server.script(Reply(chunked=True, extra=b"more"))
    error = await failure_of(origin, Span(0, 100))
    assert error.failure is OriginFailure.BROKEN
    assert "is longer than its 100 bytes" in str(error)


async def test_content_length_that_contradicts_content_range_is_unavailable(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    server.hold("film.mp4")  # only the head is sent: a body over its length is another failure
    server.script(Reply(headers=(("Content-Length", "50"),)))
    error = await failure_of(origin, Span(0, 100))
    assert error.failure is OriginFailure.UNAVAILABLE
    assert "Content-Length is '50', Content-Range 'bytes 0-99/1000000'" in str(error)


async def test_chunked_body_shorter_than_its_range_is_broken(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    body = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/10\r\n"
    body += b"Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n0\r\n\r\n"
    server.script(Reply(raw=body))
    error = await failure_of(origin, Span(0, 10))
    assert error.failure is OriginFailure.BROKEN
    assert "ended 5 bytes early" in str(error)


async def test_bytes_after_a_body_never_reach_the_next_response(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    smuggled = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    server.put("small", b"small")
    server.script(Reply(extra=smuggled))
    assert await read_all(await origin.read("small")) == b"small"
    assert await read_all(await origin.read("small")) == b"small"


@pytest.mark.parametrize("turn", [Reply(silent=True), Reply(stall_at=0), Reply(stall_at=1000)])
async def test_silent_origin_times_out(server: ScriptedOrigin, turn: Reply) -> None:
    origin = HttpOrigin(server.url, read_timeout_s=0.05)
    server.script(turn)
    assert (await failure_of(origin)).failure is OriginFailure.TIMEOUT
    await server.until(lambda: server.connections_open == 0)
    await origin.close()


async def test_refused_connection_is_refused_until_the_origin_accepts(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    await read_all(await origin.read("film.mp4", Span(0, 1)))
    await server.refuse()
    assert (await failure_of(origin)).failure is OriginFailure.REFUSED
    await server.accept()
    assert await read_all(await origin.read("film.mp4", Span(0, 1))) == FILM.read(Span(0, 1))


async def test_tls_to_a_plain_server_is_refused() -> None:
    async def answer_plainly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer_plainly, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        origin = HttpOrigin(f"https://127.0.0.1:{port}")
        assert (await failure_of(origin)).failure is OriginFailure.REFUSED
        await origin.close()


async def test_connect_timeout_is_refused() -> None:
    # A listener whose queue is full leaves SYNs unanswered.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        queued = [socket.socket() for _ in range(4)]
        for waiting in queued:
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        origin = HttpOrigin(f"http://127.0.0.1:{port}", connect_timeout_s=0.05)
        error = await failure_of(origin)
        assert error.failure is OriginFailure.REFUSED
        await origin.close()
        for waiting in queued:
            waiting.close()


async def test_full_pool_is_refused_after_the_connect_timeout(server: ScriptedOrigin) -> None:
    origin = HttpOrigin(server.url, connections_max=1, connect_timeout_s=0.05)
    server.hold("film.mp4")
    read = await origin.read("film.mp4")
    assert read is not None
    assert (await failure_of(origin)).failure is OriginFailure.REFUSED
    await read.close()
    await origin.close()

"""What a viewer can do to the edge over HTTP/2: each limit, by raw frames.

Over a limit, the edge ends the connection with one GOAWAY, counts it, and serves others as before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streamedge.delivery.http.http2 import engine, limits
from streamedge.delivery.http.http2.connection import Http2Connection
from streamedge.delivery.http.http2.limits import FIELDS_MAX
from streamedge.delivery.http.http2.responder import ROUND_BYTES
from streamedge.delivery.http.request.request import HEAD_BYTES_MAX, HEAD_MEMBERS_MAX
from streamedge.ops.metrics import Counter
from streamedge.spans import Span
from tests.support.event_loop import until
from tests.support.http.http2_edge import http2_connections, secure_contexts
from tests.support.http.http2_viewer import (
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    HEADERS,
    NO_ERROR,
    PING,
    PRIORITY_UPDATE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ConnectionEndedError,
    Http2Viewer,
    StreamResetError,
    frame,
    head,
    open_http2_viewer,
)
from tests.support.http.undisturbed import PATH, undisturbed
from tests.support.http.web_edge import WebEdge, serve_web
from tests.support.origins.scripted_origin import Pattern

FILM = Pattern(3_000_000, seed=1)
WHOLE = FILM.read(Span(0, FILM.size_bytes))
SMALL = b"small"
IDLE_S = 30.0
STALL_S = 60.0
GET = b"\x82\x87\x84\x41\x04edge"  # GET, https, "/", and the host, which the table remembers
AGAIN = b"\x82\x87\x84\xbe"  # the same from the table
ZERO_WINDOWS = frame(SETTINGS, 0, 0, b"\x00\x04" + bytes(4))


@asynccontextmanager
async def viewers(root: Path) -> AsyncIterator[tuple[WebEdge, Http2Viewer, Http2Viewer]]:
    """An edge and two viewers, of which the second is served before and afterwards."""
    server, client = secure_contexts(root, ("edge",))
    async with (
        serve_web(root, context=server, rules={"methods": ["GET", "HEAD", "POST"]}) as edge,
        open_http2_viewer(edge.port, client) as first,
        open_http2_viewer(edge.port, client) as other,
    ):
        edge.origin.put("film", FILM)
        edge.origin.put("small", SMALL)
        assert (await other.get("/small")).body == SMALL
        yield edge, first, other
        assert (await other.get("/small")).body == SMALL


@asynccontextmanager
async def attack(root: Path) -> AsyncIterator[tuple[WebEdge, Http2Viewer, Http2Viewer]]:
    """The same with an attacker as the first. The second is served meanwhile, and the process
    stays small."""
    async with viewers(root) as (edge, attacker, other), undisturbed(edge, other.get):
        yield edge, attacker, other


async def assert_calmed(edge: WebEdge, attacker: Http2Viewer) -> None:
    """The connection ends with GOAWAY, is counted, and has one log line."""
    assert await attacker.receive_end() == ENHANCE_YOUR_CALM
    assert [code for _last, code in attacker.goaways] == [ENHANCE_YOUR_CALM]
    await until(lambda: len(http2_connections(edge)) == 1)
    assert edge.counts.gathered(Counter.ERRORS, "http2_limit") == 1
    (line,) = edge.lines("http2_connection_ended")
    assert line["reason"]


# Frames that cost work


@pytest.mark.parametrize(
    "one",
    [
        frame(SETTINGS, 0, 0),
        frame(PING, 0, 0, bytes(8)),
        frame(PRIORITY_UPDATE, 0, 0, b"\x00\x00\x00\x01u=1"),
        frame(DATA, 0, 1),
    ],
    ids=["SETTINGS", "PING", "PRIORITY_UPDATE", "empty DATA"],
)
async def test_frames_without_content_end_the_connection(cache_root: Path, one: bytes) -> None:
    async with attack(cache_root) as (edge, attacker, _other):
        edge.origin.pause_bodies()
        await attacker.send_head(head("/small", "POST"), ends=False)
        await attacker.send(one * (limits.CONTROLS.at_once - 10))
        assert (await attacker.get("/small")).body == SMALL
        await attacker.send(one * 100)
        await assert_calmed(edge, attacker)


async def test_streams_that_are_reset_at_once_end_the_connection(cache_root: Path) -> None:
    """CVE-2023-44487, rapid reset."""
    async with attack(cache_root) as (edge, attacker, _other):
        raw, stream = frame(HEADERS, END_HEADERS | END_STREAM, 1, GET), 1
        attacker.new_stream()
        for _ in range(limits.RESETS.at_once + 200):
            attacker.new_stream()
            raw += frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big"))
            stream += 2
            raw += frame(HEADERS, END_HEADERS | END_STREAM, stream, AGAIN)
        await attacker.send(raw)
        await assert_calmed(edge, attacker)


@pytest.mark.parametrize(
    "mistake",
    [
        frame(WINDOW_UPDATE, 0, 0, bytes(4))[:5],
        frame(DATA, 0, 0, b"x")[:5],
    ],
    ids=["WINDOW_UPDATE of 0", "DATA after the end"],
)
async def test_streams_that_the_edge_has_to_reset_end_the_connection(
    cache_root: Path, mistake: bytes
) -> None:
    """CVE-2025-8671, MadeYouReset."""
    async with attack(cache_root) as (edge, attacker, _other):
        edge.origin.hold_responses()
        raw, payload = b"", bytes(4) if mistake[3] == WINDOW_UPDATE else b"x"
        for stream in range(1, 2 * limits.RESETS.at_once + 400, 2):
            attacker.new_stream()
            raw += frame(HEADERS, END_HEADERS | END_STREAM, stream, GET if stream == 1 else AGAIN)
            raw += mistake + stream.to_bytes(4, "big") + payload
        await attacker.send(raw)
        assert await attacker.receive_end() in {PROTOCOL_ERROR, ENHANCE_YOUR_CALM, 5}
        await until(lambda: len(http2_connections(edge)) == 1)
        assert len(edge.origin.requests) <= limits.STREAMS_MAX
        edge.origin.release_responses()


async def test_malformed_requests_end_the_connection(cache_root: Path) -> None:
    async with attack(cache_root) as (edge, attacker, _other):
        malformed, count = [*head("/small"), (b"connection", b"close")], 0
        while not attacker.goaways:
            stream = await attacker.send_head(malformed, ends=True)
            with contextlib.suppress(StreamResetError, ConnectionEndedError):
                await attacker.receive(stream)
            count += 1
        assert limits.RESETS.at_once < count < limits.RESETS.at_once + 200
        await assert_calmed(edge, attacker)
        assert len(edge.origin.requests) == 1


# Heads


@pytest.mark.parametrize(
    "fields",
    [
        [(b"x-large", b"a" * HEAD_BYTES_MAX)],
        [(b"x-%d" % number, b"") for number in range(FIELDS_MAX)],
        [(b"x-list", b"," * HEAD_MEMBERS_MAX)],
    ],
    ids=["bytes", "fields", "members"],
)
async def test_large_head_is_refused_on_its_stream(
    cache_root: Path, fields: list[tuple[bytes, bytes]]
) -> None:
    async with attack(cache_root) as (edge, attacker, _other):
        stream = await attacker.send_head([*head("/small"), *fields], ends=True)
        assert (await attacker.receive(stream)).status == 431
        assert (await attacker.get("/small")).body == SMALL
        assert [line["status"] for line in edge.lines()].count(431) == 1


@pytest.mark.parametrize("size", [1, 4000])
async def test_head_that_a_few_bytes_unpack_to_ends_the_connection(
    cache_root: Path, size: int
) -> None:
    """An HPACK bomb: one entry of the table, named again and again."""
    async with attack(cache_root) as (edge, attacker, _other):
        request = b"\x82\x87\x84\x01\x04edge"  # leaves nothing in the table
        entry = attacker.encode([(b"x" * size, b"")])
        for block in (request + entry, request + b"\xbe" * 10_000):
            stream = attacker.new_stream()
            await attacker.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, block))
        await assert_calmed(edge, attacker)


async def test_head_in_many_pieces_ends_the_connection(cache_root: Path) -> None:
    async with attack(cache_root) as (edge, attacker, _other):
        await attacker.send(frame(HEADERS, END_STREAM, 1, GET))
        for _ in range(limits.CONTINUATIONS_MAX + 1):
            await attacker.send(frame(CONTINUATION, 0, 1))
        await assert_calmed(edge, attacker)


async def test_head_that_never_ends_is_closed_as_idle(cache_root: Path) -> None:
    async with attack(cache_root) as (edge, attacker, _other):
        await attacker.send(frame(HEADERS, END_STREAM, 1, GET[:2]))
        sweep(connection_of(edge, attacker), after_s=IDLE_S + 1)
        assert await attacker.receive_end() == NO_ERROR
        assert not edge.counts.gathered(Counter.ERRORS, "http2_limit")


# Streams


async def test_more_streams_than_allowed_end_the_connection(cache_root: Path) -> None:
    async with attack(cache_root) as (edge, attacker, _other):
        edge.origin.hold_responses()
        for number in range(limits.STREAMS_MAX):
            await attacker.send_request(f"/cold-{number}")
        await edge.origin.wait_for_requests(1 + limits.STREAMS_MAX)
        await attacker.send_request("/cold")
        assert await attacker.receive_end() == PROTOCOL_ERROR
        assert edge.counts.gathered(Counter.ERRORS, "http2_protocol") == 1
        edge.origin.release_responses()


async def test_requests_of_reset_streams_count_until_they_are_handled(cache_root: Path) -> None:
    async with attack(cache_root) as (edge, attacker, _other):
        edge.origin.hold_responses()
        count = limits.RESETS.at_once - 10
        for number in range(count):
            stream = await attacker.send_request(f"/a-{number}")
            await attacker.send_frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big"))
        more = [
            await attacker.send_request(f"/b-{number}")
            for number in range(limits.STREAMS_MAX - count + 5)
        ]
        for stream in more[-5:]:
            with pytest.raises(StreamResetError) as refused:
                await attacker.receive(stream)
            assert refused.value.code == REFUSED_STREAM
        edge.origin.release_responses()
        for stream in more[:-5]:
            assert (await attacker.receive(stream)).status == 404


async def test_zero_windows_on_all_streams_hold_no_bodies(cache_root: Path) -> None:
    async with attack(cache_root) as (edge, attacker, other):
        assert (await other.get("/film")).body == WHOLE
        await attacker.send(ZERO_WINDOWS)
        for _ in range(limits.STREAMS_MAX):
            await attacker.send_request("/film")
        connection = connection_of(edge, attacker)
        await until(lambda: connection.stats().blocked == limits.STREAMS_MAX)
        assert connection.stats().unsent_bytes == 0
        sweep(connection, after_s=STALL_S + 1)
        assert connection.stats().responses == 0
        lines = [line for line in edge.lines() if line.get("reason") == "viewer stalled"]
        assert len(lines) == limits.STREAMS_MAX


async def test_hits_of_one_read_wait_for_their_round(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with attack(cache_root) as (edge, attacker, _other):
        edge.origin.put("part", WHOLE[:200_000])
        assert (await attacker.get("/part")).body == WHOLE[:200_000]
        large = (2**30).to_bytes(4, "big")
        await attacker.send(frame(SETTINGS, 0, 0, b"\x00\x04" + large))
        await attacker.send(frame(WINDOW_UPDATE, 0, 0, large))
        unsent, send = [], engine.Engine.to_send

        def to_send(self: engine.Engine) -> bytes:
            unsent.append(self.unsent_bytes())
            return send(self)

        monkeypatch.setattr(engine.Engine, "to_send", to_send)
        streams = [attacker.new_stream() for _ in range(30)]
        fields = head("/part")
        await attacker.send(
            b"".join(
                attacker.head_frames(one, attacker.encode(fields), ends=True) for one in streams
            )
        )
        for stream in streams:
            assert (await attacker.receive(stream)).body == WHOLE[:200_000]
        assert 0 < max(unsent) <= ROUND_BYTES


async def test_viewer_that_reads_nothing_is_disconnected(cache_root: Path) -> None:
    async with attack(cache_root) as (edge, attacker, other):
        assert (await other.get("/film")).body == WHOLE
        attacker.reads = False
        for _ in range(3):
            await attacker.send_request("/film")
        connection = connection_of(edge, attacker)
        await until(lambda: connection.stats().is_window_closed)
        sweep(connection, after_s=STALL_S + 1)
        await until(lambda: len(http2_connections(edge)) == 1)
        lines = [line.get("reason") for line in edge.lines() if line["path"] != PATH]
        assert lines[-3:] == ["viewer stalled"] * 3


@pytest.mark.parametrize("rate", [0, 1000])
async def test_slow_body_is_cut(cache_root: Path, rate: int) -> None:
    async with attack(cache_root) as (edge, attacker, _other):
        stream = await attacker.send_head(head("/small", "POST"), ends=False)
        await attacker.send_frame(DATA, 0, stream, b"some")
        await edge.origin.wait_for_requests(2)
        await edge.origin.until(lambda: bytes(edge.origin.requests[1].body) == b"some")
        sweep(connection_of(edge, attacker), after_s=STALL_S + 1, body_rate=rate)
        with pytest.raises(StreamResetError) as cut:
            await attacker.receive(stream)
        assert cut.value.code == ENHANCE_YOUR_CALM
        assert not edge.origin.requests[1].has_ended


async def test_connection_ends_behind_its_last_request(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamedge.delivery.http.http2.connection.REQUESTS_MAX", 3)
    async with viewers(cache_root) as (_edge, viewer, _other):
        for _ in range(3):
            assert (await viewer.get("/small")).body == SMALL
        assert await viewer.receive_end() == NO_ERROR
        assert viewer.goaways[-1] == (5, NO_ERROR)


def connection_of(edge: WebEdge, viewer: Http2Viewer) -> Http2Connection:
    (connection,) = [one for one in http2_connections(edge) if one.client == viewer.name]
    return connection


def sweep(connection: Http2Connection, *, after_s: float, body_rate: int = 0) -> None:
    """Runs the server's sweep as if ``after_s`` had passed."""
    now_s = asyncio.get_running_loop().time() + after_s
    connection.sweep(now_s, IDLE_S, STALL_S, body_rate)

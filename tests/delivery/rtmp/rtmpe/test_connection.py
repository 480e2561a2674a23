"""RTMPE on connections: plays, refusals, silence, limits and the end, on the test's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from streamedge.delivery.rtmp.protocol.handshake import PACKET_SIZE_BYTES, DigestScheme
from streamedge.delivery.rtmp.rtmpe.connection import RtmpeConnection
from streamedge.delivery.rtmp.rtmpe.key_exchange import KEY_SIZE_BYTES, PRIME
from streamedge.ops.metrics import Counter, Gauge
from tests.support.event_loop import until
from tests.support.rtmp.rtmp_client import Frame, RtmpClient, frames, open_client, samples
from tests.support.rtmp.rtmp_edge import RtmpEdge, serve_rtmp
from tests.support.rtmp.rtmp_media import avc_mp4, keyframe, sample_file
from tests.support.rtmp.rtmpe_client import (
    C0,
    EXPONENT,
    c1_with,
    c2_for,
    open_encrypted_client,
    public_key,
    receive_response,
)

SCHEME = DigestScheme.SECOND_BLOCK
C1 = c1_with(public_key(EXPONENT), SCHEME)
START, STOP = "NetStream.Play.Start", "NetStream.Play.Stop"


def failures(edge: RtmpEdge) -> list[str]:
    """The reasons of failed handshakes; each of them is counted."""
    return [line["reason"] for line in edge.lines("rtmpe_handshake_failed")]


def failures_counted(edge: RtmpEdge) -> float:
    return edge.counts.gathered(Counter.ERRORS, "rtmpe_handshake")


async def end_of(edge: RtmpEdge, *parts: bytes) -> bytes:
    """What the server sends to a client that sends ``parts``, until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


async def played(client: RtmpClient) -> list[Frame]:
    """The media of a play from its beginning, one from 5 s, and one after a seek."""
    client.play("film.mp4")
    messages = await client.until_named(STOP)
    client.play("film.mp4", 5_000.0)
    messages += await client.until_named(START)
    client.pause(True, 5_000)
    messages += await client.until_named("NetStream.Pause.Notify")
    paused = len(messages)
    client.seek(12_000)
    messages += await client.until_named("NetStream.Seek.Notify")
    client.pause(False, 12_000)
    messages += await client.until_named(STOP)
    # How many media are sent before the pause depends on the network.
    before = samples(messages[:paused])
    assert before
    return [*frames(messages[paused:])]


@pytest.mark.parametrize("scheme", list(DigestScheme))
async def test_plays_and_seeks_are_those_of_plain_rtmp(
    cache_root: Path, scheme: DigestScheme
) -> None:
    async with serve_rtmp(cache_root, offers_rtmpe=True) as edge:
        edge.origin.put("film.mp4", sample_file("film.mp4"))
        async with open_client(edge.port) as plain:
            expected = await played(plain)
        async with open_encrypted_client(edge.port, scheme=scheme) as client:
            assert await played(client) == expected
        await edge.until_gone()
        transports = [line["transport"] for line in edge.lines("rtmp_connect")]
        assert transports == ["rtmp", "rtmpe"]
        assert edge.counts.gathered(Counter.SENT_BYTES, "rtmp") == sum(
            line["bytes"] for line in edge.lines("rtmp_disconnect")
        )


async def test_plain_session_has_its_connection_for_itself(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RTMPE costs plain RTMP nothing after the first byte."""
    received: list[int] = []
    receive = RtmpeConnection.data_received

    def data_received(connection: RtmpeConnection, data: bytes) -> None:
        received.append(len(data))
        receive(connection, data)

    monkeypatch.setattr(RtmpeConnection, "data_received", data_received)
    async with serve_rtmp(cache_root, offers_rtmpe=True) as edge:
        edge.origin.put("film.mp4", sample_file("film.mp4"))
        async with open_client(edge.port) as client:
            client.play("film.mp4")
            await client.until_named(STOP)
        assert len(received) == 1


async def test_slow_client_receives_every_frame(cache_root: Path) -> None:
    """Encrypted bytes that the kernel does not take wait, and are sent before others."""
    async with serve_rtmp(cache_root, offers_rtmpe=True) as edge:
        film = [keyframe(40_000 + number) for number in range(300)]
        edge.origin.put("film.mp4", avc_mp4(film, 40))
        async with open_encrypted_client(edge.port) as client:
            client.play("film.mp4")
            # The client does not read until the play waits for the socket.
            await until(lambda: any(each.blocked_since_s is not None for each in edge.sessions))
            received = samples(await client.until_named(STOP))
            assert [frame.body[5:] for frame in received] == film


async def test_client_that_stops_reading_is_dropped(cache_root: Path) -> None:
    async with serve_rtmp(cache_root, offers_rtmpe=True, stall_s=0.0) as edge:
        edge.origin.put("film.mp4", avc_mp4([keyframe(40_000)] * 300, 40))
        async with open_encrypted_client(edge.port) as client:
            client.play("film.mp4")
            await edge.until_gone()
        (line,) = edge.lines("rtmp_disconnect")
        assert line["reason"] == "the client has stopped reading"
        assert edge.readers == 0


@pytest.mark.parametrize("scheme", list(DigestScheme))
@pytest.mark.parametrize("value", [0, 1, PRIME - 1, PRIME, 2**1024 - 1])
async def test_keys_that_are_none_are_refused_by_name(
    cache_root: Path, scheme: DigestScheme, value: int
) -> None:
    async with serve_rtmp(cache_root, offers_rtmpe=True) as edge:
        c1 = c1_with(value.to_bytes(KEY_SIZE_BYTES), scheme)
        assert await end_of(edge, C0, c1) == b""
        await until(lambda: failures_counted(edge) == 1)
        assert failures(edge) == ["RTMPE: the client's public key is no key"]


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ((C0, bytes(PACKET_SIZE_BYTES)), "RTMPE: C1 has no valid digest"),
        ((C0 + C1 + b"\0",), "RTMPE: bytes behind C1, before S1"),
        ((C0, C1, bytes(PACKET_SIZE_BYTES)), "RTMPE: C2 has a wrong signature"),
    ],
)
async def test_wrong_handshakes_are_refused_by_name(
    cache_root: Path, parts: tuple[bytes, ...], reason: str
) -> None:
    async with serve_rtmp(cache_root, offers_rtmpe=True) as edge:
        await end_of(edge, *parts)
        await until(lambda: failures_counted(edge) == 1)
        assert failures(edge) == [reason]


@pytest.mark.parametrize("version", [8, 9])
async def test_other_versions_of_rtmpe_are_refused_by_name(cache_root: Path, version: int) -> None:
    async with serve_rtmp(cache_root, offers_rtmpe=True) as edge:
        assert await end_of(edge, bytes((version,)) + C1) == b""
        await edge.until_gone()
        (line,) = edge.lines("rtmp_disconnect")
        assert f"RTMPE) of version {version} is not offered, only 6" in line["reason"]


async def test_rtmpe_is_refused_by_name_while_it_is_off(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge:
        assert await end_of(edge, C0 + C1) == b""
        await edge.until_gone()
        (line,) = edge.lines("rtmp_disconnect")
        assert "listen.rtmpe is off" in line["reason"]
        assert edge.counts.gathered(Counter.ERRORS, "rtmp_protocol") == 1


@pytest.mark.parametrize("parts", [(C0,), (C0, C1[:700]), (C0, C1)])
async def test_handshake_that_stops_is_ended(cache_root: Path, parts: tuple[bytes, ...]) -> None:
    async with serve_rtmp(cache_root, offers_rtmpe=True, handshake_s=0.0) as edge:
        while not failures_counted(edge):  # a sweep may come before the first byte
            await end_of(edge, *parts)
        assert set(failures(edge)) == {"it took too long"}


async def test_silent_connection_is_closed_without_a_line(cache_root: Path) -> None:
    async with serve_rtmp(cache_root, offers_rtmpe=True, handshake_s=0.0) as edge:
        assert await end_of(edge) == b""
        assert failures(edge) == []
        assert failures_counted(edge) == 0


async def test_handshakes_are_limited(cache_root: Path) -> None:
    async with serve_rtmp(cache_root, offers_rtmpe=True, connections_max=3) as edge:
        opened = [await asyncio.open_connection("127.0.0.1", edge.port) for _ in range(4)]
        await until(lambda: failures_counted(edge) == 1)
        assert failures(edge) == ["too many connections"]
        for _reader, writer in opened:
            writer.transport.abort()
        await until(lambda: edge.server.handshakes == 0)
        async with open_encrypted_client(edge.port):
            assert edge.server.handshakes == 0


async def test_client_that_leaves_during_the_handshake_leaves_nothing(cache_root: Path) -> None:
    """At each step; an exception would be reported by the event loop, which fails the test."""
    errors: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
    async with serve_rtmp(cache_root, offers_rtmpe=True) as edge:
        for turns in range(20):  # of the event loop, before the client leaves
            for parts in [(), (C0,), (C0, C1[:-1]), (C0, C1)]:
                _reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
                for part in parts:
                    writer.write(part)
                for _ in range(turns):
                    await asyncio.sleep(0)
                writer.transport.abort()
                await until(lambda: edge.server.handshakes == 0)
        async with open_encrypted_client(edge.port):
            assert len(edge.sessions) == 1
        await edge.until_gone()
    assert errors == []


async def test_stopping_edge_closes_handshakes_and_counts_no_error(cache_root: Path) -> None:
    async with serve_rtmp(cache_root, offers_rtmpe=True) as edge:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(C0 + C1)
        s1 = (await receive_response(reader))[1 : 1 + PACKET_SIZE_BYTES]
        await edge.server.drain(0)
        writer.write(c2_for(s1, SCHEME))
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        assert failures_counted(edge) == 0
        assert failures(edge) == []
        writer.transport.abort()


async def test_play_over_rtmpe_ends_with_a_status_when_the_edge_stops(cache_root: Path) -> None:
    async with serve_rtmp(cache_root, offers_rtmpe=True) as edge:
        edge.origin.put("film.mp4", sample_file("film.mp4"))
        async with open_encrypted_client(edge.port, buffer_ms=1000) as client:
            client.play("film.mp4")
            await client.until_named(START)
            assert edge.counts.gauges[Gauge.VIEWERS] == 1
            await edge.server.drain(0)
            await client.closed()
        (line,) = edge.lines("rtmp_disconnect")
        assert line["reason"] == "the edge is stopping"


async def test_client_with_a_small_receive_buffer_receives_the_response(cache_root: Path) -> None:
    """S0, S1 and S2 fit into the server's send buffer, whatever the client's window is."""
    async with serve_rtmp(cache_root, offers_rtmpe=True) as edge:
        connected = socket.socket()
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        connected.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connected, ("127.0.0.1", edge.port))
        reader, writer = await asyncio.open_connection(sock=connected)
        writer.write(C0 + C1)
        assert len(await receive_response(reader)) == 1 + 2 * PACKET_SIZE_BYTES
        writer.transport.abort()

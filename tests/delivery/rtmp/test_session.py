"""streamedge/delivery/rtmp/session.py and server.py, on the test's own event loop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from streamedge.delivery.rtmp import server as rtmp_server
from streamedge.delivery.rtmp.playback.player import Player
from streamedge.delivery.rtmp.playback.playlist import ITEMS_MAX
from streamedge.delivery.rtmp.protocol import amf0, messages
from streamedge.delivery.rtmp.protocol.chunks import MessageType, encode_message
from streamedge.delivery.rtmp.protocol.connection import ServerConnection
from streamedge.delivery.rtmp.session import CHUNKS_PER_S_MAX, PIECE_CHUNKS, RtmpSession
from streamedge.delivery.rtmp.session_log import LINES_BURST, LOGGED_CHARACTERS_MAX
from streamedge.ops.metrics import Counter, Gauge
from tests.support.event_loop import until
from tests.support.patience import PATIENCE_S
from tests.support.rtmp.rtmp_client import (
    AGGREGATE,
    COMMAND,
    VIDEO,
    ClosedError,
    information,
    message_name,
    open_client,
    open_raw_client,
    samples,
)
from tests.support.rtmp.rtmp_edge import serve_rtmp
from tests.support.rtmp.rtmp_media import avc_mp4, keyframe, sample_file

START = "NetStream.Play.Start"
STOP = "NetStream.Play.Stop"


def movie(count: int = 120, size_bytes: int = 40_000) -> bytes:
    return avc_mp4([keyframe(size_bytes + number) for number in range(count)], 40)


async def test_two_slow_streams_of_one_client_both_continue(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge:
        edge.origin.put("film.mp4", movie())
        edge.origin.put("other.mp4", movie(100))
        async with open_client(edge.port) as client:
            assert await client.create_stream() == 2
            client.buffer(36_000_000, stream_id=2)
            client.play("film.mp4", stream_id=1)
            client.play("other.mp4", stream_id=2)
            # The client does not read until both plays wait for the socket.
            await until(
                lambda: any(session.blocked_since_s is not None for session in edge.sessions)
            )
            for _ in range(200):
                await asyncio.sleep(0)
            received = await client.until_named("STREAM_EOF")
            received += await client.until_named("STREAM_EOF")
            assert [len(samples(received, stream_id)) for stream_id in (1, 2)] == [120, 100]


@pytest.mark.parametrize("state", ["opening", "index", "cold wait", "paused", "blocked", "queued"])
async def test_disconnected_client_leaves_no_reader_open(cache_root: Path, state: str) -> None:
    async with serve_rtmp(cache_root) as edge:
        edge.origin.put("film.mp4", movie())
        if state == "opening":
            edge.origin.hold_responses()
        elif state in ("index", "cold wait", "queued"):
            edge.origin.hold("film.mp4", at=600 if state == "index" else 300_000)
        async with open_client(edge.port, buffer_ms=1000) as client:
            client.play("film.mp4")
            if state == "queued":
                client.play("film.mp4", 0.0, -1.0, False)
            if state in ("opening", "index"):
                await edge.origin.wait_for_requests(1)
            elif state == "paused":
                await client.until_named(START)
                client.pause(True, 0)
                await client.until_named("NetStream.Pause.Notify")
            elif state == "blocked":
                client.buffer(36_000_000)
                await client.until_named(START)
            else:
                await client.until(lambda message: message.type_id == VIDEO)
            assert edge.counts.gauges[Gauge.VIEWERS] == 1
        if state == "opening":
            edge.origin.release_responses()
        elif state in ("index", "cold wait", "queued"):
            edge.origin.release("film.mp4")
        await edge.until_gone()
        assert edge.readers == 0
        assert edge.counts.gauges[Gauge.VIEWERS] == 0
        assert len(edge.lines("rtmp_disconnect")) == 1
        assert {line["reason"] for line in edge.lines("rtmp_stop")} == {"disconnected"}
        # The running fill serves the next play.
        async with open_client(edge.port) as client:
            client.play("film.mp4")
            assert len(samples(await client.until_named(STOP))) == 120


async def test_closing_a_stream_closes_its_readers(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge:
        edge.origin.put("film.mp4", sample_file("film.mp4"))
        async with open_client(edge.port, buffer_ms=1000) as client:
            for _ in range(5):
                client.play("film.mp4")
                await client.until(lambda message: message.type_id == AGGREGATE)
            client.command("closeStream", None, stream_id=1)
            await client.read_pending()
            assert edge.counts.gauges[Gauge.VIEWERS] == 0
            await until(lambda: not edge.readers)
        await edge.until_gone()


async def test_plays_on_one_stream_are_limited(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge:
        edge.origin.put("film.mp4", sample_file("film.mp4"))
        edge.origin.hold_responses()
        async with open_client(edge.port) as client:
            for _ in range(ITEMS_MAX + 5):
                client.play("film.mp4", 0.0, -1.0, False)
            received = await client.read_pending()
            assert [message_name(m) for m in received].count("NetStream.Play.Failed") == 5
            edge.origin.release_responses()
        await edge.until_gone()


@pytest.mark.parametrize("is_reset", [False, True])
async def test_play_right_behind_closed_plays_is_not_over_the_limit(
    cache_root: Path, *, is_reset: bool
) -> None:
    async with serve_rtmp(cache_root) as edge:
        edge.origin.put("film.mp4", sample_file("film.mp4"))
        edge.origin.put("film.flv", sample_file("film.flv"))
        edge.origin.hold_responses()
        async with open_client(edge.port) as client:
            for _ in range(3):  # the first play cannot end: its origin does not answer
                for _ in range(ITEMS_MAX - 2):
                    client.play("film.mp4", 0.0, -1.0, False)
                if not is_reset:
                    client.command("closeStream", None, stream_id=1)
                client.play("film.flv", 0.0, -1.0, is_reset)
            received = await client.read_pending()
            assert "NetStream.Play.Failed" not in [message_name(m) for m in received]
            assert edge.counts.gauges[Gauge.VIEWERS] == 1
            edge.origin.release_responses()
            received = await client.until_named(START)
            assert information(received[-1])["details"] == "film.flv"
        await edge.until_gone()
        # All plays but the last one were closed.
        lines = edge.lines("rtmp_stop")
        assert [line["reason"] for line in lines].count("closed") == 3 * (ITEMS_MAX - 1) - 1


async def test_concurrent_get_stream_length_calls_are_limited(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge:
        edge.origin.put("film.mp4", sample_file("film.mp4"))
        edge.origin.hold_responses()
        async with open_client(edge.port) as client:
            for number in range(6):
                client.command("getStreamLength", None, "film.mp4", transaction=100.0 + number)
            received = await client.read_pending()
            assert [message_name(message) for message in received] == [
                "NetConnection.Call.Failed"
            ] * 2
            edge.origin.release_responses()
            for _ in range(4):
                await client.until_named("_result")
        await edge.until_gone()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"handshake_s": 0.0}, "handshake and connect took too long"),
        ({"idle_s": 0.0}, "idle"),
    ],
)
async def test_slow_client_is_dropped(
    cache_root: Path, limits: dict[str, Any], reason: str
) -> None:
    async with serve_rtmp(cache_root, **limits) as edge:
        async with open_raw_client(edge.port) as client:
            if "idle_s" in limits:
                await client.connect("cfx/st", tcUrl="rtmp://a/cfx/st")
            for session in list(edge.sessions):
                session.sweep(asyncio.get_running_loop().time() + 1)
            await client.closed()
        await edge.until_gone()
        assert [line["reason"] for line in edge.lines("rtmp_disconnect")] == [reason]


async def test_client_that_stops_reading_is_dropped(cache_root: Path) -> None:
    async with serve_rtmp(cache_root, stall_s=5.0) as edge:
        edge.origin.put("film.mp4", movie(300, 60_000))
        async with open_client(edge.port) as client:
            client.play("film.mp4")
            (session,) = edge.sessions
            await until(lambda: session.blocked_since_s is not None)
            assert session.blocked_since_s is not None
            session.sweep(session.blocked_since_s + 4)
            assert session in edge.sessions
            session.sweep(session.blocked_since_s + 6)
            await edge.until_gone()
        assert edge.lines("rtmp_disconnect")[0]["reason"] == "the client has stopped reading"
        assert edge.readers == 0


async def test_playing_client_is_not_idle(cache_root: Path) -> None:
    async with serve_rtmp(cache_root, idle_s=1.0) as edge:
        edge.origin.put("film.mp4", sample_file("film.mp4"))
        async with open_client(edge.port, buffer_ms=1000) as client:
            client.play("film.mp4")
            await client.until(lambda message: message.type_id == AGGREGATE)
            (session,) = edge.sessions
            assert session.plays == 1
            session.sweep(asyncio.get_running_loop().time() + 100)
            client.pause(True, 0)
            await client.until_named("NetStream.Pause.Notify")
            session.sweep(asyncio.get_running_loop().time() + 100)
            client.pause(False, 0)
            client.buffer(36_000_000)
            await client.until_named("STREAM_EOF")
            assert session.plays == 0
            # The client has the whole film, and shows it for more than a second.
            session.sweep(asyncio.get_running_loop().time() + 1.5)
            assert session in edge.sessions
            session.sweep(asyncio.get_running_loop().time() + 100)
            await client.closed()


async def test_connections_are_limited(cache_root: Path) -> None:
    async with serve_rtmp(cache_root, connections_max=1) as edge:
        async with open_client(edge.port) as first:
            with pytest.raises((ClosedError, OSError, asyncio.IncompleteReadError)):
                async with open_raw_client(edge.port):
                    pass
            await first.read_pending()
        await edge.until_gone()


async def test_stopping_edge_waits_for_plays_to_end(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge:
        edge.origin.put("film.mp4", sample_file("film.mp4"))
        async with open_client(edge.port) as client:
            client.play("film.mp4")
            await client.until_named("STREAM_EOF")
            for session in list(edge.sessions):
                session.shut_down()
            await client.closed()
        await edge.until_gone()
        assert edge.lines("rtmp_disconnect")[0]["reason"] == "the edge is stopping"


# Internal errors


@pytest.mark.parametrize("where", ["open_medium", "seek", "sweep", "revoke"])
async def test_internal_error_ends_only_its_own_connection(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    async with serve_rtmp(cache_root) as edge:
        edge.origin.put("film.mp4", sample_file("film.mp4"))

        async def fails_later(self: RtmpSession, name: str) -> None:
            raise ZeroDivisionError(name)

        def fails(self: object, *arguments: object) -> None:
            raise ZeroDivisionError(where)

        async with open_client(edge.port) as client, open_client(edge.port) as other:
            with monkeypatch.context() as patch:
                if where == "open_medium":
                    patch.setattr(RtmpSession, "open_medium", fails_later)
                client.play("film.mp4")
                if where != "open_medium":
                    await client.until_named(START)
                    (session,) = (each for each in edge.sessions if each.plays)
                    if where == "seek":
                        patch.setattr(Player, "seek", fails)
                        client.seek(1000)
                    else:
                        session.guard(fails.__get__(session))
                received = await client.until_named("NetStream.Play.Failed")
                assert information(received[-1])["description"] == "The edge failed."
                await client.closed()
            other.play("film.mp4")
            await other.until_named(STOP)
        await edge.until_gone()
        assert "internal error" in edge.lines("rtmp_disconnect")[0]["reason"]
        (line,) = edge.lines("rtmp_fault")
        assert "ZeroDivisionError" in line["error"]
        assert "raise ZeroDivisionError" in line["trace"]
        assert line["session"] == edge.lines("rtmp_disconnect")[0]["session"]
        assert edge.counts.gathered(Counter.ERRORS, "rtmp_internal") == 1


async def test_exception_in_a_sweep_does_not_end_the_sweeps(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtmp_server, "SWEEP_INTERVAL_S", 0.01)
    async with serve_rtmp(cache_root) as edge, open_client(edge.port) as client:
        (session,) = edge.sessions
        swept = asyncio.Event()

        async with open_client(edge.port) as other:
            (second,) = edge.sessions - {session}
            monkeypatch.setattr(session, "sweep", lambda now_s: 1 / 0)
            monkeypatch.setattr(second, "sweep", lambda now_s: swept.set())
            await client.closed()
            swept.clear()
            await asyncio.wait_for(swept.wait(), PATIENCE_S)
            await other.read_pending()


# Limits of one client


def empty_messages(count: int) -> bytes:
    """Messages of one byte each, except for the first."""
    return bytes((4, 0, 0, 0, 0, 0, 0, 18, 0, 0, 0, 0)) + b"\xc4" * (count - 1)


async def test_data_parsed_in_one_loop_iteration_is_limited(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    receive_data = ServerConnection.receive_data

    def counted(self: ServerConnection, data: bytes, chunks_max: int = 0) -> list[Any]:
        before = self.chunks
        occurred = receive_data(self, data, chunks_max)
        read.append(self.chunks - before)
        assert len(occurred) <= 1
        return occurred

    monkeypatch.setattr(ServerConnection, "receive_data", counted)
    async with serve_rtmp(cache_root) as edge, open_client(edge.port) as client:
        client.send(empty_messages(5000))
        for number in range(100):
            client.command("getNothing", None, transaction=float(number + 2))
        received = await client.read_pending()
        answers = [m for m in received if m.type_id == COMMAND]
        assert [amf0.decode_all(m.payload)[1] for m in answers] == [2.0 + n for n in range(100)]
        assert max(read) <= PIECE_CHUNKS
        assert sum(read) > 5000


@pytest.mark.parametrize(
    "flood",
    [
        empty_messages(CHUNKS_PER_S_MAX + 1),
        encode_message(messages.set_chunk_size(1), 128)
        + encode_message(messages.media(1, MessageType.VIDEO, 0, bytes(CHUNKS_PER_S_MAX + 1)), 1),
        encode_message(messages.acknowledgement(0), 128) * (CHUNKS_PER_S_MAX + 1),
    ],
    ids=["empty messages", "chunks of a byte", "acknowledgements"],
)
async def test_flooding_client_is_dropped(cache_root: Path, flood: bytes) -> None:
    async with serve_rtmp(cache_root) as edge:
        async with open_client(edge.port) as client:
            for session in edge.sessions:
                session.sweep = lambda now_s: None  # type: ignore[method-assign]
            client.send(flood)
            await client.closed()
        await edge.until_gone()
        assert "chunks in a second" in edge.lines("rtmp_disconnect")[0]["reason"]
        assert edge.counts.gathered(Counter.ERRORS, "rtmp_protocol") == 1


async def test_calls_that_players_make_beside_playing_are_not_logged(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge:
        async with open_client(edge.port) as client:
            client.command("_checkbw")
            client.command("FCSubscribe", "film")
            client.command("no such command")
            await client.read_pending()
        await edge.until_gone()
        assert [line["command"] for line in edge.lines("rtmp_ignored")] == ["no such command"]


async def test_log_lines_of_one_client_are_limited(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge:
        async with open_client(edge.port) as client:
            for _ in range(LINES_BURST + 100):
                client.command("\x01" * 1500)
            await client.read_pending()
        await edge.until_gone()
        ignored = edge.lines("rtmp_ignored")
        assert LINES_BURST <= len(ignored) < LINES_BURST + 100
        assert {len(line["command"]) for line in ignored} == {LOGGED_CHARACTERS_MAX}
        suppressed = edge.lines("rtmp_disconnect")[0]["lines_left_out"]
        assert suppressed == LINES_BURST + 100 - len(ignored)


# Counters


async def test_bytes_are_counted_while_they_are_sent_and_at_the_end(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge:
        edge.origin.put("film.mp4", sample_file("film.mp4"))
        async with open_client(edge.port) as client:
            (session,) = edge.sessions
            client.play("film.mp4")
            await client.until_named("STREAM_EOF")
            session.sweep(0.0)
            sent_bytes = session.sent_bytes
            assert edge.counts.gathered(Counter.SENT_BYTES, "rtmp") == sent_bytes
            assert sent_bytes > len(sample_file("film.mp4"))
            await client.read_pending()
        await edge.until_gone()
        counted = edge.counts.gathered(Counter.SENT_BYTES, "rtmp")
        assert counted == edge.lines("rtmp_disconnect")[0]["bytes"] > sent_bytes


async def test_cold_play_after_get_stream_length_is_a_miss(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge:
        edge.origin.put("film.mp4", sample_file("film.mp4"))
        for result in ("Miss", "Hit"):
            async with open_client(edge.port) as client:
                client.command("getStreamLength", None, "film.mp4", transaction=5.0)
                await client.until_named("_result")
                for again in (result, "Hit"):
                    client.play("film.mp4")
                    await client.until_named(STOP)
                    assert edge.lines("rtmp_play")[-1]["cache"] == again
        assert edge.counts.gathered(Counter.PLAYS, "Miss") == 1
        assert edge.counts.gathered(Counter.PLAYS, "Hit") == 3

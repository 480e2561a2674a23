"""Journeys: faulty clients and files get an error or are dropped; other clients play on."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamedge.delivery.rtmp.protocol import amf0
from streamedge.delivery.rtmp.protocol.amf_values import AmfValue
from streamedge.delivery.rtmp.protocol.chunks import Message, encode_message
from streamedge.delivery.rtmp.session import CHUNKS_PER_S_MAX
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.rtmp.rtmp_client import (
    AGGREGATE,
    COMMAND,
    HANDSHAKE_BYTES,
    PING_REQUEST,
    ClosedError,
    RtmpClient,
    await_line,
    await_metrics,
    information,
    message_name,
    open_client,
    open_raw_client,
    samples,
)
from tests.support.rtmp.rtmp_media import avc_mp4, keyframe, moov_first, sample_file, tags_flv

START = "NetStream.Play.Start"
STOP = "NetStream.Play.Stop"
REFUSED = (
    "NetStream.Play.StreamNotFound",
    "NetStream.Play.FileStructureInvalid",
    "NetStream.Play.NoSupportedTrackFound",
    "NetStream.Play.Failed",
)
HELLO = b"\x03" + bytes(8) + (bytes(range(256)) * 6)[: HANDSHAKE_BYTES - 8]
CONNECT = {"app": "vod", "tcUrl": "rtmp://127.0.0.1/vod"}


def _lying_tables() -> bytes:
    data = bytearray(avc_mp4([keyframe()] * 4, 40))
    at = data.index(b"stco") + 12
    data[at : at + 4] = (1 << 30).to_bytes(4)
    return bytes(data)


def _unfinished_recording() -> bytes:
    """A fragmented MP4 without fragments."""
    data = sample_file("fragmented")
    return data[: data.index(b"moof") - 4]


MEDIA: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.mp4": (lambda: b"", REFUSED[1]),
    "text.mp4": (lambda: b"This is no film at all.\n" * 100, REFUSED[1]),
    "no-moov.mp4": (lambda: moov_first(lambda _: b"", bytes(100_000)), REFUSED[1]),
    "cut-moov.mp4": (lambda: sample_file("film.mp4")[:5_000], REFUSED[1]),
    "lying.mp4": (_lying_tables, REFUSED[1]),
    "large-moov.mp4": (lambda: avc_mp4([b"\0\0\0\x01e"] * 80_000, 40), REFUSED[1]),
    "mjpeg.mov": (lambda: sample_file("unsupported"), REFUSED[2]),
    "no-fragments.mp4": (_unfinished_recording, REFUSED[2]),
    "head-only.flv": (lambda: sample_file("film.flv")[:13], REFUSED[2]),
    "no-frames.mp3": (lambda: b"ID3\4\0\0\0\0\0\0" + b"\xff\xfb" + bytes(300_000), REFUSED[1]),
    "text.flv": (lambda: b"FLV\x01\x05\0\0\0\x09\0\0\0\0" + b"x" * 1000, REFUSED[2]),
}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    folder = tmp_path_factory.mktemp("faults")
    films = folder / "films"
    films.mkdir()
    for name, (make, _) in MEDIA.items():
        (films / name).write_bytes(make())
    for name in ("film.mp4", "film.flv"):
        (films / name).write_bytes(sample_file(name))
    for name in ("cut.flv", "cut.mp4"):
        (films / name).write_bytes(sample_file(f"film{name[3:]}")[:600_000])
    damaged = bytearray(tags_flv(20))
    damaged[len(damaged) // 2 : len(damaged) // 2 + 10_000] = bytes(10_000)
    (films / "damaged.flv").write_bytes(damaged)
    (films / "large.mp4").write_bytes(avc_mp4([keyframe(400_000)] * 300, 40))
    origins = f'[origins.main]\ntype = "directory"\npath = "{films}"\n'
    limits = (
        'rtmp_stall = "1s"\nrtmp_handshake = "1s"\nrtmp_idle = "2s"\nrtmp_message = "4KiB"\n'
        'moov = "256KiB"\nrtmp_streams = 2\nrtmp_ahead = "2s"\n'
    )
    with run_edge(folder / "edge", origins, limits=limits) as running:
        yield running


# Media


@pytest.mark.parametrize("name", MEDIA)
async def test_unplayable_media_maps_to_its_status_code(edge: EdgeProcess, name: str) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.play(name)
        messages = await client.until_named(*REFUSED, START)
        assert [message_name(message) for message in messages] == [MEDIA[name][1]]
        status = information(messages[-1])
        assert (status["level"], status["details"]) == ("error", name)
        assert status["description"]


async def test_truncated_flv_plays_to_its_end(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.play("film.flv", 9_000.0)
        await client.until_named(START)
        client.play("cut.flv", 9_000.0)
        received = samples(await client.until_named(STOP, *REFUSED))
        assert message_name(client.messages[-1]) == STOP
        assert received[-1].time_ms > 100


async def test_truncated_mp4_plays_the_samples_that_it_has(edge: EdgeProcess) -> None:
    # As FFmpeg plays it: about half of the samples are past the end of the file.
    async with open_client(edge.rtmp_port) as client:
        client.play("cut.mp4", 8_000.0)
        received = samples(await client.until_named(STOP, *REFUSED))
        assert message_name(client.messages[-1]) == STOP
        assert 9_000 < received[-1].time_ms - received[0].time_ms + 8_000 < 11_000  # of 20 s
    (line,) = await asyncio.to_thread(edge.await_log, "media_damaged", 1)
    assert line["name"] == "cut.mp4"
    assert all("past the file's end" in fault for fault in line["faults"])


async def test_damaged_flv_continues_after_the_damage(edge: EdgeProcess) -> None:
    # As FFmpeg plays it: 10 kB of zeros at 10 s hide only the tags that they overwrite.
    async with open_client(edge.rtmp_port) as client:
        client.play("damaged.flv", 8_000.0, 4_000.0)
        received = samples(await client.until_named(STOP, *REFUSED))
        assert message_name(client.messages[-1]) == STOP
        assert received[-1].time_ms - received[0].time_ms == 3_960
        assert 180 < len(received) < 200  # 25 of video and of audio each second


# Clients


def _garbage() -> bytes:
    return HELLO + HELLO[1:] + bytes(range(256)) * 64


def _connect(**more: AmfValue) -> bytes:
    payload = amf0.encode("connect", 1.0, {**CONNECT, **more})
    return encode_message(Message(COMMAND, 0, 0, payload, 3), 128)


def _after_handshake(data: bytes) -> bytes:
    return HELLO + HELLO[1:] + data


def _chunk_size(size: int) -> bytes:
    return b"\x02\0\0\0\0\0\x04\x01\0\0\0\0" + struct.pack(">I", size)


def _no_command() -> bytes:
    return encode_message(Message(COMMAND, 0, 0, b"\xff\xff", 3), 128)


def _nested() -> bytes:
    payload = amf0.encode("connect", 1.0) + b"\x03\0\x01a" * 200 + b"\x05" + b"\0\0\x09" * 200
    return encode_message(Message(COMMAND, 0, 0, payload, 3), 128)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x06" + HELLO[1:], "protocol error"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "protocol error"),
        (HELLO[:700], "handshake and connect took too long"),
        (b"", "handshake and connect took too long"),
        (HELLO + HELLO[1:], "handshake and connect took too long"),
        (_garbage(), "protocol error"),
        (_after_handshake(_chunk_size(0)), "protocol error"),
        (_after_handshake(_chunk_size(1 << 31)), "protocol error"),
        (_after_handshake(b"\x03\0\0\0\x01\0\0\x14\0\0\0\0"), "protocol error"),
        # A message that cannot be parsed is ignored, and the connection continues.
        (_after_handshake(_nested()), "InvalidInstance"),
        (_after_handshake(_connect() + _no_command()), "idle"),
        (_after_handshake(_connect(app="nowhere")), "InvalidInstance"),
    ],
    ids=[
        "RTMPE", "HTTP", "half a handshake", "silence", "no connect", "garbage",
        "chunk size 0", "chunk size 2^31", "large message", "nesting", "no command", "application",
    ],
)  # fmt: skip
async def test_protocol_error_ends_the_connection(
    edge: EdgeProcess, data: bytes, reason: str
) -> None:
    async with open_client(edge.rtmp_port) as other:
        other.play("film.mp4")
        await other.until(lambda message: message.type_id == AGGREGATE)
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.rtmp_port)
        client = RtmpClient(reader, writer)
        client.send(data)
        async with asyncio.timeout(PATIENCE_S):
            await _drain(reader)
        writer.transport.abort()
        line = await asyncio.to_thread(await_line, edge, "rtmp_disconnect", client)
        assert reason in line["reason"]
        about = [line for line in edge.log() if line.get("client") == client.address]
        assert [line["event"] for line in about] in (
            ["rtmp_disconnect"],
            ["rtmp_connect", "rtmp_disconnect"],
        )
        other.pause(True, 0)
        await other.until_named("NetStream.Pause.Notify")  # other connections are still served


async def _drain(reader: asyncio.StreamReader) -> None:
    """Reads until the server closes."""
    try:
        while await reader.read(1 << 16):
            pass
    except ConnectionResetError:
        return


async def test_client_that_stops_reading_is_disconnected(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.play("large.mp4")  # 10 MB a second: more than socket buffers hold
        line = await asyncio.to_thread(await_line, edge, "rtmp_disconnect", client)
        assert line["reason"] == "the client has stopped reading"
        assert line["bytes"] > 100_000
        stop = await asyncio.to_thread(await_line, edge, "rtmp_stop", client)
        assert stop["reason"] == "disconnected"


async def test_client_that_does_not_read_its_responses_is_disconnected(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port, "vod") as client:
        call = encode_message(
            Message(COMMAND, 0, 0, amf0.encode("getTea" + "x" * 100, 9.0, None), 3), 128
        )
        for _ in range(2_000):
            client.send(call * 40)
            await asyncio.sleep(0)
            if client.lost:
                break
        line = await asyncio.to_thread(await_line, edge, "rtmp_disconnect", client)
        assert line["reason"] in (
            "the client does not read its responses",
            "the client has stopped reading",
            f"protocol error: more than {CHUNKS_PER_S_MAX} chunks in a second",
        )


async def test_many_pings_are_all_answered(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        for number in range(20_000):
            client.control(PING_REQUEST, 1000 + number)
        await client.read_pending()
        answers = [m for m in client.messages if message_name(m) == "PING_RESPONSE"]
        assert len(answers) == 20_002


async def test_rtmp_ahead_limits_a_large_client_buffer(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.play("film.mp4")
        messages = await client.until(lambda message: message.type_id == AGGREGATE)
        messages += await client.read_pending()
        assert 1_000 <= samples(messages)[-1].time_ms <= 6_000  # of 20 s


async def test_idle_client_is_disconnected(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        await client.closed()
        line = await asyncio.to_thread(await_line, edge, "rtmp_disconnect", client)
        assert line["reason"] == "idle"


async def test_commands_before_connect_are_refused(edge: EdgeProcess) -> None:
    async with open_raw_client(edge.rtmp_port) as client:
        client.play("film.mp4")
        messages = await client.until_named("NetStream.Play.Failed")
        assert len(messages) == 1
        with pytest.raises(KeyError, match=r"NetConnection\.Call\.Failed"):
            await client.call("createStream")
        await client.connect("vod")
        client.command("connect", {"app": "vod"}, transaction=7.0)
        await client.until_named("NetConnection.Call.Failed")
        assert await client.create_stream() == 1
        assert await client.create_stream() == 2
        with pytest.raises(KeyError, match=r"NetConnection\.Call\.Failed"):
            await client.create_stream()  # the limit


async def test_queue_of_plays_is_limited(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        for _ in range(200):
            client.play("film.mp4", 0.0, -1.0, False)
        await client.until_named("NetStream.Play.Failed")
        client.command("closeStream", None, stream_id=1)
        await client.read_pending()
        client.play("film.flv")
        messages = await client.until_named(START)
        assert information(messages[-1])["details"] == "film.flv"


async def test_connections_over_the_limit_are_closed(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(sample_file("film.mp4"))
    origins = f'[origins.main]\ntype = "directory"\npath = "{tmp_path}"\n'
    with run_edge(tmp_path / "edge", origins, limits="rtmp_connections = 2") as edge:
        async with open_client(edge.rtmp_port), open_client(edge.rtmp_port) as second:
            with pytest.raises((ClosedError, ConnectionError, asyncio.IncompleteReadError)):
                async with open_client(edge.rtmp_port):
                    pass
            second.play("film.mp4")
            await second.until_named(START)
        lines = await asyncio.to_thread(edge.await_log, "rtmp_disconnect", 3)
        assert [line["reason"] for line in lines].count("too many connections") == 1


# Log and metrics


async def test_each_rtmp_event_is_logged(edge: EdgeProcess) -> None:
    page = "https://example.org/"
    async with open_client(
        edge.rtmp_port, buffer_ms=1000, flashVer="TEST 1,0", pageUrl=page
    ) as client:
        client.play("film.mp4", 1000.0)
        await client.until(lambda message: message.type_id == AGGREGATE)
        client.seek(5_000)
        await client.until_named("NetStream.Seek.Notify")
        client.pause(True, 5_100)
        await client.until_named("NetStream.Pause.Notify")
        client.pause(False, 5_100)
        await client.until_named("NetStream.Unpause.Notify")
        client.command("closeStream", None, stream_id=1)
        await client.read_pending()
    await asyncio.to_thread(await_line, edge, "rtmp_disconnect", client)
    lines = [line for line in edge.log() if line.get("client") == client.address]
    assert [line["event"] for line in lines] == [
        f"rtmp_{event}"
        for event in ("connect", "play", "seek", "pause", "unpause", "stop", "disconnect")
    ]
    connect, play, seek, pause, unpause, stop, disconnect = lines
    assert {line["session"] for line in lines} == {connect["session"]}
    assert {line["distribution"] for line in lines} == {"ESTREAM"}
    assert (connect["application"], connect["agent"]) == ("cfx/st", "TEST 1,0")
    assert connect["page"] == page
    assert (play["stream"], play["object"], play["start_ms"]) == ("film.mp4", "film.mp4", 1000)
    assert play["cache"] in ("Hit", "Miss")
    assert (seek["to_ms"], pause["at_ms"], unpause["at_ms"]) == (5_000, 5_100, 5_100)
    assert seek["at_ms"] <= 5_000
    assert stop["reason"] == "closed"
    assert 0 < stop["bytes"] < disconnect["bytes"]
    assert disconnect["seconds"] >= 0


async def test_cache_results_and_viewers_are_counted(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(sample_file("film.mp4"))
    origins = f'[origins.main]\ntype = "directory"\npath = "{tmp_path}"\n'
    with run_edge(tmp_path / "edge", origins) as edge:
        for result in ("Miss", "Hit"):
            async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
                client.play("film.mp4")
                await client.until_named(START)
                line = await asyncio.to_thread(await_line, edge, "rtmp_play", client)
                assert line["cache"] == result
                await asyncio.to_thread(await_metrics, edge, {"streamedge_viewers": 1.0})
        await asyncio.to_thread(
            await_metrics,
            edge,
            {
                "streamedge_viewers": 0.0,
                "streamedge_rtmp_connections": 0.0,
                'streamedge_plays_total{cache="Miss"}': 1.0,
                'streamedge_plays_total{cache="Hit"}': 1.0,
            },
        )

"""Journeys: values that are no media. Captions of a film, AMF3, shared objects, subscriptions."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pyamf
import pytest

from streamedge.delivery.rtmp.protocol import amf0
from streamedge.delivery.rtmp.protocol.amf_values import AmfValue, EcmaArray
from streamedge.delivery.rtmp.protocol.chunks import Message, encode_message
from streamedge.media.flv import tags as flv
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.rtmp.rtmp_client import (
    AGGREGATE,
    DATA,
    RtmpClient,
    information,
    message_name,
    open_client,
    open_raw_client,
    samples,
)
from tests.support.rtmp.rtmp_media import sample_file
from tests.support.rtmp.rtmp_players import FFMPEG_5, FFMPEG_9, ffmpeg, packets, run

STOP = "NetStream.Play.Stop"
SHARED_OBJECT, COMMAND_AMF3 = 19, 17
HEADER_BYTES, TAG_HEADER_BYTES, PREVIOUS_BYTES = 13, 11, 4
CAPTIONS: list[tuple[int, str, dict[str, AmfValue]]] = [
    (400, "onTextData", {"text": "Guten Tag", "language": "deu", "trackid": 1.0}),
    (1200, "onCuePoint", {"name": "chapter", "time": 1.2, "type": "event", "parameters": {}}),
    (2000, "onTextData", {"text": "Auf Wiedersehen", "language": "deu", "trackid": 1.0}),
]


def tags_of(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The types, times and bodies of consecutive FLV tags."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at + 1 : at + 4])
        time_ms = int.from_bytes(data[at + 4 : at + 7]) | data[at + 7] << 24
        body = at + TAG_HEADER_BYTES
        yield data[at], time_ms, data[body : body + size]
        at = body + size + PREVIOUS_BYTES


def captioned(film: bytes) -> bytes:
    """An FLV with CAPTIONS between its tags."""
    captions = [(time, amf0.encode(name, EcmaArray(values))) for time, name, values in CAPTIONS]
    parts = [film[:HEADER_BYTES]]
    for kind, time_ms, body in tags_of(film[HEADER_BYTES:]):
        while captions and captions[0][0] <= time_ms:
            at_ms, caption = captions.pop(0)
            parts.append(flv.tag(DATA, caption, at_ms))
        parts.append(flv.tag(kind, body, time_ms))
    assert not captions
    return b"".join(parts)


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    folder = tmp_path_factory.mktemp("data")
    films = folder / "films"
    films.mkdir()
    (films / "film.flv").write_bytes(sample_file("film.flv"))
    (films / "captioned.flv").write_bytes(captioned(sample_file("film.flv")))
    origins = f'[origins.main]\ntype = "directory"\npath = "{films}"\n'
    with run_edge(folder / "edge", origins, limits='rtmp_ahead = "24h"') as running:
        yield running


# Captions


def captions_in(messages: list[Message]) -> list[tuple[int, str, AmfValue]]:
    """The data messages with a name of CAPTIONS, also those inside of aggregates."""
    data: list[tuple[int, bytes]] = []
    for message in messages:
        if message.type_id == DATA:
            data.append((message.timestamp_ms, message.payload))
        elif message.type_id == AGGREGATE:
            tags = list(tags_of(message.payload))
            offset_ms = message.timestamp_ms - tags[0][1]
            data += [(time + offset_ms, body) for kind, time, body in tags if kind == DATA]
    names = {name for _, name, _ in CAPTIONS}
    values = [(time_ms, amf0.decode_all(body)) for time_ms, body in data]
    return [(time, str(name), rest[0]) for time, (name, *rest) in values if name in names]


@pytest.mark.parametrize("flash_version", ["WIN 32,0,0,465", "other"])
async def test_captions_come_at_their_times(edge: EdgeProcess, flash_version: str) -> None:
    """In aggregates, and as messages of their own for clients that know no aggregates."""
    async with open_client(edge.rtmp_port, flashVer=flash_version) as client:
        client.play("captioned.flv")
        received = await client.until_named(STOP)
        has_aggregates = AGGREGATE in {message.type_id for message in received}
        assert has_aggregates == (flash_version != "other")
        assert captions_in(received) == CAPTIONS
        with_captions = samples(received)
        # Neither audio nor video: captions stay.
        client.command("receiveVideo", None, False, stream_id=1)
        client.command("receiveAudio", None, False, stream_id=1)
        client.play("captioned.flv")
        assert captions_in(await client.until_named(STOP)) == CAPTIONS
    async with open_client(edge.rtmp_port) as client:
        client.play("film.flv")
        assert samples(await client.until_named(STOP)) == with_captions


async def test_ffmpeg_shows_the_captions(edge: EdgeProcess) -> None:
    result = await run(
        FFMPEG_9, "-v", "error", "-rtmp_buffer", "36000000", "-i", edge.rtmp("captioned.flv"),
        "-map", "0:s:0", "-f", "srt", "-",
    )  # fmt: skip
    texts = [str(values["text"]) for _, name, values in CAPTIONS if name == "onTextData"]
    assert [line for line in result.output.decode().splitlines() if line in texts] == texts


@pytest.mark.parametrize("exe", [FFMPEG_5, FFMPEG_9])
async def test_captions_change_no_frame(edge: EdgeProcess, exe: str) -> None:
    plain = await ffmpeg(edge.rtmp("film.flv"), exe=exe)
    with_captions = await ffmpeg(edge.rtmp("captioned.flv"), exe=exe)
    assert packets(with_captions.output) == packets(plain.output)


# AMF3


async def test_client_of_amf3_plays(edge: EdgeProcess) -> None:
    """Each command is a message of type 17, with its objects in AMF3, written by Py3AMF."""

    def send(client: RtmpClient, name: str, transaction: float, *values: object) -> None:
        stream_id = 1 if name == "play" else 0
        payload = b"\0" + amf0.encode(name, transaction)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            for value in values:
                payload += b"\x11" + pyamf.encode(value, encoding=pyamf.AMF3).read()
        client.send(encode_message(Message(COMMAND_AMF3, stream_id, 0, payload, 3), 128))

    async with open_raw_client(edge.rtmp_port) as client:
        url = f"rtmp://127.0.0.1:{edge.rtmp_port}/cfx/st"
        connect = {"app": "cfx/st", "tcUrl": url, "objectEncoding": 3, "flashVer": "WIN 32,0,0,465"}
        send(client, "connect", 1.0, connect)
        [*_, message] = await client.until_named("NetConnection.Connect.Success")
        assert information(message)["objectEncoding"] == 0.0
        send(client, "createStream", 2.0, None)
        await client.until_named("_result")
        client.buffer(36_000_000)
        send(client, "play", 0.0, None, "film.flv", 0, -1, True)
        received = samples(await client.until_named(STOP))
    async with open_client(edge.rtmp_port) as client:
        client.play("film.flv", 0.0)
        assert samples(await client.until_named(STOP)) == received


async def test_reference_bomb_gets_an_error_and_the_connection_goes_on(edge: EdgeProcess) -> None:
    # Each of thirty arrays holds the one before it twice.
    items = b"".join(b"\x09\x05\x01" + bytes((9, (n - 1) << 1)) * 2 for n in range(2, 31))
    bomb = b"\x11\x09\x3d\x01\x09\x05\x01\x01\x01" + items
    payload = b"\0" + amf0.encode("play", 0.0, None) + bomb
    async with open_client(edge.rtmp_port) as client:
        client.send(encode_message(Message(COMMAND_AMF3, 1, 0, payload, 3), 128))
        (refusal,) = await client.read_pending()
        assert information(refusal)["code"] == "NetStream.Play.Failed"
        client.play("film.flv")
        await client.until_named(STOP)


# Shared objects and subscriptions


async def test_shared_object_is_refused_and_the_connection_goes_on(edge: EdgeProcess) -> None:
    use = b"\0\x04chat" + bytes(12) + b"\x01" + bytes(4)
    async with open_client(edge.rtmp_port) as client:
        client.send(encode_message(Message(SHARED_OBJECT, 0, 0, use, 3), 128))
        (refusal,) = await client.read_pending()
        assert refusal.type_id == SHARED_OBJECT
        assert refusal.payload.startswith(b"\0\x04chat")
        assert refusal.payload.endswith(b"SharedObject.NoReadAccess\0\x05error")
        client.play("film.flv")
        await client.until_named(STOP)


async def test_subscription_gets_its_calls(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        for name, code in (("FCSubscribe", "Start"), ("FCUnsubscribe", "Stop")):
            client.command(name, None, "film", transaction=9.0)
            call, result = await client.read_pending()
            assert amf0.decode_all(call.payload)[0] == f"on{name}"
            assert information(call)["code"] == f"NetStream.Play.{code}"
            assert message_name(result) == "_result"

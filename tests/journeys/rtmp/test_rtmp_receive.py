"""Journeys: receiveAudio and receiveVideo leave out messages, and let media begin again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streamedge.delivery.rtmp.protocol.chunks import Message
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.rtmp.rtmp_client import (
    AGGREGATE,
    AUDIO,
    MEDIA,
    VIDEO,
    RtmpClient,
    frames,
    information,
    message_name,
    open_client,
    samples,
)
from tests.support.rtmp.rtmp_media import sample_file, tags_flv

START, STOP = "NetStream.Play.Start", "NetStream.Play.Stop"
SEEK = "NetStream.Seek.Notify"
OTHER = {AUDIO: VIDEO, VIDEO: AUDIO}
COMMANDS = {AUDIO: "receiveAudio", VIDEO: "receiveVideo"}
NAMES = ["film.mp4", "film.flv"]


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    folder = tmp_path_factory.mktemp("receive")
    films = folder / "films"
    films.mkdir()
    for name in (*NAMES, "song.mp3"):
        (films / name).write_bytes(sample_file(name))
    (films / "minutes.flv").write_bytes(tags_flv(600, frame_bytes=50))
    origins = f'[origins.main]\ntype = "directory"\npath = "{films}"\n'
    with run_edge(folder / "edge", origins, limits='rtmp_ahead = "24h"') as running:
        yield running


def receive(client: RtmpClient, kind: int, flag: bool | float, stream_id: int = 1) -> None:
    client.command(COMMANDS[kind], None, flag, stream_id=stream_id)


async def until_media(client: RtmpClient, time_ms: int) -> list[Message]:
    return await client.until(lambda m: m.type_id in MEDIA and m.timestamp_ms >= time_ms)


def media_names(messages: list[Message]) -> set[str]:
    return {message_name(message) for message in messages if message.type_id in MEDIA}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [AUDIO, VIDEO])
async def test_play_without_one_kind_has_every_message_of_the_other(
    edge: EdgeProcess, name: str, kind: int
) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.play(name)
        whole = frames(await client.until_named(STOP))
        receive(client, kind, False)
        client.play(name)
        received = await client.until_named(STOP)
    # Codec headers, too: none of the kind, and all of the other.
    assert frames(received) == [frame for frame in whole if frame.kind == OTHER[kind]]
    assert {"onMetaData", "NetStream.Play.Complete"} <= {message_name(m) for m in received}


async def test_play_without_both_kinds_has_no_media(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        receive(client, AUDIO, False)
        receive(client, VIDEO, False)
        client.play("film.mp4")
        received = await client.until_named(STOP)
        assert media_names(received) == set()
        # On again for both before the next play: whole runs.
        receive(client, AUDIO, True)
        receive(client, VIDEO, True)
        client.play("film.mp4")
        received = await client.until_named(STOP)
        assert AGGREGATE in {message.type_id for message in received}


@pytest.mark.parametrize("kind", [AUDIO, VIDEO])
async def test_kind_that_is_received_again_begins_at_a_keyframe(
    edge: EdgeProcess, kind: int
) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        client.play("minutes.flv")
        await until_media(client, 1)
        receive(client, kind, False)
        await client.read_pending()
        left = await until_media(client, 2600)
        assert {frame.kind for frame in samples(left)} == {OTHER[kind]}
        receive(client, kind, True)
        between = await client.until_named(SEEK)
        assert {frame.kind for frame in samples(between)} <= {OTHER[kind]}
        begin_ms = int(information(between[-1])["description"].split()[1])
        received = await until_media(client, begin_ms + 1500)
    names = [message_name(message) for message in received]
    assert names[0] == START
    assert "onMetaData" in names
    (header,) = [frame for frame in frames(received) if frame.is_header]
    pictures = [frame for frame in samples(received) if frame.kind == VIDEO]
    assert header.time_ms == pictures[0].time_ms
    assert pictures[0].is_keyframe
    assert pictures[0].time_ms <= begin_ms < pictures[0].time_ms + 2000
    sounds = [frame for frame in samples(received) if frame.kind == AUDIO]
    # Nothing is missing from there on, and whole runs are sent once more.
    assert [frame.time_ms for frame in pictures[:20]] == [frame.time_ms for frame in sounds[:20]]
    assert AGGREGATE in {message.type_id for message in received}


async def test_received_again_after_a_start_at_a_time_has_times_of_the_file(
    edge: EdgeProcess,
) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        receive(client, VIDEO, False)
        client.play("minutes.flv", 60_000.0)
        await until_media(client, 500)
        receive(client, VIDEO, True)
        await client.until_named(SEEK)
        received = await client.until(lambda m: m.type_id == VIDEO and m.payload[1] == 1)
        assert 60_000 <= received[-1].timestamp_ms < 70_000


async def test_left_out_kind_stays_so_over_plays_but_not_over_streams(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        receive(client, VIDEO, False)
        client.command("closeStream", None, stream_id=1)
        client.play("film.mp4")
        assert media_names(await client.until_named(STOP)) == {"audio"}
        assert await client.create_stream() == 2
        client.buffer(36_000_000, stream_id=2)
        client.play("film.mp4", stream_id=2)
        received = await client.until_named(STOP)
        assert {frame.kind for frame in frames(received, 2)} == {AUDIO, VIDEO}
        client.command("deleteStream", None, 1.0)
        assert await client.create_stream() == 1
        client.buffer(36_000_000)
        client.play("film.mp4")
        received = await client.until_named(STOP)
        assert {frame.kind for frame in frames(received)} == {AUDIO, VIDEO}


async def test_paused_stream_shows_a_frame_when_video_is_received_again(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        receive(client, VIDEO, False)
        client.play("minutes.flv")
        await until_media(client, 500)
        client.pause(True, 500)
        await client.until_named("NetStream.Pause.Notify")
        receive(client, VIDEO, True)
        await client.until_named(SEEK)
        received = await client.until(lambda m: m.type_id == VIDEO and m.payload[1] == 1)
        assert [frame.is_keyframe for frame in samples(received)] == [True]


async def test_film_without_the_kind_plays(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        receive(client, VIDEO, False)
        client.play("mp3:song")
        assert media_names(await client.until_named(STOP)) == {"audio"}
        receive(client, AUDIO, 0.0)  # a number
        client.play("mp3:song")
        assert media_names(await client.until_named(STOP)) == set()


@pytest.mark.parametrize("command", ["receiveAudio", "receiveVideo"])
async def test_receive_of_no_flag_or_no_stream_is_refused(edge: EdgeProcess, command: str) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.command(command, None, "yes", stream_id=1)
        (refusal,) = await client.read_pending()
        assert information(refusal)["code"] == "NetStream.Failed"
        client.command(command, None, False, stream_id=7)
        (refusal,) = await client.read_pending()
        assert information(refusal)["code"] == "NetStream.Failed"

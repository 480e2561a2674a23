"""Journeys: the messages of play, seek, pause and other commands, and their timestamps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from streamedge.delivery.rtmp.protocol.chunks import Message
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.rtmp.rtmp_client import (
    AGGREGATE,
    AUDIO,
    COMMAND,
    DATA,
    MEDIA,
    VIDEO,
    Frame,
    RtmpClient,
    await_line,
    frames,
    information,
    message_name,
    open_client,
    samples,
)
from tests.support.rtmp.rtmp_media import expected, sample_file, tags_flv

FILMS = ["film.mp4", "film-moov-last.mp4", "film.flv", "film-keyframes.flv"]
STOP = "NetStream.Play.Stop"
START = "NetStream.Play.Start"
FFMPEG = "LNX 9,0,124,2"


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    folder = tmp_path_factory.mktemp("control")
    films = folder / "films"
    (films / "dir").mkdir(parents=True)
    for name in (*FILMS, "song.mp3", "song.m4a"):
        (films / name).write_bytes(sample_file(name))
    (films / "dir" / "film.mp4").write_bytes(sample_file("film.mp4"))
    (films / "dir" / "film.flv").write_bytes(sample_file("film.flv"))
    (films / "dir" / "song.mp3").write_bytes(sample_file("song.mp3"))
    (films / "minutes.flv").write_bytes(tags_flv(600, frame_bytes=50))
    origins = f'[origins.main]\ntype = "directory"\npath = "{films}"\n'
    with run_edge(folder / "edge", origins) as running:
        yield running


def names(messages: list[Message]) -> list[str]:
    """The names of messages, without media."""
    return [message_name(message) for message in messages if message.type_id not in MEDIA]


def media_of(messages: list[Message], stream_id: int = 1) -> list[tuple[int, int, bytes]]:
    return [(frame.kind, frame.time_ms, frame.body) for frame in samples(messages, stream_id)]


async def whole(client: RtmpClient, name: str) -> list[Frame]:
    """Plays a title from its beginning; returns all frames."""
    client.play(name, -2000.0)
    await client.until_named(START)
    return samples(await client.until_named("STREAM_EOF"))


# Message order


@pytest.mark.parametrize("name", FILMS)
async def test_messages_of_a_play_come_in_order(edge: EdgeProcess, name: str) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.play(name, 0.0)
        messages = await client.until_named("STREAM_EOF")
    assert names(messages) == [
        "STREAM_IS_RECORDED",
        "STREAM_BEGIN",
        "NetStream.Play.Reset",
        START,
        "|RtmpSampleAccess",
        "NetStream.Data.Start",
        "onMetaData",
        "NetStream.Play.Complete",
        STOP,
        "STREAM_EOF",
    ]
    kinds = [message_name(message) for message in messages]
    media = [at for at, message in enumerate(messages) if message.type_id in MEDIA]
    # Codec headers follow the metadata directly; all media precede the messages of the end.
    assert media[0] == kinds.index("onMetaData") + 1
    assert [frame.is_header for frame in frames(messages)][:2] == [True, True]
    assert media[-1] == kinds.index("NetStream.Play.Complete") - 1
    assert frames(messages)[2].is_keyframe or frames(messages)[2].kind == AUDIO
    assert {message.stream_id for message in messages if message.type_id != 4} == {1}
    # Play.Complete is a data message, the statuses are commands.
    assert {message_name(m): m.type_id for m in messages}["NetStream.Play.Complete"] == 18
    assert {message_name(m): m.type_id for m in messages}[STOP] == COMMAND


async def test_play_starts_with_single_messages_then_aggregates(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.play("film.mp4")
        messages = await client.until_named(STOP)
    media = [message for message in messages if message.type_id in MEDIA]
    first_video = next(at for at, m in enumerate(media) if frames([m])[0].is_keyframe)
    assert all(message.type_id != AGGREGATE for message in media[: first_video + 1])
    # After a sub-tag with timestamp 0 FFmpeg loses a time step.
    assert all(message.timestamp_ms > 0 for message in media if message.type_id == AGGREGATE)
    assert sum(message.type_id == AGGREGATE for message in media) >= 5


async def test_stream_ids_start_at_1_and_are_reused(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        assert await client.create_stream() == 2
        client.command("deleteStream", None, 1.0)
        assert await client.create_stream() == 1


@pytest.mark.parametrize(
    ("name", "expected_metadata"),
    [
        ("film.mp4", {"duration": 20.0, "videocodecid": 7.0, "audiocodecid": 10.0, "width": 640.0}),
        ("film.flv", {"duration": 20.023, "videocodecid": 7.0, "audiocodecid": 10.0}),
        ("song.mp3", {"duration": 30.0, "audiocodecid": 2.0}),
        ("song.m4a", {"duration": 30.0, "audiocodecid": 10.0}),
    ],
)
async def test_metadata_is_an_ecma_array_with_duration_and_codecs(
    edge: EdgeProcess, name: str, expected_metadata: dict[str, float]
) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.play(name)
        message = (await client.until_named("onMetaData"))[-1]
    assert message.payload.startswith(b"\x02\0\x0aonMetaData\x08")
    messages: dict[str, Any] = information(message)
    assert messages.pop("duration") == pytest.approx(expected_metadata.pop("duration"), abs=0.05)
    assert {name: messages[name] for name in expected_metadata} == expected_metadata


async def test_play_complete_has_duration_and_bytes(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.play("film.mp4")
        messages = await client.until_named("NetStream.Play.Complete")
    expected_metadata = information(messages[-1])
    assert expected_metadata["duration"] == pytest.approx(20.0, abs=0.05)
    assert expected_metadata["bytes"] >= sum(len(m.payload) for m in messages if m.type_id in MEDIA)


async def test_ffmpeg_receives_no_message_that_it_makes_a_track_of(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port, flashVer=FFMPEG) as client:
        client.play("film.mp4")
        await client.until_named(STOP)
        client.seek(10_000)
        await client.until_named("NetStream.Seek.Notify")
        await client.until_named(STOP)
    data = [message for message in client.messages if message.type_id == DATA]
    assert set(names(data)) == {"|RtmpSampleAccess", "onMetaData"}
    assert {message.timestamp_ms for message in data} == {0}


async def test_get_stream_length_returns_seconds(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        for name, length_s in (("film.mp4", 20.0), ("mp3:song", 30.0), ("film", 20.02)):
            assert await client.call("getStreamLength", name) == pytest.approx(length_s, abs=0.05)
        with pytest.raises(KeyError, match=r"NetStream\.Play\.StreamNotFound"):
            await client.call("getStreamLength", "nothing")


# Names


@pytest.mark.parametrize(
    ("app", "name"),
    [
        ("cfx/st", "mp4:dir/film.mp4"),
        ("cfx/st", "mp4:dir/film"),
        ("cfx/st", "MP4:dir/film"),
        ("cfx/st", "dir/film.mp4"),
        ("cfx/st", "/dir/film.mp4"),
        ("cfx/st", "dir%2Ffilm.mp4"),
        ("cfx/st", "mp4:dir/film.mp4?Expires=1&Signature=a~b&Key-Pair-Id=c"),
        ("cfx/st", "mp4:dir/film%3FExpires%3D1%26Signature%3Da"),
        ("vod", "mp4:dir/film"),
        ("vod/", "mp4:dir/film"),
        ("vod/_definst_", "mp4:dir/film"),
        ("vod/dir", "film.mp4"),
        ("vod/dir", "mp4:film"),
        ("vod/_definst_/dir", "mp4:film"),
        ("cfx/st/dir/", "mp4:film"),
        ("cfx/st?token=1", "mp4:dir/film"),
    ],
)
async def test_mp4_plays_by_each_form_of_its_name(edge: EdgeProcess, app: str, name: str) -> None:
    assert await _object_played(edge, app, name) == "dir/film.mp4"


@pytest.mark.parametrize(
    ("name", "played"),
    [
        ("dir/film.flv", "dir/film.flv"),
        ("dir/film", "dir/film.flv"),
        ("flv:dir/film", "dir/film.flv"),
        ("flv:dir/film.flv", "dir/film.flv"),
        ("mp3:dir/song", "dir/song.mp3"),
        ("mp3:dir/song.mp3", "dir/song.mp3"),
        ("dir/song.mp3", "dir/song.mp3"),
        ("mp4:song", "song.m4a"),
    ],
)
async def test_flv_and_mp3_play_by_each_form_of_their_names(
    edge: EdgeProcess, name: str, played: str
) -> None:
    assert await _object_played(edge, "cfx/st", name) == played


async def _object_played(edge: EdgeProcess, app: str, name: str) -> str:
    async with open_client(edge.rtmp_port, app) as client:
        client.play(name)
        await client.until_named(START)
    played: str = await_line(edge, "rtmp_play", client)["object"]
    return played


@pytest.mark.parametrize(
    "name",
    [
        "mp4:nothing",
        "nothing.flv",
        "dir",
        "",
        "../config.toml",
        "dir/../film.mp4",
        "mp4:%2e%2e/film.mp4",
        "film.mp4%00",
        "film\0.mp4",
        "dir\\film.mp4",
        "film/" * 300,
        "\ufffe" * 400,
    ],
)
async def test_missing_stream_is_not_found(edge: EdgeProcess, name: str) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.play(name, -2000.0)
        messages = names(await client.until_named("NetStream.Play.StreamNotFound", START))
        # No message before it may look like success.
        assert messages == ["NetStream.Play.StreamNotFound"]
        # The connection stays open.
        assert (await whole(client, "film.mp4"))[0].time_ms == 0


@pytest.mark.parametrize("app", ["", "cf", "cfx/stx", "live", "../cfx/st", "VOD"])
async def test_unknown_application_is_rejected(edge: EdgeProcess, app: str) -> None:
    with pytest.raises(KeyError) as failure:
        async with open_client(edge.rtmp_port, app):
            pass
    assert failure.value.args == (
        "NetConnection.Connect.InvalidApp",
        {"message": "InvalidInstance", "description": "InvalidInstance"},
    )


# Start and duration


@pytest.mark.parametrize("name", FILMS)
async def test_play_with_a_start_begins_at_the_keyframe_before(
    edge: EdgeProcess, name: str
) -> None:
    async with open_client(edge.rtmp_port) as client:
        file = await whole(client, name)
        client.play(name, 11_000.0)
        messages = await client.until_named(STOP)
    received = frames(messages)
    assert [frame.is_header for frame in received[:3]] == [True, True, False]
    assert received[2].is_keyframe
    assert {frame.time_ms for frame in received[:3]} == {0}
    assert names(messages)[-2:] == ["NetStream.Play.Complete", STOP]
    rest = samples(messages)
    # Keyframes are 2 s apart: the one before 11 s is at 10 s; all later frames follow.
    start = next(at for at, frame in enumerate(file) if frame.body == rest[0].body)
    assert 9_000 < file[start].time_ms <= 11_000
    assert [(f.kind, f.time_ms - file[start].time_ms, f.body) for f in file[start:]] == [
        (f.kind, f.time_ms, f.body) for f in rest
    ]


@pytest.mark.parametrize("name", [*FILMS, "song.mp3"])
async def test_play_with_a_duration_ends_there(edge: EdgeProcess, name: str) -> None:
    async with open_client(edge.rtmp_port) as client:
        file = await whole(client, name)
        client.play(name, 0.0, 3000.0)
        received = samples(await client.until_named(STOP))
    last = max(frame.time_ms for frame in received)
    assert received == file[: len(received)]
    assert 2900 <= last < 3000 + 40


@pytest.mark.parametrize("name", FILMS)
@pytest.mark.parametrize("start_ms", [0.0, 5000.0])
async def test_play_with_duration_0_sends_one_keyframe(
    edge: EdgeProcess, name: str, start_ms: float
) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.play(name, start_ms, 0.0)
        received = samples(await client.until_named(STOP))
    assert [frame.is_keyframe for frame in received if frame.kind == VIDEO] == [True]
    assert received[-1].kind == VIDEO


@pytest.mark.parametrize("name", [*FILMS, "song.mp3", "song.m4a"])
async def test_seek_continues_from_the_keyframe_before_the_target(
    edge: EdgeProcess, name: str
) -> None:
    has_video = name in FILMS
    async with open_client(edge.rtmp_port) as client:
        file = await whole(client, name)
        positions = {frame.body: at for at, frame in enumerate(file)}
        for target_ms in (15_000, 3_000, 0, 19_999, 7_777, 1 << 33):
            client.seek(target_ms)  # each time after the end
            messages = await client.until_named("STREAM_EOF")  # of the seek itself
            messages += await client.until_named("STREAM_EOF")
            assert names(messages) == [
                "STREAM_EOF",
                "STREAM_IS_RECORDED",
                "STREAM_BEGIN",
                "NetStream.Seek.Notify",
                START,
                "|RtmpSampleAccess",
                "NetStream.Data.Start",
                "onMetaData",
                "NetStream.Play.Complete",
                STOP,
                "STREAM_EOF",
            ]
            received = frames(messages)
            headers = [frame for frame in received if frame.is_header]
            assert received[: len(headers)] == headers
            assert len(headers) == (2 if has_video else int(name == "song.m4a"))
            rest = samples(messages)
            assert {frame.time_ms for frame in headers} <= {rest[0].time_ms}
            assert not has_video or rest[0].is_keyframe or target_ms == 0
            # From there on all frames of the file follow, with the file's times.
            start = positions[rest[0].body]
            assert [(f.kind, f.body) for f in rest] == [(f.kind, f.body) for f in file[start:]]
            within_ms = 120 if name == "song.mp3" else 0  # the resolution of the Info table
            assert abs(rest[0].time_ms - file[start].time_ms) <= within_ms
            at_ms = min(target_ms, file[-1].time_ms)
            assert at_ms - 2100 <= rest[0].time_ms <= at_ms


async def test_seek_in_a_long_file_needs_no_keyframe_list(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.play("minutes.flv", 0.0, 0.0)
        await client.until_named("STREAM_EOF")
        for target_ms in (500_000, 3_000, 599_990, 299_999, 300_000, 123_456):
            client.play("minutes.flv", float(target_ms), 0.0)
            messages = await client.until_named("STREAM_EOF")
            keyframe = [frame for frame in samples(messages) if frame.kind == VIDEO]
            number = int.from_bytes(keyframe[0].body[9:13])
            assert number * 40 == target_ms // 2000 * 2000


async def test_seek_during_play_continues_from_the_target(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        client.play("film.mp4")
        await client.until(lambda message: message.type_id == AGGREGATE)
        client.seek(16_000)
        await client.until_named("NetStream.Seek.Notify")
        messages = await client.until(lambda message: message.type_id == AGGREGATE)
        assert samples(messages)[0].is_keyframe
        assert 14_000 <= samples(messages)[0].time_ms <= 16_100
        assert names(messages) == [START, "|RtmpSampleAccess", "NetStream.Data.Start", "onMetaData"]


@pytest.mark.parametrize("name", [*FILMS])
async def test_seek_while_paused_sends_one_keyframe(edge: EdgeProcess, name: str) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        client.play(name)
        await client.until(lambda message: message.type_id == AGGREGATE)
        client.pause(True, 500)
        await client.until_named("NetStream.Pause.Notify")
        for target_ms in (12_000, 4_000):
            client.seek(target_ms)
            await client.until_named("NetStream.Seek.Notify")
            messages = await client.until(lambda m: any(f.is_keyframe for f in frames([m])))
            messages += await client.read_pending()
            messages += await client.read_pending()
            received = samples(messages)
            assert [frame.kind for frame in received] == [VIDEO]
            assert received[0].is_keyframe
            assert target_ms - 2000 <= received[0].time_ms <= target_ms + 80
        client.pause(False, received[0].time_ms)
        client.buffer(36_000_000)
        await client.until_named("NetStream.Unpause.Notify")
        rest = samples(await client.until_named(STOP))
        # It continues directly after that keyframe.
        assert 0 <= rest[0].time_ms - received[0].time_ms <= 40
        assert rest[0].body != received[0].body


# Pause


@pytest.mark.parametrize("command", ["pause", "pauseRaw"])
async def test_pause_stops_the_media_without_loss(edge: EdgeProcess, command: str) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:

        def pause(paused: bool, time_ms: int) -> None:
            client.command(command, None, paused, float(time_ms), stream_id=1)

        client.play("film.mp4")
        messages = await client.until(lambda message: message.type_id == AGGREGATE)
        pause(True, samples(messages)[-1].time_ms)
        messages += await client.until_named("NetStream.Pause.Notify")
        client.buffer(36_000_000)  # a large buffer: only the pause stops the media
        for _ in range(3):
            assert await client.read_pending() == []
        pause(False, samples(messages)[-1].time_ms)
        messages += await client.until_named(STOP)
        received = samples(messages)
    async with open_client(edge.rtmp_port) as client:
        assert received == await whole(client, "film.mp4")


async def test_resume_continues_after_the_clients_position(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.buffer(8_000)
        client.play("film.mp4")
        await client.until(lambda m: m.type_id in MEDIA and samples([m])[-1:] != []
                           and samples([m])[-1].time_ms > 7_000)  # fmt: skip
        client.pause(True, 2_000)  # it has shown 2 s and drops the rest of its buffer
        await client.until_named("NetStream.Pause.Notify")
        client.buffer(36_000_000)
        client.pause(False, 2_000)
        await client.until_named("NetStream.Unpause.Notify")
        rest = samples(await client.until_named(STOP))
    async with open_client(edge.rtmp_port) as client:
        file = await whole(client, "film.mp4")
    assert rest == [frame for frame in file if frame.time_ms > 2_000]


async def test_new_play_of_a_paused_stream_is_not_paused(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        client.play("film.mp4")
        await client.until_named(START)
        client.pause(True, 0)
        await client.until_named("NetStream.Pause.Notify")
        client.buffer(36_000_000)
        assert len(await whole(client, "film-moov-last.mp4")) == _count("film-moov-last.mp4")


def _count(name: str) -> int:
    return sum(map(len, expected(name).packets.values()))


# Several plays


async def test_two_streams_of_a_connection_play_at_once(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        assert await client.create_stream() == 2
        client.buffer(36_000_000, stream_id=2)
        client.play("film.mp4", stream_id=1)
        client.play("film.flv", stream_id=2)
        messages = await client.until_named(STOP)
        messages += await client.until_named(STOP)
    alone = {}
    for name in ("film.mp4", "film.flv"):
        async with open_client(edge.rtmp_port) as client:
            alone[name] = await whole(client, name)
    assert samples(messages, 1) == alone["film.mp4"]
    assert samples(messages, 2) == alone["film.flv"]


async def test_second_play_replaces_the_first(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        client.play("film.mp4")
        await client.until(lambda message: message.type_id == AGGREGATE)
        client.play("song.mp3")
        messages = await client.until_named(START)
        assert "NetStream.Play.Reset" in names(messages)
        client.buffer(36_000_000)
        received = samples(await client.until_named(STOP))
        assert {frame.kind for frame in received} == {AUDIO}
        assert len(received) == _count("song.mp3")


async def test_play_without_reset_is_queued(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        client.play("film.mp4", 0.0, 2000.0)
        client.play("film.flv", 0.0, 2000.0, False)
        client.play("song.mp3", 0.0, 1000.0, 0.0)
        await client.until(lambda message: message.type_id == AGGREGATE)
        client.seek(1_000)  # applies to the current play, not to the queued ones
        assert names(await client.until_named("NetStream.Seek.Notify"))[-4:] == [
            "STREAM_EOF", "STREAM_IS_RECORDED", "STREAM_BEGIN", "NetStream.Seek.Notify",
        ]  # fmt: skip
        client.buffer(36_000_000)
        # Play.Complete and Play.Stop come after the last item only: FFmpeg and rtmpdump end there.
        for name in ("film.flv", "song.mp3"):
            messages = await client.until_named("NetStream.Play.Switch")
            assert information(messages[-1])["details"] == name
            assert STOP not in names(messages)
            messages = await client.until_named(START)
            assert "NetStream.Play.Reset" not in names(messages)
            assert information(messages[-1])["details"] == name
        messages = await client.until_named(STOP)
        assert information(messages[-1])["details"] == "song.mp3"


@pytest.mark.parametrize("command", ["closeStream", "deleteStream"])
async def test_close_ends_the_current_and_queued_plays(edge: EdgeProcess, command: str) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        client.play("film.mp4")
        client.play("film.flv", 0.0, -1.0, False)
        await client.until(lambda message: message.type_id == AGGREGATE)
        if command == "closeStream":
            client.command(command, None, stream_id=1)
        else:
            client.command(command, None, 1.0)
            assert await client.create_stream() == 1
        client.seek(0)
        await client.until_named("NetStream.Seek.Failed")
        client.buffer(36_000_000)
        await client.read_pending()
        assert await client.read_pending() == []
        received = await whole(client, "song.mp3")
        assert len(received) == _count("song.mp3")


async def test_play_false_closes_the_stream(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        client.play("film.mp4")
        await client.until(lambda message: message.type_id == AGGREGATE)
        client.command("play", None, False, stream_id=1)
        client.seek(0)
        await client.until_named("NetStream.Seek.Failed")


# The client's buffer


async def test_media_ahead_is_limited_by_the_client_buffer(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=4_000) as client:
        client.play("film.mp4")
        messages = await client.until(lambda m: m.timestamp_ms > 3_500 and m.type_id in MEDIA)
        messages += await client.read_pending()
        # A run is one second of media, and this test takes much less time than the media.
        assert 3_500 <= samples(messages)[-1].time_ms <= 6_000
        client.buffer(10_000)
        messages = await client.until(lambda m: m.timestamp_ms > 9_000 and m.type_id in MEDIA)
        messages += await client.read_pending()
        assert samples(messages)[-1].time_ms <= 12_000
        client.buffer(300, stream_id=0)  # as librtmp and GStreamer send it, without effect
        client.buffer(36_000_000)
        assert names(await client.until_named(STOP))[-1] == STOP


async def test_unknown_streams_and_commands_out_of_order_are_refused(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.seek(1000)
        assert names(await client.until_named("NetStream.Seek.Failed")) == ["NetStream.Seek.Failed"]
        client.pause(True, 0)
        assert names(await client.until_named("NetStream.Failed")) == ["NetStream.Failed"]
        client.play("film.mp4", stream_id=9)
        assert names(await client.until_named("NetStream.Play.Failed")) == ["NetStream.Play.Failed"]
        with pytest.raises(KeyError, match=r"NetConnection\.Call\.Failed"):
            await client.call("makeTea")
        assert await client.call("_checkbw") is None
        assert await client.call("FCSubscribe", "film") is None

"""Journeys: playlists, and each transition of play2; what was received is decoded by FFmpeg."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from streamedge.delivery.rtmp.protocol.chunks import Message
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.rtmp.rtmp_client import (
    AUDIO,
    MEDIA,
    VIDEO,
    Frame,
    RtmpClient,
    frames,
    information,
    message_name,
    open_client,
    samples,
)
from tests.support.rtmp.rtmp_media import sample_file
from tests.support.rtmp.rtmp_players import FFMPEG_5, FFMPEG_9, ffmpeg, flv_packets, rtmpdump
from tests.support.rtmp.rtmp_renditions import (
    KEYFRAME_MS,
    SECONDS,
    check_decodes,
    is_coded,
    rendition,
    rendition_of,
)

START, STOP = "NetStream.Play.Start", "NetStream.Play.Stop"
RESET, FAILED = "NetStream.Play.Reset", "NetStream.Play.Failed"
TRANSITION = "NetStream.Play.Transition"
COMPLETE = "NetStream.Play.TransitionComplete"
SWITCH = "NetStream.Play.Switch"
NOT_FOUND = "NetStream.Play.StreamNotFound"
SEEK = "NetStream.Seek.Notify"
END_MS = SECONDS * 1000


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    folder = tmp_path_factory.mktemp("playlists")
    films = folder / "films"
    films.mkdir()
    for name in ("low", "high"):
        for extension in ("mp4", "flv"):
            (films / f"{name}.{extension}").write_bytes(rendition(name, extension))
    (films / "song.mp3").write_bytes(sample_file("song.mp3"))
    origins = f'[origins.main]\ntype = "directory"\npath = "{films}"\n'
    with run_edge(folder / "edge", origins) as running:
        yield running


def statuses(messages: list[Message]) -> list[str]:
    """The NetStream codes in messages, without Data.Start."""
    names = [message_name(message) for message in messages if message.type_id not in MEDIA]
    return [name for name in names if name.startswith("NetStream.") and "Data." not in name]


def details(messages: list[Message], code: str) -> list[str]:
    """The stream names of all statuses with a code."""
    return [
        information(message)["details"]
        for message in messages
        if message.type_id not in MEDIA and message_name(message) == code
    ]


async def until_media(client: RtmpClient, time_ms: int) -> None:
    await client.until(lambda m: m.type_id in MEDIA and m.timestamp_ms >= time_ms)


def renditions(received: list[Frame]) -> list[tuple[str, int]]:
    """The rendition and time of each AVC header."""
    return [
        (rendition_of(frame), frame.time_ms)
        for frame in received
        if frame.kind == VIDEO and frame.is_header
    ]


@pytest.mark.parametrize("extension", ["mp4", "flv"])
async def test_switch_splices_at_a_keyframe_and_decodes(edge: EdgeProcess, extension: str) -> None:
    low, high = f"low.{extension}", f"high.{extension}"
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        client.play(low)
        await until_media(client, 1)
        client.play2(high, "switch", oldStreamName=low)
        await client.until_named(TRANSITION)
        client.buffer(36_000_000)
        await client.until_named(STOP)
    received = frames(client.messages)
    check_decodes(received)
    codes = [RESET, START, TRANSITION, COMPLETE, "NetStream.Play.Complete", STOP]
    assert statuses(client.messages) == codes
    (first, begin_ms), (second, seam_ms) = renditions(received)
    assert (first, begin_ms, second) == ("low", 0, "high")
    assert 0 < seam_ms < END_MS
    assert seam_ms % KEYFRAME_MS in (0, 80)  # decoding times lag behind by two frames
    # Each picture is there once, and there is no audio of both.
    pictures = [frame for frame in received if frame.kind == VIDEO and is_coded(frame)]
    assert len(pictures) == SECONDS * 25
    sounds = [f.time_ms for f in received if f.kind == AUDIO and not f.is_header]
    assert max(b - a for a, b in pairwise(sounds)) <= 48


async def test_switches_follow_each_other_and_the_last_one_wins(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        client.play("low.mp4")
        await until_media(client, 1)
        for _ in range(20):
            client.play2("high.mp4", "switch")
            client.play2("low.mp4", "switch")
        client.play2("high.mp4", "switch")
        await client.until_named(COMPLETE)
        client.play2("low.mp4", "switch")
        await client.until_named(COMPLETE)
        client.buffer(36_000_000)
        await client.until_named(STOP)
    received = frames(client.messages)
    check_decodes(received)
    assert [name for name, _ in renditions(received)] == ["low", "high", "low"]
    assert details(client.messages, COMPLETE) == ["high.mp4", "low.mp4"]


@pytest.mark.parametrize("name", ["missing.mp4", "song.mp3"])
async def test_switch_that_fails_lets_the_old_stream_go_on(edge: EdgeProcess, name: str) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        client.play("low.mp4")
        await until_media(client, 1)
        if name == "song.mp3":
            client.play2(name, "switch", offset=1e9)
        else:
            client.play2(name, "switch")
        await client.until_named(NOT_FOUND, FAILED)
        client.buffer(36_000_000)
        await client.until_named(STOP)
    received = frames(client.messages)
    check_decodes(received)
    assert [each for each, _ in renditions(received)] == ["low"]
    assert COMPLETE not in statuses(client.messages)


async def test_seek_cancels_a_switch_that_waits(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        client.play("low.mp4")
        await until_media(client, 1)
        client.play2("high.mp4", "switch", offset=8.0)
        await client.until_named(TRANSITION)
        client.seek(4000)
        await client.until_named(SEEK)
        start = len(client.messages)
        client.buffer(36_000_000)
        await client.until_named(STOP)
    assert COMPLETE not in statuses(client.messages)
    assert [name for name, _ in renditions(frames(client.messages[start:]))] == ["low"]


async def test_switch_at_an_offset_drops_what_the_client_has_after_it(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.play("low.mp4")
        await client.until_named(STOP)
        start = len(client.messages)
        client.play2("high.mp4", "switch", offset=5.0)
        await client.until_named(STOP)
    before, after = frames(client.messages[:start]), frames(client.messages[start:])
    ((name, seam_ms),) = renditions(after)
    assert name == "high"
    assert 5000 <= seam_ms <= 5000 + KEYFRAME_MS + 80
    check_decodes([frame for frame in before if frame.time_ms < seam_ms] + after)
    assert statuses(client.messages[start:])[:2] == [TRANSITION, COMPLETE]


@pytest.mark.parametrize("offset", [float("nan"), -1.0, -7.0, float("-inf")])
async def test_offset_that_is_no_time_switches_three_seconds_ahead(
    edge: EdgeProcess, offset: float
) -> None:
    async with open_client(edge.rtmp_port) as client:
        began_s = time.monotonic()
        client.play("low.mp4")
        await client.until_named(STOP)
        start = len(client.messages)
        client.play2("high.mp4", "switch", offset=offset)
        await client.until_named(TRANSITION)
        shown_ms = 1000 * (time.monotonic() - began_s)  # at most, at any speed of this machine
        await client.until_named(STOP)
    ((_, seam_ms),) = renditions(frames(client.messages[start:]))
    assert 3000 <= seam_ms <= shown_ms + 3000 + KEYFRAME_MS + 80


async def test_offset_before_the_playhead_is_refused(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        client.play("low.mp4")
        await until_media(client, 1)
        client.seek(6000)
        await client.until_named(SEEK)
        await until_media(client, 5000)
        client.play2("high.mp4", "switch", offset=1.0)
        await client.until_named(FAILED)
        client.buffer(36_000_000)
        await client.until_named(STOP)


async def test_playlist_plays_all_items_with_growing_times(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        client.play("low.mp4", 0.0, 3000.0)
        client.play("missing.mp4", 0.0, -1.0, 0.0)
        client.play2("high.mp4", "append", start=2.0, len=3.0)
        client.play("low.flv", 0.0, -1.0, 2.0)
        await until_media(client, 1)
        client.buffer(36_000_000)
        await client.until_named(STOP)
    received = frames(client.messages)
    check_decodes(received)
    assert [name for name, _ in renditions(received)] == ["low", "high", "low"]
    assert statuses(client.messages) == [
        RESET, START, NOT_FOUND, SWITCH, START, SWITCH, START, "NetStream.Play.Complete", STOP,
    ]  # fmt: skip
    assert details(client.messages, STOP) == ["low.flv"]
    last_ms = received[-1].time_ms
    assert 3000 + 3000 + END_MS - 200 <= last_ms <= 3000 + 3000 + END_MS + 400


async def test_seek_returns_to_an_earlier_item(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        client.play("low.mp4", 0.0, 4000.0)
        client.play("high.mp4", 0.0, -1.0, False)
        await until_media(client, 1)
        client.buffer(36_000_000)
        await client.until_named(STOP)
        (_, (_, seam_ms)) = renditions(frames(client.messages))
        for target_ms, names in ((seam_ms, ["high"]), (seam_ms - 1, ["low", "high"])):
            start = len(client.messages)
            client.seek(target_ms)
            await client.until_named(STOP)
            received = frames(client.messages[start:])
            check_decodes(received)
            assert [name for name, _ in renditions(received)] == names
            assert received[0].time_ms <= target_ms + 80


async def test_swap_replaces_an_item_that_has_not_begun(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        client.play("low.mp4", 0.0, 4000.0)
        client.play("song.mp3", 0.0, -1.0, False)
        await until_media(client, 1)
        client.play2("high.mp4", "swap", oldStreamName="low.mp4")
        assert statuses(await client.until_named(FAILED))[-1] == FAILED
        client.play2("high.mp4", "swap", oldStreamName="nothing.mp4")
        await client.until_named(FAILED)
        client.play2("high.mp4", "swap", oldStreamName="song.mp3")
        await client.until_named(TRANSITION)
        client.buffer(36_000_000)
        await client.until_named(STOP)
    received = frames(client.messages)
    check_decodes(received)
    assert [name for name, _ in renditions(received)] == ["low", "high"]
    codes = statuses(client.messages)
    assert codes[codes.index(SWITCH) :] == [
        SWITCH, START, COMPLETE, "NetStream.Play.Complete", STOP,
    ]  # fmt: skip


async def test_resume_starts_at_the_item_that_holds_the_position(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.play2("low.mp4", "appendAndWait")
        client.play2("high.mp4", "appendAndWait")
        client.seek(0)
        await client.until_named("NetStream.Seek.Failed")
        client.play2("low.flv", "resume", offset=SECONDS + 6.0)
        await client.until_named(STOP)
    received = frames(client.messages)
    check_decodes(received)
    assert [name for name, _ in renditions(received)] == ["high", "low"]
    assert abs(samples(client.messages)[0].time_ms - (END_MS + 6000)) <= KEYFRAME_MS


async def test_resume_without_a_position_starts_at_the_first_item(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.play2("low.mp4", "appendAndWait")
        client.play2("high.mp4", "resume")
        await client.until_named(STOP)
    received = frames(client.messages)
    check_decodes(received)
    assert [name for name, _ in renditions(received)] == ["low", "high"]


async def test_reset_and_stop_replace_and_end_the_playlist(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        client.play("low.mp4")
        client.play("song.mp3", 0.0, -1.0, False)
        await until_media(client, 1)
        client.play2("high.mp4", "reset")
        await client.until_named(RESET)
        await until_media(client, 1)
        client.play2("", "stop")
        assert statuses(await client.until_named(STOP))[-1] == STOP
        await client.until_named("STREAM_EOF")
        client.seek(0)
        await client.until_named("NetStream.Seek.Failed")
        # "switch" with nothing to switch from plays.
        client.play2("low.mp4", "switch", oldStreamName="high.mp4")
        await client.until_named(START)


async def test_unknown_transition_changes_nothing(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        client.play("low.mp4")
        await until_media(client, 1)
        client.play2("high.mp4", "crossfade")
        await client.until_named("NetStream.Failed")
        client.buffer(36_000_000)
        await client.until_named(STOP)
    assert [name for name, _ in renditions(frames(client.messages))] == ["low"]


async def test_live_start_finds_no_recording(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.play("low.mp4", -1000.0)
        await client.until_named(NOT_FOUND)
        client.play("low.mp4", -2000.0)
        await client.until_named(STOP)


async def test_play_with_reset_3_ignores_the_client_buffer(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
        client.play("low.mp4", 0.0, -1.0, 3.0)
        received = samples(await client.until_named(STOP))
    assert received[-1].time_ms > END_MS - 200
    assert RESET in statuses(client.messages)


# The clients that know no playlists


@pytest.mark.parametrize("exe", [FFMPEG_5, FFMPEG_9], ids=["ffmpeg-5.1", "ffmpeg-9"])
async def test_ffmpeg_ends_after_the_last_frame(edge: EdgeProcess, exe: str) -> None:
    result = await ffmpeg(edge.rtmp("low.mp4"), exe=exe)
    assert result.code == 0, result.stderr
    assert len([line for line in result.output.splitlines() if line.startswith(b"0,")]) == 300


@pytest.mark.parametrize(
    ("options", "length_ms"),
    [((), END_MS), (("-A", "6"), END_MS - 6000), (("-A", "4", "-B", "8"), 4000)],
)
async def test_rtmpdump_starts_and_stops(
    edge: EdgeProcess, tmp_path: Path, options: tuple[str, ...], length_ms: int
) -> None:
    await rtmpdump(edge.rtmp("low.mp4"), tmp_path / "got.flv", *options)
    times_ms = [packet.dts_ms for packet in flv_packets(tmp_path / "got.flv")["video"]]
    assert abs(times_ms[-1] - times_ms[0] - length_ms) <= 120

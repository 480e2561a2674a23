"""Any requests for a playlist, in any order, through a session: each one is done or refused."""

from __future__ import annotations

import asyncio
import math
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamedge.delivery.rtmp.playback.playlist import ITEMS_MAX
from streamedge.delivery.rtmp.protocol.events import Transition
from streamedge.ops.metrics import Counter
from tests.support.rtmp.rtmp_client import RtmpClient, message_name, open_client, samples
from tests.support.rtmp.rtmp_edge import RtmpEdge, serve_rtmp
from tests.support.rtmp.rtmp_media import avc_mp4, tiny_frame

FAILED, START, STOP = "NetStream.Play.Failed", "NetStream.Play.Start", "NetStream.Play.Stop"
FRAMES, FRAME_MS = 50, 40

numbers: st.SearchStrategy[float] = st.sampled_from(
    [math.nan, math.inf, -math.inf, -1.0, -1000.0, 0.0, 0.5, 1.0, 1.96, 2.0, 4e9, 1e300]
) | st.floats(-3, 5)
names = st.sampled_from(["low.mp4", "high.mp4", "short.mp4", "missing.mp4", ""])
transitions = st.sampled_from([*Transition, "crossfade", ""])
times_ms = st.sampled_from([-1.0, 0.0, 1960.0, 1999.0, 2000.0, 2001.0, 4000.0, 1e12, math.nan])


class Request(NamedTuple):
    """A call of RtmpClient."""

    method: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    def send(self, client: RtmpClient) -> None:
        getattr(client, self.method)(*self.arguments, **self.options)


def play2(name: str, transition: str, old_name: str, options: dict[str, Any]) -> Request:
    return Request("play2", (name, str(transition)), {"oldStreamName": old_name, **options})


def call(method: str, *arguments: Any) -> Request:
    return Request(method, arguments, {})


options = st.fixed_dictionaries({}, optional={"start": numbers, "len": numbers, "offset": numbers})
requests = (
    st.builds(play2, names, transitions, names, options)
    | st.builds(
        call, st.just("play"), names, numbers, numbers, st.sampled_from([0.0, 1.0, 2.0, 3.0, 9.0])
    )
    | st.builds(call, st.just("seek"), times_ms)
    | st.builds(call, st.just("pause"), st.booleans(), times_ms)
    | st.builds(call, st.just("buffer"), st.sampled_from([0, 100, 1000, 1 << 31]))
)


def movie(frames: int) -> bytes:
    return avc_mp4([tiny_frame(number) for number in range(frames)], FRAME_MS)


def put_films(edge: RtmpEdge) -> None:
    edge.origin.put("low.mp4", movie(FRAMES))
    edge.origin.put("high.mp4", movie(FRAMES))
    edge.origin.put("short.mp4", movie(1))


async def check(root: Path, steps: list[tuple[Request, bool]]) -> None:
    """Sends requests while a film plays; ``True`` waits until the edge has read them all."""
    async with serve_rtmp(root) as edge:
        put_films(edge)
        async with open_client(edge.port, buffer_ms=1000) as client:
            client.play("low.mp4")
            for request, is_awaited in steps:
                request.send(client)
                if is_awaited:
                    await client.read_pending()
            # The stream is as usable as before.
            client.buffer(36_000_000)
            client.play("high.mp4")
            await client.read_pending()
            start = len(client.messages)
            client.play("high.mp4")
            await client.until_named(STOP)
            assert len(samples(client.messages[start:])) >= FRAMES
            assert await client.call("createStream") == 2.0
        await edge.until_gone()
        assert edge.readers == 0
        assert edge.counts.gathered(Counter.ERRORS, "rtmp_internal") == 0, edge.log_text


@settings(max_examples=40)
@given(st.lists(st.tuples(requests, st.booleans()), max_size=12))
@example([(play2("high.mp4", "switch", "", {"offset": math.nan}), False)] * 3)
@example(
    [
        (play2("high.mp4", "switch", "low.mp4", {}), True),
        (play2("low.mp4", "switch", "high.mp4", {"offset": 4e9}), False),
        (call("seek", 2000.0), False),
        (play2("short.mp4", "swap", "", {}), True),
    ]
)
def test_any_requests_leave_the_stream_usable(steps: list[tuple[Request, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(check(Path(folder) / "cache", steps))


async def test_item_beyond_the_limit_is_refused_and_the_others_play(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge:
        put_films(edge)
        edge.origin.hold("low.mp4", at=100)
        async with open_client(edge.port) as client:
            client.play("low.mp4")
            for _ in range(ITEMS_MAX):
                client.play2("short.mp4", "append")
            await client.until_named(FAILED)
            client.play2("short.mp4", "appendAndWait")
            await client.until_named(FAILED)
            edge.origin.release("low.mp4")
            await client.until_named(STOP)
        played = [message_name(message) for message in client.messages]
        assert played.count(START) == ITEMS_MAX
        assert played.count(FAILED) == 2
        assert len(samples(client.messages)) == FRAMES + ITEMS_MAX - 1


async def test_seek_at_a_seam_is_of_one_item_only(cache_root: Path) -> None:
    """Both items have 50 frames of 40 ms."""
    async with serve_rtmp(cache_root) as edge:
        put_films(edge)
        async with open_client(edge.port) as client:
            client.play("low.mp4")
            client.play2("high.mp4", "append")
            await client.until_named(STOP)
            seam_ms = FRAMES * FRAME_MS
            for target_ms, count in (
                (seam_ms - 1, FRAMES + 1),
                (seam_ms, FRAMES),
                (seam_ms + 1, FRAMES),
                (seam_ms + FRAME_MS, FRAMES - 1),
            ):
                start = len(client.messages)
                client.seek(target_ms)
                await client.until_named(STOP)
                received = samples(client.messages[start:])
                assert len(received) == count, target_ms
                assert received[0].time_ms == target_ms // FRAME_MS * FRAME_MS

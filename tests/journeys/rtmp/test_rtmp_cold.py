"""Journeys: RTMP plays from a cold cache, and the requests that reach the origin.

The origin is scripted: it holds bytes back until the test has received what needs no more of them.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from streamedge.delivery.rtmp.protocol.chunks import Message
from streamedge.spans import Span
from tests.support.origins.scripted_origin import Reply, ScriptedOrigin
from tests.support.process.admin_calls import await_json
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.rtmp.rtmp_client import (
    MEDIA,
    RtmpClient,
    await_line,
    await_metrics,
    frames,
    information,
    message_name,
    open_client,
    samples,
)
from tests.support.rtmp.rtmp_media import avc_mp4, keyframe, sample_file, tags_flv

FAILED = "NetStream.Play.Failed"
START = "NetStream.Play.Start"
STOP = "NetStream.Play.Stop"
MOVIE_FRAMES = 600  # 24 s of keyframes
CHUNK_BYTES = 256 << 10
LIMITS = 'origin_retries = 1\nrtmp_ahead = "10h"'


def origin_toml(origin: ScriptedOrigin, more: str = "") -> str:
    return f'[origins.main]\ntype = "http"\nurl = "{origin.url}"\n{more}\n'


@functools.cache
def movie() -> bytes:
    """About 17 MB, index first."""
    return avc_mp4([keyframe(28_000 + number) for number in range(MOVIE_FRAMES)], 40)


def index_last(movie: bytes) -> bytes:
    """Moves the index behind the media; all sample positions shift by the index's size."""
    start = int.from_bytes(movie[:4])
    size = int.from_bytes(movie[start : start + 4])
    moov = bytearray(movie[start : start + size])
    at = moov.index(b"stco") + 12
    offset = int.from_bytes(moov[at : at + 4]) - size
    moov[at : at + 4] = offset.to_bytes(4)
    return movie[:start] + movie[start + size :] + bytes(moov)


def reaches(time_ms: int) -> Callable[[Message], bool]:
    """Whether a message has media at ``time_ms`` or later."""
    return lambda message: any(frame.time_ms >= time_ms for frame in samples([message]))


def send_counts(origin: ScriptedOrigin, name: str, size: int) -> list[int]:
    """How often the origin sent each block of 4 KiB of an object."""
    counts = [0] * (size // 4096 + 1)
    for request in origin.requests:
        if request.name == name and request.method == "GET":
            span = request.span or Span(0, size)
            sent = Span(span.start, span.start + request.body_bytes_sent)
            for block in range(sent.start // 4096, (sent.end + 4095) // 4096):
                counts[block] += 1
    return counts


@pytest.mark.parametrize("name", ["film.mp4", "film.flv"])
async def test_first_picture_is_sent_before_the_rest_of_the_file_arrives(
    tmp_path: Path, name: str
) -> None:
    data = movie() if name == "film.mp4" else tags_flv(60, frame_bytes=10_000)
    async with ScriptedOrigin() as origin:
        origin.put(name, data)
        origin.hold(name, at=2 * CHUNK_BYTES)
        with run_edge(tmp_path, origin_toml(origin), limits=LIMITS) as edge:
            async with open_client(edge.rtmp_port) as client:
                client.play(name)
                messages = await client.until(lambda m: any(f.is_keyframe for f in frames([m])))
                assert samples(messages)[0].time_ms == 0
                assert origin.body_bytes_sent <= 2 * CHUNK_BYTES
                messages += await client.until(reaches(360))  # the fetched part plays on
                origin.release(name)
                received = samples(messages + await client.until_named(STOP))
                assert len(received) == (MOVIE_FRAMES if name == "film.mp4" else 60 * 50)
                assert max(send_counts(origin, name, len(data))) == 1


async def test_index_at_the_end_is_fetched_by_range(tmp_path: Path) -> None:
    data = index_last(movie())
    async with ScriptedOrigin(rate_bytes_per_s=8e6, rate_shared=True) as origin:
        origin.put("film.mp4", data)
        with run_edge(tmp_path, origin_toml(origin), limits=LIMITS) as edge:
            async with open_client(edge.rtmp_port) as client:
                client.play("film.mp4")
                messages = await client.until(lambda m: any(f.is_keyframe for f in frames([m])))
                assert origin.body_bytes_sent < len(data) / 5
                origin.rate_bytes_per_s = None
                received = samples(messages + await client.until_named(STOP))
    async with ScriptedOrigin() as origin:
        origin.put("film.mp4", movie())
        with run_edge(tmp_path / "first", origin_toml(origin), limits=LIMITS) as edge:
            async with open_client(edge.rtmp_port) as client:
                client.play("film.mp4")
                assert received == samples(await client.until_named(STOP))


@pytest.mark.parametrize("name", ["film.mp4", "film.flv"])
async def test_cold_seek_fetches_only_the_index_and_the_target(tmp_path: Path, name: str) -> None:
    # 40 MB of FLV without a keyframe list; 28 MB of MP4.
    data = (
        tags_flv(400, frame_bytes=3_900)
        if name == "film.flv"
        else avc_mp4([keyframe(28_000 + number) for number in range(1000)], 40)
    )
    length_ms = 400_000 if name == "film.flv" else 40_000
    async with ScriptedOrigin() as origin:
        origin.put(name, data)
        with run_edge(tmp_path, origin_toml(origin), limits=LIMITS) as edge:
            async with open_client(edge.rtmp_port) as client:
                # A single frame at 90 %: nothing else needs to be fetched.
                client.play(name, length_ms * 0.9, 0.0)
                messages = await client.until_named(STOP)
                assert any(frame.is_keyframe for frame in samples(messages))
                if name == "film.flv":
                    keyframe_frame = next(f for f in samples(messages) if f.is_keyframe)
                    assert int.from_bytes(keyframe_frame.body[9:13]) * 40 == length_ms * 0.9
                requested_bytes = [
                    min(request.span.end, len(data)) - request.span.start
                    for request in origin.requests
                    if request.span is not None
                ]
                # The search in an FLV reads a few windows; the rest is read-ahead.
                assert sum(requested_bytes) < 13e6
                await origin.until(lambda: origin.connections_open >= 0)
                before = {r.span.start // CHUNK_BYTES for r in origin.requests if r.span}
                assert len(before) < 16


async def test_fifty_viewers_of_a_cold_title_cost_one_origin_read(tmp_path: Path) -> None:
    data = movie()
    async with ScriptedOrigin() as origin:
        origin.put("film.mp4", data)
        origin.hold_responses()
        with run_edge(tmp_path, origin_toml(origin), limits=LIMITS, workers=2) as edge:

            async def view() -> int:
                async with open_client(edge.rtmp_port) as client:
                    client.play("film.mp4", 0.0, 4000.0)
                    return len(samples(await client.until_named(STOP)))

            viewers = [asyncio.ensure_future(view()) for _ in range(50)]
            await origin.wait_for_requests(1)
            origin.release_responses()
            assert await asyncio.gather(*viewers) == [100] * 50
    assert max(send_counts(origin, "film.mp4", len(data))) == 1


# Origins that fail


@pytest.mark.parametrize(
    ("reply", "code", "kind"),
    [
        (Reply(status=403), "NetStream.Play.StreamNotFound", "forbidden"),
        (Reply(status=404), "NetStream.Play.StreamNotFound", "not_found"),
        (Reply(status=500), FAILED, "unavailable"),
        (Reply(status=503), FAILED, "unavailable"),
        (Reply(raw=b"HTTP/1.1 nonsense\r\n\r\n"), FAILED, ""),
        (Reply(silent=True), FAILED, "timeout"),
    ],
)
async def test_failing_origin_maps_to_its_status_code(
    tmp_path: Path, reply: Reply, code: str, kind: str
) -> None:
    async with ScriptedOrigin() as origin:
        origin.put("film.mp4", sample_file("film.mp4"))
        origin.script(reply, times=2)
        toml = origin_toml(origin, 'read_timeout = "200ms"')
        with run_edge(tmp_path, toml, limits=LIMITS) as edge:
            async with open_client(edge.rtmp_port) as client:
                client.play("film.mp4", -2000.0)
                messages = await client.until_named(code, START)
                assert [message_name(message) for message in messages] == [code]
                # The origin has recovered. A 404 is cached for limits.error_ttl, as over HTTP.
                await _until_origin_is_plain(origin)
                client.play("film.mp4")
                again = code if kind == "not_found" else START
                assert message_name((await client.until_named(code, START))[-1]) == again
            reason = await asyncio.to_thread(await_reason, edge, client)
            assert code in reason
            if kind:
                counter = f'streamedge_errors_total{{kind="{kind}"}}'
                errors = 2.0 if kind == "not_found" else 1.0  # one for each refused play
                await asyncio.to_thread(await_metrics, edge, {counter: errors})


async def _until_origin_is_plain(origin: ScriptedOrigin) -> None:
    """Clears the rest of the script."""
    origin.clear_script()


def await_reason(edge: EdgeProcess, client: RtmpClient) -> str:
    """The reason why the client's first play ended."""
    await_line(edge, "rtmp_disconnect", client)
    stops = [line for line in edge.log("rtmp_stop") if line["client"] == client.address]
    reason: str = stops[0]["reason"]
    return reason


async def test_refused_origin_connection_fails_the_play_until_it_recovers(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        origin.put("film.mp4", sample_file("film.mp4"))
        with run_edge(tmp_path, origin_toml(origin), limits=LIMITS) as edge:
            await origin.refuse()
            async with open_client(edge.rtmp_port) as client:
                client.play("film.mp4")
                messages = await client.until_named(FAILED, START)
                assert [message_name(message) for message in messages] == [FAILED]
                assert "refused" in information(messages[-1])["description"]
                await origin.accept()
                client.play("film.mp4")
                assert message_name((await client.until_named(FAILED, START))[-1]) == START


@pytest.mark.parametrize("reply", [Reply(reset_at=100_000), Reply(cut_at=100_000)])
async def test_broken_origin_response_is_resumed(tmp_path: Path, reply: Reply) -> None:
    for name in ("film.mp4", "film.flv"):
        async with ScriptedOrigin() as origin:
            origin.put(name, sample_file(name))
            origin.script(reply, times=5)
            with run_edge(tmp_path / name, origin_toml(origin), limits=LIMITS) as edge:
                async with open_client(edge.rtmp_port) as client:
                    client.play(name)
                    received = samples(await client.until_named(STOP, FAILED))
                    assert len(received) >= 1363
            assert all(request.headers.get("if-match") == '"1"' for request in origin.requests[1:])
            assert (
                max(send_counts(origin, name, len(sample_file(name)))) <= 2
            )  # at the boundaries of pieces


def await_cached(edge: EdgeProcess, size_bytes: int, cached_bytes: int) -> None:
    """Waits until so much is cached of the object of a size."""
    await_json(
        edge,
        "/cache",
        lambda document: any(
            one["size_bytes"] == size_bytes and one["cached_bytes"] >= cached_bytes
            for one in document["objects"]
        ),
    )


@pytest.mark.parametrize("name", ["film.mp4", "film.flv"])
async def test_origin_failure_during_a_play_fails_after_the_fetched_part(
    tmp_path: Path, name: str
) -> None:
    data = movie() if name == "film.mp4" else tags_flv(60, frame_bytes=10_000)
    async with ScriptedOrigin() as origin:
        origin.put(name, data)
        # In the middle of a frame.
        origin.hold(name, at=3 * CHUNK_BYTES + 12_345)
        with run_edge(tmp_path, origin_toml(origin), limits=LIMITS) as edge:
            async with open_client(edge.rtmp_port) as client:
                client.play(name)
                messages = await client.until(reaches(360))
                await asyncio.to_thread(await_cached, edge, len(data), 3 * CHUNK_BYTES)
                await origin.refuse()
                messages += await client.until_named(FAILED)
                received = samples(messages)
                # All received bytes were played first, in order.
                assert sum(len(frame.body) for frame in received) > 3 * CHUNK_BYTES - 65_536
                assert [f.time_ms for f in received] == sorted(f.time_ms for f in received)


@pytest.mark.parametrize("name", ["film.mp4", "film.flv"])
async def test_object_replaced_during_a_play_is_never_mixed(tmp_path: Path, name: str) -> None:
    old = movie() if name == "film.mp4" else tags_flv(60, frame_bytes=10_000)
    new = old.replace(b"\xff" * 64, b"\xee" * 64).replace(bytes(range(1, 65)), b"\xee" * 64)
    assert len(new) == len(old)
    assert new != old
    async with ScriptedOrigin() as origin:
        origin.put(name, old, etag='"old"')
        origin.hold(name, at=4 * CHUNK_BYTES)
        with run_edge(tmp_path, origin_toml(origin), limits=LIMITS) as edge:
            async with open_client(edge.rtmp_port) as client:
                client.play(name)
                messages = await client.until(reaches(360))
                origin.put(name, new, etag='"new"')
                await origin.refuse()  # the running response ends; the next is of the new object
                await origin.accept()
                origin.release(name)
                messages += await client.until_named(FAILED, STOP)
                assert message_name(messages[-1]) == FAILED
                assert not any(b"\xee" * 64 in frame.body for frame in samples(messages))
            async with open_client(edge.rtmp_port) as client:
                client.play(name)
                received = samples(await client.until_named(STOP, FAILED))
                assert len(received) >= MOVIE_FRAMES
                assert all(
                    b"\xee" * 64 in f.body for f in received if f.kind == 9 and len(f.body) > 9000
                )


# Clients that leave


@pytest.mark.parametrize("moment", ["open", "cold wait", "mid message"])
async def test_client_that_leaves_ends_its_reads(tmp_path: Path, moment: str) -> None:
    data = movie()
    async with ScriptedOrigin() as origin:
        origin.put("film.mp4", data)
        with run_edge(tmp_path, origin_toml(origin), limits=LIMITS) as edge:
            edge.await_log("worker_up")
            (worker,) = edge.worker_pids()
            descriptors = Path(f"/proc/{worker}/fd")
            async with open_client(edge.rtmp_port) as client:  # opens what stays open
                client.play("nothing.mp4")
                await client.until_named("NetStream.Play.StreamNotFound")
            await asyncio.to_thread(await_line, edge, "rtmp_disconnect", client)
            before = len(list(descriptors.iterdir()))
            if moment == "open":
                origin.hold_responses()
            else:
                origin.hold("film.mp4", at=2 * CHUNK_BYTES + 5_000)
            request_count = len(origin.requests)
            for _ in range(8):
                async with open_client(edge.rtmp_port) as client:
                    client.play("film.mp4")
                    if moment == "open":
                        await origin.wait_for_requests(request_count + 1)
                    elif moment == "cold wait":
                        await client.until(reaches(360))
                    else:
                        await client.until(lambda m: m.type_id in MEDIA)
                line = await asyncio.to_thread(await_line, edge, "rtmp_disconnect", client)
                assert line["reason"].startswith(("client left", "connection lost"))
                stop = await asyncio.to_thread(await_line, edge, "rtmp_stop", client)
                assert stop["reason"] == "disconnected"
            if moment == "open":
                origin.release_responses()
            else:
                origin.release("film.mp4")
            # Running fills end without readers, and close their files.
            await asyncio.to_thread(
                await_metrics,
                edge,
                {
                    "streamedge_running_fills": 0.0,
                    "streamedge_rtmp_connections": 0.0,
                    "streamedge_viewers": 0.0,
                },
            )
            after = len(list(descriptors.iterdir()))
            # The asset's files stay open for the next viewer, and kept-alive connections.
            assert after - before <= 8
            # The next client plays it as usual.
            async with open_client(edge.rtmp_port) as client:
                client.play("film.mp4")
                assert len(samples(await client.until_named(STOP))) == MOVIE_FRAMES

"""streamedge/delivery/rtmp/playback/player.py: one play, with a fake context and medium."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, cast

import pytest

from streamedge.cache.open_object import Failure
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.storage.records import InvalidationTarget, Provenance
from streamedge.delivery.rtmp.playback.pacing import Pace
from streamedge.delivery.rtmp.playback.player import REQUESTS_MAX, Player, PlayState
from streamedge.delivery.rtmp.protocol import amf0, messages
from streamedge.delivery.rtmp.protocol.chunks import ChunkReader, encode_message
from streamedge.delivery.rtmp.protocol.connection import ServerConnection
from streamedge.delivery.rtmp.protocol.events import (
    Offset,
    Pause,
    Play,
    Play2,
    Seek,
    Start,
    Transition,
)
from streamedge.delivery.rtmp.streams import RefusalError
from streamedge.delivery.rtmp.timers import CoalescedTimers
from streamedge.errors import MediaError, MediaFault, OriginError, OriginFailure
from streamedge.media.flv import tags as flv
from streamedge.media.medium import End, Medium, MediumHead, NeedData, Position, Run
from streamedge.ops.metrics import Counter, Counts
from streamedge.spans import Span
from tests.support.patience import PATIENCE_S

HANDSHAKE_BYTES = 1536
STEP_MS = 40
COUNT = 50
KEY_EVERY = 10
ANY = Play(stream_id=1, name="film", start=Start.ANY, duration_ms=None, reset=True)


class Film:
    """Fifty frames, sent in runs of one or more; every tenth is a keyframe."""

    def __init__(self) -> None:
        self.name = "film.flv"
        self.result = CacheResult.MISS
        self.head = MediumHead(COUNT * STEP_MS, {"duration": 2.0, "list": {}},
                               frozenset(), has_video=True)  # fmt: skip
        self.codec_header = b"HEAD"
        self.available = COUNT
        self.fault: MediaError | None = None
        self.holds = True
        self.closed = False
        self.waiting: Callable[[Failure | None], None] | None = None
        self.data_needed = asyncio.Event()

    def is_current(self) -> bool:
        return self.holds

    def provenance(self) -> Provenance:
        return Provenance(InvalidationTarget("ESTREAM", "/film.flv"), 0, {})

    async def locate(self, time_ms: int) -> Position:
        row = min(time_ms // STEP_MS, COUNT - 1) // KEY_EVERY * KEY_EVERY
        return Position(row, row * STEP_MS)

    def sequence_headers(self, mark: Position) -> tuple[tuple[int, bytes], ...]:
        return ((9, self.codec_header),)

    async def locate_after(self, time_ms: int) -> Position:
        row = time_ms // STEP_MS + 1
        return Position(row, row * STEP_MS)

    def next_run(
        self, mark: Position, length_ms: int, until_ms: int | None
    ) -> Run | NeedData | End:
        first = mark.position
        if first >= COUNT or (until_ms is not None and mark.time_ms > until_ms):
            return End()
        if first >= self.available:
            if self.fault is not None:
                raise self.fault
            return NeedData(Span(first, first + 1))
        last = min(first + max(1, length_ms // STEP_MS), self.available)
        if until_ms is not None:
            last = max(first + 1, min(last, until_ms // STEP_MS + 1))
        body = b"".join(flv.tag(9, b"\x27\x01\0\0\0%d" % row, row * STEP_MS)
                        for row in range(first, last))  # fmt: skip
        kind = 9 if last - first == 1 else None
        reader = cast(Reader, None)
        following = Position(last, last * STEP_MS)
        return Run(reader, Span(first, last), body, kind, True, mark.time_ms, following)

    def when_ready(
        self, span: Span, callback: Callable[[Failure | None], None]
    ) -> Callable[[], None]:
        self.waiting = callback
        self.data_needed.set()

        def cancel() -> None:
            self.waiting = None

        return cancel

    def add_frames(self, available: int) -> None:
        """More frames are in the cache: ``available`` in all."""
        self.available = available
        assert self.waiting is not None
        self.waiting(None)

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class FakeContext:
    """A PlayerContext that records the sent messages."""

    def __init__(self, film: Film | RefusalError) -> None:
        self.engine = ServerConnection(random=bytes(1528), message_limit_bytes=65536)
        self._chunks = ChunkReader(message_limit_bytes=1 << 24)
        self._connect()
        self.counts = Counts()
        self.timers = CoalescedTimers(asyncio.get_running_loop())
        self.splits_data = False
        self.takes_aggregates = True
        self.statuses: list[tuple[int, str]] = []
        self.media: list[tuple[int, int]] = []  # type and time
        self.lines: list[tuple[str, dict[str, object]]] = []
        self.sent_bytes = 0
        self.client_reads = asyncio.Event()
        self.client_reads.set()
        self.film = film
        self.refusal: RefusalError | None = None  # of seeks
        self._changed = asyncio.Event()

    def _connect(self) -> None:
        connect = messages.command(0, "connect", 1.0, {"app": "vod"})
        self.engine.receive_data(
            b"\x03" + bytes(2 * HANDSHAKE_BYTES) + encode_message(connect, 128)
        )
        self.engine.accept_connect(1.0)
        self._chunks.receive_data(self.engine.data_to_send()[1 + 2 * HANDSHAKE_BYTES :])

    async def open_medium(self, name: str) -> Medium:
        if isinstance(self.film, RefusalError):
            raise self.film
        return self.film

    def check(self, name: str, medium: Medium) -> None:
        if self.refusal is not None:
            raise self.refusal

    def count_play(self, result: str) -> None:
        pass

    def cache_result(self, medium: Medium) -> CacheResult:
        return medium.result

    @property
    def is_idle(self) -> bool:
        return self.client_reads.is_set()

    def push(self, *parts: bytes | tuple[Reader, Span]) -> None:
        data = self.engine.data_to_send() + b"".join(cast(tuple[bytes, ...], parts))
        self.sent_bytes += len(data)
        for message in self._chunks.receive_data(data):
            if message.type_id in (8, 9, 22):
                self.media.append((message.type_id, message.timestamp_ms))
            elif message.type_id in (18, 20):
                values: list[Any] = amf0.decode_all(message.payload)
                code = values[-1].get("code") if isinstance(values[-1], dict) else None
                self.statuses.append((message.timestamp_ms, code or values[0]))
        self._changed.set()
        self._changed = asyncio.Event()

    def push_run(self, header: bytes, reader: Reader, span: Span) -> None:
        raise AssertionError("the film's runs are bytes")

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    def after_refusal(self) -> None:
        pass

    async def drained(self) -> None:
        await self.client_reads.wait()

    def log_event(self, event: str, player: Player, **fields: object) -> None:
        self.lines.append((event, fields))

    def log_unplayed(self, name: str, reason: str) -> None:
        self.lines.append(("stop", {"bytes": 0, "reason": reason}))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await self._changed.wait()

    async def until_status(self, code: str) -> None:
        await self.until(lambda: code in self.codes())

    def codes(self) -> list[str]:
        return [code for _, code in self.statuses]


class Bench:
    """A film, a context and a player that plays the film."""

    def __init__(
        self, play: Play = ANY, *, available: int = COUNT, buffer_ms: int = 1 << 30
    ) -> None:
        self.film = Film()
        self.film.available = available
        self.context = FakeContext(self.film)
        self.player = Player(self.context, 1, Pace(1 << 30, 0, buffer_ms))
        self.player.play(play)
        self.task = asyncio.ensure_future(self.player.run())

    async def close(self) -> None:
        self.player.close()
        async with asyncio.timeout(PATIENCE_S):
            await self.task
        assert self.player.state is PlayState.CLOSED
        assert self.film.closed


async def test_play_runs_from_beginning_to_end() -> None:
    bench = Bench()
    await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
    assert bench.context.codes() == [
        "NetStream.Play.Reset", "NetStream.Play.Start", "|RtmpSampleAccess",
        "NetStream.Data.Start", "onMetaData", "NetStream.Play.Complete", "NetStream.Play.Stop",
    ]  # fmt: skip
    # The codec header, the first frame as a plain message at time 0, then runs.
    assert bench.context.media[:2] == [(9, 0), (9, 0)]
    assert [kind for kind, _ in bench.context.media[2:]] == [22] * (len(bench.context.media) - 2)
    assert bench.context.media[2][1] == STEP_MS
    assert bench.player.state is PlayState.ENDED
    await bench.close()
    assert [event for event, _ in bench.context.lines] == ["play", "end", "stop"]
    assert bench.context.lines[0][1] == {"cache": "Miss", "start_ms": 0}
    assert bench.context.lines[-1][1] == {"bytes": bench.context.sent_bytes, "reason": "closed"}
    assert bench.context.counts.gathered(Counter.PLAYS, "Miss") == 1


async def test_play_from_a_time_begins_at_timestamp_0() -> None:
    bench = Bench(Play(1, "film", 900, None, reset=False))
    await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
    assert bench.context.codes()[0] == "NetStream.Play.Start"
    assert {time_ms for _, time_ms in bench.context.media[:2]} == {0}
    assert max(time_ms for _, time_ms in bench.context.media) <= (COUNT - 20) * STEP_MS
    # The time of a seek is a time of the medium.
    bench.player.seek(Seek(1, 1300))
    await bench.context.until(lambda: bench.context.codes().count("NetStream.Play.Stop") == 2)
    assert (9, 1200) in bench.context.media
    await bench.close()


async def test_play_handles_requests_while_it_waits_for_bytes() -> None:
    bench = Bench(available=20)
    await asyncio.wait_for(bench.film.data_needed.wait(), PATIENCE_S)
    bench.film.data_needed.clear()
    bench.player.pause(Pause(1, paused=True, time_ms=0))
    await bench.context.until_status("NetStream.Pause.Notify")
    assert bench.player.state is PlayState.PAUSED
    assert bench.film.waiting is None  # no bytes are requested
    bench.player.pause(Pause(1, paused=False, time_ms=0))
    await asyncio.wait_for(bench.film.data_needed.wait(), PATIENCE_S)
    bench.film.add_frames(COUNT)
    await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
    await bench.close()


async def test_resume_goes_on_or_goes_back() -> None:
    for has_ms, first_ms in ((19 * STEP_MS, 20 * STEP_MS), (5 * STEP_MS, 6 * STEP_MS)):
        bench = Bench(available=20)
        await asyncio.wait_for(bench.film.data_needed.wait(), PATIENCE_S)
        bench.player.pause(Pause(1, paused=True, time_ms=has_ms))
        await bench.context.until_status("NetStream.Pause.Notify")
        bench.context.media.clear()
        bench.film.available = COUNT
        bench.player.pause(Pause(1, paused=False, time_ms=has_ms))
        await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
        assert bench.context.media[0][1] == first_ms
        await bench.close()


async def test_paused_seek_shows_one_frame_when_it_arrives() -> None:
    bench = Bench(available=20)
    await asyncio.wait_for(bench.film.data_needed.wait(), PATIENCE_S)
    bench.player.pause(Pause(1, paused=True, time_ms=0))
    await bench.context.until_status("NetStream.Pause.Notify")
    bench.context.media.clear()
    bench.film.data_needed.clear()
    bench.player.seek(Seek(1, 1500))
    await asyncio.wait_for(bench.film.data_needed.wait(), PATIENCE_S)
    assert bench.context.media == [(9, 1200)]  # the codec header
    bench.film.add_frames(COUNT)
    await bench.context.until(lambda: len(bench.context.media) == 2)
    for _ in range(5):
        await asyncio.sleep(0)
    assert bench.context.media == [(9, 1200), (9, 1200)]
    assert bench.player.state is PlayState.PAUSED
    await bench.close()


PAUSED = "NetStream.Pause.Notify"
SOUGHT = "NetStream.Seek.Notify"
RESUMED = "NetStream.Unpause.Notify"


@pytest.mark.parametrize("order", [(PAUSED, SOUGHT), (SOUGHT, PAUSED)])
async def test_pause_and_seek_in_one_packet_show_the_frame_of_the_seek(
    order: tuple[str, str],
) -> None:
    bench = Bench(available=20)
    await asyncio.wait_for(bench.film.data_needed.wait(), PATIENCE_S)
    bench.film.available = COUNT
    bench.context.media.clear()
    bench.context.statuses.clear()
    for request in order:
        if request == PAUSED:
            bench.player.pause(Pause(1, paused=True, time_ms=200))
        else:
            bench.player.seek(Seek(1, 1500))
    await bench.context.until(lambda: len(bench.context.media) == 2)
    for _ in range(5):
        await asyncio.sleep(0)
    assert bench.context.media == [(9, 1200), (9, 1200)]  # the codec header and the keyframe
    assert [code for code in bench.context.codes() if code in order] == list(order)
    assert bench.player.state is PlayState.PAUSED
    await bench.close()


async def test_play_and_pause_in_one_packet_show_the_first_frame() -> None:
    bench = Bench()
    bench.player.pause(Pause(1, paused=True, time_ms=0))
    await bench.context.until(lambda: len(bench.context.media) == 2)
    for _ in range(5):
        await asyncio.sleep(0)
    assert bench.context.media == [(9, 0), (9, 0)]
    bench.player.pause(Pause(1, paused=False, time_ms=0))
    await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
    assert bench.context.media[2][1] == STEP_MS
    await bench.close()


async def test_resume_and_seek_in_one_packet_go_on_from_the_seek() -> None:
    bench = await paused_at_20(200)
    bench.player.pause(Pause(1, paused=False, time_ms=200))
    bench.player.seek(Seek(1, 1600))
    await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
    assert [code for code in bench.context.codes() if code in (RESUMED, SOUGHT)] == [
        RESUMED,
        SOUGHT,
    ]
    assert [time_ms for _, time_ms in bench.context.media[:2]] == [1600, 1600]
    await bench.close()


async def test_resume_with_a_time_from_before_the_seek_goes_on_from_the_seek() -> None:
    bench = await paused_at_20(200)
    bench.player.seek(Seek(1, 1600))
    await bench.context.until(lambda: len(bench.context.media) == 2)
    bench.player.pause(Pause(1, paused=False, time_ms=200))
    await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
    assert [time_ms for _, time_ms in bench.context.media[:3]] == [1600, 1600, 1600 + STEP_MS]
    await bench.close()


@pytest.mark.parametrize("has_ms", [1000, COUNT * STEP_MS], ids=["a part", "all"])
async def test_viewer_that_shows_the_end_from_its_buffer_can_pause(has_ms: int) -> None:
    bench = Bench()
    await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
    bench.context.media.clear()
    bench.player.pause(Pause(1, paused=True, time_ms=has_ms))
    await bench.context.until_status(PAUSED)
    bench.player.pause(Pause(1, paused=False, time_ms=has_ms))
    await bench.context.until_status(RESUMED)
    await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
    assert bench.player.state is PlayState.ENDED
    stops = bench.context.codes().count("NetStream.Play.Stop")
    if has_ms == 1000:
        assert bench.context.media[0][1] == 1000 + STEP_MS
        assert stops == 2
    else:
        assert bench.context.media == []
        assert stops == 1
    await bench.close()


async def test_requests_that_wait_are_limited() -> None:
    bench = Bench(available=20)
    await asyncio.wait_for(bench.film.data_needed.wait(), PATIENCE_S)
    for number in range(1000):
        bench.player.pause(Pause(1, paused=number % 2 == 0, time_ms=0))
    bench.player.seek(Seek(1, 400))
    await bench.context.until_status(SOUGHT)
    assert bench.context.codes().count(PAUSED) < REQUESTS_MAX
    await bench.close()


async def test_latest_seek_wins() -> None:
    bench = Bench(available=20)
    await asyncio.wait_for(bench.film.data_needed.wait(), PATIENCE_S)
    bench.context.media.clear()
    for time_ms in (0, 800, 400):
        bench.player.seek(Seek(1, time_ms))
    await bench.context.until_status("NetStream.Seek.Notify")
    assert bench.context.media[0] == (9, 400)
    assert bench.context.codes().count("NetStream.Seek.Notify") == 1
    await bench.close()


async def test_play_with_duration_0_sends_one_frame() -> None:
    bench = Bench(Play(1, "film", 900, 0, reset=True))
    await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
    assert bench.context.media == [(9, 0), (9, 0)]
    await bench.close()


async def test_duration_ends_the_play() -> None:
    bench = Bench(Play(1, "film", 0, 400, reset=True))
    await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
    assert max(time_ms for _, time_ms in bench.context.media) < 400
    assert bench.context.codes()[-1] == "NetStream.Play.Stop"
    await bench.close()


async def test_pacing_delays_media_until_the_buffer_grows() -> None:
    bench = Bench(buffer_ms=1000)
    await bench.context.until(
        lambda: bool(bench.context.media) and bench.context.media[-1][0] == 22
    )
    for _ in range(5):
        await asyncio.sleep(0)
    assert not bench.player.ended.is_set()
    bench.player.buffer(1 << 30)
    await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
    await bench.close()


async def test_client_that_does_not_read_stops_sending() -> None:
    bench = Bench()
    bench.context.client_reads.clear()
    await bench.context.until_status("onMetaData")
    for _ in range(20):
        await asyncio.sleep(0)
    assert bench.context.media == [(9, 0)]
    bench.context.client_reads.set()
    await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
    await bench.close()


async def test_refused_name_gets_a_status_and_no_play() -> None:
    context = FakeContext(
        RefusalError("NetStream.Play.StreamNotFound", "There is none.", "not_found")
    )
    player = Player(context, 1, Pace(1000, 0))
    player.play(ANY)
    await player.run()
    assert context.codes() == ["NetStream.Play.StreamNotFound"]
    assert context.counts.gathered(Counter.ERRORS, "not_found") == 1
    assert context.lines[-1][0] == "stop"
    assert "StreamNotFound" in str(context.lines[-1][1]["reason"])
    assert player.ended.is_set()
    assert player.closed.is_set()


@pytest.mark.parametrize(
    ("failure", "code", "kind"),
    [
        (OriginFailure.BROKEN, "NetStream.Play.Failed", "broken"),
        (OriginFailure.CHANGED, "NetStream.Play.Failed", "changed"),
        (OriginFailure.NOT_FOUND, "NetStream.Play.StreamNotFound", "not_found"),
    ],
)
async def test_failed_bytes_end_the_play(failure: OriginFailure, code: str, kind: str) -> None:
    bench = Bench(available=20)
    await asyncio.wait_for(bench.film.data_needed.wait(), PATIENCE_S)
    assert bench.film.waiting is not None
    bench.film.waiting(OriginError(failure, "seen"))
    await asyncio.wait_for(bench.task, PATIENCE_S)
    assert bench.context.codes()[-1] == code
    assert bench.context.counts.gathered(Counter.ERRORS, kind) == 1
    assert bench.film.closed


async def test_damaged_media_end_the_play_after_the_last_complete_tag() -> None:
    bench = Bench(available=20)
    bench.film.fault = MediaError(MediaFault.STRUCTURE_INVALID, "damaged")
    await asyncio.wait_for(bench.task, PATIENCE_S)
    assert bench.context.codes()[-1] == "NetStream.Play.FileStructureInvalid"
    assert len(bench.context.media) > 2


async def test_cancelled_play_closes_its_medium() -> None:
    for prepare in ("playing", "waiting", "paused", "blocked"):
        bench = Bench(available=20)
        if prepare == "blocked":
            bench.context.client_reads.clear()
            await bench.context.until_status("onMetaData")
        else:
            await asyncio.wait_for(bench.film.data_needed.wait(), PATIENCE_S)
        if prepare == "paused":
            bench.player.pause(Pause(1, paused=True, time_ms=0))
            await bench.context.until_status("NetStream.Pause.Notify")
        bench.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await bench.task
        assert bench.film.closed
        assert bench.film.waiting is None
        assert bench.context.lines[-1][1]["reason"] == "disconnected"


async def test_play_closed_before_its_start_opens_no_medium() -> None:
    context = FakeContext(RefusalError("NetStream.Play.Failed", "not requested", "x"))
    player = Player(context, 1, Pace(1000, 0))
    player.play(ANY)
    player.close()
    await player.run()
    assert context.statuses == []


async def test_refused_seek_ends_the_play_without_a_reason_for_the_viewer() -> None:
    bench = Bench()
    await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
    failed = "NetStream.Play.Failed"
    bench.context.refusal = RefusalError(failed, "Not allowed.", "not_allowed", "expired")
    sent = len(bench.context.media)
    bench.player.seek(Seek(1, 400))
    await asyncio.wait_for(bench.task, PATIENCE_S)
    assert bench.context.codes()[-1] == failed
    assert bench.context.lines[-1][1]["reason"] == f"{failed}: expired"
    assert bench.context.counts.gathered(Counter.ERRORS, "not_allowed") == 1
    assert len(bench.context.media) == sent
    assert bench.player.state is PlayState.CLOSED
    assert bench.film.closed


async def test_seek_opens_a_changed_object_again() -> None:
    bench = Bench(available=20)
    await asyncio.wait_for(bench.film.data_needed.wait(), PATIENCE_S)
    bench.player.seek(Seek(1, 0))
    await bench.context.until_status("NetStream.Seek.Notify")
    assert bench.player.medium is bench.film  # an unchanged medium stays open
    newer = Film()
    bench.context.film = newer
    bench.film.holds = False
    bench.context.media.clear()
    bench.player.seek(Seek(1, 1300))
    await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
    assert bench.player.medium is newer
    assert bench.film.closed
    assert (9, 1200) in bench.context.media
    assert bench.context.codes()[-1] == "NetStream.Play.Stop"
    bench.player.close()
    await asyncio.wait_for(bench.task, PATIENCE_S)
    assert newer.closed


async def paused_at_20(has_ms: int) -> Bench:
    """A play that has sent twenty frames, paused by a viewer that has seen ``has_ms``."""
    bench = Bench(available=20)
    await asyncio.wait_for(bench.film.data_needed.wait(), PATIENCE_S)
    bench.player.pause(Pause(1, paused=True, time_ms=has_ms))
    await bench.context.until_status("NetStream.Pause.Notify")
    bench.film.available = COUNT
    bench.context.media.clear()
    return bench


async def test_resume_that_goes_back_is_refused_like_a_seek() -> None:
    bench = await paused_at_20(5 * STEP_MS)
    failed = "NetStream.Play.Failed"
    bench.context.refusal = RefusalError(failed, "Not allowed.", "not_allowed", "expired")
    bench.player.pause(Pause(1, paused=False, time_ms=5 * STEP_MS))
    await asyncio.wait_for(bench.task, PATIENCE_S)
    assert bench.context.codes()[-1] == failed
    assert "NetStream.Unpause.Notify" not in bench.context.codes()
    assert bench.context.lines[-1][1]["reason"] == f"{failed}: expired"
    assert bench.context.media == []
    assert bench.film.closed


@pytest.mark.parametrize("has_ms", [0, 19 * STEP_MS], ids=["none", "all"])
async def test_resume_where_sending_stopped_does_not_check_access_again(has_ms: int) -> None:
    bench = await paused_at_20(has_ms)
    bench.context.refusal = RefusalError("NetStream.Play.Failed", "Not allowed.", "not_allowed")
    bench.context.film = RefusalError("NetStream.Play.Failed", "Not allowed.", "not_allowed")
    bench.film.holds = False
    bench.player.pause(Pause(1, paused=False, time_ms=has_ms))
    await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
    assert bench.context.codes()[-1] == "NetStream.Play.Stop"
    assert bench.context.media[0][1] == 20 * STEP_MS
    await bench.close()


async def test_resume_that_goes_back_opens_a_changed_object_again() -> None:
    bench = await paused_at_20(5 * STEP_MS)
    newer = Film()
    newer.codec_header = b"NEWER"
    bench.context.film = newer
    bench.film.holds = False
    bench.player.pause(Pause(1, paused=False, time_ms=5 * STEP_MS))
    await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
    assert bench.player.medium is newer
    assert bench.film.closed
    codes = bench.context.codes()
    # The codec header of the new medium comes before its first frame.
    assert codes.index("NetStream.Unpause.Notify") < len(codes) - codes[::-1].index("onMetaData")
    assert bench.context.media[:2] == [(9, 6 * STEP_MS), (9, 6 * STEP_MS)]
    bench.player.close()
    await asyncio.wait_for(bench.task, PATIENCE_S)
    assert newer.closed


@pytest.mark.parametrize("state", ["waiting for bytes", "paused", "paused, a frame is missing"])
async def test_revoked_play_fails_in_every_state(state: str) -> None:
    bench = Bench(available=20)
    await asyncio.wait_for(bench.film.data_needed.wait(), PATIENCE_S)
    if state != "waiting for bytes":
        bench.player.pause(Pause(1, True, 500))
        await bench.context.until_status("NetStream.Pause.Notify")
    if state == "paused, a frame is missing":
        bench.film.data_needed.clear()
        bench.player.seek(Seek(1, 1300))
        await asyncio.wait_for(bench.film.data_needed.wait(), PATIENCE_S)
    bench.player.revoke(lambda what: what.subject.target == "/other.flv")
    await asyncio.sleep(0)
    assert not bench.task.done()
    bench.player.revoke(lambda what: what.subject.target == "/film.flv")
    await asyncio.wait_for(bench.task, PATIENCE_S)
    assert bench.context.codes()[-1] == "NetStream.Play.Failed"
    assert bench.context.lines[-1][1]["reason"] == "NetStream.Play.Failed: revoked"
    assert bench.player.state is PlayState.CLOSED
    assert bench.film.closed


async def test_revoke_ends_a_play_between_two_passes() -> None:
    bench = Bench()
    await bench.context.until_status("onMetaData")
    bench.player.revoke(lambda _what: True)
    await asyncio.wait_for(bench.task, PATIENCE_S)
    assert bench.context.codes()[-1] == "NetStream.Play.Failed"


# Requests and errors in unusual states


@pytest.mark.parametrize("event", ["close", "seek", "pause", "revoke"])
async def test_request_in_the_iteration_that_needs_bytes_is_handled(event: str) -> None:
    bench = Bench(available=45, buffer_ms=100)  # the timer, not the task, calls the pump
    pump = bench.film.next_run

    def next_run(mark: Position, length_ms: int, until_ms: int | None) -> Run | NeedData | End:
        run = pump(mark, length_ms, until_ms)
        if isinstance(run, NeedData):
            # The client's bytes are read in the same iteration, before the task runs.
            loop = asyncio.get_running_loop()
            if event == "close":
                loop.call_soon(bench.player.close)
            elif event == "seek":
                loop.call_soon(bench.player.seek, Seek(1, 0))
            elif event == "pause":
                loop.call_soon(bench.player.pause, Pause(1, True, 0))
            else:
                loop.call_soon(bench.player.revoke, lambda provenance: True)
        return run

    bench.film.next_run = next_run  # type: ignore[method-assign]
    effects = {
        "seek": "NetStream.Seek.Notify",
        "pause": "NetStream.Pause.Notify",
        "revoke": "NetStream.Play.Failed",
    }
    if event in effects:
        await bench.context.until_status(effects[event])
        bench.player.close()
    await asyncio.wait_for(bench.task, PATIENCE_S)
    assert bench.film.closed


async def test_unpause_is_handled_while_the_frame_of_a_seek_is_missing() -> None:
    bench = Bench(available=20, buffer_ms=100)
    await bench.context.until_status("NetStream.Play.Start")
    bench.player.pause(Pause(1, True, 0))
    await bench.context.until_status("NetStream.Pause.Notify")
    bench.film.data_needed.clear()
    bench.player.seek(Seek(1, 1600))
    await bench.context.until_status("NetStream.Seek.Notify")
    await asyncio.wait_for(bench.film.data_needed.wait(), PATIENCE_S)
    bench.player.pause(Pause(1, False, 1600))
    await bench.context.until_status("NetStream.Unpause.Notify")
    await bench.close()


@pytest.mark.parametrize("buffer_ms", [100, 1 << 30], ids=["by the clock", "by the task"])
async def test_internal_error_in_the_pump_ends_the_play_with_a_status(buffer_ms: int) -> None:
    bench = Bench(buffer_ms=buffer_ms)
    plain = bench.film.next_run

    def next_run(mark: Position, length_ms: int, until_ms: int | None) -> Run | NeedData | End:
        if mark.time_ms > 1200:
            raise ZeroDivisionError("a defect")
        return plain(mark, length_ms, until_ms)

    bench.film.next_run = next_run  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(bench.task, PATIENCE_S)
    assert bench.context.codes()[-1] == "NetStream.Play.Failed"
    assert bench.context.lines[-1][0] == "stop"
    assert "ZeroDivisionError" in str(bench.context.lines[-1][1]["reason"])
    assert bench.film.closed


# Switches and revoked items


async def playing(available: int = 20) -> tuple[Bench, Film]:
    """A play that waits for frame ``available``, and the film that is opened next."""
    bench = Bench(available=available)
    await asyncio.wait_for(bench.film.data_needed.wait(), PATIENCE_S)
    newer = Film()
    newer.codec_header = b"NEWER"
    bench.context.film = newer
    return bench, newer


def switch(offset: int | Offset = Offset.AFTER_SENT) -> Play2:
    return Play2(1, "newer", "film", Start.ANY, None, Transition.SWITCH, offset)


async def test_switch_happens_at_the_first_keyframe_after_what_was_sent() -> None:
    bench, newer = await playing(available=23)
    assert bench.player.play2(switch())
    await bench.context.until_status("NetStream.Play.Transition")
    assert not bench.film.closed
    bench.film.add_frames(COUNT)
    await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
    seam_ms = 30 * STEP_MS
    assert (seam_ms, "NetStream.Play.TransitionComplete") in bench.context.statuses
    times_ms = [time_ms for _, time_ms in bench.context.media]
    assert times_ms == sorted(times_ms)
    assert times_ms.count(seam_ms) == 2  # the codec header and the keyframe
    assert bench.film.closed
    assert bench.player.name == "newer"
    bench.player.close()
    await asyncio.wait_for(bench.task, PATIENCE_S)
    assert newer.closed
    events = [(event, fields.get("reason")) for event, fields in bench.context.lines]
    assert ("stop", "switched") in events


async def test_switch_that_cannot_be_opened_changes_nothing() -> None:
    bench, _ = await playing()
    failed = "NetStream.Play.StreamNotFound"
    bench.context.film = RefusalError(failed, "There is none.", "not_found")
    bench.player.play2(switch())
    await bench.context.until_status(failed)
    bench.film.add_frames(COUNT)
    await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
    assert "NetStream.Play.Transition" not in bench.context.codes()
    await bench.close()


@pytest.mark.parametrize("event", ["seek", "close", "cancel", "switch"])
@pytest.mark.parametrize("state", ["opening", "waiting for its bytes", "ready"])
async def test_dropped_switch_closes_its_medium(state: str, event: str) -> None:
    bench, newer = await playing()
    opened = asyncio.Event()

    async def locate(time_ms: int) -> Position:
        opened.set()
        await asyncio.Event().wait()
        raise AssertionError

    if state == "opening":
        newer.locate = locate  # type: ignore[method-assign]
    elif state == "waiting for its bytes":
        newer.available = 0
    bench.player.play2(switch())
    if state == "opening":
        await asyncio.wait_for(opened.wait(), PATIENCE_S)
    elif state == "ready":
        await bench.context.until_status("NetStream.Play.Transition")
    else:
        await asyncio.wait_for(newer.data_needed.wait(), PATIENCE_S)
    bench.context.film = bench.film
    if event == "seek":
        bench.player.seek(Seek(1, 0))
        await bench.context.until_status("NetStream.Seek.Notify")
    elif event == "switch":
        third = Film()
        bench.context.film = third
        bench.context.statuses.clear()
        bench.player.play2(switch())
        await bench.context.until_status("NetStream.Play.Transition")
        bench.film.add_frames(COUNT)
        await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
        assert bench.player.medium is third
    if event == "cancel":
        bench.task.cancel()
    else:
        bench.player.close()
    await asyncio.wait([bench.task], timeout=PATIENCE_S)
    for _ in range(5):
        await asyncio.sleep(0)
    assert newer.closed
    assert bench.film.closed


async def test_switch_that_waits_is_refused_when_its_item_ends() -> None:
    bench, newer = await playing()
    newer.available = 0
    bench.player.play2(switch())
    await asyncio.wait_for(newer.data_needed.wait(), PATIENCE_S)
    last = Film()
    bench.context.film = last
    bench.player.play(replace(ANY, reset=False))
    bench.film.add_frames(COUNT)
    await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
    codes = bench.context.codes()
    assert codes.index("NetStream.Play.Failed") < codes.index("NetStream.Play.Switch")
    assert bench.player.medium is last
    assert newer.closed
    bench.player.close()
    await asyncio.wait_for(bench.task, PATIENCE_S)


async def test_revoked_item_is_unpublished_and_the_next_one_plays() -> None:
    bench, newer = await playing()
    bench.player.play(replace(ANY, reset=False))
    bench.player.revoke(lambda _provenance: True)
    await asyncio.wait_for(bench.player.ended.wait(), PATIENCE_S)
    codes = bench.context.codes()
    at = codes.index("NetStream.Play.UnpublishNotify")
    assert codes[at : at + 3] == [
        "NetStream.Play.UnpublishNotify", "NetStream.Play.Failed", "NetStream.Play.Start",
    ]  # fmt: skip
    assert bench.film.closed
    assert bench.player.medium is newer
    bench.player.close()
    await asyncio.wait_for(bench.task, PATIENCE_S)


async def test_internal_error_of_the_next_item_closes_the_medium_before_it() -> None:
    bench, _ = await playing()

    async def fails(name: str) -> Medium:
        raise ZeroDivisionError(name)

    bench.context.open_medium = fails  # type: ignore[method-assign]
    bench.player.play(replace(ANY, reset=False))
    bench.film.add_frames(COUNT)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(bench.task, PATIENCE_S)
    assert bench.film.closed

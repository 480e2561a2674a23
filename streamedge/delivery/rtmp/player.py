"""One play of one stream: from its name to its last frame, with seeks and pauses in between.

    OPENING ──▸ PLAYING ◂──▸ PAUSED
                   │  ▲
        last frame ▼  │ seek
                  ENDED          any ──close──▸ CLOSED

The player decides what is sent, in which order, and when. A message that has begun is always
finished: only runs whose bytes are in the cache are sent, and requests (seek, pause, close) are
handled between messages. ``PlayerContext`` writes to the socket; the engine encodes the protocol.

The first frames go as plain messages: a picture shows before a second of media has arrived, and
FFmpeg loses a step of time after a sub-tag that is stamped 0. After that whole runs go as
aggregate messages (type 22). Their bodies are the bytes of the FLV as they are in the cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from streamedge.cache.open_object import Failure
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.storage.records import Provenance
from streamedge.delivery.rtmp.pacing import Pace
from streamedge.delivery.rtmp.protocol import messages
from streamedge.delivery.rtmp.protocol.amf0 import EcmaArray
from streamedge.delivery.rtmp.protocol.chunks import MessageType
from streamedge.delivery.rtmp.protocol.connection import OUT_CHUNK_SIZE_BYTES, ServerConnection
from streamedge.delivery.rtmp.protocol.events import Pause, Play, Seek, Start
from streamedge.delivery.rtmp.protocol.messages import StatusLevel
from streamedge.delivery.rtmp.streams import RefusalError, refusal_of
from streamedge.delivery.rtmp.timers import CoalescedTimers, TimerHandle
from streamedge.errors import CacheFullError, MediaError, OriginError
from streamedge.media.flv.tags import PREVIOUS_TAG_SIZE_BYTES, TAG_HEADER_SIZE_BYTES
from streamedge.media.medium import LONG_RUN_MS, RUN_MS, End, Medium, NeedData, Position, Run, Skip
from streamedge.ops.metrics import Counter, Counts
from streamedge.spans import Span

PLAIN_TAGS_MAX = 8  # sent one by one at a start, until there is a picture
RUNS_PER_TURN = 4  # sent to one viewer before others get their turn
INTERNAL_ERROR = ("NetStream.Play.Failed", "The edge failed.")  # code and description
LATE_S = 0.2  # behind what a viewer sees: counted as late
RESUME_NEAR_MS = 100  # a client that says it has all but this goes on where we stopped


class PlayState(Enum):
    OPENING = "opening"
    PLAYING = "playing"
    PAUSED = "paused"
    ENDED = "ended"
    CLOSED = "closed"


class StopReason(Enum):
    """Why the pump stopped, beside what a medium says."""

    FULL = "full"  # the socket takes no more
    TURN = "turn"  # enough for now


class Player:
    """Plays until closed; ``run`` is its task's whole work."""

    def __init__(self, stage: PlayerContext, play: Play, pace: Pace) -> None:
        self.stream_id = play.stream_id
        self.name = play.name
        self.state = PlayState.OPENING
        self.ended = asyncio.Event()  # nothing more comes, unless it is sought back
        self.closed = asyncio.Event()
        self.medium: Medium | None = None
        self._stage = stage
        self._engine = stage.engine
        self._play = play
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._seek: Seek | None = None
        self._pause: Pause | None = None
        self._is_revoked = False
        self._waker: asyncio.Future[None] | None = None
        self._timer: TimerHandle | None = None
        self._hindrance: NeedData | End | Exception | StopReason | None = None
        self._mark = Position(0, 0)
        self._origin_ms = 0  # media time that the viewer sees as 0
        self._until_ms: int | None = None
        self._plain_tags = 0
        self._clock_runs = False
        self._begun_bytes = stage.sent_bytes

    # Wishes, from the connection

    def seek(self, wish: Seek) -> None:
        """Goes elsewhere, as soon as the message under way is out."""
        self._seek = wish
        self._wake()

    def pause(self, wish: Pause) -> None:
        """Stops sending, or goes on."""
        self._pause = wish
        self._wake()

    def buffer(self, buffer_ms: int) -> None:
        """The client's buffer has another length from now on."""
        self._pace.buffer_ms = buffer_ms
        self._wake()

    def revoke(self, is_revoked: Callable[[Provenance], bool]) -> None:
        """Ends the play after the message under way, if it is one of what has been revoked."""
        if self.medium is not None and is_revoked(self.medium.provenance()):
            self._is_revoked = True
            self._wake()

    def close(self) -> None:
        """Ends the play after the message under way."""
        self.state = PlayState.CLOSED
        self._wake()

    # The play

    async def run(self) -> None:
        """From the name to CLOSED. Failures end as a status to the viewer."""
        reason = "closed"
        try:
            if self.state is not PlayState.CLOSED:
                self.medium = await self._stage.open_medium(self.name)
                await self._perform(self.medium)
        except (RefusalError, OriginError, CacheFullError, MediaError) as exc:
            refusal = refusal_of(exc)
            reason = f"{refusal.code}: {refusal.reason or exc.__cause__ or exc}"
            self._stage.counts.add(Counter.ERRORS, refusal.kind)
            self._status(refusal.code, str(refusal), StatusLevel.ERROR)
            self._stage.push()
        except asyncio.CancelledError:
            reason = "disconnected"
            raise
        except Exception as exc:
            reason = f"internal error: {exc!r}"
            self._status(*INTERNAL_ERROR, StatusLevel.ERROR)
            self._stage.push()
            raise
        finally:
            self._stop_pump()
            self.state = PlayState.CLOSED
            self.ended.set()
            self.closed.set()
            if self.medium is not None:
                self.medium.close()
            self._stage.tell("stop", self, bytes=self._bytes(), reason=reason)

    async def _perform(self, medium: Medium) -> None:
        start_ms = self._play.start if isinstance(self._play.start, int) else 0
        self._mark = await medium.locate(start_ms)
        if self.state is PlayState.CLOSED:
            return
        self.state = PlayState.PLAYING
        if not isinstance(self._play.start, Start):
            self._origin_ms = self._mark.time_ms
        if self._play.duration_ms:
            self._until_ms = max(self._mark.time_ms, start_ms + self._play.duration_ms - 1)
        self._announce_play(medium)
        result = self._stage.cache_result(medium).value
        self._stage.tell("play", self, cache=result, start_ms=start_ms)
        self._stage.counts.add(Counter.PLAYS, result)
        while self.state is not PlayState.CLOSED:
            if self._is_revoked:
                raise RefusalError(
                    "NetStream.Play.Failed", "The stream was withdrawn.", "revoked", "revoked"
                )
            if self._seek is not None:
                medium = await self._handle_seek(medium)
            elif self._pause is not None:
                medium = await self._handle_pause(medium)
            elif self.state is PlayState.PLAYING:
                await self._stream(medium)
            else:
                await self._wait()

    async def _stream(self, medium: Medium) -> None:
        """Sends run after run until a wish comes or the medium ends.

        The steady state needs no task: ``_pump`` is called by the clock, and wakes this only for
        what it cannot do itself.
        """
        self._pump(medium)
        await self._wait()
        self._stop_pump()
        hindrance, self._hindrance = self._hindrance, None
        if isinstance(hindrance, Exception):
            raise hindrance
        if isinstance(hindrance, NeedData):
            await self._wait(hindrance, medium)
        elif isinstance(hindrance, End):
            self._announce_end(medium)
        elif hindrance is StopReason.FULL:
            await self._stage.drained()
        elif hindrance is StopReason.TURN:
            await asyncio.sleep(0)

    def _pump(self, medium: Medium, length_ms: int = RUN_MS) -> None:
        """Sends the runs that are due, and comes back when the next one is.

        Called by the clock, it has nobody to raise to: whatever fails ends ``_stream``.
        """
        self._timer = None
        try:
            self._send_due_runs(medium, length_ms)
        except Exception as exc:  # noqa: BLE001 - raised again where the play can end by it
            self._hinder(exc)

    def _send_due_runs(self, medium: Medium, length_ms: int) -> None:
        for _ in range(RUNS_PER_TURN):
            if self._clock_runs:
                now_s = self._loop.time()
                wait_s = self._pace.wait_s(now_s, self._mark.time_ms)
                if wait_s > 0:
                    self._timer = self._stage.timers.call_at(
                        now_s + wait_s, lambda: self._pump(medium, LONG_RUN_MS)
                    )
                    return
            if not self._stage.is_idle:
                self._hinder(StopReason.FULL)
                return
            if self._plain_tags > 0 or self._mark.time_ms == 0 or self._play.duration_ms == 0:
                length_ms = 0
            run = medium.next_run(self._mark, length_ms, self._until_ms)
            if isinstance(run, Skip):
                self._mark = run.following
                continue
            if not isinstance(run, Run):
                self._hinder(run)
                return
            self._send(medium, run)
            length_ms = RUN_MS
            if self._play.duration_ms == 0 and (run.has_video or not medium.head.has_video):
                self._until_ms = -1  # a single frame was asked for
        # A viewer with a deep buffer and a fast line must let others have their turn.
        self._hinder(StopReason.TURN)

    def _hinder(self, hindrance: NeedData | End | Exception | StopReason) -> None:
        self._hindrance = hindrance
        self._wake()

    def _stop_pump(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send(self, medium: Medium, run: Run) -> None:
        now_s = self._loop.time()
        if not self._clock_runs:
            self._clock_runs = True
            self._pace.start(now_s, run.time_ms)
        elif self._pace.late_s(now_s, run.time_ms) > LATE_S:
            self._stage.counts.add(Counter.LATE_SENDS, "rtmp")
        time_ms = max(0, run.time_ms - self._origin_ms)
        kind, skipped, dropped = MessageType.AGGREGATE, 0, 0
        if run.tag_type is not None:
            kind = MessageType(run.tag_type)
            skipped, dropped = TAG_HEADER_SIZE_BYTES, PREVIOUS_TAG_SIZE_BYTES
        if run.body is None:
            span = Span(run.span.start + skipped, run.span.end - dropped)
            size = span.size
            if size <= OUT_CHUNK_SIZE_BYTES:
                header = messages.media_header(self.stream_id, kind, time_ms, size)
                self._stage.push_run(header, run.reader, span)
            else:
                self._push_large(kind, time_ms, run.reader, span)
        else:
            body = run.body[skipped : len(run.body) - dropped]
            size = len(body)
            self._engine.media_message(self.stream_id, kind, time_ms, body)
            self._stage.push()
        self._pace.sent(size)
        self._mark = run.following
        if run.has_video or not medium.head.has_video:
            self._plain_tags = 0
        else:
            self._plain_tags = max(0, self._plain_tags - 1)

    def _push_large(self, kind: MessageType, time_ms: int, reader: Reader, span: Span) -> None:
        """Sends a message of several chunks: a single frame that is larger than one."""
        chunks = messages.media_chunks(self.stream_id, kind, time_ms, span, OUT_CHUNK_SIZE_BYTES)
        parts: list[bytes | tuple[Reader, Span]] = []
        for header, part in chunks:
            parts += (header, (reader, part))
        self._stage.push(*parts)

    async def _handle_seek(self, medium: Medium) -> Medium:
        """Seeks, which is asked for as a play is; returns the medium from now on."""
        wish, self._seek = self._seek, None
        assert wish is not None
        medium = await self._reauthorize(medium)
        self._mark = await medium.locate(wish.time_ms)
        self._origin_ms = 0
        self._clock_runs = False
        if self.state is PlayState.ENDED:
            self.state = PlayState.PLAYING
            self.ended.clear()
        self._announce_seek(medium, wish)
        self._stage.tell("seek", self, to_ms=wish.time_ms, at_ms=self._mark.time_ms)
        if self.state is PlayState.PAUSED:
            await self._show_one_frame(medium)
        return medium

    async def _reauthorize(self, medium: Medium) -> Medium:
        """The medium to send from another place of, by what the viewer may have now.

        Raises RefusalError. The one that is given is closed if another has taken its place.
        """
        self._stage.check(self.name, medium)
        if medium.is_current():
            return medium
        self.medium = await self._stage.open_medium(self.name)
        medium.close()
        return self.medium

    async def _show_one_frame(self, medium: Medium) -> None:
        """What a seek shows while paused: the keyframe alone."""
        while not self._has_wish and self.state is PlayState.PAUSED:
            run = medium.next_run(self._mark, 0, None)
            if isinstance(run, Skip):
                self._mark = run.following
                await asyncio.sleep(0)
                continue
            if isinstance(run, NeedData):
                await self._wait(run, medium)
                continue
            if isinstance(run, Run):
                self._send(medium, run)
                await self._stage.drained()
                if not run.has_video and medium.head.has_video:
                    continue
            return

    async def _handle_pause(self, medium: Medium) -> Medium:
        """Pauses or goes on; returns the medium from now on."""
        wish, self._pause = self._pause, None
        assert wish is not None
        if wish.paused and self.state is PlayState.PLAYING:
            self.state = PlayState.PAUSED
            self._status("NetStream.Pause.Notify", f"Paused {self.name}.")
            self._stage.tell("pause", self, at_ms=wish.time_ms)
        elif not wish.paused and self.state is PlayState.PAUSED:
            self.state = PlayState.PLAYING
            before, has_ms = medium, wish.time_ms + self._origin_ms
            if self._mark.time_ms - has_ms > RESUME_NEAR_MS and wish.time_ms:
                # §7.2.2.8: only what is later than the time at which the client stopped. That
                # sends anew what was sent, so it is asked for as a seek is.
                medium = await self._reauthorize(medium)
                self._mark = await medium.locate_after(has_ms)
            self._clock_runs = False
            self._status("NetStream.Unpause.Notify", f"Unpaused {self.name}.")
            self._stage.tell("unpause", self, at_ms=wish.time_ms)
            if medium is not before:
                self._announce_media(medium)
        self._stage.push()
        return medium

    # What the viewer is told

    def _announce_play(self, medium: Medium) -> None:
        engine, stream = self._engine, self.stream_id
        engine.stream_is_recorded(stream)
        engine.stream_begin(stream)
        if self._play.reset:
            self._status("NetStream.Play.Reset", f"Playing and resetting {self.name}.")
        self._status("NetStream.Play.Start", f"Started playing {self.name}.")
        self._announce_media(medium)

    def _announce_seek(self, medium: Medium, wish: Seek) -> None:
        engine, stream = self._engine, self.stream_id
        engine.stream_eof(stream)
        engine.stream_is_recorded(stream)
        engine.stream_begin(stream)
        self._status("NetStream.Seek.Notify", f"Seeking {wish.time_ms} (stream ID: {stream}).")
        self._status("NetStream.Play.Start", f"Started playing {self.name}.")
        self._announce_media(medium)

    def _announce_media(self, medium: Medium) -> None:
        """Everything a decoder needs before its first frame, after every play and seek."""
        engine, stream = self._engine, self.stream_id
        engine.sample_access(stream)
        if self._stage.sends_data_start:
            engine.data_start(stream)
        time_ms = max(0, self._mark.time_ms - self._origin_ms)
        metadata = {
            name: value
            for name, value in medium.head.metadata.items()
            if isinstance(value, bool | int | float | str)
        }
        engine.metadata(stream, time_ms, EcmaArray(metadata))
        for tag_type, body in medium.sequence_headers(self._mark):
            engine.media_message(stream, MessageType(tag_type), time_ms, body)
        self._plain_tags = PLAIN_TAGS_MAX
        self._stage.push()

    def _announce_end(self, medium: Medium) -> None:
        self.state = PlayState.ENDED
        engine, stream = self._engine, self.stream_id
        time_ms = max(0, self._mark.time_ms - self._origin_ms)
        engine.play_complete(
            stream,
            time_ms,
            duration_s=medium.head.duration_ms / 1000,
            size_bytes=self._bytes(),
        )
        self._status("NetStream.Play.Stop", f"Stopped playing {self.name}.")
        engine.stream_eof(stream)
        self._stage.push()
        self._stage.tell("end", self, bytes=self._bytes())
        self.ended.set()

    def _status(self, code: str, description: str, level: StatusLevel = StatusLevel.STATUS) -> None:
        self._engine.stream_status(self.stream_id, level, code, description, details=self.name)

    # Waiting

    @property
    def _has_wish(self) -> bool:
        """Whether the client or the server wants something else than what is going on."""
        return (
            self._seek is not None
            or self._pause is not None
            or self._is_revoked
            or self.state is PlayState.CLOSED
        )

    async def _wait(self, lacking: NeedData | None = None, medium: Medium | None = None) -> None:
        """Until a wish comes, or the pump stops, or what was lacking is there.

        Raises what keeps it from coming. A wish may have come in the turn of the loop in which the
        pump stopped, before this was called.
        """
        if self._has_wish or self._hindrance is not None:
            return
        waker: asyncio.Future[None] = self._loop.create_future()
        self._waker = waker
        take_back: Callable[[], None] | None = None
        if lacking is not None and medium is not None:
            take_back = medium.when_ready(lacking.want, self._landed)
        try:
            await waker
        finally:
            self._waker = None
            if take_back is not None:
                take_back()

    def _wake(self) -> None:
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    def _landed(self, failure: Failure | None) -> None:
        if failure is None:
            self._wake()
        elif self._waker is not None and not self._waker.done():
            self._waker.set_exception(failure)

    def _bytes(self) -> int:
        return self._stage.sent_bytes - self._begun_bytes


class PlayerContext(Protocol):
    """The connection as a player sees it."""

    engine: ServerConnection
    counts: Counts
    timers: CoalescedTimers
    sends_data_start: bool

    async def open_medium(self, name: str) -> Medium:
        """What a name means, if the viewer may have it. Raises RefusalError."""
        ...

    def check(self, name: str, medium: Medium) -> None:
        """Raises RefusalError when the viewer may have no longer what it plays."""
        ...

    def cache_result(self, medium: Medium) -> CacheResult:
        """How the first open of a medium went for this viewer."""
        ...

    def push(self, *parts: bytes | tuple[Reader, Span]) -> None:
        """Sends the engine's answers so far, then ``parts``."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether all that was pushed has been handed to the kernel."""
        ...

    def push_run(self, header: bytes, reader: Reader, span: Span) -> None:
        """The same as ``push`` of both, quicker where the kernel takes all at once."""
        ...

    async def drained(self) -> None:
        """Returns once all that was pushed has been handed to the kernel."""
        ...

    def tell(self, event: str, player: Player, **fields: object) -> None:
        """Leaves a log line."""
        ...

    @property
    def sent_bytes(self) -> int: ...

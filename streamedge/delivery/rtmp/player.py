"""One play of one stream: from its name to its last frame, with seeks and pauses in between.

    OPENING ──▸ PLAYING ◂──▸ PAUSED
                   │  ▲
        last frame ▼  │ seek
                  ENDED          any ──close──▸ CLOSED

The player decides what is sent, in which order, and when. A message is never cut off: only runs
whose bytes are in the cache are sent, and requests (seek, pause, close) are handled between
messages. ``PlayerContext`` writes to the socket; the engine encodes the protocol.

The first frames are sent as plain messages: the first one is shown before a second of media has
arrived, and FFmpeg loses a step of time after a sub-tag with timestamp 0. After that whole runs are
sent as aggregate messages (type 22). Their bodies are the bytes of the FLV in the cache.
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

PLAIN_TAGS_MAX = 8  # tags sent as plain messages at a start, until there is a video frame
RUNS_PER_PASS = 4  # sent to one viewer before the event loop serves others
INTERNAL_ERROR = ("NetStream.Play.Failed", "The edge failed.")  # code and description
LATE_S = 0.2  # a run sent this long after its time is shown counts as late
RESUME_NEAR_MS = 100  # a client that misses at most this much resumes where sending stopped


class PlayState(Enum):
    OPENING = "opening"
    PLAYING = "playing"
    PAUSED = "paused"
    ENDED = "ended"
    CLOSED = "closed"


class StopReason(Enum):
    """Why the pump stopped, if the medium is not the reason."""

    SOCKET_FULL = "socket full"  # the kernel's send buffer is full
    YIELD = "yield"  # RUNS_PER_PASS were sent


class Player:
    """One play. ``run`` is the body of its task and returns when the play is closed."""

    def __init__(self, context: PlayerContext, play: Play, pace: Pace) -> None:
        self.stream_id = play.stream_id
        self.name = play.name
        self.state = PlayState.OPENING
        self.ended = asyncio.Event()  # all media were sent; a seek clears it
        self.closed = asyncio.Event()
        self.medium: Medium | None = None
        self._context = context
        self._engine = context.engine
        self._play = play
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._seek: Seek | None = None
        self._pause: Pause | None = None
        self._is_revoked = False
        self._waker: asyncio.Future[None] | None = None
        self._timer: TimerHandle | None = None
        self._stop_reason: NeedData | End | Exception | StopReason | None = None
        self._position = Position(0, 0)
        self._origin_ms = 0  # the media time that is time 0 for the viewer
        self._until_ms: int | None = None
        self._plain_tags = 0
        self._clock_is_running = False
        self._start_bytes = context.sent_bytes

    # Requests, from the connection

    def seek(self, request: Seek) -> None:
        """Continues at another time, after the current message."""
        self._seek = request
        self._wake()

    def pause(self, request: Pause) -> None:
        """Pauses or resumes sending."""
        self._pause = request
        self._wake()

    def buffer(self, buffer_ms: int) -> None:
        """Sets the length of the client's buffer."""
        self._pace.buffer_ms = buffer_ms
        self._wake()

    def revoke(self, is_revoked: Callable[[Provenance], bool]) -> None:
        """Ends the play after the current message, if the predicate matches its medium."""
        if self.medium is not None and is_revoked(self.medium.provenance()):
            self._is_revoked = True
            self._wake()

    def close(self) -> None:
        """Ends the play after the current message."""
        self.state = PlayState.CLOSED
        self._wake()

    # The play

    async def run(self) -> None:
        """Plays from OPENING to CLOSED. A failure is sent to the viewer as a status."""
        reason = "closed"
        try:
            if self.state is not PlayState.CLOSED:
                self.medium = await self._context.open_medium(self.name)
                await self._perform(self.medium)
        except (RefusalError, OriginError, CacheFullError, MediaError) as exc:
            refusal = refusal_of(exc)
            reason = f"{refusal.code}: {refusal.reason or exc.__cause__ or exc}"
            self._context.counts.add(Counter.ERRORS, refusal.kind)
            self._status(refusal.code, str(refusal), StatusLevel.ERROR)
            self._context.push()
        except asyncio.CancelledError:
            reason = "disconnected"
            raise
        except Exception as exc:
            reason = f"internal error: {exc!r}"
            self._status(*INTERNAL_ERROR, StatusLevel.ERROR)
            self._context.push()
            raise
        finally:
            self._stop_pump()
            self.state = PlayState.CLOSED
            self.ended.set()
            self.closed.set()
            if self.medium is not None:
                self.medium.close()
            self._context.log_event("stop", self, bytes=self._bytes(), reason=reason)

    async def _perform(self, medium: Medium) -> None:
        start_ms = self._play.start if isinstance(self._play.start, int) else 0
        self._position = await medium.locate(start_ms)
        if self.state is PlayState.CLOSED:
            return
        self.state = PlayState.PLAYING
        if not isinstance(self._play.start, Start):
            self._origin_ms = self._position.time_ms
        if self._play.duration_ms:
            self._until_ms = max(self._position.time_ms, start_ms + self._play.duration_ms - 1)
        self._announce_play(medium)
        result = self._context.cache_result(medium).value
        self._context.log_event("play", self, cache=result, start_ms=start_ms)
        self._context.counts.add(Counter.PLAYS, result)
        while self.state is not PlayState.CLOSED:
            if self._is_revoked:
                raise RefusalError(
                    "NetStream.Play.Failed",
                    "Access to the stream is revoked.",
                    "revoked",
                    "revoked",
                )
            if self._seek is not None:
                medium = await self._handle_seek(medium, self._seek)
            elif self._pause is not None:
                medium = await self._handle_pause(medium, self._pause)
            elif self.state is PlayState.PLAYING:
                await self._stream(medium)
            else:
                await self._wait()

    async def _stream(self, medium: Medium) -> None:
        """Sends runs until there is a request or the medium ends.

        The steady state needs no task: a timer calls ``_pump``, which wakes this coroutine only
        for what needs one.
        """
        self._pump(medium)
        await self._wait()
        self._stop_pump()
        stop_reason, self._stop_reason = self._stop_reason, None
        if isinstance(stop_reason, Exception):
            raise stop_reason
        if isinstance(stop_reason, NeedData):
            await self._wait(stop_reason, medium)
        elif isinstance(stop_reason, End):
            self._announce_end(medium)
        elif stop_reason is StopReason.SOCKET_FULL:
            await self._context.drained()
        elif stop_reason is StopReason.YIELD:
            await asyncio.sleep(0)

    def _pump(self, medium: Medium, length_ms: int = RUN_MS) -> None:
        """Sends the runs that are due, and sets a timer for the next one.

        A timer calls it, so an exception is passed to ``_stream``, which raises it.
        """
        self._timer = None
        try:
            self._send_due_runs(medium, length_ms)
        except Exception as exc:  # noqa: BLE001 - raised again by _stream
            self._stop_sending(exc)

    def _send_due_runs(self, medium: Medium, length_ms: int) -> None:
        for _ in range(RUNS_PER_PASS):
            if self._clock_is_running:
                now_s = self._loop.time()
                wait_s = self._pace.wait_s(now_s, self._position.time_ms)
                if wait_s > 0:
                    self._timer = self._context.timers.call_at(
                        now_s + wait_s, lambda: self._pump(medium, LONG_RUN_MS)
                    )
                    return
            if not self._context.is_idle:
                self._stop_sending(StopReason.SOCKET_FULL)
                return
            if (
                self._plain_tags > 0
                or self._position.time_ms == 0
                or self._play.duration_ms == 0
                or not self._context.takes_aggregates
            ):
                length_ms = 0
            run = medium.next_run(self._position, length_ms, self._until_ms)
            if isinstance(run, Skip):
                self._position = run.following
                continue
            if not isinstance(run, Run):
                self._stop_sending(run)
                return
            self._send(medium, run)
            length_ms = RUN_MS
            if self._play.duration_ms == 0 and (run.has_video or not medium.head.has_video):
                self._until_ms = -1  # the client requested a single frame
        # A viewer with a large buffer and a fast connection must not block the event loop.
        self._stop_sending(StopReason.YIELD)

    def _stop_sending(self, reason: NeedData | End | Exception | StopReason) -> None:
        self._stop_reason = reason
        self._wake()

    def _stop_pump(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send(self, medium: Medium, run: Run) -> None:
        now_s = self._loop.time()
        if not self._clock_is_running:
            self._clock_is_running = True
            self._pace.start(now_s, run.time_ms)
        elif self._pace.late_s(now_s, run.time_ms) > LATE_S:
            self._context.counts.add(Counter.LATE_SENDS, "rtmp")
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
                self._context.push_run(header, run.reader, span)
            else:
                self._push_large(kind, time_ms, run.reader, span)
        else:
            body = run.body[skipped : len(run.body) - dropped]
            size = len(body)
            self._engine.media_message(self.stream_id, kind, time_ms, body)
            self._context.push()
        self._pace.sent(size)
        self._position = run.following
        if run.has_video or not medium.head.has_video:
            self._plain_tags = 0
        else:
            self._plain_tags = max(0, self._plain_tags - 1)

    def _push_large(self, kind: MessageType, time_ms: int, reader: Reader, span: Span) -> None:
        """Sends a single frame that is larger than one chunk."""
        chunks = messages.media_chunks(self.stream_id, kind, time_ms, span, OUT_CHUNK_SIZE_BYTES)
        parts: list[bytes | tuple[Reader, Span]] = []
        for header, part in chunks:
            parts += (header, (reader, part))
        self._context.push(*parts)

    async def _handle_seek(self, medium: Medium, request: Seek) -> Medium:
        """Seeks, after the access check of a play; returns the medium to play from now on."""
        self._seek = None
        medium = await self._reauthorize(medium)
        self._position = await medium.locate(request.time_ms)
        self._origin_ms = 0
        self._clock_is_running = False
        if self.state is PlayState.ENDED:
            self.state = PlayState.PLAYING
            self.ended.clear()
        self._announce_seek(medium, request)
        self._context.log_event("seek", self, to_ms=request.time_ms, at_ms=self._position.time_ms)
        if self.state is PlayState.PAUSED:
            await self._show_one_frame(medium)
        return medium

    async def _reauthorize(self, medium: Medium) -> Medium:
        """Checks access again; returns the medium, opened again if the object has changed.

        Raises RefusalError. Closes ``medium`` if it returns another one.
        """
        self._context.check(self.name, medium)
        if medium.is_current():
            return medium
        self.medium = await self._context.open_medium(self.name)
        medium.close()
        return self.medium

    async def _show_one_frame(self, medium: Medium) -> None:
        """Sends one keyframe, for a seek while paused."""
        while not self._has_request and self.state is PlayState.PAUSED:
            run = medium.next_run(self._position, 0, None)
            if isinstance(run, Skip):
                self._position = run.following
                await asyncio.sleep(0)
                continue
            if isinstance(run, NeedData):
                await self._wait(run, medium)
                continue
            if isinstance(run, Run):
                self._send(medium, run)
                await self._context.drained()
                if not run.has_video and medium.head.has_video:
                    continue
            return

    async def _handle_pause(self, medium: Medium, request: Pause) -> Medium:
        """Pauses or resumes; returns the medium to play from now on."""
        self._pause = None
        if request.paused and self.state is PlayState.PLAYING:
            self.state = PlayState.PAUSED
            self._status("NetStream.Pause.Notify", f"Paused {self.name}.")
            self._context.log_event("pause", self, at_ms=request.time_ms)
        elif not request.paused and self.state is PlayState.PAUSED:
            self.state = PlayState.PLAYING
            before, client_ms = medium, request.time_ms + self._origin_ms
            if self._position.time_ms - client_ms > RESUME_NEAR_MS and request.time_ms:
                # §7.2.2.8: send only what is later than the time at which the client stopped.
                # Tags are sent a second time, so access is checked as for a seek.
                medium = await self._reauthorize(medium)
                self._position = await medium.locate_after(client_ms)
            self._clock_is_running = False
            self._status("NetStream.Unpause.Notify", f"Unpaused {self.name}.")
            self._context.log_event("unpause", self, at_ms=request.time_ms)
            if medium is not before:
                self._announce_media(medium)
        self._context.push()
        return medium

    # Messages around the media

    def _announce_play(self, medium: Medium) -> None:
        engine, stream = self._engine, self.stream_id
        engine.stream_is_recorded(stream)
        engine.stream_begin(stream)
        if self._play.reset:
            self._status("NetStream.Play.Reset", f"Playing and resetting {self.name}.")
        self._status("NetStream.Play.Start", f"Started playing {self.name}.")
        self._announce_media(medium)

    def _announce_seek(self, medium: Medium, request: Seek) -> None:
        engine, stream = self._engine, self.stream_id
        engine.stream_eof(stream)
        engine.stream_is_recorded(stream)
        engine.stream_begin(stream)
        self._status("NetStream.Seek.Notify", f"Seeking {request.time_ms} (stream ID: {stream}).")
        self._status("NetStream.Play.Start", f"Started playing {self.name}.")
        self._announce_media(medium)

    def _announce_media(self, medium: Medium) -> None:
        """Sends what a decoder needs before its first frame, after each play and seek."""
        engine, stream = self._engine, self.stream_id
        engine.sample_access(stream)
        if self._context.sends_data_start:
            engine.data_start(stream)
        time_ms = max(0, self._position.time_ms - self._origin_ms)
        metadata = {
            name: value
            for name, value in medium.head.metadata.items()
            if isinstance(value, bool | int | float | str)
        }
        engine.metadata(stream, time_ms, EcmaArray(metadata))
        for tag_type, body in medium.sequence_headers(self._position):
            engine.media_message(stream, MessageType(tag_type), time_ms, body)
        self._plain_tags = PLAIN_TAGS_MAX
        self._context.push()

    def _announce_end(self, medium: Medium) -> None:
        self.state = PlayState.ENDED
        engine, stream = self._engine, self.stream_id
        time_ms = max(0, self._position.time_ms - self._origin_ms)
        engine.play_complete(
            stream,
            time_ms,
            duration_s=medium.head.duration_ms / 1000,
            size_bytes=self._bytes(),
        )
        self._status("NetStream.Play.Stop", f"Stopped playing {self.name}.")
        engine.stream_eof(stream)
        self._context.push()
        self._context.log_event("end", self, bytes=self._bytes())
        self.ended.set()

    def _status(self, code: str, description: str, level: StatusLevel = StatusLevel.STATUS) -> None:
        self._engine.stream_status(self.stream_id, level, code, description, details=self.name)

    # Waiting

    @property
    def _has_request(self) -> bool:
        """Whether there is a request from the client or the server to handle."""
        return (
            self._seek is not None
            or self._pause is not None
            or self._is_revoked
            or self.state is PlayState.CLOSED
        )

    async def _wait(self, needed: NeedData | None = None, medium: Medium | None = None) -> None:
        """Waits for a request, for the pump to stop, or for the ``needed`` bytes.

        Raises the failure that keeps the bytes from arriving. Returns at once for a request that
        arrived in the same loop iteration in which the pump stopped.
        """
        if self._has_request or self._stop_reason is not None:
            return
        waker: asyncio.Future[None] = self._loop.create_future()
        self._waker = waker
        cancel: Callable[[], None] | None = None
        if needed is not None and medium is not None:
            cancel = medium.when_ready(needed.span, self._on_ready)
        try:
            await waker
        finally:
            self._waker = None
            if cancel is not None:
                cancel()

    def _wake(self) -> None:
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    def _on_ready(self, failure: Failure | None) -> None:
        if failure is None:
            self._wake()
        elif self._waker is not None and not self._waker.done():
            self._waker.set_exception(failure)

    def _bytes(self) -> int:
        return self._context.sent_bytes - self._start_bytes


class PlayerContext(Protocol):
    """What a player needs of its connection."""

    engine: ServerConnection
    counts: Counts
    timers: CoalescedTimers
    sends_data_start: bool
    takes_aggregates: bool

    async def open_medium(self, name: str) -> Medium:
        """Opens the medium of a stream name, if the viewer may play it. Raises RefusalError."""
        ...

    def check(self, name: str, medium: Medium) -> None:
        """Raises RefusalError if the viewer may no longer play this medium."""
        ...

    def cache_result(self, medium: Medium) -> CacheResult:
        """The cache result of the viewer's first open of this medium."""
        ...

    def push(self, *parts: bytes | tuple[Reader, Span]) -> None:
        """Sends the engine's pending output, then ``parts``."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether the kernel has accepted all pushed bytes."""
        ...

    def push_run(self, header: bytes, reader: Reader, span: Span) -> None:
        """As ``push`` of both; faster when the kernel accepts all bytes at once."""
        ...

    async def drained(self) -> None:
        """Returns once the kernel has accepted all pushed bytes."""
        ...

    def log_event(self, event: str, player: Player, **fields: object) -> None:
        """Writes the log line ``rtmp_EVENT``."""
        ...

    @property
    def sent_bytes(self) -> int: ...

"""One RTMP client: its socket, its engine and its players.

Owns the connection's life and the order of its bytes: everything that is sent, answers and media
alike, goes through one sender. The engine parses and answers, players decide what is played; this
file carries events to them and leaves a log line for each thing that happened.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from itertools import count

from streamedge.cache.open_object import Failure
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.storage.records import Provenance
from streamedge.delivery.net.accept import Left, Peer
from streamedge.delivery.net.sender import Sender
from streamedge.delivery.rtmp.context import ServerContext
from streamedge.delivery.rtmp.pacing import BUFFER_DEFAULT_MS, Pace
from streamedge.delivery.rtmp.player import INTERNAL_ERROR, Player, PlayState
from streamedge.delivery.rtmp.protocol import events
from streamedge.delivery.rtmp.protocol.connection import ServerConnection
from streamedge.delivery.rtmp.protocol.errors import ProtocolError
from streamedge.delivery.rtmp.protocol.messages import StatusLevel
from streamedge.delivery.rtmp.read_scheduler import PIECE_CHUNKS
from streamedge.delivery.rtmp.stream_access import Client, Rejection, redact_name
from streamedge.delivery.rtmp.streams import Admission, RefusalError, SignatureFailureLimit
from streamedge.media.medium import Medium
from streamedge.ops.metrics import Counter, Gauge
from streamedge.ops.rate_limited import LineBudget
from streamedge.spans import Span

HANDSHAKE_RANDOM_BYTES = 1528
CHUNKS_PER_S_MAX = 25_000  # of a client; the fastest downloads send 5,000 acknowledgements
QUEUED_BYTES_MAX = 512 * 1024  # answers that a client does not take, before it is dropped
PLAYS_MAX = 64  # on one stream: the one at play and those appended to it
LENGTH_ASKS_MAX = 4  # getStreamLength calls that run at one time
LINES_BURST, LINES_PER_S = 200, 10  # of a client in the log, beside connect and disconnect
LOGGED_CHARACTERS_MAX = 1024  # of a name that a client has made up
# FFmpeg takes Data.Start for a data stream of its own, and says so all the time.
FFMPEG_FLASH_VERSION = "LNX 9,0,124,2"

TRACE_LINES_MAX = 8  # the innermost ones, in the log line of a defect

_serial = count(1)


@dataclass(frozen=True, slots=True)
class RtmpLimits:
    """What one client may have; the config's [limits]."""

    connections_max: int
    handshake_s: float
    idle_s: float
    stall_s: float
    message_bytes: int
    streams_max: int
    ahead_s: float
    rate_bytes: int


class RtmpSession(asyncio.Protocol):
    """A client's connection."""

    def __init__(
        self,
        around: ServerContext,
        loop: asyncio.AbstractEventLoop,
        peer: Peer,
        left: Left,
    ) -> None:
        limits = around.limits
        self.engine = ServerConnection(
            random=os.urandom(HANDSHAKE_RANDOM_BYTES),
            message_limit_bytes=limits.message_bytes,
            streams_limit=limits.streams_max,
        )
        self.counts = around.counts
        self.timers = around.timers
        self.sends_data_start = True
        self._around = around
        self._limits = limits
        self._loop = loop
        self._id = f"{os.getpid():x}-{next(_serial):x}"
        self._transport: asyncio.Transport | None = None
        self._outlet: Sender | None = None
        self.address = peer.address  # the viewer's
        self._client = str(peer)
        self._left = left
        self._begun_s = loop.time()
        self._heard_s = loop.time()
        self._waits_for_turn = False  # to have read what has come already
        self._chunks_before = 0  # at the last sweep
        self._bytes_counted = 0
        self._lines = LineBudget(LINES_BURST, LINES_PER_S, loop.time())
        self._first_results: dict[str, CacheResult] = {}  # of objects whose length was asked for
        self._admission: Admission | None = None
        self._announced: frozenset[str] = frozenset()
        self._buffers_ms: dict[int, int] = {}
        self._players: dict[int, list[Player]] = {}  # by stream: the one at play, then appended
        self._tasks: set[asyncio.Task[None]] = set()
        self._length_asks = 0
        self._guesses = SignatureFailureLimit()
        self._emptied: asyncio.Future[None] | None = None
        self._last_words: str | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._outlet = Sender(transport, self._loop, self._drained, self._failed)
        self._around.sessions.add(self)
        if len(self._around.sessions) > self._limits.connections_max:
            self._end("too many connections")

    def data_received(self, data: bytes) -> None:
        self._heard_s = self._loop.time()
        if self._read_piece(data) and not self._waits_for_turn and self._transport is not None:
            self._waits_for_turn = True
            self._transport.pause_reading()
            self._around.turns.wait(self._read_on)

    def _read_on(self) -> bool:
        """Reads a piece of what came before; whether there is more."""
        has_more = self._read_piece(b"")
        if not has_more:
            self._waits_for_turn = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()
        return has_more

    def _read_piece(self, data: bytes) -> bool:
        """Reads no more than one piece of what the client sent; whether there is more to read."""
        if self._last_words is not None:
            return False
        try:
            for event in self.engine.receive_data(data, PIECE_CHUNKS):
                self._handle(event)
            if self.engine.chunks - self._chunks_before > CHUNKS_PER_S_MAX:
                raise ProtocolError(f"more than {CHUNKS_PER_S_MAX} chunks in a second")
            if self.engine.has_data_to_send:
                self.push()
        except ProtocolError as exc:
            self.counts.add(Counter.ERRORS, "rtmp_protocol")
            self.push()
            self._end(f"protocol error: {exc}")
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is this client's end alone
            self.fail(exc)
        return self.engine.is_behind and self._last_words is None

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        assert self._outlet is not None
        self._left()
        self._around.sessions.discard(self)
        self._around.ended.set()
        reason = self._last_words or (f"connection lost: {exc}" if exc else "client left")
        self._last_words = reason
        self._outlet.close()
        for task in self._tasks:
            task.cancel()
        self._count_bytes()
        self._log_line(
            "disconnect",
            bytes=self._outlet.sent_bytes,
            seconds=round(self._loop.time() - self._begun_s, 3),
            lines_left_out=self._lines.suppressed or None,
            reason=reason,
        )
        self._transport = None

    # What players need (``player.Stage``)

    @property
    def sent_bytes(self) -> int:
        return self._outlet.sent_bytes if self._outlet is not None else 0

    async def open_medium(self, name: str) -> Medium:
        with self._guesses.counted():
            admission = self._recheck()
            return await self._around.streams.open(admission, name, self._announced)

    def check(self, name: str, medium: Medium) -> None:
        with self._guesses.counted():
            self._around.streams.check(self._recheck(), name, medium)

    def push(self, *parts: bytes | tuple[Reader, Span]) -> None:
        assert self._outlet is not None
        if self._transport is None:
            return
        self._outlet.push(self.engine.data_to_send(), *parts)
        if not self._outlet.idle and self._outlet.queued_bytes > QUEUED_BYTES_MAX:
            self._end("the client asks and does not listen")

    @property
    def is_idle(self) -> bool:
        return self._outlet is None or self._outlet.idle

    def push_run(self, header: bytes, reader: Reader, span: Span) -> None:
        assert self._outlet is not None
        ready = reader.ready(span.start, span.end)
        if self._transport is None or not self._outlet.idle or ready is None:
            self.push(header, (reader, span))
            return
        head = self.engine.data_to_send() + header
        sent = self._outlet.send_at_once(head, ready)
        if sent < len(head) + span.size:
            past_head = max(0, sent - len(head))
            self._outlet.push(head[sent:], (reader, Span(span.start + past_head, span.end)))

    async def drained(self) -> None:
        assert self._outlet is not None
        if not self._outlet.idle:
            if self._emptied is None:  # the players of all streams wait for the same moment
                self._emptied = self._loop.create_future()
            await self._emptied

    def cache_result(self, medium: Medium) -> CacheResult:
        """How the viewer's first open of it went: a length that was asked for may have been it."""
        return self._first_results.pop(medium.name, medium.result)

    def tell(self, event: str, player: Player, **fields: object) -> None:
        if not self._lines.allows(self._loop.time()):
            return
        medium = player.medium
        spoken = redact_name(player.name)
        self._log_line(
            event,
            stream=spoken.text[:LOGGED_CHARACTERS_MAX],
            key=spoken.key_id or None,
            object=medium.name if medium is not None else None,
            **fields,
        )

    # The server's part

    def sweep(self, now_s: float) -> None:
        """Drops a client that takes too long: to connect, to take bytes, or to want anything.

        Called once a second; counts what was sent meanwhile.
        """
        if self._transport is None or self._outlet is None:
            return
        self._chunks_before = self.engine.chunks
        self._count_bytes()
        blocked_since_s = self._outlet.blocked_since_s
        if blocked_since_s is not None and now_s - blocked_since_s > self._limits.stall_s:
            self._last_words = "the client has stopped reading"
            self._transport.abort()
        elif self._admission is None:
            if now_s - self._begun_s > self._limits.handshake_s:
                self._end("handshake and connect took too long")
        elif not self.plays and now_s - self._heard_s > self._limits.idle_s:
            self._end("idle")

    def _count_bytes(self) -> None:
        sent_bytes = self.sent_bytes
        self.counts.add(Counter.SENT_BYTES, "rtmp", sent_bytes - self._bytes_counted)
        self._bytes_counted = sent_bytes

    def guard(self, work: Callable[..., None], *arguments: object) -> None:
        """Does some of the server's work on this connection; a defect in it ends this one alone."""
        try:
            work(*arguments)
        except Exception as exc:  # noqa: BLE001
            self.fail(exc)

    def fail(self, exc: BaseException) -> None:
        """Ends the connection for a defect: with a line in the log, and a status to the viewer."""
        self.counts.add(Counter.ERRORS, "rtmp_internal")
        where = traceback.format_exception(exc)[-TRACE_LINES_MAX:]
        self._log_line("fault", error=repr(exc), trace="".join(where))
        for stream_id, players in self._players.items():
            if any(player.state is not PlayState.CLOSED for player in players):
                self.engine.stream_status(stream_id, StatusLevel.ERROR, *INTERNAL_ERROR)
        self.push()
        self._end(f"internal error: {exc!r}")

    def shut_down(self) -> None:
        """The edge stops."""
        self._end("the edge is stopping")

    def abort(self) -> None:
        """Ends without waiting for anything."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def plays(self) -> int:
        """How many of its streams are playing or paused."""
        return sum(
            player.state in {PlayState.OPENING, PlayState.PLAYING, PlayState.PAUSED}
            for players in self._players.values()
            for player in players
        )

    # Events

    def _handle(self, event: events.Event) -> None:
        match event:
            case events.Connect():
                self._connect(event)
            case events.Play():
                self._play(event)
            case events.Seek() | events.Pause():
                self._wish(event)
            case events.CloseStream(stream_id) | events.DeleteStream(stream_id):
                self._close_stream(stream_id)
            case events.BufferLength(stream_id, buffer_ms):
                self._buffer(stream_id, buffer_ms)
            case events.GetStreamLength():
                self._tell_length(event)
            case events.Ignored(name):
                if self._lines.allows(self._loop.time()):
                    self._log_line("ignored", command=name[:LOGGED_CHARACTERS_MAX])
            case events.CreateStream() | events.Acknowledged():
                pass

    def _connect(self, event: events.Connect) -> None:
        found = self._around.streams.admit(Client(event, self.address))
        if isinstance(found, Rejection):
            word = found.word
            self.engine.reject_connect(
                event.transaction,
                found.code,
                found.description,
                application={"message": word, "description": word} if word else None,
            )
            self.push()
            self._end(found.reason)
            return
        self._admission = found
        self._announced = frozenset(
            {*event.four_cc_list, *event.video_four_cc_info, *event.audio_four_cc_info}
        )
        self.sends_data_start = event.flash_version != FFMPEG_FLASH_VERSION
        self._log_line(
            "connect",
            application=found.match.application,
            agent=event.flash_version,
            tc_url=redact_name(event.tc_url).text,
            page=redact_name(event.page_url).text or None,
        )
        for held in self.engine.accept_connect(event.transaction):
            self._handle(held)

    def _recheck(self) -> Admission:
        """Where the client belongs by now. Raises RefusalError."""
        assert self._admission is not None
        self._admission = self._around.streams.recheck(self._admission)
        return self._admission

    def _play(self, event: events.Play) -> None:
        limits = self._limits
        players = self._players.setdefault(event.stream_id, [])
        if len(players) >= PLAYS_MAX:
            self.engine.stream_status(
                event.stream_id,
                StatusLevel.ERROR,
                "NetStream.Play.Failed",
                f"No more than {PLAYS_MAX} plays on one stream.",
            )
            return
        if event.reset:
            for player in players:
                player.close()
        pace = Pace(
            ahead_max_ms=int(limits.ahead_s * 1000),
            rate_bytes=limits.rate_bytes,
            buffer_ms=self._buffers_ms.get(event.stream_id, BUFFER_DEFAULT_MS),
        )
        before = players[-1] if players else None
        player = Player(self, event, pace)
        players.append(player)
        self._spawn(self._perform(player, before))

    async def _perform(self, player: Player, before: Player | None) -> None:
        """Runs a player when its stream is free: at once, or after what plays there now."""
        if before is not None:
            await before.ended.wait()
            before.close()
            await before.closed.wait()
        self.counts.gauges[Gauge.VIEWERS] += 1
        try:
            await player.run()
        finally:
            self.counts.gauges[Gauge.VIEWERS] -= 1
            players = self._players[player.stream_id]
            players.remove(player)
            if not players:
                del self._players[player.stream_id]
            self._around.ended.set()
        self._end_if_guessing()

    def _wish(self, event: events.Seek | events.Pause) -> None:
        player = next(
            (
                player
                for player in self._players.get(event.stream_id, ())
                if player.state is not PlayState.CLOSED
            ),
            None,
        )
        if player is None:
            code = "NetStream.Seek.Failed" if isinstance(event, events.Seek) else "NetStream.Failed"
            self.engine.stream_status(
                event.stream_id, StatusLevel.ERROR, code, "Nothing is playing on this stream."
            )
        elif isinstance(event, events.Seek):
            player.seek(event)
        else:
            player.pause(event)

    def _close_stream(self, stream_id: int) -> None:
        self._buffers_ms.pop(stream_id, None)
        for player in self._players.get(stream_id, ()):
            player.close()

    def _buffer(self, stream_id: int, buffer_ms: int) -> None:
        if not 0 < stream_id <= self._limits.streams_max:
            return  # librtmp and GStreamer announce 300 ms for stream 0, which means nothing
        self._buffers_ms[stream_id] = buffer_ms
        for player in self._players.get(stream_id, ()):
            player.buffer(buffer_ms)

    def _tell_length(self, event: events.GetStreamLength) -> None:
        if self._length_asks >= LENGTH_ASKS_MAX:
            self.engine.call_error(event.transaction, "Too many questions at one time.")
            return
        self._length_asks += 1
        self._spawn(self._find_length(event))

    async def _find_length(self, event: events.GetStreamLength) -> None:
        try:
            medium = await self.open_medium(event.name)
        except RefusalError as exc:
            self.engine.call_error(event.transaction, str(exc), code=exc.code)
        else:
            self.engine.call_result(event.transaction, medium.head.duration_ms / 1000)
            if medium.result is not CacheResult.HIT and len(self._first_results) < PLAYS_MAX:
                self._first_results[medium.name] = medium.result
            medium.close()
        finally:
            self._length_asks -= 1
        self.push()
        self._end_if_guessing()

    def revoke(self, is_revoked: Callable[[Provenance], bool]) -> None:
        """Ends plays of what has been revoked."""
        for players in self._players.values():
            for player in players:
                player.revoke(is_revoked)

    # The connection's end

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        exc = None if task.cancelled() else task.exception()
        if exc is not None:
            self.fail(exc)

    def _end(self, reason: str) -> None:
        """Closes the connection once what has been pushed is out."""
        if self._last_words is None:
            self._last_words = reason
        for players in self._players.values():
            for player in players:
                player.close()
        assert self._outlet is not None
        if self._transport is not None and self._outlet.idle:
            self._transport.close()

    def _end_if_guessing(self) -> None:
        """To be asked once the client has been told of its refusal."""
        if self._guesses.are_too_many:
            self._end("too many wrong signatures")

    def _drained(self) -> None:
        if self._emptied is not None:
            if not self._emptied.done():
                self._emptied.set_result(None)
            self._emptied = None
        if self._last_words is not None and self._transport is not None:
            self._transport.close()

    def _failed(self, cause: Failure | None) -> None:
        """A run that was ready can no longer be sent: only the connection's end says so."""
        if self._last_words is None:
            self._last_words = "client left" if cause is None else str(cause)
        if self._transport is not None:
            self._transport.abort()

    def _log_line(self, event: str, **fields: object) -> None:
        distribution = self._admission.distribution.id if self._admission is not None else None
        self._around.log.event(
            f"rtmp_{event}",
            client=self._client,
            session=self._id,
            distribution=distribution,
            **fields,
        )

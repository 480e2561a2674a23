"""One RTMP client: its socket, its engine and its players.

A session owns its connection: all output, responses and media alike, goes through one sender, in
order. The engine parses and responds, players decide what is sent. The session passes events to
them and writes the log lines.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable, Coroutine
from itertools import count

from streamedge.cache.open_object import Failure
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.storage.records import Provenance
from streamedge.delivery.net.accept import OnClose, Peer
from streamedge.delivery.net.sender import Sender
from streamedge.delivery.net.tls import TlsConnection
from streamedge.delivery.rtmp.aggregates import FFMPEG_FLASH_VERSION, takes_aggregates
from streamedge.delivery.rtmp.bandwidth.calls import BandwidthCalls
from streamedge.delivery.rtmp.context import ServerContext
from streamedge.delivery.rtmp.pacing import BUFFER_DEFAULT_MS, Pace
from streamedge.delivery.rtmp.player import INTERNAL_ERROR, Player, PlayState
from streamedge.delivery.rtmp.protocol import events
from streamedge.delivery.rtmp.protocol.connection import WINDOW_SIZE_BYTES, ServerConnection
from streamedge.delivery.rtmp.protocol.errors import ProtocolError
from streamedge.delivery.rtmp.protocol.messages import StatusLevel
from streamedge.delivery.rtmp.stream_access import Client, Rejection, redact_name
from streamedge.delivery.rtmp.stream_names import known_extension, split_query
from streamedge.delivery.rtmp.streams import (
    Admission,
    RefusalError,
    SignatureFailureLimit,
    tc_url_host,
)
from streamedge.delivery.viewers import ENDED_BY_OPERATOR, ViewerRow, cut
from streamedge.logs.stream_log import ClientLog, ConnectedClient, PlayedStream
from streamedge.media.medium import Medium
from streamedge.ops.metrics import Counter, Gauge, pair
from streamedge.ops.rate_limited import LineBudget
from streamedge.spans import Span

PIECE_CHUNKS = 16  # read at one time, and never more than one command: half a millisecond at most
HANDSHAKE_RANDOM_BYTES = 1528
CHUNKS_PER_S_MAX = 25_000  # of a client; the fastest downloads send 5,000 acknowledgements
QUEUED_BYTES_MAX = 512 * 1024  # responses that a client does not read, before it is dropped
CLOSE_TIMEOUT_S = 1.0  # to send the rest to a client that an operator has ended
FIRST_RESULTS_MAX = 64  # cache results of getStreamLength that wait for a play
LENGTH_CALLS_MAX = 4  # concurrent getStreamLength calls
LINES_BURST, LINES_PER_S = 200, 10  # log lines of a client, besides connect and disconnect
LOGGED_CHARACTERS_MAX = 1024  # of a name that the client chose
TRACE_LINES_MAX = 8  # the innermost lines, in the log line of an internal error

_serial = count(1)


class RtmpSession(asyncio.Protocol):
    """A client's connection. ``is_encrypted``: RTMPE's handshake was made before."""

    def __init__(
        self,
        context: ServerContext,
        loop: asyncio.AbstractEventLoop,
        peer: Peer,
        on_close: OnClose,
        *,
        is_encrypted: bool = False,
    ) -> None:
        limits = context.limits
        self.engine = ServerConnection(
            random=None if is_encrypted else os.urandom(HANDSHAKE_RANDOM_BYTES),
            message_limit_bytes=limits.message_bytes,
            streams_limit=limits.streams_max,
        )
        self.counts = context.counts
        self.timers = context.timers
        self.sends_data_start = True
        self.takes_aggregates = True
        self._context = context
        self._limits = limits
        self._loop = loop
        self._id = f"{os.getpid():x}-{next(_serial):x}"
        self._transport: asyncio.Transport | None = None
        self._sender: Sender  # from ``connection_made`` on, the first call that asyncio makes
        self.address = peer.address  # the viewer's, behind trusted proxies
        self._client = str(peer)
        self._on_close = on_close
        self._started_s = loop.time()
        self._last_data_s = loop.time()
        self._is_waiting_to_read = False  # has received more than one piece
        self._chunks_before = 0  # at the last sweep
        self._bytes_counted = 0
        self._lines = LineBudget(LINES_BURST, LINES_PER_S, loop.time())
        self._first_results: dict[str, CacheResult] = {}  # by object, of getStreamLength calls
        self._admission: Admission | None = None
        self._client_codecs: frozenset[str] = frozenset()
        self._can_reconnect = False
        self._buffers_ms: dict[int, int] = {}
        self._left_out: dict[int, frozenset[int]] = {}  # message types, by stream
        self._players: dict[int, Player] = {}  # by stream
        # Players that have not begun to run: their tasks, and the players that must end before.
        self._waiting: dict[Player, tuple[asyncio.Task[None], Player | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._length_calls = 0
        self._bandwidth = BandwidthCalls(self.engine)
        self._signature_failures = SignatureFailureLimit()
        self._drain_waiter: asyncio.Future[None] | None = None
        self._end_reason: str | None = None
        self._client_log: ClientLog | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        name = "rtmps" if isinstance(transport, TlsConnection) else "rtmp"
        self._transport_name: str = transport.get_extra_info("rtmp_transport", name)
        self.engine.window_size_bytes = transport.get_extra_info(
            "rtmp_window_size", WINDOW_SIZE_BYTES
        )
        self._sender = Sender(transport, self._loop, self._drained, self._failed)
        self._context.sessions.add(self)
        if len(self._context.sessions) > self._limits.connections_max:
            self._end("too many connections")

    def data_received(self, data: bytes) -> None:
        self._last_data_s = self._loop.time()
        if self._read_piece(data) and not self._is_waiting_to_read and self._transport is not None:
            self._is_waiting_to_read = True
            self._transport.pause_reading()
            self._context.read_scheduler.wait(self._read_on)

    def _read_on(self) -> bool:
        """Parses a piece of the data received earlier; returns whether there is more."""
        has_more = self._read_piece(b"")
        if not has_more:
            self._is_waiting_to_read = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()
        return has_more

    def _read_piece(self, data: bytes) -> bool:
        """Parses at most one piece of the client's data; returns whether there is more."""
        if self._end_reason is not None:
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
        except Exception as exc:  # noqa: BLE001 - it must end only this connection
            self.fail(exc)
        return self.engine.is_behind and self._end_reason is None

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_close()
        self._context.sessions.discard(self)
        self._context.ended.set()
        reason = self._end_reason or (f"connection lost: {exc}" if exc else "client left")
        self._end_reason = reason
        self._sender.close()
        for task in self._tasks:
            task.cancel()
        self._count_bytes()
        self._log_line(
            "disconnect",
            bytes=self._sender.sent_bytes,
            seconds=round(self._loop.time() - self._started_s, 3),
            lines_left_out=self._lines.suppressed or None,
            reason=reason,
        )
        if self._client_log is not None:
            self._client_log.add_disconnect(self._sender.sent_bytes)
        self._transport = None

    # ``player.PlayerContext``

    @property
    def sent_bytes(self) -> int:
        return self._sender.sent_bytes

    async def open_medium(self, name: str) -> Medium:
        with self._signature_failures.count():
            admission = self._recheck()
            return await self._context.streams.open(admission, name, self._client_codecs)

    def check(self, name: str, medium: Medium) -> None:
        with self._signature_failures.count():
            self._context.streams.check(self._recheck(), name, medium)

    def push(self, *parts: bytes | tuple[Reader, Span]) -> None:
        if self._transport is None:
            return
        self._sender.push(self.engine.data_to_send(), *parts)
        if not self._sender.idle and self._sender.queued_bytes > QUEUED_BYTES_MAX:
            self._end("the client does not read its responses")

    @property
    def is_idle(self) -> bool:
        return self._sender.idle

    def push_run(self, header: bytes, reader: Reader, span: Span) -> None:
        ready = reader.ready(span.start, span.end)
        if self._transport is None or not self._sender.idle or ready is None:
            self.push(header, (reader, span))
            return
        head = self.engine.data_to_send() + header
        sent = self._sender.send_at_once(head, ready)
        if sent < len(head) + span.size:
            past_head = max(0, sent - len(head))
            self._sender.push(head[sent:], (reader, Span(span.start + past_head, span.end)))
        elif not self._sender.idle:
            self._sender.push()  # the kernel does not have all encrypted bytes: wait for it

    async def drained(self) -> None:
        if not self._sender.idle:
            if self._drain_waiter is None:  # shared by the players of all streams
                self._drain_waiter = self._loop.create_future()
            await self._drain_waiter

    def cache_result(self, medium: Medium) -> CacheResult:
        """The cache result of the viewer's first open, which getStreamLength may have made."""
        return self._first_results.pop(medium.name, medium.result)

    def count_play(self, result: str) -> None:
        if self._admission is not None:
            label = pair(self._admission.distribution.id, result)
            self.counts.add(Counter.DISTRIBUTION_PLAYS, label)

    def log_event(self, event: str, player: Player, **fields: object) -> None:
        if not self._lines.allows(self._loop.time()):
            return
        medium = player.medium
        redacted = redact_name(player.name)
        self._log_line(
            event,
            stream=redacted.text[:LOGGED_CHARACTERS_MAX],
            key=redacted.key_id or None,
            object=medium.name if medium is not None else None,
            **fields,
        )
        if self._client_log is not None and medium is not None:
            extension = known_extension(medium.name)
            name = medium.name[: -len(extension) - 1] if extension else medium.name
            stream = PlayedStream(name, split_query(player.name)[1], extension)
            self._client_log.add_play(event, player, stream, self.sent_bytes)

    # Called by the server

    @property
    def blocked_since_s(self) -> float | None:
        """The loop's time since when output waits for the client to read; None: none waits."""
        return self._sender.blocked_since_s

    def sweep(self, now_s: float) -> None:
        """Drops a client that takes too long to connect or to read, or that is idle.

        Called once a second; also counts the bytes sent since the last call.
        """
        if self._transport is None:
            return
        self._chunks_before = self.engine.chunks
        self._count_bytes()
        if self._bandwidth.end_if_over(now_s):
            self.push()
        blocked_since_s = self.blocked_since_s
        if blocked_since_s is not None and now_s - blocked_since_s > self._limits.stall_s:
            self._end_reason = "the client has stopped reading"
            self._transport.abort()
        elif self._admission is None:
            if now_s - self._started_s > self._limits.handshake_s:
                self._end("handshake and connect took too long")
        elif not self.plays and now_s - self._last_data_s > self._limits.idle_s:
            self._end("idle")

    def _count_bytes(self) -> None:
        sent_bytes = self.sent_bytes
        self.counts.add(Counter.SENT_BYTES, "rtmp", sent_bytes - self._bytes_counted)
        self._bytes_counted = sent_bytes

    def guard(self, work: Callable[..., None], *arguments: object) -> None:
        """Calls ``work``; an exception in it ends only this connection."""
        try:
            work(*arguments)
        except Exception as exc:  # noqa: BLE001
            self.fail(exc)

    def fail(self, exc: BaseException) -> None:
        """Ends the connection after an internal error: logs it and sends the viewer a status."""
        self.counts.add(Counter.ERRORS, "rtmp_internal")
        where = traceback.format_exception(exc)[-TRACE_LINES_MAX:]
        self._log_line("fault", error=repr(exc), trace="".join(where))
        for stream_id, player in self._players.items():
            if player.state is not PlayState.CLOSED:
                self.engine.stream_status(stream_id, StatusLevel.ERROR, *INTERNAL_ERROR)
        self.push()
        self._end(f"internal error: {exc!r}")

    def shut_down(self) -> None:
        """Ends the connection because the edge is stopping."""
        self._end("the edge is stopping")

    def viewer_row(self, now_s: float) -> ViewerRow | None:
        """The session for operators: its play, or the last one of several."""
        admission = self._admission
        if admission is None or self._transport is None:
            return None
        players = [one for one in self._players.values() if one.state is not PlayState.CLOSED]
        player = players[-1] if players else None
        return ViewerRow(
            id=self._id,
            kind="rtmp",
            protocol=self._transport_name,
            address=self.address,
            client=self._client,
            distribution=admission.distribution.id,
            site=admission.match.application,
            object=cut(_object_of(player)),
            agent=cut(admission.client.connect.flash_version),
            state="connected" if player is None else player.state.value,
            position_s=None if player is None else player.position_ms / 1000,
            sent_bytes=self.sent_bytes,
            requests=len(players),
            age_s=max(0.0, now_s - self._started_s),
            idle_s=0.0,
        )

    def end_viewer(self, identifier: str) -> bool:
        """Ends the connection if it has this id, within CLOSE_TIMEOUT_S also if it does not read.

        Returns whether it does.
        """
        if identifier != self._id:
            return False
        self._end(ENDED_BY_OPERATOR)
        self._loop.call_later(CLOSE_TIMEOUT_S, self.abort)
        return True

    def request_reconnect(self) -> None:
        """Asks the client to connect to another edge; its plays here go on until it leaves."""
        admission = self._admission
        if admission is None or not self._can_reconnect or self._end_reason is not None:
            return
        tc_url = self._context.streams.tc_url_after(admission)
        self.engine.request_reconnect(self._context.traffic().avoid_reason, tc_url)
        self.push()
        self._log_line("reconnect_requested", edge=tc_url_host(tc_url) or None)

    def abort(self) -> None:
        """Closes the connection without flushing."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def plays(self) -> int:
        """The number of plays that are opening, playing or paused."""
        return sum(
            player.state in {PlayState.OPENING, PlayState.PLAYING, PlayState.PAUSED}
            for player in self._players.values()
        )

    # Events

    def _handle(self, event: events.Event) -> None:
        match event:
            case events.Connect():
                self._connect(event)
            case events.Play() | events.Play2():
                self._play(event)
            case events.Seek() | events.Pause():
                self._control(event)
            case events.CloseStream(stream_id, is_stop):
                self._close_stream(stream_id, is_stop=is_stop)
            case events.DeleteStream(stream_id):
                self._close_stream(stream_id)
                self._left_out.pop(stream_id, None)
            case events.Receive(stream_id, left_out):
                self._leave_out(stream_id, left_out)
            case events.BufferLength(stream_id, buffer_ms):
                self._buffer(stream_id, buffer_ms)
            case events.GetStreamLength():
                self._get_length(event)
            case events.Ignored(name):
                if self._lines.allows(self._loop.time()):
                    self._log_line("ignored", command=name[:LOGGED_CHARACTERS_MAX])
            case events.CheckBandwidth() | events.CallResult():
                self._bandwidth.handle(event, self._loop.time())
            case events.CreateStream() | events.Acknowledged():
                pass

    def _connect(self, event: events.Connect) -> None:
        admission: Admission | Rejection
        refusal = self._context.traffic().refusal
        if refusal:
            admission = Rejection("NetConnection.Connect.Rejected", refusal, "", refusal)
        else:
            admission = self._context.streams.admit(Client(event, self.address))
        if isinstance(admission, Rejection):
            word = admission.word
            self.engine.reject_connect(
                event.transaction,
                admission.code,
                admission.description,
                application={"message": word, "description": word} if word else None,
            )
            self.push()
            self._end(admission.reason)
            return
        elsewhere = self._context.streams.tc_url_elsewhere(admission)
        if elsewhere:
            self.engine.redirect_connect(event, elsewhere, "Another edge is nearer.")
            self.push()
            self._end(f"redirected to {tc_url_host(elsewhere)}")
            return
        self._admission = admission
        self._client_codecs = event.playable_codecs
        self._can_reconnect = event.can_reconnect
        # FFmpeg handles Data.Start as a separate data stream, and logs a warning each time.
        self.sends_data_start = event.flash_version != FFMPEG_FLASH_VERSION
        self.takes_aggregates = takes_aggregates(
            admission.distribution.aggregation,
            event.flash_version,
            has_object_encoding="objectEncoding" in event.object,
        )
        self._log_line(
            "connect",
            transport=self._transport_name,
            application=admission.match.application,
            agent=event.flash_version,
            tc_url=redact_name(event.tc_url).text,
            page=redact_name(event.page_url).text or None,
        )
        client = ConnectedClient(
            self.address, event.tc_url, event.swf_url, event.page_url, event.flash_version
        )
        self._client_log = self._context.stream_log.connected(
            admission.distribution.id, client, self._sender.sent_bytes
        )
        for deferred in self.engine.accept_connect(event.transaction):
            self._handle(deferred)

    def _recheck(self) -> Admission:
        """The client's admission under the current configuration. Raises RefusalError."""
        if self._admission is None:
            raise RefusalError("NetStream.Failed", "Not connected.", "connect")
        self._admission = self._context.streams.recheck(self._admission)
        return self._admission

    def _play(self, event: events.Play | events.Play2) -> None:
        player = self._players.get(event.stream_id)
        if isinstance(event, events.Play) and event.reset:
            self._close_plays(event.stream_id)
            player = None
        if player is not None and player.state is not PlayState.CLOSED:
            _request(player, event)
            return
        pace = Pace(
            ahead_max_ms=int(self._limits.ahead_s * 1000),
            rate_bytes=self._limits.rate_bytes,
            buffer_ms=self._buffers_ms.get(event.stream_id, BUFFER_DEFAULT_MS),
        )
        left_out = self._left_out.get(event.stream_id, frozenset())
        player = Player(self, event.stream_id, pace, left_out)
        if not _request(player, event):
            return
        before = self._players.get(event.stream_id)  # closed, and about to end
        self._players[event.stream_id] = player
        self._waiting[player] = self.spawn(self._perform(player, before)), before

    async def _perform(self, player: Player, before: Player | None) -> None:
        """Runs a player once the one before it on its stream has ended."""
        if before is not None:
            await before.closed.wait()
        del self._waiting[player]
        self.counts.gauges[Gauge.VIEWERS] += 1
        try:
            await player.run()
        finally:
            self.counts.gauges[Gauge.VIEWERS] -= 1
            if self._players.get(player.stream_id) is player:
                del self._players[player.stream_id]
            self._context.ended.set()

    def _control(self, event: events.Seek | events.Pause) -> None:
        player = self._players.get(event.stream_id)
        if player is None or player.state in {PlayState.CLOSED, PlayState.WAITING}:
            code = "NetStream.Seek.Failed" if isinstance(event, events.Seek) else "NetStream.Failed"
            self.engine.stream_status(
                event.stream_id, StatusLevel.ERROR, code, "Nothing is playing on this stream."
            )
        elif isinstance(event, events.Seek):
            player.seek(event)
        else:
            player.pause(event)

    def _close_stream(self, stream_id: int, *, is_stop: bool = False) -> None:
        if not is_stop:
            self._buffers_ms.pop(stream_id, None)
        self._close_plays(stream_id, is_stop=is_stop)

    def _close_plays(self, stream_id: int, *, is_stop: bool = False) -> None:
        """Closes the player of a stream; one that has not begun to run leaves at once."""
        player = self._players.get(stream_id)
        if player is None:
            return
        player.close(is_stop=is_stop)
        waiting = self._waiting.pop(player, None)
        if waiting is None:
            return
        task, before = waiting
        task.cancel()
        player.log_unplayed("closed")
        if before is None:
            del self._players[stream_id]
        else:
            self._players[stream_id] = before

    def _buffer(self, stream_id: int, buffer_ms: int) -> None:
        if not 0 < stream_id <= self._limits.streams_max:
            return  # librtmp and GStreamer announce 300 ms for stream 0, which is no stream
        self._buffers_ms[stream_id] = buffer_ms
        player = self._players.get(stream_id)
        if player is not None:
            player.buffer(buffer_ms)

    def _leave_out(self, stream_id: int, left_out: frozenset[int]) -> None:
        self._left_out[stream_id] = left_out
        player = self._players.get(stream_id)
        if player is not None:
            player.leave_out(left_out)

    def _get_length(self, event: events.GetStreamLength) -> None:
        if self._length_calls >= LENGTH_CALLS_MAX:
            self.engine.call_error(
                event.transaction,
                f"More than {LENGTH_CALLS_MAX} calls at one time.",
            )
            return
        self._length_calls += 1
        self.spawn(self._respond_with_length(event))

    async def _respond_with_length(self, event: events.GetStreamLength) -> None:
        try:
            medium = await self.open_medium(event.name)
        except RefusalError as exc:
            self.engine.call_error(event.transaction, str(exc), code=exc.code)
        else:
            self.engine.call_result(event.transaction, medium.head.duration_ms / 1000)
            if (
                medium.result is not CacheResult.HIT
                and len(self._first_results) < FIRST_RESULTS_MAX
            ):
                self._first_results[medium.name] = medium.result
            medium.close()
        finally:
            self._length_calls -= 1
        self.push()
        self.after_refusal()

    def revoke(self, is_revoked: Callable[[Provenance], bool]) -> None:
        """Ends the plays that the predicate matches."""
        for player in self._players.values():
            player.revoke(is_revoked)

    # The connection's end

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        exc = None if task.cancelled() else task.exception()
        if exc is not None:
            self.fail(exc)

    def _end(self, reason: str) -> None:
        """Closes the connection once all output is sent."""
        if self._end_reason is None:
            self._end_reason = reason
        for player in self._players.values():
            player.close()
        if self._transport is not None and self._sender.idle:
            self._transport.close()

    def after_refusal(self) -> None:
        """Ends the connection at the limit; called after the refusal was sent."""
        if self._signature_failures.is_exceeded:
            self._end("too many wrong signatures")

    def _drained(self) -> None:
        if self._drain_waiter is not None:
            if not self._drain_waiter.done():
                self._drain_waiter.set_result(None)
            self._drain_waiter = None
        if self._end_reason is not None and self._transport is not None:
            self._transport.close()

    def _failed(self, cause: Failure | None) -> None:
        """Aborts: the bytes of a run that has begun cannot be read, so the message cannot end."""
        if self._end_reason is None:
            self._end_reason = "client left" if cause is None else str(cause)
        if self._transport is not None:
            self._transport.abort()

    def _log_line(self, event: str, **fields: object) -> None:
        distribution = self._admission.distribution.id if self._admission is not None else None
        self._context.log.event(
            f"rtmp_{event}",
            client=self._client,
            session=self._id,
            distribution=distribution,
            **fields,
        )


def _object_of(player: Player | None) -> str:
    """The object that a player plays; before it is open, the name that the client sent."""
    if player is None:
        return ""
    medium = player.medium
    return redact_name(player.name).text if medium is None else medium.name


def _request(player: Player, event: events.Play | events.Play2) -> bool:
    """Changes the player's playlist; returns whether that was possible."""
    return player.play(event) if isinstance(event, events.Play) else player.play2(event)

"""One RTMP client: its socket, its engine and its players.

A session owns its connection: all output, responses and media alike, goes through one sender, in
order. The engine parses and responds, players (``plays``) decide what is sent, ``session_log``
writes the log lines. The session passes events to them.
"""

from __future__ import annotations

import asyncio
import os
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
from streamedge.delivery.rtmp.playback.player import Player
from streamedge.delivery.rtmp.plays import Plays
from streamedge.delivery.rtmp.protocol import events
from streamedge.delivery.rtmp.protocol.connection import WINDOW_SIZE_BYTES, ServerConnection
from streamedge.delivery.rtmp.protocol.errors import ProtocolError
from streamedge.delivery.rtmp.session_log import SessionLog
from streamedge.delivery.rtmp.stream_access import Client, Rejection, redact_name
from streamedge.delivery.rtmp.stream_length import LengthCalls
from streamedge.delivery.rtmp.streams import (
    Admission,
    RefusalError,
    SignatureFailureLimit,
    tc_url_host,
)
from streamedge.delivery.viewers import ENDED_BY_OPERATOR, RowStart, ViewerRow, cut
from streamedge.media.medium import Medium
from streamedge.ops.metrics import Counter, pair
from streamedge.spans import Span

PIECE_CHUNKS = 16  # read at one time, and never more than one command: half a millisecond at most
HANDSHAKE_RANDOM_BYTES = 1528
CHUNKS_PER_S_MAX = 25_000  # of a client; the fastest downloads send 5,000 acknowledgements
QUEUED_BYTES_MAX = 512 * 1024  # responses that a client does not read, before it is dropped
CLOSE_TIMEOUT_S = 1.0  # to send the rest to a client that an operator has ended

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
        self.splits_data = False
        self.takes_aggregates = True
        self._context = context
        self._limits = limits
        self._loop = loop
        self._id = f"{os.getpid():x}-{next(_serial):x}"
        self._transport: asyncio.Transport | None = None
        self._transport_name = "rtmp"  # as logs and operators see it
        self._sender: Sender  # from ``connection_made`` on, the first call that asyncio makes
        self.address = peer.address  # the viewer's, behind trusted proxies
        self._client = str(peer)
        self._on_close = on_close
        self._started_s = loop.time()
        self._last_data_s = loop.time()
        self._is_waiting_to_read = False  # has received more than one piece
        self._chunks_before = 0  # at the last sweep
        self._bytes_counted = 0
        self._log = SessionLog(context.log, context.stream_log, self._id, self._client, loop.time())
        self._admission: Admission | None = None
        self._described: tuple[RowStart, str] | None = None  # once a row was made
        self._client_codecs: frozenset[str] = frozenset()
        self._can_reconnect = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._bandwidth = BandwidthCalls(self.engine)
        self._signature_failures = SignatureFailureLimit()
        self._drain_waiter: asyncio.Future[None] | None = None
        self._end_reason: str | None = None
        self._plays = Plays(self, context)
        self._lengths = LengthCalls(self)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        name = "rtmps" if isinstance(transport, TlsConnection) else "rtmp"
        self._transport_name = transport.get_extra_info("rtmp_transport", name)
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
        self._log.disconnected(self.sent_bytes, self._loop.time() - self._started_s, reason)
        self._transport = None
        if not self._tasks:
            self._drop_parts()

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
        return self._lengths.first_result(medium)

    def count_play(self, result: str) -> None:
        if self._admission is not None:
            label = pair(self._admission.distribution.id, result)
            self.counts.add(Counter.DISTRIBUTION_PLAYS, label)

    def log_event(self, event: str, player: Player, **fields: object) -> None:
        self._log.play_event(event, player, self.sent_bytes, self._loop.time(), **fields)

    def log_unplayed(self, name: str, reason: str) -> None:
        self._log.unplayed(name, reason, self._loop.time())

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
        elif not self.plays:
            # A client that has the whole film still shows it, and may seek.
            idle_since_s = max(self._last_data_s, self._plays.shown_until_s)
            if now_s - idle_since_s > self._limits.idle_s:
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
        self._log.fault(exc)
        self._plays.announce_failure()
        self.push()
        self._end(f"internal error: {exc!r}")

    def shut_down(self) -> None:
        """Ends the connection because the edge is stopping."""
        self._end("the edge is stopping")

    def viewer_row(self, now_s: float) -> ViewerRow | None:
        """The session for operators: its play, or the last one of several."""
        if self._admission is None or self._transport is None:
            return None
        described = self._described
        if described is None:
            described = self._described = self._describe(self._admission)
        viewer, agent = described
        player, plays = self._plays.last_open()
        sent_bytes, age_s = self._sender.sent_bytes, round(now_s - self._started_s, 1)
        if player is None:
            return ViewerRow(*viewer, "", agent, "connected", None, sent_bytes, 0, age_s, 0.0)
        name, position_s = cut(_object_of(player)), player.position_ms / 1000
        state = player.state.value
        return ViewerRow(*viewer, name, agent, state, position_s, sent_bytes, plays, age_s, 0.0)

    def _describe(self, admission: Admission) -> tuple[RowStart, str]:
        """What is the same in each row of the session: the members before the object, the agent."""
        viewer = (
            self._id,
            "rtmp",
            self._transport_name,
            self.address,
            self._client,
            admission.distribution.id,
            admission.match.application,
        )
        return viewer, cut(admission.client.connect.flash_version)

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
        self._log.line("reconnect_requested", edge=tc_url_host(tc_url) or None)

    def abort(self) -> None:
        """Closes the connection without flushing."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def plays(self) -> int:
        """The number of plays that are opening, playing or paused."""
        return self._plays.running

    def is_watching(self, now_s: float) -> bool:
        return bool(self._plays.running) or self._plays.shown_until_s > now_s

    # Events

    def _handle(self, event: events.Event) -> None:
        match event:
            case events.Connect():
                self._connect(event)
            case events.GetStreamLength():
                self._lengths.handle(event)
            case events.Ignored(name):
                self._log.ignored_command(name, self._loop.time())
            case events.CheckBandwidth() | events.CallResult():
                self._bandwidth.handle(event, self._loop.time())
            case events.CreateStream() | events.Acknowledged() | events.OptionalCall():
                pass
            case _:
                self._plays.handle(event)

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
            host = tc_url_host(elsewhere)
            self.counts.add(Counter.EDGE_REDIRECTS, pair(host.partition(".")[0], "rtmp"))
            self._end(f"redirected to {host}")
            return
        self._admit(admission)
        self._client_codecs = event.playable_codecs
        self._can_reconnect = event.can_reconnect
        self.splits_data = event.flash_version == FFMPEG_FLASH_VERSION
        self.takes_aggregates = takes_aggregates(
            admission.distribution.aggregation,
            event.flash_version,
            has_object_encoding="objectEncoding" in event.object,
        )
        self._log.connected(
            event, admission, self.address, self._transport_name, self._sender.sent_bytes
        )
        for deferred in self.engine.accept_connect(event.transaction):
            self._handle(deferred)

    def _recheck(self) -> Admission:
        """The client's admission under the current configuration. Raises RefusalError."""
        if self._admission is None:
            raise RefusalError("NetStream.Failed", "Not connected.", "connect")
        admission = self._context.streams.recheck(self._admission)
        self._admit(admission)
        return admission

    def _admit(self, admission: Admission) -> None:
        self._admission = admission
        self._log.distribution = admission.distribution.id
        self._described = None

    def revoke(self, is_revoked: Callable[[Provenance], bool]) -> None:
        """Ends the plays that the predicate matches."""
        self._plays.revoke(is_revoked)

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
        if self._transport is None and not self._tasks:
            self._drop_parts()

    def _drop_parts(self) -> None:
        """Ends the circles of references, which only the garbage collector could free."""
        self._plays.drop()
        self._lengths.drop()

    def _end(self, reason: str) -> None:
        """Closes the connection once all output is sent."""
        if self._end_reason is None:
            self._end_reason = reason
        self._plays.close()
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


def _object_of(player: Player) -> str:
    """The object that a player plays; before it is open, the name that the client sent."""
    medium = player.medium
    return redact_name(player.name).text if medium is None else medium.name

"""The plays of a session: one player for each stream, and the commands that it gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from streamedge.cache.storage.records import Provenance
from streamedge.delivery.rtmp.context import ServerContext
from streamedge.delivery.rtmp.playback.pacing import BUFFER_DEFAULT_MS, Pace
from streamedge.delivery.rtmp.playback.player import INTERNAL_ERROR, Player, PlayState
from streamedge.delivery.rtmp.playback.player_context import PlayerContext
from streamedge.delivery.rtmp.protocol import events
from streamedge.delivery.rtmp.protocol.messages import StatusLevel
from streamedge.ops.metrics import Gauge

StreamCommand: TypeAlias = (
    events.Play
    | events.Play2
    | events.Seek
    | events.Pause
    | events.CloseStream
    | events.DeleteStream
    | events.Receive
    | events.BufferLength
)

_RUNNING = frozenset({PlayState.OPENING, PlayState.PLAYING, PlayState.PAUSED})


class Plays:
    """The players of one session, by stream."""

    __slots__ = (
        "_buffers_ms",
        "_context",
        "_left_out",
        "_limits",
        "_players",
        "_server",
        "_waiting",
    )

    def __init__(self, context: PlayerContext, server: ServerContext) -> None:
        self._context = context
        self._server = server
        self._limits = server.limits
        self._buffers_ms: dict[int, int] = {}
        self._left_out: dict[int, frozenset[int]] = {}  # message types, by stream
        self._players: dict[int, Player] = {}  # by stream
        # Players that have not begun to run: their tasks, and the players that must end before.
        self._waiting: dict[Player, tuple[asyncio.Task[None], Player | None]] = {}

    @property
    def running(self) -> int:
        """The number of plays that are opening, playing or paused."""
        return sum(player.state in _RUNNING for player in self._players.values())

    @property
    def shown_until_s(self) -> float:
        """The loop's time until which the client shows media from its buffer; 0: none."""
        return max((player.shown_until_s for player in self._players.values()), default=0.0)

    def last_open(self) -> tuple[Player | None, int]:
        """The player that is not closed and whose stream began last, if there is one, and how many
        are not closed.
        """
        last, count = None, 0
        for player in self._players.values():
            if player.state is not PlayState.CLOSED:
                last, count = player, count + 1
        return last, count

    def handle(self, event: StreamCommand) -> None:
        """Passes a command to the player of its stream; a play makes one."""
        match event:
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

    def revoke(self, is_revoked: Callable[[Provenance], bool]) -> None:
        """Ends the plays that the predicate matches."""
        for player in self._players.values():
            player.revoke(is_revoked)

    def announce_failure(self) -> None:
        """Sends the status of an internal error on each stream that plays."""
        for stream_id, player in self._players.items():
            if player.state is not PlayState.CLOSED:
                self._context.engine.stream_status(stream_id, StatusLevel.ERROR, *INTERNAL_ERROR)

    def close(self) -> None:
        """Closes all players."""
        for player in self._players.values():
            player.close()

    def drop(self) -> None:
        """Drops the players and the session, which has ended."""
        self._players.clear()
        self._waiting.clear()
        self._context = None  # type: ignore[assignment]  # no command comes any more

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
        player = Player(self._context, event.stream_id, pace, left_out)
        if not _request(player, event):
            return
        before = self._players.get(event.stream_id)  # closed, and about to end
        self._players[event.stream_id] = player
        self._waiting[player] = self._context.spawn(self._perform(player, before)), before

    async def _perform(self, player: Player, before: Player | None) -> None:
        """Runs a player once the one before it on its stream has ended."""
        if before is not None:
            await before.closed.wait()
        del self._waiting[player]
        self._server.counts.gauges[Gauge.VIEWERS] += 1
        try:
            await player.run()
        finally:
            self._server.counts.gauges[Gauge.VIEWERS] -= 1
            if self._players.get(player.stream_id) is player:
                del self._players[player.stream_id]
            self._server.ended.set()

    def _control(self, event: events.Seek | events.Pause) -> None:
        player = self._players.get(event.stream_id)
        if player is None or player.state in {PlayState.CLOSED, PlayState.WAITING}:
            code = "NetStream.Seek.Failed" if isinstance(event, events.Seek) else "NetStream.Failed"
            self._context.engine.stream_status(
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


def _request(player: Player, event: events.Play | events.Play2) -> bool:
    """Changes the player's playlist; returns whether that was possible."""
    return player.play(event) if isinstance(event, events.Play) else player.play2(event)

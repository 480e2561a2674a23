"""Sends the runs of a medium that are due, and sets a timer for the next one.

The pump does not wait: when it needs bytes, when the socket is full and when the medium ends, it
stops with a reason and wakes the player.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum

from streamedge.cache.reader import Reader
from streamedge.callbacks import do_nothing
from streamedge.delivery.rtmp.playback.pacing import Pace
from streamedge.delivery.rtmp.playback.player_context import PlayerContext
from streamedge.delivery.rtmp.protocol import messages
from streamedge.delivery.rtmp.protocol.chunks import MessageType
from streamedge.delivery.rtmp.protocol.connection import OUT_CHUNK_SIZE_BYTES
from streamedge.delivery.rtmp.timers import TimerHandle
from streamedge.media.flv.tags import PREVIOUS_TAG_SIZE_BYTES, TAG_HEADER_SIZE_BYTES
from streamedge.media.medium import LONG_RUN_MS, RUN_MS, End, Medium, NeedData, Position, Run, Skip
from streamedge.ops.metrics import Counter
from streamedge.spans import Span

PLAIN_TAGS_MAX = 8  # tags sent as plain messages at a start, until there is a video frame
RUNS_PER_PASS = 4  # sent to one viewer before the event loop serves others
LATE_S = 0.2  # a run sent this long after its time is shown counts as late


class StopReason(Enum):
    """Why the pump stopped, if the medium is not the reason."""

    SOCKET_FULL = "socket full"  # the kernel's send buffer is full
    YIELD = "yield"  # RUNS_PER_PASS were sent


class Pump:
    """``position`` is what is sent next, ``origin_ms`` the time of the medium at the viewer's
    time 0. No tag later than ``until_ms`` is sent; ``item_until_ms`` is the same for the whole
    item, also after a switch. Messages of the types in ``left_out`` are not sent;
    while there are any, each tag is a message.
    ``wake`` wakes the player, which handles ``stop_reason``.
    """

    def __init__(
        self,
        context: PlayerContext,
        stream_id: int,
        pace: Pace,
        wake: Callable[[], None],
    ) -> None:
        self.position = Position(0, 0)
        self.origin_ms = 0
        self.until_ms: int | None = None
        self.item_until_ms: int | None = None
        self.is_single_frame = False
        self.plain_tags = 0
        self.left_out = frozenset[int]()
        self.clock_is_running = False
        self.stop_reason: NeedData | End | Exception | StopReason | None = None
        self._context = context
        self._stream_id = stream_id
        self._pace = pace
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._timer: TimerHandle | None = None

    @property
    def sent_ms(self) -> int:
        """The viewer's time at which the media sent so far end."""
        return max(0, self.position.time_ms - self.origin_ms)

    @property
    def shown_ms(self) -> int:
        """The time of the medium that the viewer sees, if the client's clock is ours."""
        if not self.clock_is_running:
            return self.position.time_ms
        return min(self.position.time_ms, self._pace.shown_ms(self._loop.time()))

    @property
    def shown_until_s(self) -> float:
        """The loop's time at which the viewer has seen the media sent so far; 0: no clock runs."""
        return self._pace.shown_at_s(self.position.time_ms) if self.clock_is_running else 0.0

    def send(self, medium: Medium, length_ms: int = RUN_MS) -> None:
        """Sends the runs that are due, and sets a timer for the next one.

        A timer calls it, so an exception is passed to ``_stream``, which raises it.
        """
        self._timer = None
        try:
            self._send_due_runs(medium, length_ms)
        except Exception as exc:  # noqa: BLE001 - raised again by _stream
            self.stop_sending(exc)

    def _send_due_runs(self, medium: Medium, length_ms: int) -> None:
        for _ in range(RUNS_PER_PASS):
            if self.clock_is_running:
                now_s = self._loop.time()
                wait_s = self._pace.wait_s(now_s, self.position.time_ms)
                if wait_s > 0:
                    self._timer = self._context.timers.call_at(
                        now_s + wait_s, lambda: self.send(medium, LONG_RUN_MS)
                    )
                    return
            if not self._context.is_idle:
                self.stop_sending(StopReason.SOCKET_FULL)
                return
            if (
                self.plain_tags > 0
                or self.position.time_ms == 0
                or self.is_single_frame
                or self.left_out
                or not self._context.takes_aggregates
            ):
                length_ms = 0
            run = medium.next_run(self.position, length_ms, self.until_ms)
            if isinstance(run, Skip):
                self.position = run.following
                continue
            if not isinstance(run, Run):
                self.stop_sending(run)
                return
            self.send_run(medium, run)
            length_ms = RUN_MS
            if self.is_single_frame and (run.has_video or not medium.head.has_video):
                self.until_ms = -1  # the client requested a single frame
        # A viewer with a large buffer and a fast connection must not block the event loop.
        self.stop_sending(StopReason.YIELD)

    def stop_sending(self, reason: NeedData | End | Exception | StopReason) -> None:
        self.stop_reason = reason
        self._wake()

    def close(self) -> None:
        """Ends the timer and drops the player, which has ended."""
        self.stop()
        self._wake = do_nothing

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def send_run(self, medium: Medium, run: Run) -> None:
        now_s = self._loop.time()
        if not self.clock_is_running:
            self.clock_is_running = True
            self._pace.start(now_s, run.time_ms)
        elif self._pace.late_s(now_s, run.time_ms) > LATE_S:
            self._context.counts.add(Counter.LATE_SENDS, "rtmp")
        if run.tag_type in self.left_out:
            self.position = run.following
            return
        time_ms = max(0, run.time_ms - self.origin_ms)
        kind, skipped, dropped = MessageType.AGGREGATE, 0, 0
        if run.tag_type is not None:
            kind = MessageType(run.tag_type)
            skipped, dropped = TAG_HEADER_SIZE_BYTES, PREVIOUS_TAG_SIZE_BYTES
        if run.body is None:
            span = Span(run.span.start + skipped, run.span.end - dropped)
            size = span.size
            if size <= OUT_CHUNK_SIZE_BYTES:
                header = messages.media_header(self._stream_id, kind, time_ms, size)
                self._context.push_run(header, run.reader, span)
            else:
                self._push_large(kind, time_ms, run.reader, span)
        else:
            body = run.body[skipped : len(run.body) - dropped]
            size = len(body)
            self._context.engine.media_message(self._stream_id, kind, time_ms, body)
            self._context.push()
        self._pace.sent(size)
        self.position = run.following
        if run.has_video or not medium.head.has_video:
            self.plain_tags = 0
        else:
            self.plain_tags = max(0, self.plain_tags - 1)

    def _push_large(self, kind: MessageType, time_ms: int, reader: Reader, span: Span) -> None:
        """Sends a single frame that is larger than one chunk."""
        chunks = messages.media_chunks(self._stream_id, kind, time_ms, span, OUT_CHUNK_SIZE_BYTES)
        parts: list[bytes | tuple[Reader, Span]] = []
        for header, part in chunks:
            parts += (header, (reader, part))
        self._context.push(*parts)

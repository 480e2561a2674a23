"""The player of one stream: what its playlist says, from the first item to the last frame.

    WAITING ──▸ OPENING ──▸ PLAYING ◂──▸ PAUSED
       ▲                       │  ▲
       │            last frame ▼  │ seek, append, fast switch
       └─ nothing may begin   ENDED          any ──close──▸ CLOSED

The player decides what is sent, in which order, and when. A message is never cut off: only runs
whose bytes are in the cache are sent, and requests (seek, pause, close) are handled between
messages. ``PlayerContext`` writes to the socket; the engine encodes the protocol.

Viewer's times begin at 0 and continue from item to item. ``_origin_ms`` is the time of the current
medium at the viewer's time 0. A switch keeps it, because both media have the same content.

The first frames are sent as plain messages: the first one is shown before a second of media has
arrived, and FFmpeg loses a step of time after a sub-tag with timestamp 0. After that whole runs are
sent as aggregate messages (type 22). Their bodies are the bytes of the FLV in the cache.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum

from streamedge.cache.open_object import Failure
from streamedge.cache.storage.records import Provenance
from streamedge.delivery.rtmp.playback import item_times
from streamedge.delivery.rtmp.playback.announcements import Announcements
from streamedge.delivery.rtmp.playback.pacing import Pace
from streamedge.delivery.rtmp.playback.player_context import PlayerContext
from streamedge.delivery.rtmp.playback.playlist import Item, Playlist, Refusal, Replaced, Switch
from streamedge.delivery.rtmp.playback.pump import PLAIN_TAGS_MAX, Pump, StopReason
from streamedge.delivery.rtmp.playback.switching import PLAY_FAILURES, Splice, Switcher
from streamedge.delivery.rtmp.protocol.events import Pause, Play, Play2, Seek, Start
from streamedge.delivery.rtmp.protocol.messages import StatusLevel
from streamedge.delivery.rtmp.streams import RefusalError, refusal_of
from streamedge.media.medium import End, Medium, NeedData, Position, Run, Skip
from streamedge.ops.metrics import Counter

INTERNAL_ERROR = ("NetStream.Play.Failed", "The edge failed.")  # code and description
RESUME_NEAR_MS = 100  # a client that misses at most this much resumes where sending stopped
REQUESTS_MAX = 16  # seeks and pauses that wait for the current message; older ones are dropped


class PlayState(Enum):
    WAITING = "waiting"  # no item may begin
    OPENING = "opening"
    PLAYING = "playing"
    PAUSED = "paused"
    ENDED = "ended"
    CLOSED = "closed"


class Player:
    """The plays of one stream. ``run`` is the body of its task and returns when it is closed."""

    def __init__(
        self,
        context: PlayerContext,
        stream_id: int,
        pace: Pace,
        left_out: frozenset[int] = frozenset(),
    ) -> None:
        self.stream_id = stream_id
        self.name = ""  # of the current item
        self.state = PlayState.WAITING
        self.ended = asyncio.Event()  # all media were sent; a seek or another item clears it
        self.closed = asyncio.Event()
        self.medium: Medium | None = None
        self._context = context
        self._engine = context.engine
        self._announce = Announcements(context.engine, stream_id, splits_data=context.splits_data)
        self._playlist = Playlist()
        self._pump = Pump(context, stream_id, pace, self._wake)
        self._pump.left_out = self._announce.left_out = left_out
        self._switcher = Switcher(context, self._announce, self._playlist, self._pump, self._wake)
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._requests: deque[Seek | Pause] = deque(maxlen=REQUESTS_MAX)
        self._first_ms = 0  # media of the item were sent from here on, since the last seek
        self._is_revoked = False
        self._is_stopped = False
        self._waker: asyncio.Future[None] | None = None
        self._opening: Item | None = None  # the current item, until its medium is open
        self._is_item_sent = False  # all media of ``medium``
        self._has_begun = False  # an item has begun, so times continue
        self._start_bytes = context.sent_bytes

    @property
    def position_ms(self) -> int:
        """The time of the medium that the viewer sees now."""
        return self._pump.shown_ms

    @property
    def shown_until_s(self) -> float:
        """See ``Pump.shown_until_s``."""
        return self._pump.shown_until_s

    # Requests, from the connection

    def play(self, play: Play) -> bool:
        """Adds an item to the playlist; returns whether that was possible."""
        decision = self._playlist.play(play)
        if isinstance(decision, Refusal):
            self._refuse(play.name, decision)
            return False
        self._open_next()
        return True

    def play2(self, request: Play2) -> bool:
        """Changes the playlist; returns whether that was possible."""
        decision = self._playlist.play2(request)
        if isinstance(decision, Refusal):
            self._refuse(request.name, decision)
            return False
        if isinstance(decision, Replaced):
            self._announce.transition(decision.item.name)
        elif isinstance(decision, Switch):
            self._switcher.requested = decision
        self._open_next()
        return True

    def _open_next(self) -> None:
        if self.state is PlayState.WAITING and self._playlist.has_next:
            self.state = PlayState.OPENING
        self._wake()

    def _refuse(self, name: str, refusal: Refusal) -> None:
        self._announce.status(name, *refusal, StatusLevel.ERROR)

    def seek(self, request: Seek) -> None:
        """Continues at another time, after the current message."""
        if self._requests and isinstance(self._requests[-1], Seek):
            self._requests.pop()
        self._requests.append(request)
        self._wake()

    def pause(self, request: Pause) -> None:
        """Pauses or resumes sending."""
        self._requests.append(request)
        self._wake()

    def buffer(self, buffer_ms: int) -> None:
        """Sets the length of the client's buffer."""
        self._pace.buffer_ms = buffer_ms
        self._wake()

    def leave_out(self, left_out: frozenset[int]) -> None:
        """Sends no messages of these types from now on.

        For a type that is sent again, media follow from what the viewer sees now: its decoder
        needs a keyframe, and the client's buffer may be long. The client gets the statuses of a
        seek (RTMP 1.0 §7.2.2.4, §7.2.2.5).
        """
        is_more = bool(self._pump.left_out - left_out)
        self._pump.left_out = self._announce.left_out = left_out
        is_seeking = any(isinstance(request, Seek) for request in self._requests)
        if is_more and not is_seeking and self.state in {PlayState.PLAYING, PlayState.PAUSED}:
            time_ms = max(0, self._pump.shown_ms - self._playlist.origin_ms)
            self.seek(Seek(self.stream_id, time_ms))

    def revoke(self, is_revoked: Callable[[Provenance], bool]) -> None:
        """Ends the item after the current message, if the predicate matches its medium."""
        if self.medium is not None and is_revoked(self.medium.provenance()):
            self._is_revoked = True
            self._wake()
        self._switcher.revoke(is_revoked)

    def close(self, *, is_stop: bool = False) -> None:
        """Ends all plays after the current message; ``is_stop``: with NetStream.Play.Stop."""
        self._is_stopped = is_stop and self.state in {PlayState.PLAYING, PlayState.PAUSED}
        self.state = PlayState.CLOSED
        self._wake()

    # The items of the playlist

    async def run(self) -> None:
        """Plays from the first item to CLOSED. A failure is sent to the viewer as a status."""
        reason = "closed"
        try:
            await self._play_items()
            if self._is_stopped:
                self._announce.stop(self.name)
                self._context.push()
        except asyncio.CancelledError:
            reason = "disconnected"
            raise
        except Exception as exc:
            reason = f"internal error: {exc!r}"
            self._announce.status(self.name, *INTERNAL_ERROR, StatusLevel.ERROR)
            self._context.push()
            raise
        finally:
            self._pump.close()
            self._switcher.close()
            self.state = PlayState.CLOSED
            self.ended.set()
            self.closed.set()
            if self.medium is not None:
                self._finish_item(reason)
            self.log_unplayed(reason)

    def log_unplayed(self, reason: str) -> None:
        """Writes the log lines of the items that did not begin."""
        opening = () if self._opening is None else (self._opening,)
        for item in (*opening, *self._playlist.upcoming):
            self._context.log_unplayed(item.name, reason)

    async def _play_items(self) -> None:
        while self.state is not PlayState.CLOSED:
            try:
                if self.medium is not None and not self._has_next_now:
                    await self._play_item(self.medium)
                elif self._playlist.has_next:
                    await self._advance()
                elif self.state is PlayState.WAITING:
                    await self._wait()
                else:
                    return
            except PLAY_FAILURES as exc:
                self._fail_item(exc)

    @property
    def _has_next_now(self) -> bool:
        """Whether the next item begins now."""
        return (
            self._is_item_sent
            and self._switcher.splice is None
            and self._playlist.has_next
            and self.state is not PlayState.PAUSED
        )

    def _fail_item(self, exc: Exception) -> None:
        """Sends the viewer why the current item is not played; the next one is tried."""
        refusal = refusal_of(exc)
        reason = f"{refusal.code}: {refusal.reason or exc.__cause__ or exc}"
        self._context.counts.add(Counter.ERRORS, refusal.kind)
        opening, self._opening = self._opening, None
        name = self.name if opening is None else opening.name
        self._announce.status(name, refusal.code, str(refusal), StatusLevel.ERROR)
        self._context.push()
        self._playlist.fail()
        if opening is None:
            self._switcher.cancel()
            self._finish_item(reason)
        else:
            # The medium of the item before it, if there is one, was sent completely.
            self._context.log_unplayed(name, reason)
        self._context.after_refusal()

    def _finish_item(self, reason: str) -> None:
        """Closes the medium of the current item, and writes its log line."""
        self._context.log_event("stop", self, bytes=self._bytes(), reason=reason)
        self._start_bytes = self._context.sent_bytes
        if self.medium is not None:
            self.medium.close()
            self.medium = None

    async def _advance(self) -> None:
        """Begins the next item, after the media of the one before."""
        item = self._playlist.advance()
        if item is None:
            return
        self._opening = item
        self._switcher.expire()
        medium = await self._open(item)
        try:
            resume_ms = self._playlist.resume_ms
            position = await medium.locate(item.start_ms + resume_ms)
        except BaseException:
            medium.close()
            raise
        if self.state is PlayState.CLOSED:
            medium.close()
            return
        length_ms = item_times.length_ms(item, medium.head)
        self._opening = None
        if resume_ms >= length_ms and self._playlist.has_next:
            medium.close()
            self._skip(item, length_ms)
            return
        self._begin(item, medium, position)

    async def _open(self, item: Item) -> Medium:
        if item.start is Start.LIVE:
            raise RefusalError(
                "NetStream.Play.StreamNotFound", "There is no such live stream.", "not_found"
            )
        return await self._context.open_medium(item.name)

    def _skip(self, item: Item, length_ms: int) -> None:
        """Passes an item that ends before the place where playing is resumed."""
        at_ms = self._pump.sent_ms if self._has_begun else 0
        self._playlist.begin(at_ms, item.start_ms - at_ms)
        self._playlist.resume_ms -= length_ms
        self._pump.origin_ms = item.start_ms - at_ms
        self._pump.position = Position(0, item.start_ms + length_ms)
        self._has_begun = True

    def _begin(self, item: Item, medium: Medium, position: Position) -> None:
        resume_ms, self._playlist.resume_ms = self._playlist.resume_ms, 0
        origin_ms = 0 if item.start is Start.ANY else position.time_ms
        if self._has_begun:
            at_ms = self._pump.sent_ms if self.medium is None else self._item_end_ms(self.medium)
            first_ms = item.start_ms if resume_ms else position.time_ms
            origin_ms = first_ms - at_ms
            self._playlist.begin(at_ms, origin_ms)
        elif resume_ms:
            origin_ms = item.start_ms
            self._playlist.begin(0, origin_ms)
        else:
            # Seeks of a first item are in times of its medium, whatever its start.
            self._playlist.begin(0, 0)
        if self.medium is not None:
            if self.state is not PlayState.ENDED:
                time_ms = self._pump.sent_ms
                self._announce.next_item(self.medium, item.name, time_ms, self._bytes())
            self._finish_item("ended")
        if self.state is PlayState.ENDED:
            self._pump.clock_is_running = False
        else:
            self._pace.shift(origin_ms - self._pump.origin_ms)
        self.ended.clear()
        self._has_begun = True
        self._is_item_sent = False
        self.name, self.medium = item.name, medium
        self._pump.position, self._pump.origin_ms = position, origin_ms
        self._first_ms = position.time_ms
        self._limit(item)
        self.state = PlayState.PLAYING
        self._announce.play(item.name, is_reset=item.is_reset)
        self._announce_media(medium)
        if item.is_swapped:
            self._announce.transition_complete(item.name, self._pump.sent_ms)
        self._context.push()
        self._log_play(medium, item.start_ms + resume_ms)

    def _limit(self, item: Item) -> None:
        """Sends from ``_pump.position`` to the end of an item."""
        pump = self._pump
        pump.is_single_frame = item.duration_ms == 0
        pump.item_until_ms = None
        if item.duration_ms:
            end_ms = item.start_ms + item.duration_ms - 1
            pump.item_until_ms = max(pump.position.time_ms, end_ms)
        pump.until_ms = pump.item_until_ms
        self._pace.at_once = item.at_once

    def _log_play(self, medium: Medium, start_ms: int) -> None:
        result = self._context.cache_result(medium).value
        self._context.log_event("play", self, cache=result, start_ms=start_ms)
        self._context.counts.add(Counter.PLAYS, result)
        self._context.count_play(result)

    def _item_end_ms(self, medium: Medium) -> int:
        """The viewer's time at which the current item ends, all of whose media were sent."""
        pump = self._pump
        end_ms = item_times.end_ms(pump.position.time_ms, pump.item_until_ms, medium.head)
        return max(0, end_ms - pump.origin_ms)

    @property
    def _splice_is_due(self) -> bool:
        """Whether the old medium has sent what comes before the splice, or more than that."""
        splice = self._switcher.splice
        if splice is None or self.state is PlayState.PAUSED:
            return False
        return self._is_item_sent or splice.position.time_ms < self._pump.position.time_ms

    def _perform_switch(self, splice: Splice) -> Medium:
        """Goes on with the new medium, and closes the old one."""
        self._switcher.complete()
        self._finish_item("switched")
        self.name, self.medium = splice.item.name, splice.medium
        pump = self._pump
        pump.position = splice.position
        pump.until_ms = pump.item_until_ms
        self._is_item_sent = False
        if self.state is PlayState.ENDED:
            self.state = PlayState.PLAYING
            self.ended.clear()
            pump.clock_is_running = False
        self._announce.medium(splice.medium, splice.position, pump.sent_ms)
        self._announce.transition_complete(self.name, pump.sent_ms)
        pump.plain_tags = PLAIN_TAGS_MAX
        self._context.push()
        self._log_play(splice.medium, splice.position.time_ms)
        return splice.medium

    async def _play_item(self, medium: Medium) -> None:
        """Plays the current item until another one begins, or the player is closed."""
        while self.state is not PlayState.CLOSED and not self._has_next_now:
            if self._is_revoked:
                self._is_revoked = False
                self._announce.unpublished(self.name)
                raise RefusalError(
                    "NetStream.Play.Failed",
                    "Access to the stream is revoked.",
                    "revoked",
                    "revoked",
                )
            if self._requests:
                medium = await self._handle(medium, self._requests.popleft())
            elif self._switcher.requested is not None:
                self._switcher.prepare(self._switcher.requested)
            elif self._switcher.splice is not None and self._splice_is_due:
                medium = self._perform_switch(self._switcher.splice)
            elif self.state is not PlayState.PLAYING:
                await self._wait()
            elif self._is_item_sent:
                self._announce_end(medium)
            else:
                await self._stream(medium)

    # Sending

    async def _stream(self, medium: Medium) -> None:
        """Sends runs until there is a request or the medium ends.

        The steady state needs no task: a timer calls ``_pump``, which wakes this coroutine only
        for what needs one.
        """
        self._pump.send(medium)
        await self._wait()
        self._pump.stop()
        stop_reason, self._pump.stop_reason = self._pump.stop_reason, None
        if isinstance(stop_reason, Exception):
            raise stop_reason
        if isinstance(stop_reason, NeedData):
            await self._wait(stop_reason, medium)
        elif isinstance(stop_reason, End):
            self._is_item_sent = True
        elif stop_reason is StopReason.SOCKET_FULL:
            await self._context.drained()
        elif stop_reason is StopReason.YIELD:
            await asyncio.sleep(0)

    async def _handle(self, medium: Medium, request: Seek | Pause) -> Medium:
        """Carries out a request of the client; returns the medium to play from now on."""
        if isinstance(request, Seek):
            return await self._handle_seek(medium, request)
        return await self._handle_pause(medium, request)

    async def _handle_seek(self, medium: Medium, request: Seek) -> Medium:
        """Seeks, after the access check of a play."""
        self._switcher.cancel()
        item = self._playlist.current
        begin = self._playlist.seek(request.time_ms)
        target = self._playlist.current
        if target is not None and target is not item:
            medium = await self._return_to(target)
            self._pump.position = await medium.locate(max(0, request.time_ms + begin.origin_ms))
            self._limit(target)
        else:
            medium = await self._reauthorize(medium)
            self._pump.position = await medium.locate(max(0, request.time_ms + begin.origin_ms))
        self._pump.origin_ms = begin.origin_ms
        self._pump.clock_is_running = False
        self._first_ms = self._pump.position.time_ms
        self._is_item_sent = False
        self.ended.clear()
        if self.state is PlayState.ENDED:
            self.state = PlayState.PLAYING
        self._announce.seek(self.name, request.time_ms)
        self._announce_media(medium)
        at_ms = self._pump.position.time_ms
        self._context.log_event("seek", self, to_ms=request.time_ms, at_ms=at_ms)
        if self.state is PlayState.PAUSED:
            await self._show_one_frame(medium)
        return medium

    async def _return_to(self, item: Item) -> Medium:
        """Opens an item that was played before. Raises RefusalError."""
        self._finish_item("seek")
        self.name = item.name
        self.medium = medium = await self._context.open_medium(item.name)
        self._log_play(medium, item.start_ms)
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
        """Sends one keyframe, which a paused client shows."""
        while not self._has_request and self.state is PlayState.PAUSED:
            run = medium.next_run(self._pump.position, 0, None)
            if isinstance(run, Skip):
                self._pump.position = run.following
                await asyncio.sleep(0)
                continue
            if isinstance(run, NeedData):
                await self._wait(run, medium)
                continue
            if isinstance(run, Run):
                self._pump.send_run(medium, run)
                await self._context.drained()
                if not run.has_video and medium.head.has_video:
                    continue
            return

    async def _handle_pause(self, medium: Medium, request: Pause) -> Medium:
        """Pauses or resumes.

        A client that has all media still shows them from its buffer, so it can pause in ENDED. One
        that pauses before the first frame of a play or a seek gets that frame. When it resumes, a
        time before that frame is of another one, which it showed before a seek.
        """
        if request.paused and self.state in {PlayState.PLAYING, PlayState.ENDED}:
            self.state = PlayState.PAUSED
            self._status("NetStream.Pause.Notify", f"Paused {self.name}.")
            self._context.log_event("pause", self, at_ms=request.time_ms)
            if self._pump.plain_tags == PLAIN_TAGS_MAX:
                self._context.push()
                await self._show_one_frame(medium)
        elif not request.paused and self.state is PlayState.PAUSED:
            before = medium
            client_ms = max(request.time_ms + self._pump.origin_ms, self._first_ms - 1)
            if self._pump.position.time_ms - client_ms > RESUME_NEAR_MS and request.time_ms:
                # §7.2.2.8: send only what is later than the time at which the client stopped.
                # Tags are sent a second time, so access is checked as for a seek.
                medium = await self._reauthorize(medium)
                self._pump.position = await medium.locate_after(client_ms)
                self._is_item_sent = False
                self._playlist.reopen()
                self.ended.clear()
            self.state = PlayState.ENDED if self.ended.is_set() else PlayState.PLAYING
            self._pump.clock_is_running = False
            self._status("NetStream.Unpause.Notify", f"Unpaused {self.name}.")
            self._context.log_event("unpause", self, at_ms=request.time_ms)
            if medium is not before:
                self._announce_media(medium)
        self._context.push()
        return medium

    def _announce_media(self, medium: Medium) -> None:
        """Sends what a decoder needs before its first frame, after each play and seek."""
        self._announce.samples()
        self._announce.medium(medium, self._pump.position, self._pump.sent_ms)
        self._pump.plain_tags = PLAIN_TAGS_MAX
        self._context.push()

    def _announce_end(self, medium: Medium) -> None:
        """All items were sent."""
        self._playlist.advance()
        self.state = PlayState.ENDED
        self._announce.end(medium, self.name, self._pump.sent_ms, self._bytes())
        self._context.push()
        self._context.log_event("end", self, bytes=self._bytes())
        self.ended.set()

    def _status(self, code: str, description: str) -> None:
        self._announce.status(self.name, code, description)

    # Waiting

    @property
    def _has_request(self) -> bool:
        """Whether there is a request from the client or the server to handle."""
        return (
            bool(self._requests)
            or self._switcher.requested is not None
            or self._splice_is_due
            or self._is_revoked
            or self._has_next_now
            or self.state is PlayState.CLOSED
        )

    async def _wait(self, needed: NeedData | None = None, medium: Medium | None = None) -> None:
        """Waits for a request, for the pump to stop, or for the ``needed`` bytes.

        Raises the failure that keeps the bytes from arriving. Returns at once for a request that
        arrived in the same loop iteration in which the pump stopped.
        """
        if self._has_request or self._pump.stop_reason is not None:
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

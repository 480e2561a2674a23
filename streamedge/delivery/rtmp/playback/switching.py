"""Prepares switches: opens the new medium and finds its keyframe, while the old one plays on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from streamedge.cache.storage.records import Provenance
from streamedge.callbacks import do_nothing
from streamedge.delivery.rtmp.playback.announcements import Announcements
from streamedge.delivery.rtmp.playback.player_context import PlayerContext
from streamedge.delivery.rtmp.playback.playlist import PLAY_FAILED, Item, Playlist, Switch
from streamedge.delivery.rtmp.playback.pump import Pump
from streamedge.delivery.rtmp.playback.splice import FAST_SWITCH_AHEAD_MS, splice_position
from streamedge.delivery.rtmp.protocol.events import Offset
from streamedge.delivery.rtmp.protocol.messages import StatusLevel
from streamedge.delivery.rtmp.streams import RefusalError, refusal_of
from streamedge.errors import CacheFullError, MediaError, OriginError
from streamedge.media.medium import Medium, Position
from streamedge.ops.metrics import Counter

PLAY_FAILURES: Final = (RefusalError, OriginError, CacheFullError, MediaError)


class Splice(NamedTuple):
    """A medium that takes over at ``position``; not before the media of the old one end there."""

    item: Item
    medium: Medium
    position: Position


class Switcher:
    """The switch of one stream: ``requested`` by the client, in preparation, or a ``splice``."""

    def __init__(
        self,
        context: PlayerContext,
        announce: Announcements,
        playlist: Playlist,
        pump: Pump,
        wake: Callable[[], None],
    ) -> None:
        self.requested: Switch | None = None
        self.splice: Splice | None = None
        self._context = context
        self._announce = announce
        self._playlist = playlist
        self._pump = pump
        self._wake = wake
        self._task: asyncio.Task[None] | None = None

    def prepare(self, switch: Switch) -> None:
        """Begins to open the new medium of the newest request; an earlier one is dropped."""
        self.cancel()
        self._playlist.switch = switch
        at_ms: int | None = None
        if switch.offset is not Offset.AFTER_SENT:
            shown_ms = self._pump.shown_ms
            at_ms = shown_ms + FAST_SWITCH_AHEAD_MS
            if isinstance(switch.offset, int):
                at_ms = switch.offset + self._pump.origin_ms
            if at_ms < shown_ms:
                self._playlist.switch = None
                self._refuse(switch, PLAY_FAILED, "that time was shown.")
                return
        self._task = self._context.spawn(self._open(switch, at_ms))

    async def _open(self, switch: Switch, at_ms: int | None) -> None:
        try:
            medium = await self._context.open_medium(switch.item.name)
            try:
                position = await self._find(medium, at_ms)
            except BaseException:
                medium.close()
                raise
        except PLAY_FAILURES as exc:
            refusal = refusal_of(exc)
            self._context.counts.add(Counter.ERRORS, refusal.kind)
            self._playlist.switch = None
            self._task = None
            self._refuse(switch, refusal.code, str(refusal))
            self._context.after_refusal()
            return
        self._task = None
        self.splice = Splice(switch.item, medium, position)
        self._pump.until_ms = position.time_ms - 1
        self._announce.transition(switch.item.name)
        self._context.push()
        self._wake()

    async def _find(self, medium: Medium, at_ms: int | None) -> Position:
        """The place to enter the new medium: at ``at_ms``, or after all that was sent."""
        pump = self._pump
        position = await splice_position(
            medium, lambda: pump.position.time_ms if at_ms is None else at_ms
        )
        until_ms = pump.item_until_ms
        if position is None or (until_ms is not None and position.time_ms > until_ms):
            raise RefusalError(PLAY_FAILED, "no keyframe follows.", "no_keyframe")
        return position

    def _refuse(self, switch: Switch, code: str, reason: str) -> None:
        name = switch.item.name
        text = f"Cannot switch to {name}: {reason}"
        self._announce.status(name, code, text, StatusLevel.ERROR)
        self._context.push()

    def complete(self) -> None:
        """The splice was carried out."""
        self._playlist.complete_switch()
        self.splice = None

    def revoke(self, is_revoked: Callable[[Provenance], bool]) -> None:
        """Drops the splice if the predicate matches its medium."""
        if self.splice is not None and is_revoked(self.splice.medium.provenance()):
            switch = Switch(self.splice.item, Offset.AFTER_SENT)
            self.cancel()
            self._refuse(switch, PLAY_FAILED, "access to the stream is revoked.")

    def expire(self) -> None:
        """Refuses a switch that was not carried out before its item ended."""
        switch = self._playlist.switch
        self.cancel()
        if switch is not None:
            self._refuse(switch, PLAY_FAILED, "what it replaces has ended.")

    def close(self) -> None:
        """Cancels a switch and drops the player, which has ended."""
        self.cancel()
        self._wake = do_nothing

    def cancel(self) -> None:
        """The current medium goes on; a new one that was opened is closed."""
        self.requested = None
        self._playlist.switch = None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        splice, self.splice = self.splice, None
        if splice is not None:
            splice.medium.close()
            self._pump.until_ms = self._pump.item_until_ms

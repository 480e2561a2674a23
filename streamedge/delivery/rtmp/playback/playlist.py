"""The playlist of a stream: its items, the current one, and a switch that waits for its keyframe.

Pure: requests of the client go in, decisions come out as values; ``player.Player`` carries them
out. Items that have been played stay in the list until it is full, so that a seek can go back to
them. Times are those of the viewer, in ms: they begin at 0 and continue from item to item.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias

from streamedge.delivery.rtmp.protocol.events import Offset, Play, Play2, Start, Transition

ITEMS_MAX: Final = 64
PLAY_FAILED: Final = "NetStream.Play.Failed"


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One stream of a playlist; the same name may be in it several times.

    ``start`` and ``duration_ms`` are those of ``events.Play``. ``is_reset``: announced by
    NetStream.Play.Reset. ``at_once``: sent as fast as the operator's limits allow. ``is_swapped``:
    its beginning is announced by NetStream.Play.TransitionComplete.
    """

    name: str
    start: int | Start = Start.ANY
    duration_ms: int | None = None
    is_reset: bool = False
    at_once: bool = False
    is_swapped: bool = False

    @property
    def start_ms(self) -> int:
        """The time of the medium at which the item begins."""
        return self.start if isinstance(self.start, int) else 0


class Begin(NamedTuple):
    """The viewer's time at which an item began, and the time of its medium at viewer's time 0."""

    at_ms: int
    origin_ms: int


class Refusal(NamedTuple):
    """The request changes nothing; the client gets this status."""

    code: str
    description: str


class Added(NamedTuple):
    """The playlist has one more item, or an item may begin now."""


class Replaced(NamedTuple):
    """An item that has not begun was replaced by ``item``."""

    item: Item


class Switch(NamedTuple):
    """``item`` replaces the current one from a keyframe on; ``offset`` says where."""

    item: Item
    offset: int | Offset


Decision: TypeAlias = Refusal | Added | Replaced | Switch


class Playlist:
    """The items of one stream; at most ITEMS_MAX.

    An item is current from ``advance`` on; ``begin`` records where it began.
    """

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._begins: list[Begin] = []  # of the items up to the current one
        self._cursor = -1
        self._waits_for_resume = False
        self._is_over = False  # the current item has ended, and no other followed
        self.switch: Switch | None = None
        self.resume_ms = 0  # playing begins so far after the beginning of the next item

    def __len__(self) -> int:
        return len(self._items)

    @property
    def current(self) -> Item | None:
        return self._items[self._cursor] if self._cursor >= 0 else None

    @property
    def origin_ms(self) -> int:
        """The time in the current item's medium that is the viewer's time 0."""
        return self._begins[self._cursor].origin_ms if self._cursor >= 0 else 0

    @property
    def upcoming(self) -> tuple[Item, ...]:
        """The items that have not begun."""
        return tuple(self._items[self._cursor + 1 :])

    @property
    def has_next(self) -> bool:
        """Whether another item may begin when the current one has ended."""
        return not self._waits_for_resume and self._cursor + 1 < len(self._items)

    # Requests of the client

    def play(self, play: Play) -> Decision:
        """Adds an item behind the others; it begins when they have ended."""
        item = Item(play.name, play.start, play.duration_ms, play.reset, play.at_once)
        decision = self._add(item)
        if isinstance(decision, Added):
            self._waits_for_resume = False
        return decision

    def play2(self, request: Play2) -> Decision:
        """Decides about any transition but those that are a play or a stop."""
        item = Item(request.name, request.start, request.duration_ms)
        match request.transition:
            case Transition.APPEND_AND_WAIT:
                return self._append_and_wait(item)
            case Transition.RESUME:
                return self._resume(item, request.offset)
            case Transition.SWAP:
                return self._swap(request.old_name, item)
            case Transition.SWITCH:
                return self._switch_from(request.old_name, item, request.offset)
            case Transition.APPEND | Transition.RESET | Transition.STOP:
                return Refusal("NetStream.Failed", "The transition is a play or a stop.")

    def _append_and_wait(self, item: Item) -> Decision:
        is_idle = (self._cursor < 0 or self._is_over) and not self.has_next
        decision = self._add(item)
        if is_idle and isinstance(decision, Added):
            self._waits_for_resume = True
        return decision

    def _resume(self, item: Item, offset: int | Offset) -> Decision:
        if item.name:
            decision = self._add(item)
            if isinstance(decision, Refusal):
                return decision
        elif not self.upcoming:
            return Refusal(PLAY_FAILED, "There is nothing to resume.")
        if self._cursor < 0 and isinstance(offset, int):
            self.resume_ms = offset
        self._waits_for_resume = False
        return Added()

    def _swap(self, old_name: str, item: Item) -> Decision:
        row = self._upcoming_row(old_name)
        if row is not None:
            return self._replace(row, replace(item, is_swapped=True))
        has_begun = any(each.name == old_name for each in self._items)
        reason = "has begun" if has_begun else "is not in the playlist"
        return Refusal(PLAY_FAILED, f"Cannot swap {old_name}: it {reason}.")

    def _switch_from(self, old_name: str, item: Item, offset: int | Offset) -> Decision:
        current = self.current
        if current is None or old_name != current.name:
            row = self._upcoming_row(old_name)
            if row is None and current is None and self._items:
                row = 0
            if row is not None:
                # Both have the same content, so the new one begins and ends where the old one does.
                return self._replace(row, _in_place_of(self._items[row], item))
        if current is None:
            return self._add(item)
        if self._is_over and offset is Offset.AFTER_SENT:
            return Refusal(PLAY_FAILED, f"Cannot switch to {item.name}: all media were sent.")
        self.switch = Switch(_in_place_of(current, item), offset)
        return self.switch

    def _upcoming_row(self, name: str) -> int | None:
        rows = range(self._cursor + 1, len(self._items))
        return next((row for row in rows if self._items[row].name == name), None)

    def _replace(self, row: int, item: Item) -> Replaced:
        self._items[row] = item
        return Replaced(item)

    def _add(self, item: Item) -> Refusal | Added:
        if len(self._items) >= ITEMS_MAX:
            if self._cursor <= 0:
                return Refusal(PLAY_FAILED, f"No more than {ITEMS_MAX} plays on one stream.")
            del self._items[0], self._begins[0]
            self._cursor -= 1
        self._items.append(item)
        return Added()

    # Progress

    def advance(self) -> Item | None:
        """Makes the next item the current one; None: no other may begin, the playlist is over."""
        if not self.has_next:
            self._is_over = True
            return None
        self._is_over = False
        self._cursor += 1
        self._begins.append(Begin(0, 0))
        return self._items[self._cursor]

    def begin(self, at_ms: int, origin_ms: int) -> None:
        """Records where the current item began."""
        self._begins[self._cursor] = Begin(at_ms, origin_ms)

    def fail(self) -> None:
        """Removes the current item, which cannot be played, and returns to the one before."""
        if self._cursor >= 0:
            del self._items[self._cursor], self._begins[self._cursor]
            self._cursor -= 1
        self.switch = None

    def complete_switch(self) -> None:
        """The new item has taken the place of the current one."""
        if self.switch is not None:
            self._items[self._cursor] = self.switch.item
            self._is_over = False
        self.switch = None

    def reopen(self) -> None:
        """Media of the current item are sent again."""
        self._is_over = False

    def seek(self, time_ms: int) -> Begin:
        """Returns to the item that holds a time of the viewer, or stays at the current one.

        Drops the switch. Items after the one that it returns to are played again.
        """
        self.switch = None
        self._is_over = False
        while self._cursor > 0 and self._begins[self._cursor].at_ms > time_ms:
            self._cursor -= 1
            self._begins.pop()
        return self._begins[self._cursor]


def _in_place_of(old: Item, item: Item) -> Item:
    return replace(old, name=item.name)

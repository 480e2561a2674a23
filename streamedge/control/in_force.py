"""All invalidations that are in force, as a worker holds them against what it has cached.

Owns the index of the control log's invalidations: paths and tags by name, wildcards by what they
begin with, everything by one time for each distribution. A verdict costs the same however much is
cached, and nearly the same however much was invalidated. Nothing cached is touched: what was
validated before a matching invalidation fails the comparison when it is next asked for.

At most ``items_kept`` items are kept one by one. Beyond it the one that was asked for longest ago
is folded into everything of its distribution: never less than was asked.
"""

from __future__ import annotations

import sys
import time
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from streamedge.control.database import ControlError
from streamedge.control.invalidations import (
    Invalidation,
    Item,
    ItemKind,
    comparable,
    matches_pieces,
    parse_item,
)
from streamedge.control.log import Row, RowKind
from streamedge.ops.log import Log

ITEMS_KEPT = 10_000
NEVER_S = float("-inf")
UNKNOWN_S = -sys.float_info.max  # earlier than all times, but not than never


class Verdict(Enum):
    """What invalidations say of something cached."""

    FRESH = "fresh"  # nothing
    STALE = "stale"  # it is as if it had expired then: to be validated before it is fresh again
    REFUSED = "refused"  # it must not be served again


class Ruling(NamedTuple):
    """A verdict; of STALE since when, in seconds since 1970."""

    verdict: Verdict
    since_s: float = 0.0


FRESH = Ruling(Verdict.FRESH)


class Rows(Protocol):
    """Where rows come from: the control log."""

    def rows_after(self, epoch: int) -> Sequence[Row]: ...


class _Cuts:
    """Up to when what was validated is refused, and stale."""

    __slots__ = ("hard_s", "pieces", "soft_s")

    def __init__(self, pieces: tuple[str, ...] = ()) -> None:
        self.hard_s = NEVER_S
        self.soft_s = NEVER_S
        self.pieces = pieces

    def add(self, other: _Cuts) -> None:
        self.hard_s = max(self.hard_s, other.hard_s)
        self.soft_s = max(self.soft_s, other.soft_s)


class _Scope:
    """One distribution's items."""

    __slots__ = ("_beginnings", "_lengths", "epoch", "everything", "exact", "tags")

    def __init__(self) -> None:
        self.epoch = 0  # of the newest row about it
        self.everything = _Cuts()
        self.exact: dict[str, _Cuts] = {}
        self.tags: dict[str, _Cuts] = {}
        # Wildcards, by their first piece and by all of them.
        self._beginnings: dict[str, dict[tuple[str, ...], _Cuts]] = {}
        self._lengths: list[int] = []  # of those, each once, in order

    def cuts(self, item: Item) -> _Cuts:
        """Those of an item, made if need be."""
        if item.kind is ItemKind.EVERYTHING:
            return self.everything
        if item.kind is ItemKind.EXACT:
            return self.exact.setdefault(item.text, _Cuts())
        if item.kind is ItemKind.TAG:
            return self.tags.setdefault(item.text, _Cuts())
        first = item.pieces[0]
        if first not in self._beginnings:
            self._beginnings[first] = {}
            if len(first) not in self._lengths:
                insort(self._lengths, len(first))
        return self._beginnings[first].setdefault(item.pieces, _Cuts(item.pieces))

    def fold(self, item: Item) -> None:
        """Lets an item go, and everything stand for it."""
        self.everything.add(self.cuts(item))
        if item.kind is ItemKind.EXACT:
            del self.exact[item.text]
        elif item.kind is ItemKind.TAG:
            del self.tags[item.text]
        else:
            beginning = self._beginnings[item.pieces[0]]
            del beginning[item.pieces]
            if not beginning:
                del self._beginnings[item.pieces[0]]

    def matching(self, target: str, tags: Callable[[], frozenset[str]]) -> _Cuts:
        """What all items say together of what a target (as ``target_of`` spells it) and tags
        name."""
        cuts = _Cuts()
        cuts.add(self.everything)
        target = comparable(target)
        if target in self.exact:
            cuts.add(self.exact[target])
        for length in self._lengths:
            if length > len(target):
                break
            for wildcard in self._beginnings.get(target[:length], {}).values():
                if matches_pieces(wildcard.pieces, target):
                    cuts.add(wildcard)
        if self.tags:
            for tag in self.tags.keys() & tags():
                cuts.add(self.tags[tag])
        return cuts


class Revocation:
    """An invalidation that is also about what runs: what it covers is to be ended."""

    def __init__(self, scope: str, asked: Invalidation) -> None:
        self._scope = scope
        self._items = _Scope()
        self._at_s = asked.at_s
        cut = _Cuts()
        cut.hard_s = asked.at_s
        for text in asked.items:
            self._items.cuts(parse_item(text)).add(cut)

    def covers(
        self, scope: str, target: str, tags: Callable[[], frozenset[str]], asked_s: float
    ) -> bool:
        """Whether it is about something of a distribution that was asked for at ``asked_s``."""
        if scope != self._scope or asked_s > self._at_s:
            return False
        return self._items.matching(target, tags).hard_s >= asked_s


class InForce:
    """A worker's index. Nothing is read before the first ``look``."""

    def __init__(
        self,
        rows: Rows,
        log: Log,
        *,
        items_kept: int = ITEMS_KEPT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._rows = rows
        self._log = log
        self._clock = clock
        self._items_kept = items_kept
        self._scopes: dict[str, _Scope] = {}
        self._kept: OrderedDict[tuple[str, Item], None] = OrderedDict()  # asked longest ago first
        self._number: int | None = None
        self._unread_since_s = NEVER_S
        self._revoking: list[Revocation] = []
        self.epoch = 0

    def look(self, number: int) -> bool:
        """Reads what the log has got, if the change number is not the one of the last look.

        False: the log could not be read. Until it can be, whatever was validated before that is
        stale, and each look tries again.
        """
        if number == self._number:
            return True
        try:
            rows = self._rows.rows_after(self.epoch)
        except ControlError as exc:
            if self._unread_since_s == NEVER_S:
                self._log.event("control_log_unreadable", error=str(exc))
            self._unread_since_s = self._clock()
            return False
        is_first, self._number, self._unread_since_s = self._number is None, number, NEVER_S
        for row in rows:
            self.epoch = max(self.epoch, row.epoch)
            if row.kind is RowKind.INVALIDATION:
                self._add(row)
                if row.invalidation.revoke and not is_first:
                    self._revoking.append(Revocation(row.scope, row.invalidation))
        return True

    def take_revocations(self) -> list[Revocation]:
        """What is to be ended of what runs: all that was read since this was last asked."""
        taken, self._revoking = self._revoking, []
        return taken

    def scope_epoch(self, scope: str) -> int:
        """The newest row about a distribution: until it moves, rulings on its assets hold."""
        known = self._scopes.get(scope)
        return 0 if known is None else known.epoch

    def rule(
        self,
        scope: str,
        target: str,
        tags: Callable[[], frozenset[str]],
        validated_s: float,
    ) -> Ruling:
        """What is in force for something that was asked for at ``validated_s``.

        ``tags`` is asked for its cache tags only where some tag was invalidated. When the clock has
        stepped back to before ``validated_s``, nobody knows what came first: every matching item
        counts.
        """
        if validated_s > self._clock():
            validated_s = UNKNOWN_S
        known = self._scopes.get(scope)
        soft_s = self._unread_since_s
        if known is not None:
            cuts = known.matching(target, tags)
            if cuts.hard_s >= validated_s:
                return Ruling(Verdict.REFUSED)
            soft_s = max(soft_s, cuts.soft_s)
        return Ruling(Verdict.STALE, soft_s) if soft_s >= validated_s else FRESH

    def _add(self, row: Row) -> None:
        asked = row.invalidation
        scope = self._scopes.setdefault(row.scope, _Scope())
        scope.epoch = max(scope.epoch, row.epoch)
        cut = _Cuts()
        if asked.soft:
            cut.soft_s = asked.at_s
        else:
            cut.hard_s = asked.at_s
        for text in asked.items:
            item = parse_item(text)
            scope.cuts(item).add(cut)
            if item.kind is not ItemKind.EVERYTHING:
                self._kept[row.scope, item] = None
                self._kept.move_to_end((row.scope, item))
        while len(self._kept) > self._items_kept:
            (name, item), _none = self._kept.popitem(last=False)
            self._scopes[name].fold(item)

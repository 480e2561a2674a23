"""All invalidations that are in force, as a worker holds them against what it has cached.

It owns the index of the control log's invalidations: paths and tags by name, wildcards by what they
begin with, everything by one epoch for each distribution. A verdict costs the same however much is
cached, and nearly the same however much was invalidated. Nothing cached is touched: what was asked
for before a matching invalidation fails the comparison when it is next asked for.

What came first is decided by positions in the log (see ``position``), and never by a clock. A clock
only counts for how long something has been stale since a soft invalidation.

What is not known counts as an invalidation: rows that could not be read yet, a row that nobody can
read, and records that were asked for at a position in another log or behind the end of this one.

At most ``items_kept`` items are kept one by one. Beyond it the one that was asked for longest ago
is folded into everything of its distribution: never less than was asked.
"""

from __future__ import annotations

import time
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import Enum
from typing import NamedTuple, Protocol

from streamedge.control.database import ControlError
from streamedge.control.invalidations import (
    EVERYTHING,
    Item,
    ItemError,
    ItemKind,
    comparable,
    matches_pieces,
    parse_item,
)
from streamedge.control.log import LogRead, Row, RowKind
from streamedge.control.position import UNKNOWN, epoch_of, log_of, position_at
from streamedge.ops.log import Log

ITEMS_KEPT = 10_000
NEVER = -1  # an epoch before all
RETRY_S = 0.1  # between two attempts to read a log that could not be read


class Verdict(Enum):
    """What invalidations say of something cached."""

    FRESH = "fresh"  # nothing
    STALE = "stale"  # it is as if it had expired then: to be validated before it is fresh again
    REFUSED = "refused"  # it must not be served again


class Validity(NamedTuple):
    """A verdict; of STALE since when, in seconds since 1970."""

    verdict: Verdict
    since_s: float = 0.0


FRESH = Validity(Verdict.FRESH)


class Rows(Protocol):
    """Where rows come from: the control log."""

    def read_after(self, position: int) -> LogRead: ...

    def renew_if_older(self, seen: int) -> int: ...


class _Cutoffs:
    """The newest epochs whose rows refuse, and make stale, what was asked for before them.

    ``soft_since_s``: the time of the newest row that makes stale.
    """

    __slots__ = ("hard", "pieces", "soft", "soft_since_s")

    def __init__(self, pieces: tuple[str, ...] = ()) -> None:
        self.hard = NEVER
        self.soft = NEVER
        self.soft_since_s = 0.0
        self.pieces = pieces

    def add(self, other: _Cutoffs) -> None:
        self.hard = max(self.hard, other.hard)
        if other.soft > self.soft:
            self.soft, self.soft_since_s = other.soft, other.soft_since_s


class _Scope:
    """One distribution's items."""

    __slots__ = ("_beginnings", "_lengths", "epoch", "everything", "exact", "tags")

    def __init__(self) -> None:
        self.epoch = 0  # of the newest row about it
        self.everything = _Cutoffs()
        self.exact: dict[str, _Cutoffs] = {}
        self.tags: dict[str, _Cutoffs] = {}
        # Wildcards, by their first piece and by all of them.
        self._beginnings: dict[str, dict[tuple[str, ...], _Cutoffs]] = {}
        self._lengths: list[int] = []  # of those, each once, in order

    def cuts(self, item: Item) -> _Cutoffs:
        """Those of an item, made if need be."""
        if item.kind is ItemKind.EVERYTHING:
            return self.everything
        if item.kind is ItemKind.EXACT:
            return self.exact.setdefault(item.text, _Cutoffs())
        if item.kind is ItemKind.TAG:
            return self.tags.setdefault(item.text, _Cutoffs())
        first = item.pieces[0]
        if first not in self._beginnings:
            self._beginnings[first] = {}
            if len(first) not in self._lengths:
                insort(self._lengths, len(first))
        return self._beginnings[first].setdefault(item.pieces, _Cutoffs(item.pieces))

    def compact(self, item: Item) -> None:
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

    def matching(self, target: str, tags: Callable[[], frozenset[str]]) -> _Cutoffs:
        """What all items say together of what a target (as ``target_of`` spells it) and tags
        name."""
        cuts = _Cutoffs()
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

    def __init__(self, scope: str, items: Iterable[Item], position: int) -> None:
        self._scope = scope
        self._items = _Scope()
        self._position = position
        cut = _Cutoffs()
        cut.hard = epoch_of(position)
        for item in items:
            self._items.cuts(item).add(cut)

    def covers(
        self, scope: str, target: str, tags: Callable[[], frozenset[str]], position: int
    ) -> bool:
        """Whether it is about something of a distribution that was asked for at ``position``."""
        if scope != self._scope:
            return False
        if log_of(position) == log_of(self._position) and position >= self._position:
            return False
        return self._items.matching(target, tags).hard != NEVER


class InvalidationIndex:
    """A worker's index. Until the first ``refresh`` that succeeds, everything is refused."""

    def __init__(
        self,
        rows: Rows,
        log: Log,
        *,
        items_kept: int = ITEMS_KEPT,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rows = rows
        self._log = log
        self._clock = clock
        self._monotonic = monotonic
        self._items_kept = items_kept
        self._head = UNKNOWN  # what was announced at the last look
        self._has_read = False
        self._is_behind = True  # there may be rows that have not been read
        self._is_told = False  # that the log cannot be read
        self._retry_s = 0.0
        self._revoking: list[Revocation] = []
        self._clear()

    def _clear(self) -> None:
        self.position = UNKNOWN
        """Up to where the log has been read."""
        self._scopes: dict[str, _Scope] = {}
        self._everywhere = _Cutoffs()  # of all distributions
        self._kept: OrderedDict[tuple[str, Item], None] = OrderedDict()  # asked longest ago first

    def refresh(self, head: int, *, again: bool = False) -> bool:
        """Reads what the log has got, if ``head`` says that there is something new.

        ``head``: the position that is announced to all processes. ``again``: reads in any case.
        False: the log could not be read. Until it can be, everything that was asked for before
        ``head`` is refused, and looks try again, but not more often than each RETRY_S.
        """
        if not self._is_behind and not again and head in (self._head, self.position):
            self._head = head
            return True
        self._head = head
        if self._is_behind and not again and self._monotonic() < self._retry_s:
            return False
        try:
            read = self._rows.read_after(self.position)
            if log_of(read.position) == log_of(head) and read.position < head:
                renewed = self._rows.renew_if_older(head)
                self._log.event("control_log_older", announced=head, found=renewed)
                read = self._rows.read_after(self.position)
        except ControlError as exc:
            self._is_behind = True
            self._retry_s = self._monotonic() + RETRY_S
            if not self._is_told:
                self._is_told = True
                self._log.event("control_log_unreadable", error=str(exc))
            return False
        if self._is_told:
            self._is_told = False
            self._log.event("control_log_readable")
        self._apply(read)
        return True

    def _apply(self, read: LogRead) -> None:
        is_first = not self._has_read
        if log_of(read.position) != log_of(self.position):
            is_first = True  # of this log
            self._clear()
        self._has_read, self._is_behind = True, False
        for row in read.rows:
            if row.kind is not RowKind.CONFIGURATION:
                self._add(row, read.position, is_first=is_first)
        self.position = read.position

    def take_revocations(self) -> list[Revocation]:
        """What is to be ended of what runs: all that was read since this was last asked."""
        taken, self._revoking = self._revoking, []
        return taken

    def scope_position(self, scope: str) -> int:
        """The newest row about a distribution: until it moves, rulings on its assets hold."""
        known = self._scopes.get(scope)
        epoch = max(self._everywhere.hard, 0 if known is None else known.epoch)
        return position_at(log_of(self.position), epoch)

    def validity(
        self,
        scope: str,
        target: str,
        tags: Callable[[], frozenset[str]],
        position: int,
    ) -> Validity:
        """What is in force for something that was asked for at ``position``.

        ``tags`` is asked for its cache tags only where some tag was invalidated.
        """
        if not self._is_known(position):
            return Validity(Verdict.REFUSED)
        epoch = epoch_of(position)
        known = self._scopes.get(scope)
        if self._everywhere.hard > epoch:
            return Validity(Verdict.REFUSED)
        if known is None or known.epoch <= epoch:
            return FRESH
        cuts = known.matching(target, tags)
        if cuts.hard > epoch:
            return Validity(Verdict.REFUSED)
        return Validity(Verdict.STALE, cuts.soft_since_s) if cuts.soft > epoch else FRESH

    def _is_known(self, position: int) -> bool:
        """Whether all rows that came after a position have been read."""
        if not self._has_read or log_of(position) != log_of(self.position):
            return False
        if self._is_behind and (log_of(self._head) != log_of(position) or position < self._head):
            return False
        if log_of(self._head) == log_of(position) and position <= self._head:
            return True
        return position <= self.position

    def _add(self, row: Row, position: int, *, is_first: bool) -> None:
        try:
            asked = row.invalidation
            items = [parse_item(text) for text in asked.items]
            is_readable = row.kind is RowKind.INVALIDATION
        except (ItemError, KeyError, TypeError, ValueError):
            is_readable = False
        if not is_readable:
            self._log.event("control_log_row_unreadable", epoch=row.epoch, distribution=row.scope)
            asked = replace(row, kind=RowKind.UNREADABLE).invalidation
            items = [parse_item(EVERYTHING)]
            if not row.scope:
                self._everywhere.hard = max(self._everywhere.hard, row.epoch)
                return
        if asked.revoke and not is_first:
            at = position_at(log_of(position), row.epoch)
            self._revoking.append(Revocation(row.scope, items, at))
        scope = self._scopes.setdefault(row.scope, _Scope())
        scope.epoch = max(scope.epoch, row.epoch)
        cut = _Cutoffs()
        if asked.soft:
            cut.soft, cut.soft_since_s = row.epoch, min(asked.at_s, self._clock())
        else:
            cut.hard = row.epoch
        for item in items:
            scope.cuts(item).add(cut)
            if item.kind is not ItemKind.EVERYTHING:
                self._kept[row.scope, item] = None
                self._kept.move_to_end((row.scope, item))
        while len(self._kept) > self._items_kept:
            (name, item), _none = self._kept.popitem(last=False)
            self._scopes[name].compact(item)

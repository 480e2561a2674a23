"""The in-memory index of invalidations that a worker checks cached objects against.

It holds paths and tags by name, wildcards by their literal prefix, and one epoch for each
distribution that is invalidated as a whole. A check costs the same however much is cached, and
nearly the same however much was invalidated. Cached data is not touched: a record that is older
than a matching invalidation fails the next check.

Order is decided by positions in the log (see ``position``), never by a clock. A clock only measures
how long an object has been stale since a soft invalidation.

Unknown counts as invalidated: rows that could not be read yet, rows that are damaged, and records
with a position in another log or past the end of this one.

At most ``items_kept`` items are indexed one by one. Beyond it the oldest item is compacted into an
invalidation of its whole distribution: never less than was requested.
"""

from __future__ import annotations

import time
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

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
from streamedge.control.log import ITEMS_KEPT, NewRows, Row, RowKind
from streamedge.control.position import UNKNOWN_POSITION, epoch_of, log_of, position_at
from streamedge.fleet.position import START
from streamedge.ops.log import Log

if TYPE_CHECKING:
    from streamedge.control.fleet_positions import FleetPositions

NEVER = -1  # before every epoch
RETRY_S = 0.1  # between two attempts to read a log that could not be read


class Verdict(Enum):
    """The effect of invalidations on a cached object."""

    FRESH = "fresh"  # no effect
    STALE = "stale"  # expired: must be revalidated
    REFUSED = "refused"  # must not be served again


class Validity(NamedTuple):
    """A verdict. ``since_s``: for STALE, the time of expiry in seconds since 1970."""

    verdict: Verdict
    since_s: float = 0.0


FRESH = Validity(Verdict.FRESH)


class Rows(Protocol):
    """The source of rows: the control log."""

    def read_after(self, position: int) -> NewRows: ...

    def renew_if_older(self, seen: int) -> int: ...


class _Cutoffs:
    """The newest epochs of hard and of soft invalidations; they affect older records.

    ``soft_since_s``: the time of the newest soft one.
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

    __slots__ = ("_by_prefix", "_prefix_lengths", "epoch", "everything", "exact", "tags")

    def __init__(self) -> None:
        self.epoch = 0  # of the newest row of this distribution
        self.everything = _Cutoffs()
        self.exact: dict[str, _Cutoffs] = {}
        self.tags: dict[str, _Cutoffs] = {}
        # Wildcards, by their literal prefix and by all their pieces.
        self._by_prefix: dict[str, dict[tuple[str, ...], _Cutoffs]] = {}
        self._prefix_lengths: list[int] = []  # the different lengths of prefixes, sorted

    def cutoffs(self, item: Item) -> _Cutoffs:
        """The cutoffs of an item, created if needed."""
        if item.kind is ItemKind.EVERYTHING:
            return self.everything
        if item.kind is ItemKind.EXACT:
            return self.exact.setdefault(item.text, _Cutoffs())
        if item.kind is ItemKind.TAG:
            return self.tags.setdefault(item.text, _Cutoffs())
        first = item.pieces[0]
        if first not in self._by_prefix:
            self._by_prefix[first] = {}
            if len(first) not in self._prefix_lengths:
                insort(self._prefix_lengths, len(first))
        return self._by_prefix[first].setdefault(item.pieces, _Cutoffs(item.pieces))

    def compact(self, item: Item) -> None:
        """Replaces an item by an invalidation of the whole distribution."""
        self.everything.add(self.cutoffs(item))
        if item.kind is ItemKind.EXACT:
            del self.exact[item.text]
        elif item.kind is ItemKind.TAG:
            del self.tags[item.text]
        else:
            same_prefix = self._by_prefix[item.pieces[0]]
            del same_prefix[item.pieces]
            if not same_prefix:
                del self._by_prefix[item.pieces[0]]

    def matching(self, target: str, tags: Callable[[], frozenset[str]]) -> _Cutoffs:
        """The combined cutoffs of all items that match a target (see ``target_of``) or tags."""
        cutoffs = _Cutoffs()
        cutoffs.add(self.everything)
        target = comparable(target)
        if target in self.exact:
            cutoffs.add(self.exact[target])
        for length in self._prefix_lengths:
            if length > len(target):
                break
            for wildcard in self._by_prefix.get(target[:length], {}).values():
                if matches_pieces(wildcard.pieces, target):
                    cutoffs.add(wildcard)
        if self.tags:
            for tag in self.tags.keys() & tags():
                cutoffs.add(self.tags[tag])
        return cutoffs


class Revocation:
    """An invalidation that also ends running responses and plays of matching objects."""

    def __init__(self, scope: str, items: Iterable[Item], position: int) -> None:
        self._scope = scope
        self._items = _Scope()
        self._position = position
        cutoffs = _Cutoffs()
        cutoffs.hard = epoch_of(position)
        for item in items:
            self._items.cutoffs(item).add(cutoffs)

    def covers(
        self, scope: str, target: str, tags: Callable[[], frozenset[str]], position: int
    ) -> bool:
        """Whether it matches an object of a distribution that was requested at ``position``."""
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
        fleet: FleetPositions | None = None,
    ) -> None:
        self._rows = rows
        self._fleet = fleet
        self._log = log
        self._clock = clock
        self._monotonic = monotonic
        self._items_kept = items_kept
        self._head = UNKNOWN_POSITION  # the position announced at the last refresh
        self._has_read = False
        self._is_behind = True  # there may be rows that have not been read
        self._is_failure_logged = False
        self._retry_s = 0.0
        self._revocations: list[Revocation] = []
        self._clear()

    def _clear(self) -> None:
        self.position = UNKNOWN_POSITION
        """The position up to which the log has been read."""
        self.configuration_epoch = 0
        """The position of the newest row that announced a new config."""
        self._scopes: dict[str, _Scope] = {}
        self._everywhere = _Cutoffs()  # affects all distributions
        self._items: OrderedDict[tuple[str, Item], None] = OrderedDict()  # the oldest first

    def refresh(self, head: int, *, again: bool = False) -> bool:
        """Reads new rows of the log if ``head`` shows that there are some.

        ``head``: the position that is announced to all processes. ``again``: reads in any case.
        False: the log could not be read. Until it can be, every record older than ``head`` is
        refused, and calls try again at most every RETRY_S seconds.
        """
        if not self._is_behind and not again and head in (self._head, self.position):
            self._head = head
            return True
        self._head = head
        if self._is_behind and not again and self._monotonic() < self._retry_s:
            return False
        try:
            if self._fleet is not None:
                self._fleet.refresh()  # before the rows: it must not be ahead of them
            new = self._rows.read_after(self.position)
            if log_of(new.position) == log_of(head) and new.position < head:
                renewed = self._rows.renew_if_older(head)
                self._log.event("control_log_older", announced=head, renewed=renewed)
                new = self._rows.read_after(self.position)
        except ControlError as exc:
            self._is_behind = True
            self._retry_s = self._monotonic() + RETRY_S
            if not self._is_failure_logged:
                self._is_failure_logged = True
                self._log.event("control_log_unreadable", error=str(exc))
            return False
        if self._is_failure_logged:
            self._is_failure_logged = False
            self._log.event("control_log_readable")
        self._apply(new)
        return True

    def _apply(self, new: NewRows) -> None:
        is_first = not self._has_read
        if log_of(new.position) != log_of(self.position):
            is_first = True  # of this log
            self._clear()
        self._has_read, self._is_behind = True, False
        for row in new.rows:
            if row.kind is RowKind.CONFIGURATION:
                self.configuration_epoch = row.epoch
            else:
                self._add(row, new.position, is_first=is_first)
        self.position = new.position

    @property
    def is_current(self) -> bool:
        """Whether the last attempt to read the log succeeded."""
        return self._has_read and not self._is_behind

    def take_revocations(self) -> list[Revocation]:
        """The revocations that were read since the last call."""
        revocations, self._revocations = self._revocations, []
        return revocations

    @property
    def fleet_position(self) -> int:
        """The position of the shared log up to which all entries are applied here.

        START in a fleet of one, and while the log cannot be read.
        """
        return START if self._fleet is None or self._is_behind else self._fleet.position

    @property
    def has_waiting_rows(self) -> bool:
        """Whether rows of this edge wait to be published, as of ``fleet_position``."""
        return self._fleet is not None and self._fleet.has_waiting_rows

    def as_of(self, position: int) -> int:
        """The position of the shared log whose entries are all older than a request.

        The request was sent at ``position`` of the control log. START if none is known.
        """
        if self._fleet is None or log_of(position) != log_of(self.position):
            return START
        return self._fleet.as_of(epoch_of(position))

    def local_position(self, fleet_position: int) -> int:
        """The position of the control log whose rows are all older than another edge's request.

        ``fleet_position``: what ``as_of`` returned on the other edge.
        """
        if self._fleet is None:
            return UNKNOWN_POSITION
        epoch = min(self._fleet.local_epoch(fleet_position), epoch_of(self.position))
        return position_at(log_of(self.position), epoch)

    def scope_position(self, scope: str) -> int:
        """The newest row of a distribution; until it changes, results for its assets stay valid."""
        index = self._scopes.get(scope)
        epoch = max(self._everywhere.hard, 0 if index is None else index.epoch)
        return position_at(log_of(self.position), epoch)

    def validity(
        self,
        scope: str,
        target: str,
        tags: Callable[[], frozenset[str]],
        position: int,
    ) -> Validity:
        """The validity of an object that was requested at ``position``.

        ``tags`` gives its cache tags; it is called only where some tag was invalidated.
        """
        if not self._is_comparable(position):
            return Validity(Verdict.REFUSED)
        epoch = epoch_of(position)
        index = self._scopes.get(scope)
        if self._everywhere.hard > epoch:
            return Validity(Verdict.REFUSED)
        if index is None or index.epoch <= epoch:
            return FRESH
        cutoffs = index.matching(target, tags)
        if cutoffs.hard > epoch:
            return Validity(Verdict.REFUSED)
        return Validity(Verdict.STALE, cutoffs.soft_since_s) if cutoffs.soft > epoch else FRESH

    def _is_comparable(self, position: int) -> bool:
        """Whether all rows after a position have been read."""
        if not self._has_read or log_of(position) != log_of(self.position):
            return False
        if self._is_behind and (log_of(self._head) != log_of(position) or position < self._head):
            return False
        if log_of(self._head) == log_of(position) and position <= self._head:
            return True
        return position <= self.position

    def _add(self, row: Row, position: int, *, is_first: bool) -> None:
        if row.kind is RowKind.EVERYTHING and not row.scope:
            self._everywhere.hard = max(self._everywhere.hard, row.epoch)
            return
        try:
            invalidation = row.invalidation
            items = [parse_item(text) for text in invalidation.items]
            is_readable = row.kind is RowKind.INVALIDATION
        except (ItemError, KeyError, TypeError, ValueError):
            is_readable = False
        if not is_readable:
            self._log.event("control_log_row_unreadable", epoch=row.epoch, distribution=row.scope)
            invalidation = replace(row, kind=RowKind.UNREADABLE).invalidation
            items = [parse_item(EVERYTHING)]
            if not row.scope:
                self._everywhere.hard = max(self._everywhere.hard, row.epoch)
                return
        if invalidation.revoke and not is_first:
            row_position = position_at(log_of(position), row.epoch)
            self._revocations.append(Revocation(row.scope, items, row_position))
        scope = self._scopes.setdefault(row.scope, _Scope())
        scope.epoch = max(scope.epoch, row.epoch)
        cutoffs = _Cutoffs()
        if invalidation.soft:
            cutoffs.soft, cutoffs.soft_since_s = row.epoch, min(invalidation.at_s, self._clock())
        else:
            cutoffs.hard = row.epoch
        for item in items:
            scope.cutoffs(item).add(cutoffs)
            if item.kind is not ItemKind.EVERYTHING:
                self._items[row.scope, item] = None
                self._items.move_to_end((row.scope, item))
        while len(self._items) > self._items_kept:
            (name, item), _none = self._items.popitem(last=False)
            self._scopes[name].compact(item)

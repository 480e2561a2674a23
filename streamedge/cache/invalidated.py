"""Whether a cached object is still valid, given writes and invalidations since it was requested.

Compares records with writes (in the write table, by key) and with invalidations (in the control
log, by distribution). It costs nothing until the change counter moves; then the slots of an open
version's keys are compared, and only after an invalidation the control log's index, once for each
distribution that serves it. Both count from when the request was sent: a response that was in
transit when the change came is as old as one that had arrived.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import NamedTuple

from streamedge.cache.open_object import OpenObject
from streamedge.cache.rfc9111.vary import vary_slot_key
from streamedge.cache.storage.changes import write_slots
from streamedge.cache.storage.records import Asset, InvalidationTarget, Record
from streamedge.cache.storage.store import Store
from streamedge.control.announced_head import AnnouncedHead
from streamedge.control.invalidation_index import (
    FRESH,
    InvalidationIndex,
    Revocation,
    Validity,
    Verdict,
)
from streamedge.control.invalidations import tags_of
from streamedge.control.position import UNKNOWN_POSITION, log_of, position_at

REFUSED = Validity(Verdict.REFUSED)
UNCONFIRMED = Validity(Verdict.STALE, -inf)
"""For records that may have missed a write because power failed, or an invalidation because this
edge no longer hears from its fleet: validate before use."""


class AppliedInvalidations(NamedTuple):
    """The position up to which a worker has read the control log, and the revocations to carry out.

    ``is_current``: False if the log could not be read. ``configuration``: the position of the
    newest row that announced a new config.
    """

    position: int
    revocations: list[Revocation]
    is_current: bool
    configuration: int = UNKNOWN_POSITION


class InvalidationChecker:
    """Checks a worker's records and open versions. ``index`` None: nothing can be invalidated."""

    def __init__(self, store: Store, index: InvalidationIndex | None) -> None:
        self._store = store
        self._index = index
        self._head = AnnouncedHead(store.root)
        self._hears_fleet = True
        self._hears_until_s: float | None = None
        self._lease_clock_s: Callable[[], float] = time.monotonic

    @property
    def index(self) -> InvalidationIndex | None:
        """The index that records are compared with."""
        return self._index

    @property
    def hears_fleet(self) -> bool:
        """Whether the control log gets the invalidations of other edges; True in a fleet of one."""
        return self._hears_fleet

    def set_hears_fleet(self, hears_fleet: bool) -> None:  # the value is the subject
        """While False, no record that an invalidation may cover is used before validation."""
        if hears_fleet != self._hears_fleet:
            self._hears_fleet = hears_fleet
            self._store.changes.announce_invalidation()  # open versions are checked again

    def limit_hearing(self, until_s: float | None, clock: Callable[[], float]) -> None:
        """By ``clock``, ``hears_fleet`` ends at ``until_s``, though nothing sets it by then.

        A process that was stopped for longer than the lease, or a loop that was blocked, handles
        the requests that have come meanwhile before its timers. None: it never ends.
        """
        self._hears_until_s, self._lease_clock_s = until_s, clock

    @property
    def misses_invalidations(self) -> bool:
        """Whether invalidations of other edges may be unknown here: the lease is over."""
        until_s = self._hears_until_s
        return not self._hears_fleet or (until_s is not None and self._lease_clock_s() >= until_s)

    @property
    def position(self) -> int:
        """The end of the control log: a request sent now is newer than all rows up to here."""
        position = self._head.position
        if position == UNKNOWN_POSITION and self._index is not None:
            self._refresh_index(self._index)  # no process has announced it yet
            position = self._head.position
        return position

    def apply_new(self) -> AppliedInvalidations:
        """Reads the control log, whether or not a change was announced."""
        index = self._index
        if index is None:
            return AppliedInvalidations(UNKNOWN_POSITION, [], is_current=True)
        self._head.refresh()
        before = index.position
        is_current = self._refresh_index(index, again=True)
        if index.position != before:
            # This worker at least then checks its open versions.
            self._store.changes.announce_invalidation()
        return AppliedInvalidations(
            index.position,
            index.take_revocations(),
            is_current=is_current,
            configuration=position_at(log_of(index.position), index.configuration_epoch),
        )

    def check_record(self, asset: Asset, record: Record) -> Validity:
        """Whether a stored record may still be used."""
        if self._written_since(asset, record):
            return REFUSED
        return self.invalidated(asset, record)

    def invalidated(self, asset: Asset, record: Record) -> Validity:
        """As ``check_record``, but without the writes."""
        if record.sent_change < self._store.changes.trusted_from:
            return self._unconfirmed(asset.subject, record)
        if self._index is None or not asset.subject.scope:
            return FRESH
        if self.misses_invalidations:
            return self._unconfirmed(asset.subject, record)
        if self._index.is_current and record.position == self._head.position != UNKNOWN_POSITION:
            return FRESH  # as after most misses: no invalidation came since its request
        self._refresh_index(self._index)
        return self._validity(self._index, asset.subject, record)

    def check_open(self, open_object: OpenObject, subject: InvalidationTarget) -> Validity:
        """Whether an open version may still be used; cached until the change counter moves.

        After a write to other keys it compares some numbers in memory. The order of the reads
        matters: what is announced after the counter was read is checked at the next call.
        """
        changes, record = self._store.changes, open_object.record
        number = changes.number
        if open_object.last_seen_change != number:
            slots = open_object.write_slots
            if not slots:
                slots = open_object.write_slots = write_slots(*_keys(open_object.asset))
            if changes.are_slots_raised_since(record.sent_change, slots):
                return REFUSED
            open_object.last_seen_change = number
        if record.sent_change < changes.trusted_from:
            return self._unconfirmed(subject, record)
        index = self._index
        if index is None or not subject.scope:
            return FRESH
        if self.misses_invalidations:
            return self._unconfirmed(subject, record)
        invalidations = changes.invalidations
        cached = open_object.validity_by_scope.get(subject.scope)
        if cached is not None and cached[0] == invalidations:
            return cached[2]
        if not self._refresh_index(index):
            return self._validity(index, subject, record)
        newest = index.scope_position(subject.scope)
        if cached is not None and cached[1] == newest:
            validity = cached[2]
        else:
            validity = self._validity(index, subject, record)
        open_object.validity_by_scope[subject.scope] = invalidations, newest, validity
        return validity

    def _refresh_index(self, index: InvalidationIndex, *, again: bool = False) -> bool:
        """Reads new rows of the log; False if the log could not be read."""
        head = self._head.position
        is_current = index.refresh(head, again=again)
        if is_current and index.position != head and self._head.publish(index.position):
            self._store.changes.announce_invalidation()
        return is_current

    def _validity(
        self, index: InvalidationIndex, subject: InvalidationTarget, record: Record
    ) -> Validity:
        def tags() -> frozenset[str]:
            return tags_of((record.head.headers.get(subject.tag_field, ""),))

        return index.validity(subject.scope, subject.target, tags, record.position)

    def _unconfirmed(self, subject: InvalidationTarget, record: Record) -> Validity:
        index = self._index
        if index is None or not subject.scope:
            return UNCONFIRMED
        self._refresh_index(index)
        validity = self._validity(index, subject, record)
        return validity if validity.verdict is Verdict.REFUSED else UNCONFIRMED

    def _written_since(self, asset: Asset, record: Record) -> bool:
        changes = self._store.changes
        if record.sent_change == changes.number:  # as after most misses: nothing was written at all
            return False
        return changes.is_written_since(record.sent_change, *_keys(asset))


def _keys(asset: Asset) -> tuple[str, ...]:
    """The keys whose writes refuse an asset's records."""
    return (asset.key, vary_slot_key(asset.key), *asset.parent_keys)

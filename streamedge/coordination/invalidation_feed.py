"""How a new row of the control log takes effect in every process.

The process that has appended a row announces the log's head in memory that all workers look at
with each request, so that the row is in force from the next one on; then it wakes all workers, so
that those without a request read it, too. A worker that was woken reads the log, ends what was
revoked of what runs, and notes in the roster how far it has come.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from streamedge.cache.invalidated import CaughtUp, Rulings
from streamedge.cache.storage.changes import open_changes
from streamedge.cache.storage.records import Provenance
from streamedge.control.announced_head import AnnouncedHead
from streamedge.control.database import ControlError
from streamedge.control.invalidation_index import Revocation
from streamedge.coordination.shared_state import Roster
from streamedge.coordination.wakeups import Bells

APPLIED_TIMEOUT_S = 5.0  # a worker that has not looked by then is stuck or gone
APPLIED_POLL_S = 0.0005

Revoke = Callable[[Callable[[Provenance], bool]], None]
"""Ends all running responses and plays that a predicate matches."""


class Announcer:
    """For processes that append to the log in a cache folder. Any thread may call."""

    def __init__(self, folder: Path, bells: Bells, roster: Roster) -> None:
        self._folder = folder
        self._changes = open_changes(folder)
        self._head = AnnouncedHead(folder)
        self._bells = bells
        self._roster = roster

    def announce(self, position: int) -> None:
        """Puts in force what was appended up to ``position``; returns at once where it can.

        Where the cache folder cannot be used, waits until the workers that are up have read the
        log, and raises ControlError if they do not.
        """
        self._head.refresh()
        is_shared = self._head.publish(position)
        self._changes.announce()
        self._bells.ring()
        if not is_shared and not self.wait(position):
            raise ControlError(
                f"the change is stored, but not all workers were told: {self._folder} cannot be"
                " used; they take it up as soon as it can"
            )

    def have_applied(self, position: int) -> bool:
        """Whether every worker that is up has read all rows up to ``position``."""
        return self._roster.have_applied(position)

    def wait(self, position: int, timeout_s: float = APPLIED_TIMEOUT_S) -> bool:
        """Blocks until they have; False when the time was over before."""
        deadline_s = time.monotonic() + timeout_s
        while not self._roster.have_applied(position):
            if time.monotonic() > deadline_s:
                return False
            time.sleep(APPLIED_POLL_S)
        return True


def apply_invalidations(rulings: Rulings, revokers: Iterable[Revoke]) -> CaughtUp:
    """In a worker: reads the log and ends what was revoked."""
    caught_up = rulings.catch_up()
    for revocation in caught_up.revocations:

        def is_revoked(what: Provenance, revocation: Revocation = revocation) -> bool:
            return what.is_covered_by(revocation)

        for revoke in revokers:
            revoke(is_revoked)
    return caught_up

"""How a new row of the control log comes to be heeded by every process.

Owns both ends. Who has appended a row moves the number that all workers look at with each request,
so that it is in force from the next one on; then rings, so that whoever has no request looks, too.
A worker that was rung reads the log, ends what was revoked of what runs, and notes in the roster
how far it has come.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from streamedge.cache.asset import Provenance
from streamedge.cache.changes import open_changes
from streamedge.cache.rulings import Rulings
from streamedge.control.in_force import Revocation
from streamedge.edge.bells import Bells
from streamedge.edge.roster import Roster

APPLIED_TIMEOUT_S = 5.0  # a worker that has not looked by then is stuck or gone
APPLIED_POLL_S = 0.0005

Revoke = Callable[[Callable[[Provenance], bool]], None]
"""Ends what runs of all that a predicate says."""


class Announcer:
    """The end of who appends to the log in a cache folder. Any thread may call."""

    def __init__(self, folder: Path, bells: Bells, roster: Roster) -> None:
        self._changes = open_changes(folder)
        self._bells = bells
        self._roster = roster

    def announce(self) -> None:
        """Puts in force what has been appended; returns at once."""
        self._changes.announce()
        self._bells.ring()

    def have_applied(self, epoch: int) -> bool:
        """Whether every worker that is up heeds all rows up to ``epoch``."""
        return self._roster.have_applied(epoch)

    def wait(self, epoch: int, timeout_s: float = APPLIED_TIMEOUT_S) -> bool:
        """Blocks until they do; False when the time was over before."""
        deadline_s = time.monotonic() + timeout_s
        while not self._roster.have_applied(epoch):
            if time.monotonic() > deadline_s:
                return False
            time.sleep(APPLIED_POLL_S)
        return True


def heed_log(rulings: Rulings, revokers: Iterable[Revoke]) -> int:
    """A worker's end: reads the log and ends what was revoked; the epoch that it has come to."""
    epoch, revocations = rulings.look()
    for revocation in revocations:

        def is_revoked(what: Provenance, revocation: Revocation = revocation) -> bool:
            return what.is_covered_by(revocation)

        for revoke in revokers:
            revoke(is_revoked)
    return epoch

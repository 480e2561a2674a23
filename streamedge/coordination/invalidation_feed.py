"""Publishing rows of the control log, and applying them in the workers.

A process that has appended a row publishes the log's head in shared memory, which every request
checks; so the row is in effect from the next request on. Then it wakes all workers, so that idle
ones apply the row too. A worker that was woken reads the log, ends revoked responses and plays, and
notes its position in the worker status.

In a fleet ``shared_log.service`` wakes the workers, a little later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Protocol

from streamedge.cache.invalidated import AppliedInvalidations, InvalidationChecker
from streamedge.cache.storage.changes import ChangeCounter
from streamedge.cache.storage.records import Provenance
from streamedge.control.announced_head import AnnouncedHead
from streamedge.control.database import ControlError
from streamedge.control.invalidation_index import Revocation
from streamedge.coordination.shared_state import WorkerStatus
from streamedge.coordination.wakeups import ChangeEvent, Wakeups

APPLIED_TIMEOUT_S = 5.0  # a worker that has not read the log by then hangs or has ended

Revoke = Callable[[Callable[[Provenance], bool]], None]
"""Ends all running responses and plays that a predicate matches."""


class Published(Protocol):
    """Is called when rows of this process are in effect; see ``InvalidationFeed.publish``."""

    def __call__(self, *, at_once: bool) -> object: ...


def _ignore(*, at_once: bool) -> None:
    pass


class InvalidationFeed:
    """For the process that appends to the control log of a cache folder.

    It may block, so it is called in threads. ``change_event`` is notified on the event loop when
    a worker has noted its position or has ended.
    """

    def __init__(
        self,
        folder: Path,
        wakeups: Wakeups,
        worker_status: WorkerStatus,
        change_event: ChangeEvent,
    ) -> None:
        self._folder = folder
        self._changes = ChangeCounter(folder)
        self._head = AnnouncedHead(folder)
        self._wakeups = wakeups
        self._worker_status = worker_status
        self._change_event = change_event
        self._loop: asyncio.AbstractEventLoop | None = None
        self._published: Published = _ignore

    def after_publishing(self, published: Published) -> None:
        """From now on ``publish`` wakes no process: ``published`` does, on the running event loop.

        It is called after each ``publish``.
        """
        self._loop, self._published = asyncio.get_running_loop(), published

    def publish(self, position: int, *, at_once: bool = False) -> None:
        """Puts all rows up to ``position`` into effect; normally returns at once.

        ``at_once``: idle workers have something to do, too.

        If the cache folder cannot be used, it waits until every worker that is up has read the
        log, and raises ControlError if one does not.
        """
        is_announced = self.announce(position)
        if self._loop is None:
            self._wakeups.notify()
        else:
            self._loop.call_soon_threadsafe(partial(self._published, at_once=at_once))
        if not is_announced:
            self.await_workers(position)

    def announce(self, position: int) -> bool:
        """Puts all rows up to ``position`` into effect, and wakes no process.

        False: the cache folder cannot be used, so only workers that read the log apply the rows.
        """
        self._head.refresh()
        is_announced = self._head.publish(position)
        self._changes.announce_invalidation()
        return is_announced

    def await_workers(self, position: int) -> None:
        """Wakes the workers, and waits until all that are up have read up to ``position``.

        Raises ControlError if one has not done so in APPLIED_TIMEOUT_S.
        """
        self._wakeups.notify()
        if not self.wait_applied(position):
            raise ControlError(
                f"the change is stored, but not all workers have applied it: {self._folder} cannot"
                " be used; they apply it as soon as it can"
            )

    def wake_workers(self) -> None:
        """Wakes the workers, which wake the control process when they have applied the rows."""
        self._wakeups.notify(control=False)

    def have_applied(self, position: int) -> bool:
        """Whether every worker that is up has read all rows up to ``position``."""
        return self._worker_status.have_applied(position)

    def wait_applied(self, position: int, timeout_s: float = APPLIED_TIMEOUT_S) -> bool:
        """Blocks until every worker that is up has read up to ``position``; False on a timeout."""
        return self._change_event.wait_in_thread(lambda: self.have_applied(position), timeout_s)


def apply_invalidations(
    invalidation_checker: InvalidationChecker, revokers: Iterable[Revoke]
) -> AppliedInvalidations:
    """In a worker: reads the log and ends responses and plays that were revoked."""
    applied = invalidation_checker.apply_new()
    for revocation in applied.revocations:

        def is_revoked(provenance: Provenance, revocation: Revocation = revocation) -> bool:
            return provenance.is_covered_by(revocation)

        for revoke in revokers:
            revoke(is_revoked)
    return applied

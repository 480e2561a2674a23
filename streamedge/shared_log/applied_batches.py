"""How far this edge has applied the shared log, as its presence reports it.

The follower writes a batch of entries into the control log; the workers apply that later, and
report positions of the control log. This module has the position in the shared log for each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from streamedge.fleet.position import START
from streamedge.shared_log.presence import AppliedLog
from streamedge.shared_log.service import FleetService

BATCHES_MAX = 1000  # that workers have not applied yet; of more the oldest are one
BATCH_WAIT_S = 60.0


class AppliedBatches:
    """The batches that the workers have not applied yet.

    ``have_applied(position)``: whether all workers have applied the control log up to there.
    """

    def __init__(self, service: FleetService, have_applied: Callable[[int], bool]) -> None:
        self._service = service
        self._have_applied = have_applied
        # Positions in the shared log and in the control log at the end of each.
        self._batches: deque[tuple[int, int]] = deque(maxlen=BATCHES_MAX)
        self._by_workers = START

    def applied(self) -> AppliedLog:
        """How far this edge and its workers are now."""
        service, batches = self._service, self._batches
        batch = service.position, service.local_position
        if not batches or batches[-1] != batch:
            if batches and batch[0] < batches[-1][0]:
                batches.clear()  # history was lost: the follower went back
                self._by_workers = batch[0]
            batches.append(batch)
        for number in reversed(range(len(batches))):
            if self._have_applied(batches[number][1]):
                self._by_workers = batches[number][0]
                for _older in range(number):
                    batches.popleft()
                break
        return AppliedLog(service.position, service.entry_id, self._by_workers, service.history)

    def have_workers_advanced(self) -> bool:
        """Whether the workers have applied more than at the last look."""
        before = self._by_workers
        return self.applied().by_workers > before

    async def follow(self, after_batch: Callable[[], None]) -> None:
        """Calls ``after_batch`` after each new batch, until cancelled."""
        service = self._service
        while True:
            seen = service.position

            def has_new(seen: int = seen) -> bool:
                return service.position != seen

            await service.change_event.wait_for(has_new, BATCH_WAIT_S)
            after_batch()

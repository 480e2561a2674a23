"""Access logs in the control process: their delivery, once a distribution has a log.

The parts that deliver are imported then: an edge without access logs has no memory for them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from streamedge.coordination.effective_config import EffectiveConfig
from streamedge.logs.batches import SPOOL_FOLDER
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counts

if TYPE_CHECKING:
    from streamedge.build.access_logs import LogDestinations
    from streamedge.logs.delivery import LogDelivery

END_S = 8.0  # for the delivery of the rest when the edge stops


class AccessLogs:
    """Delivers the access logs of the effective config."""

    def __init__(self, effective: EffectiveConfig, log: Log, counts: Counts) -> None:
        self._effective = effective
        self._log = log
        self._counts = counts
        self._changed = asyncio.Event()
        self._delivery: LogDelivery | None = None
        self._destinations: LogDestinations | None = None

    def notice(self) -> None:
        """Called when the config may have changed."""
        self._changed.set()

    async def run(self) -> None:
        """Delivers until cancelled."""
        while not self._has_log():
            self._changed.clear()
            await self._changed.wait()
        await self._make_delivery().run()

    async def close(self) -> None:
        """Delivers what is left, after all workers have ended."""
        if self._delivery is not None:
            await self._delivery.finish(END_S)
        if self._destinations is not None:
            await self._destinations.close()

    def _has_log(self) -> bool:
        return any(section.log.origin for section in self._effective.config.distributions)

    def _make_delivery(self) -> LogDelivery:
        if self._delivery is not None:
            return self._delivery
        from streamedge.build.access_logs import LogDestinations  # noqa: PLC0415
        from streamedge.logs.delivery import LogDelivery  # noqa: PLC0415

        cache_root = self._effective.config.edge.cache
        self._destinations = destinations = LogDestinations(cache_root)
        self._delivery = LogDelivery(
            cache_root / SPOOL_FOLDER,
            lambda: destinations.of(self._effective.config),
            lambda: self._effective.config.limits.log_spool,
            self._log,
            self._counts,
        )
        return self._delivery

"""Keeps a process's effective config up to date when something has changed."""

from __future__ import annotations

import asyncio

from streamedge.control.announced_head import AnnouncedHead
from streamedge.control.position import UNKNOWN_POSITION
from streamedge.coordination.effective_config import EffectiveConfig
from streamedge.ops.log import Log

RETRY_S = 1.0  # after a failed read of the control database


class ConfigWatch:
    """Keeps the effective config of the control process up to date.

    It logs, for the whole edge, the resources that cannot be applied. A failed read is retried
    until it succeeds.
    """

    def __init__(self, effective: EffectiveConfig, head: AnnouncedHead, log: Log) -> None:
        self._effective = effective
        self._head = head
        self._log = log
        self._retry: asyncio.TimerHandle | None = None
        self._seen: tuple[int, int] | None = None

    def refresh(self) -> None:
        """Reads changes of the config, if any were announced."""
        self._head.refresh()
        announced = self._effective.announced_generation, self._head.position
        if announced == self._seen and self._retry is None and announced[1] != UNKNOWN_POSITION:
            return
        self._seen = announced
        self.close()
        try:
            self._refresh()
        except Exception as exc:  # noqa: BLE001 - any failure must be retried
            self._log.event("config_not_read", error=repr(exc))
        else:
            if self._effective.fault is None:
                return
        self._retry = asyncio.get_running_loop().call_later(RETRY_S, self.refresh)

    def close(self) -> None:
        """Cancels a pending retry."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _refresh(self) -> None:
        if self._effective.refresh():
            for problem in self._effective.not_applied:
                kind, reason = problem.kind.value, str(problem.error)
                self._log.event("resource_not_applied", kind=kind, id=problem.id, reason=reason)
        if self._effective.fault is None:
            self._head.record_resources(has_resources=bool(self._effective.resources))

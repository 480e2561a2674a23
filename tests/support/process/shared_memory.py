"""The shared state of an edge's processes, for tests."""

from __future__ import annotations

import os
from pathlib import Path

from streamedge.config.schema.config import Config
from streamedge.coordination.config_versions import ConfigVersions
from streamedge.coordination.heartbeats import Heartbeats
from streamedge.coordination.shared_state import SharedState, WorkerStatus
from streamedge.coordination.upgrade_status import UpgradeStatus
from streamedge.coordination.viewer_rows import ViewerRows
from streamedge.coordination.wakeups import Wakeups
from streamedge.ops.log_output import LogTarget
from streamedge.ops.metrics import SharedMetrics


def make_shared(
    workers: int,
    *,
    config: Config | None = None,
    config_versions: ConfigVersions | None = None,
    wakeups: Wakeups | None = None,
    worker_status: WorkerStatus | None = None,
    log: Path | str = os.devnull,
) -> SharedState:
    """A shared state for ``workers`` workers; parts that are not given are new."""
    return SharedState(
        config_versions or ConfigVersions(config or Config(), workers),
        wakeups or Wakeups(workers),
        worker_status or WorkerStatus(workers),
        Heartbeats([*(f"worker-{number}" for number in range(workers)), "control"]),
        SharedMetrics(workers + 1),
        ViewerRows(workers),
        LogTarget(str(log)),
        UpgradeStatus(),
    )


def close_shared(shared: SharedState) -> None:
    """Closes its descriptors."""
    shared.config_versions.close()
    shared.wakeups.close()
    shared.metrics.close()
    shared.viewer_rows.close()
    shared.log_target.close()
    shared.upgrade.close()

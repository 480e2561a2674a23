"""What the processes of an edge share, made for a test."""

from __future__ import annotations

import os
from pathlib import Path

from streamedge.config.schema.config import Config
from streamedge.coordination.config_versions import Generations
from streamedge.coordination.heartbeats import Heartbeats
from streamedge.coordination.shared_state import Roster, Shared
from streamedge.coordination.wakeups import Bells
from streamedge.ops.log_output import LogTarget
from streamedge.ops.metrics import SharedMetrics


def make_shared(
    workers: int,
    *,
    config: Config | None = None,
    generations: Generations | None = None,
    bells: Bells | None = None,
    roster: Roster | None = None,
    log: Path | str = os.devnull,
) -> Shared:
    """For so many workers, with the parts given and new ones."""
    return Shared(
        generations or Generations(config or Config(), workers),
        bells or Bells(workers),
        roster or Roster(workers),
        Heartbeats([*(f"worker-{number}" for number in range(workers)), "control"]),
        SharedMetrics(workers + 1),
        LogTarget(str(log)),
    )


def close_shared(shared: Shared) -> None:
    """Closes all descriptors of it."""
    shared.generations.close()
    shared.bells.close()
    shared.metrics.close()
    shared.log_target.close()

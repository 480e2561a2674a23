"""What all processes of an edge have in common: made by the supervisor before it forks."""

from __future__ import annotations

from dataclasses import dataclass

from streamedge.edge.bells import Bells
from streamedge.edge.generations import Generations
from streamedge.edge.heartbeats import Heartbeats
from streamedge.edge.roster import Roster
from streamedge.ops.log import Log, open_log
from streamedge.ops.log_output import LogTarget
from streamedge.ops.metrics import SharedMetrics


@dataclass(frozen=True, slots=True)
class Shared:
    """The config in force, what wakes processes, who is up, and where numbers and lines go."""

    generations: Generations
    bells: Bells
    roster: Roster
    heartbeats: Heartbeats
    metrics: SharedMetrics
    log_target: LogTarget
    has_journal: bool = False  # of writes that wait: whether a behavior wrote back at the start

    def open_log(self, process: str) -> Log:
        """This process's own way to the log that all share. Raises OSError."""
        return open_log(self.log_target, process, self.generations.config.limits.log_buffer)

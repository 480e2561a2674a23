"""What all processes of an edge have in common: made by the supervisor before it forks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamedge.edge.bells import Bells
from streamedge.edge.generations import Generations
from streamedge.edge.roster import Roster


@dataclass(frozen=True, slots=True)
class Shared:
    """The config in force, what wakes everybody, who is up, and where numbers are handed over."""

    generations: Generations
    bells: Bells
    roster: Roster
    metrics_folder: Path
    has_journal: bool = False  # of writes that wait: whether a behavior wrote back at the start

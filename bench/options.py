"""The options of a run: durations and counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """``seconds`` of each timed measurement, and the numbers of viewers and assets."""

    seconds: float = 20.0
    viewers: int = 5_000
    peer_viewers: int = 2_000
    assets: int = 1_000_000

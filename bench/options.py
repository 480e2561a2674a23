"""What a run may be told: how long, and how many."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """``seconds`` of each timed measurement, and the viewers and assets that must be held."""

    seconds: float = 20.0
    viewers: int = 5_000
    peer_viewers: int = 2_000
    assets: int = 1_000_000

"""What all load generators of RTMP viewers have in common."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewersPlan:
    """``viewers`` begin at random positions within ``latest_start_ms``; after ``settle_s``,
    ``seconds`` are measured."""

    port: int
    application: str
    name: str
    viewers: int
    settle_s: float
    seconds: float
    latest_start_ms: int
    buffer_ms: int
    server_pid: int
    seed: int = 1

    @property
    def limit_s(self) -> float:
        """How long the viewers play, once all have begun."""
        return self.settle_s + self.seconds

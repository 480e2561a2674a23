"""Server-Timing (W3C): what of a response's time was whose, in CloudFront's names for it.

Owns the sampling, because telling every viewer costs bytes of every response.
"""

from __future__ import annotations

import random

from streamedge.cache.reader import CacheResult

_HANDLED = {
    CacheResult.HIT: "cdn-cache-hit",
    CacheResult.REFRESH_HIT: "cdn-cache-refresh",
    CacheResult.MISS: "cdn-cache-miss",
}


def is_sampled(percent: float) -> bool:
    """Whether this response is one of those that tell."""
    return percent > 0 and random.random() * 100 < percent


def server_timing(edge_name: str, result: CacheResult, took_s: float) -> str:
    """The field's value; ``took_s`` from the request to the head of its answer."""
    said = [f'cdn-pop;desc="{edge_name}"']
    handled = _HANDLED.get(result)
    if handled is not None:
        said.insert(0, handled)
    whose = "cdn-downstream-fbl" if result is CacheResult.HIT else "cdn-upstream-fbl"
    return ", ".join([*said, f"{whose};dur={max(0.0, took_s) * 1000:.0f}"])

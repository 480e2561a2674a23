"""How the cache handled a request, as viewers are told: Cache-Status, RFC 9211. Pure."""

from __future__ import annotations

import random

from streamedge.cache.in_flight import CacheStatus
from streamedge.cache.reader import CacheResult


def cache_status(edge_name: str, handling: CacheStatus, ttl_s: float | None = None) -> str:
    """The field's value. ``ttl_s``: for how long what was served is fresh; below 0: it is stale."""
    said = [f"StreamEdge/{edge_name}"]
    if handling.hit:
        said.append("hit")
    if handling.forwarded:
        said.append(f"fwd={handling.forwarded}")
    if handling.status:
        said.append(f"fwd-status={handling.status}")
    if ttl_s is not None and abs(ttl_s) < 1e15:
        said.append(f"ttl={int(ttl_s)}")
    if handling.stored:
        said.append("stored")
    if handling.collapsed:
        said.append("collapsed")
    if handling.detail:
        said.append(f'detail="{handling.detail}"')
    return "; ".join(said)


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

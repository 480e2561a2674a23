"""The values of Cache-Status (RFC 9211) and of CloudFront's Server-Timing."""

from __future__ import annotations

import random

from streamedge.cache.lookup.in_flight import CacheStatus
from streamedge.cache.reader import CacheResult


def cache_status(edge_name: str, status: CacheStatus, ttl_s: float | None = None) -> str:
    """The value of Cache-Status. ``ttl_s``: the remaining freshness, negative when stale."""
    parameters = [f"StreamEdge/{edge_name}"]
    if status.hit:
        parameters.append("hit")
    if status.forwarded:
        parameters.append(f"fwd={status.forwarded}")
    if status.status:
        parameters.append(f"fwd-status={status.status}")
    if ttl_s is not None and abs(ttl_s) < 1e15:
        parameters.append(f"ttl={int(ttl_s)}")
    if status.stored:
        parameters.append("stored")
    if status.collapsed:
        parameters.append("collapsed")
    if status.detail:
        parameters.append(f'detail="{status.detail}"')
    return "; ".join(parameters)


_METRICS = {
    CacheResult.HIT: "cdn-cache-hit",
    CacheResult.REFRESH_HIT: "cdn-cache-refresh",
    CacheResult.MISS: "cdn-cache-miss",
}


def is_sampled(percent: float) -> bool:
    """Whether this response is in the sample of ``percent`` of all responses."""
    return percent > 0 and random.random() * 100 < percent


def server_timing(edge_name: str, result: CacheResult, took_s: float) -> str:
    """The value of Server-Timing; ``took_s``: from the request to the head of its response."""
    metrics = [f'cdn-pop;desc="{edge_name}"']
    metric = _METRICS.get(result)
    if metric is not None:
        metrics.insert(0, metric)
    latency = "cdn-downstream-fbl" if result is CacheResult.HIT else "cdn-upstream-fbl"
    return ", ".join([*metrics, f"{latency};dur={max(0.0, took_s) * 1000:.0f}"])

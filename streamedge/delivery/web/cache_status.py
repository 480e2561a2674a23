"""How the cache handled a request, as viewers are told: Cache-Status, RFC 9211. Pure."""

from __future__ import annotations

from streamedge.cache.in_flight import Handling


def cache_status(edge_name: str, handling: Handling, ttl_s: float | None = None) -> str:
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

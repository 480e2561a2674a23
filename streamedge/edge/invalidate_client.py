"""Invalidations, asked of a running edge, and what an operator is told of them.

Owns the other end of ``invalidations_admin``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streamedge.config.values import Address
from streamedge.edge.admin_client import ask


def invalidate(
    admin: Address,
    distribution: str,
    items: Sequence[str],
    tags: Sequence[str],
    *,
    soft: bool,
    revoke: bool,
    wait: bool,
) -> dict[str, Any]:
    """What ``POST /invalidations`` says. Raises AdminError."""
    wish = {
        "distribution": distribution,
        "items": list(items),
        "tags": list(tags),
        "soft": soft,
        "revoke": revoke,
        "wait": wait,
    }
    return ask(admin, "POST", "/invalidations", wish)


def sum_up(said: Mapping[str, Any]) -> str:
    """It in one line."""
    count = len(said["items"])
    what = f"{said['id']}: {count} item{'s' if count > 1 else ''} of {said['distribution']}"
    done = "stale from now on" if said["soft"] else "not served again from now on"
    if said.get("applied") is False:
        return f"{what} {done}, but not every worker has looked yet: see the log."
    return f"{what} {done}{', in every worker' if said.get('applied') else ''}."

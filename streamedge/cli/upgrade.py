"""``streamedge upgrade``: requests an upgrade, and waits until it is decided."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from streamedge.cli.admin_client import Admin, AdminError, call

DECIDED_TIMEOUT_S = 180.0
POLL_S = 0.2
_UNDECIDED = {"trying", "starting"}


def run_upgrade(admin: Admin) -> dict[str, Any]:
    """The response to ``GET /upgrade`` when the upgrade is decided. Raises AdminError."""
    attempts = call(admin, "POST", "/upgrade")["attempts"]
    until_s = time.monotonic() + DECIDED_TIMEOUT_S
    while True:
        result = None
        try:
            result = call(admin, "GET", "/upgrade")
        except AdminError:
            if time.monotonic() > until_s:  # the control process is replaced meanwhile
                raise
        if (
            result is not None
            and result["attempts"] > attempts
            and result["state"] not in _UNDECIDED
        ):
            return result
        if time.monotonic() > until_s:
            raise AdminError(f"the upgrade was not decided within {DECIDED_TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)


def upgrade_summary(result: Mapping[str, Any]) -> str:
    """The result in lines."""
    if result["state"] in {"refused", "failed"}:
        lines = [f"Not upgraded: the program from before serves on ({result['state']})."]
        return "\n".join([*lines, *(f"  {reason}" for reason in result["reasons"])])
    if result["state"] == "retiring":
        return "Upgraded. Workers from before serve their last viewers."
    return "Upgraded."

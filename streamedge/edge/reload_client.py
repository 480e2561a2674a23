"""A running edge has its config file read anew, and the operator reads what came of it.

Owns the other end of ``reload_admin``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from streamedge.config.values import Address
from streamedge.edge.admin_client import ask


def reload(admin: Address) -> dict[str, Any]:
    """What has changed. Raises AdminError, with the file's mistakes under ``problems``."""
    return ask(admin, "POST", "/reload")


def sum_up(said: Mapping[str, Any]) -> Iterator[str]:
    """What ``reload`` says, in lines."""
    changed, needs_restart = said["changed"], said["needs_restart"]
    yield f"Changed: {', '.join(changed)}." if changed else "Nothing has changed."
    if needs_restart:
        yield f"Needs a restart, and is as before until then: {', '.join(needs_restart)}."
    if said["workers_pending"]:
        numbers = ", ".join(map(str, said["workers_pending"]))
        yield f"Not told yet whether it is in use: worker {numbers}; its log lines say more."

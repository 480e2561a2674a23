"""A running edge's queue of writes, asked for over its admin address, and as an operator reads it.

Owns the other end of ``writes_admin``. It changes nothing by itself: the edge does what is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from rich.table import Table

from streamedge.config.units import format_size_bytes
from streamedge.config.values import Address
from streamedge.edge.admin_client import ask


def list_writes(admin: Address) -> dict[str, Any]:
    """What waits and what is kept, as ``GET /writes`` tells it. Raises AdminError."""
    return ask(admin, "GET", "/writes")


def retry_write(admin: Address, serial: int, *, unconditional: bool) -> None:
    """Has a kept write tried again. Raises AdminError."""
    ask(admin, "POST", f"/writes/{serial}/retry?unconditional={int(unconditional)}")


def discard_write(admin: Address, serial: int) -> None:
    """Has a kept write given up for good. Raises AdminError."""
    ask(admin, "DELETE", f"/writes/{serial}")


def sum_up(listed: Mapping[str, Any]) -> str:
    """The numbers of ``list_writes`` in one line."""
    by_state = listed["by_state"]
    waiting = by_state["queued"] + by_state["sending"]
    kept = by_state["conflict"] + by_state["failed"]
    held = format_size_bytes(listed["held_bytes"])
    return (
        f"{waiting} waiting, {kept} kept for you to decide, {held} held;"
        f" {listed['done']} of {listed['accepted']} accepted writes are done."
    )


def tables(listed: Mapping[str, Any]) -> Iterator[Table]:
    """The rows of ``list_writes``; none when there are none."""
    if not listed["rows"]:
        return
    table = Table(title_justify="left", title="Writes")
    for column in ("Serial", "State", "Write", "Origin", "Size", "Age", "Attempts", "Problem"):
        table.add_column(column, overflow="fold")
    for row in listed["rows"]:
        age = timedelta(seconds=round(row["age_s"]))
        table.add_row(
            str(row["serial"]),
            row["state"],
            f"{row['method']} {row['object']}",
            row["origin"],
            format_size_bytes(row["size_bytes"]),
            str(age),
            str(row["attempts"]),
            row["problem"] or "",
        )
    if listed["rows_left_off"]:
        table.caption = f"and {listed['rows_left_off']} more"
    yield table

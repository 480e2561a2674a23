"""A running edge's queue of writes, asked for over its admin address, and as an operator reads it.

Owns the other end of ``writes_admin``. It changes nothing by itself: the edge does what is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from rich.table import Table

from streamedge.config.units import format_address, format_size_bytes
from streamedge.config.values import Address
from streamedge.errors import StreamEdgeError

TIMEOUT_S = 30.0
ANSWER_MAX_BYTES = 16 << 20
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # to listen on, not to ask


class AdminError(StreamEdgeError):
    """The edge cannot be asked, or says no; the message is fit for the operator."""


def list_writes(admin: Address) -> dict[str, Any]:
    """What waits and what is kept, as ``GET /writes`` tells it. Raises AdminError."""
    return _ask(admin, "GET", "/writes")


def retry_write(admin: Address, serial: int, *, unconditional: bool) -> None:
    """Has a kept write tried again. Raises AdminError."""
    _ask(admin, "POST", f"/writes/{serial}/retry?unconditional={int(unconditional)}")


def discard_write(admin: Address, serial: int) -> None:
    """Has a kept write given up for good. Raises AdminError."""
    _ask(admin, "DELETE", f"/writes/{serial}")


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


def _ask(admin: Address, method: str, path: str) -> dict[str, Any]:
    host, port = admin
    place = format_address((_EVERY_ADDRESS.get(host, host), port))
    # The edge is this machine's or a neighbour's: no proxy stands before it.
    opener = build_opener(ProxyHandler({}))
    try:
        asked = Request(f"http://{place}{path}", method=method)
        with opener.open(asked, timeout=TIMEOUT_S) as response:
            said: dict[str, Any] = json.loads(response.read(ANSWER_MAX_BYTES))
            return said
    except HTTPError as exc:
        with exc:
            raise AdminError(_reason(exc)) from exc
    except ValueError as exc:
        raise AdminError(f"what answers on {place} is not the edge's admin address") from exc
    except OSError as exc:
        cause = exc.reason if isinstance(exc, URLError) else exc
        raise AdminError(
            f"no edge answers on its admin address {place} ({cause});"
            " it must be running: streamedge serve"
        ) from exc


def _reason(exc: HTTPError) -> str:
    try:
        return str(json.loads(exc.read(ANSWER_MAX_BYTES))["error"])
    except (KeyError, TypeError, ValueError):
        return f"the admin address answered {exc.code} {exc.reason}"

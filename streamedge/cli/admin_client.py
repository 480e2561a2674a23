"""A running edge, asked over its admin address: one call, one answer in JSON.

Owns how the address is reached and what is said when it cannot be, or the edge says no. What is
asked is the business of the clients beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from rich.table import Table

from streamedge.config.schema.units import format_address, format_size_bytes
from streamedge.config.schema.values import Address
from streamedge.errors import StreamEdgeError

TIMEOUT_S = 30.0
ANSWER_MAX_BYTES = 16 << 20
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # to listen on, not to ask


class AdminError(StreamEdgeError):
    """The edge cannot be asked, or says no; the message is fit for the operator.

    ``answer`` is what it said beside its reason, empty when it said nothing.
    """

    def __init__(self, message: str, answer: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.answer = answer or {}


def ask(admin: Address, method: str, path: str, body: object = None) -> dict[str, Any]:
    """The edge's answer; ``body`` is sent as JSON. Raises AdminError."""
    host, port = admin
    place = format_address((_EVERY_ADDRESS.get(host, host), port))
    # The edge is this machine's or a neighbour's: no proxy stands before it.
    opener = build_opener(ProxyHandler({}))
    data = None if body is None else json.dumps(body).encode()
    headers = {} if data is None else {"Content-Type": "application/json"}
    try:
        asked = Request(f"http://{place}{path}", data, headers, method=method)
        with opener.open(asked, timeout=TIMEOUT_S) as response:
            said: dict[str, Any] = json.loads(response.read(ANSWER_MAX_BYTES))
            return said
    except HTTPError as exc:
        with exc:
            raise _refusal(exc) from exc
    except ValueError as exc:
        raise AdminError(f"what answers on {place} is not the edge's admin address") from exc
    except OSError as exc:
        cause = exc.reason if isinstance(exc, URLError) else exc
        raise AdminError(
            f"no edge answers on its admin address {place} ({cause});"
            " it must be running: streamedge serve"
        ) from exc


def _refusal(exc: HTTPError) -> AdminError:
    try:
        said = json.loads(exc.read(ANSWER_MAX_BYTES))
        return AdminError(str(said["error"]), said)
    except (KeyError, TypeError, ValueError):
        return AdminError(f"the admin address answered {exc.code} {exc.reason}")


def reload(admin: Address) -> dict[str, Any]:
    """What has changed. Raises AdminError, with the file's mistakes under ``problems``."""
    return ask(admin, "POST", "/reload")


def reload_summary(said: Mapping[str, Any]) -> Iterator[str]:
    """What ``reload`` says, in lines."""
    changed, needs_restart = said["changed"], said["needs_restart"]
    yield f"Changed: {', '.join(changed)}." if changed else "Nothing has changed."
    if needs_restart:
        yield f"Needs a restart, and is as before until then: {', '.join(needs_restart)}."
    if said["workers_pending"]:
        numbers = ", ".join(map(str, said["workers_pending"]))
        yield f"Not told yet whether it is in use: worker {numbers}; its log lines say more."


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


def invalidation_summary(said: Mapping[str, Any]) -> str:
    """It in one line."""
    count = len(said["items"])
    what = f"{said['id']}: {count} item{'s' if count > 1 else ''} of {said['distribution']}"
    done = "stale from now on" if said["soft"] else "not served again from now on"
    if said.get("applied") is False:
        return f"{what} {done}, but not every worker has looked yet: see the log."
    return f"{what} {done}{', in every worker' if said.get('applied') else ''}."


def list_writes(admin: Address) -> dict[str, Any]:
    """What waits and what is kept, as ``GET /writes`` tells it. Raises AdminError."""
    return ask(admin, "GET", "/writes")


def retry_write(admin: Address, serial: int, *, unconditional: bool) -> None:
    """Has a kept write tried again. Raises AdminError."""
    ask(admin, "POST", f"/writes/{serial}/retry?unconditional={int(unconditional)}")


def discard_write(admin: Address, serial: int) -> None:
    """Has a kept write given up for good. Raises AdminError."""
    ask(admin, "DELETE", f"/writes/{serial}")


def writes_summary(listed: Mapping[str, Any]) -> str:
    """The numbers of ``list_writes`` in one line."""
    by_state = listed["by_state"]
    waiting = by_state["queued"] + by_state["sending"]
    kept = by_state["conflict"] + by_state["failed"]
    held = format_size_bytes(listed["held_bytes"])
    return (
        f"{waiting} waiting, {kept} kept for you to decide, {held} held;"
        f" {listed['done']} of {listed['accepted']} accepted writes are done."
    )


def writes_tables(listed: Mapping[str, Any]) -> Iterator[Table]:
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

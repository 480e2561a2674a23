"""Calls to the admin address of a running edge, and their results for the operator.

Every call has a JSON response. An edge that does not answer or refuses a call is an ``AdminError``
with a message for the operator.
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
RESPONSE_MAX_BYTES = 16 << 20
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # to listen on, not to connect to


class AdminError(StreamEdgeError):
    """The edge does not answer or refuses the call; the message is for the operator.

    ``body`` is the JSON object of the response; empty if there is none.
    """

    def __init__(self, message: str, body: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.body = body or {}


def call(admin: Address, method: str, path: str, body: object = None) -> dict[str, Any]:
    """Sends ``body`` as JSON and returns the JSON response. Raises AdminError."""
    host, port = admin
    address = format_address((_EVERY_ADDRESS.get(host, host), port))
    # The edge is on this machine or near it: http_proxy is not used.
    opener = build_opener(ProxyHandler({}))
    data = None if body is None else json.dumps(body).encode()
    headers = {} if data is None else {"Content-Type": "application/json"}
    try:
        request = Request(f"http://{address}{path}", data, headers, method=method)
        with opener.open(request, timeout=TIMEOUT_S) as response:
            document: dict[str, Any] = json.loads(response.read(RESPONSE_MAX_BYTES))
            return document
    except HTTPError as exc:
        with exc:
            raise _error_of(exc) from exc
    except ValueError as exc:
        raise AdminError(f"the server on {address} is not the edge's admin address") from exc
    except OSError as exc:
        cause = exc.reason if isinstance(exc, URLError) else exc
        raise AdminError(
            f"no edge answers on its admin address {address} ({cause});"
            " start it with: streamedge serve"
        ) from exc


def _error_of(exc: HTTPError) -> AdminError:
    try:
        document = json.loads(exc.read(RESPONSE_MAX_BYTES))
        return AdminError(str(document["error"]), document)
    except (KeyError, TypeError, ValueError):
        return AdminError(f"the admin address answered {exc.code} {exc.reason}")


def reload(admin: Address) -> dict[str, Any]:
    """Reloads the config file; what changed. Raises AdminError: ``problems`` has the mistakes."""
    return call(admin, "POST", "/reload")


def reload_summary(result: Mapping[str, Any]) -> Iterator[str]:
    """The result of ``reload`` in lines."""
    changed, needs_restart = result["changed"], result["needs_restart"]
    yield f"Changed: {', '.join(changed)}." if changed else "Nothing has changed."
    if needs_restart:
        yield f"Needs a restart, and is as before until then: {', '.join(needs_restart)}."
    if result["workers_pending"]:
        numbers = ", ".join(map(str, result["workers_pending"]))
        yield f"Not applied yet by worker {numbers}: see its lines in the log."


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
    """Invalidates items and tags; the response to ``POST /invalidations``. Raises AdminError."""
    request = {
        "distribution": distribution,
        "items": list(items),
        "tags": list(tags),
        "soft": soft,
        "revoke": revoke,
        "wait": wait,
    }
    return call(admin, "POST", "/invalidations", request)


def invalidation_summary(result: Mapping[str, Any]) -> str:
    """The result of ``invalidate`` in one line; in a fleet, with one more for each edge."""
    count = len(result["items"])
    items = f"{result['id']}: {count} item{'s' if count > 1 else ''} of {result['distribution']}"
    state = "stale from now on" if result["soft"] else "not served again from now on"
    edges = "".join(f"\n  {name}: {ms} ms" for name, ms in result.get("edges", {}).items())
    place = "edge" if "edges" in result else "worker"
    if result.get("applied") is False:
        where = "streamedge fleet shows why" if "edges" in result else "see the log"
        return f"{items} {state}, but not every {place} has applied it yet: {where}.{edges}"
    return f"{items} {state}{f', in every {place}' if result.get('applied') else ''}.{edges}"


def list_writes(admin: Address) -> dict[str, Any]:
    """Queued writes and dead letters: the response to ``GET /writes``. Raises AdminError."""
    return call(admin, "GET", "/writes")


def retry_write(admin: Address, serial: int, *, unconditional: bool) -> None:
    """Retries a dead letter. Raises AdminError."""
    call(admin, "POST", f"/writes/{serial}/retry?unconditional={int(unconditional)}")


def discard_write(admin: Address, serial: int) -> None:
    """Deletes a dead letter. Raises AdminError."""
    call(admin, "DELETE", f"/writes/{serial}")


def writes_summary(document: Mapping[str, Any]) -> str:
    """The counts of ``list_writes`` in one line."""
    by_state = document["by_state"]
    waiting = by_state["queued"] + by_state["sending"]
    failed = by_state["conflict"] + by_state["failed"]
    size = format_size_bytes(document["held_bytes"])
    return (
        f"{waiting} waiting, {failed} failed, {size} on disk;"
        f" {document['done']} of {document['accepted']} accepted writes are done."
    )


def writes_tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """The rows of ``list_writes`` as a table; no table if there are none."""
    if not document["rows"]:
        return
    table = Table(title_justify="left", title="Writes")
    for column in ("Serial", "State", "Write", "Origin", "Size", "Age", "Attempts", "Problem"):
        table.add_column(column, overflow="fold")
    for row in document["rows"]:
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
    if document["rows_left_off"]:
        table.caption = f"and {document['rows_left_off']} more"
    yield table

"""Changes of the API's resources in a fleet: one order on all edges.

A change is made from the documents as of one position of the shared log. It is appended only if no
other change came after that position, in one step of the engine. If one did, the API's operation is
run again on the documents with that change, so that it answers 412 or 409 where it has to. The call
returns when this edge has followed the log up to the change.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING

from streamedge.control.fleet_entries import count_unpublished
from streamedge.control.replica import replica_state
from streamedge.control.resources import (
    ConflictError,
    Kind,
    Resource,
    UnavailableError,
    encode_resource,
)
from streamedge.fleet.entries import Entry, EntryKind, new_entry_id
from streamedge.shared_log import engine as engines
from streamedge.shared_log.publisher import documents_of

if TYPE_CHECKING:
    from streamedge.shared_log.service import FleetService

CHANGE_TIMEOUT_S = 10.0
FOLLOWED_TIMEOUT_S = 1.0  # then the append is repeated
_CATCH_UP_TIMEOUT_S = 2.0  # after a conflict
_PAUSE_S = 0.05  # between attempts, up to twice as long
_THREAD_MARGIN_S = 5.0

Changes = Mapping[tuple[Kind, str], tuple[Resource | None, Resource | None]]
"""Resources before and after a change, by kind and id."""


class FleetChanges:
    """Implements ``control.resources.SharedChanges``. Called in threads of the API."""

    def __init__(self, service: FleetService, loop: asyncio.AbstractEventLoop) -> None:
        self._service = service
        self._loop = loop

    def expected_position(self, connection: sqlite3.Connection) -> int:
        return expected_position(connection, self._service.changes_refused)

    def append(self, changes: Changes, expected: int) -> None:
        work = append_change(self._service, changes, expected)
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            future.result(CHANGE_TIMEOUT_S + _CATCH_UP_TIMEOUT_S + _THREAD_MARGIN_S)
        except FutureTimeoutError:
            future.cancel()
            raise UnavailableError(_UNKNOWN.format("the control process is overloaded")) from None


def expected_position(connection: sqlite3.Connection, refused: str = "") -> int:
    """The position that a change is made from. Raises UnavailableError if there can be none."""
    state = replica_state(connection)
    if refused:
        raise UnavailableError(refused)
    if state is None:
        raise UnavailableError("this edge has not joined its fleet yet: nothing was changed")
    if not state.is_reconciled or count_unpublished(connection, EntryKind.RESOURCES):
        raise UnavailableError(
            "the shared log lost changes, which are being published again: nothing was changed;"
            " try again in a moment"
        )
    return state.resources_position


def change_entry(changes: Changes, edge: str, created_s: float) -> Entry:
    """The RESOURCES entry of a change."""
    body = {
        f"{kind.value}/{identifier}": {
            "before": None if before is None else before.etag,
            "after": None if after is None else encode_resource(after),
        }
        for (kind, identifier), (before, after) in changes.items()
    }
    return Entry(new_entry_id(), EntryKind.RESOURCES, edge, created_s, "", {"resources": body})


async def append_change(service: FleetService, changes: Changes, expected: int) -> None:
    """Appends a change and waits until this edge has applied it.

    Raises ConflictError and UnavailableError.
    """
    if not service.is_engine_up:
        raise UnavailableError("the engine of the fleet does not answer: nothing was changed")
    entry = change_entry(changes, service.replica.edge, service.now_s())
    documents = documents_of(entry.body["resources"])
    last_error = "it did not answer in time"

    async def is_applied() -> bool:
        """Appends it; whether the follower has read it. Until then the engine may lose it."""
        await service.engine.append(
            entry,
            line=service.line,
            documents=documents,
            expected_resources_position=expected,
        )
        return await service.wait_published(entry.id, FOLLOWED_TIMEOUT_S) is not None

    try:
        async with asyncio.timeout(CHANGE_TIMEOUT_S):
            while True:
                try:
                    if await is_applied():
                        return
                except engines.EngineError as exc:
                    last_error = str(exc)
                # Repeating is safe: the log keeps an id once.
                await asyncio.sleep(_PAUSE_S * (1 + random.random()))
    except engines.ConflictError as exc:
        await _catch_up(service)
        raise ConflictError("another edge changed resources at the same time") from exc
    except TimeoutError:
        raise UnavailableError(_UNKNOWN.format(last_error)) from None


_UNKNOWN = (
    "the engine of the fleet failed during the change ({}): whether it was made is unknown; read"
    " the resource before you repeat it"
)


async def _catch_up(service: FleetService) -> None:
    """Waits until this edge has applied the log's head, so that the next attempt sees it."""
    try:
        bounds = await service.engine.bounds()
    except engines.EngineError:
        return
    await service.wait_applied(bounds.last, _CATCH_UP_TIMEOUT_S)

"""Invalidations on the admin address.

    POST /invalidations                    invalidates; it has taken effect when the call returns
    GET  /invalidations?distribution=ID    lists those of a distribution, newest first

``control.invalidations`` parses the items, ``coordination.invalidation_feed`` publishes the rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streamedge.admin.request_body import json_object, read_body
from streamedge.control.invalidations import ItemError, with_root_object
from streamedge.control.log import (
    ITEMS_MAX,
    LISTED_MAX,
    REFERENCE_CHARACTERS_MAX,
    CallerReferenceError,
    ControlLog,
    Row,
)
from streamedge.coordination.invalidation_feed import APPLIED_TIMEOUT_S, InvalidationFeed
from streamedge.coordination.wakeups import ChangeEvent

if TYPE_CHECKING:
    from streamedge.shared_log.completion import CompletionWatch

BODY_BYTES_MAX = 16 << 20  # ITEMS_MAX items of the longest kind, escaped
_MEMBERS = frozenset(
    {"distribution", "items", "tags", "soft", "revoke", "caller_reference", "wait"}
)


@dataclass(frozen=True, slots=True)
class _InvalidationRequest:
    distribution: str
    items: tuple[str, ...]
    soft: bool
    revoke: bool
    caller_reference: str
    wait: bool


def invalidation_routes(
    log: ControlLog,
    invalidation_feed: InvalidationFeed,
    change_event: ChangeEvent,
    root_objects: Callable[[], Mapping[str, str]],
    completion: CompletionWatch | None = None,
) -> list[Route]:
    """The routes of invalidations.

    ``root_objects`` returns the default root objects of all distributions by id ("": none).
    ``change_event`` belongs to this process; workers notify it when they have applied a row.
    ``completion``: in a fleet, a call that waits does so for all edges.
    """

    def root_object_of(distribution: str) -> str:
        """The root object of a distribution. Raises HTTPException 404 where it does not exist."""
        roots = root_objects()
        if distribution not in roots:
            raise HTTPException(404, f"no distribution has the id {distribution!a}")
        return roots[distribution]

    def append(requested: _InvalidationRequest, root_object: str) -> tuple[Row, int]:
        announced = 0

        def announce(position: int) -> None:
            nonlocal announced
            announced = position
            invalidation_feed.publish(position, at_once=requested.revoke)

        row = log.invalidate(
            requested.distribution,
            with_root_object(requested.items, root_object),
            soft=requested.soft,
            revoke=requested.revoke,
            caller_reference=requested.caller_reference,
            announce=announce,
        )
        return row, announced

    async def invalidate(request: Request) -> Response:
        body = _parse(await read_body(request, BODY_BYTES_MAX))
        began_s = 0.0 if completion is None else completion.now_s()
        root_object = root_object_of(body.distribution)
        try:
            row, position = await asyncio.to_thread(append, body, root_object)
        except ItemError as exc:
            raise HTTPException(400, str(exc)) from exc
        except CallerReferenceError as exc:
            raise HTTPException(409, str(exc)) from exc
        members = _row_members(row)
        if body.wait and completion is not None:
            done = await completion.wait(row.epoch, completion.timeout_s, began_s)
            members["applied"], members["edges"] = done.is_completed, done.edge_ms
            members["missing"] = list(done.missing)
        elif body.wait:
            members["applied"] = await change_event.wait_for(
                lambda: invalidation_feed.have_applied(position), APPLIED_TIMEOUT_S
            )
        return JSONResponse(members, 201)

    async def list_rows(request: Request) -> Response:
        distribution = request.query_params.get("distribution", "")
        root_object_of(distribution)
        rows = await asyncio.to_thread(log.invalidations, distribution, count=LISTED_MAX)
        return JSONResponse({"invalidations": [_row_members(row) for row in rows]})

    return [
        Route("/invalidations", invalidate, methods=["POST"]),
        Route("/invalidations", list_rows),
    ]


def _parse(body: bytes) -> _InvalidationRequest:
    """Parses a body. Raises HTTPException 400 with the reason."""
    members = json_object(body)
    if unknown := members.keys() - _MEMBERS:
        raise HTTPException(400, f"{min(unknown)!a} is not a member of an invalidation")
    items = (*_texts(members, "items"), *(f"#{tag}" for tag in _texts(members, "tags")))
    if not items:
        raise HTTPException(400, "neither items nor tags name anything")
    if len(items) > ITEMS_MAX:
        raise HTTPException(400, f"{len(items)} items: more than {ITEMS_MAX} are not allowed")
    reference = _text(members, "caller_reference")
    if len(reference) > REFERENCE_CHARACTERS_MAX:
        raise HTTPException(
            400, f"caller_reference is longer than {REFERENCE_CHARACTERS_MAX} characters"
        )
    return _InvalidationRequest(
        distribution=_text(members, "distribution"),
        items=items,
        soft=_flag(members, "soft"),
        revoke=_flag(members, "revoke"),
        caller_reference=reference,
        wait=_flag(members, "wait"),
    )


def _texts(members: Mapping[str, Any], name: str) -> list[str]:
    values = members.get(name, [])
    if not isinstance(values, list) or not all(_is_text(value) for value in values):
        raise HTTPException(400, f"{name} is a list of texts")
    return values


def _text(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name, "")
    if not _is_text(value):
        raise HTTPException(400, f"{name} is a text")
    return str(value)


def _is_text(value: object) -> bool:
    """Whether a value is printable text; JSON allows lone surrogates, which cannot be stored."""
    return isinstance(value, str) and value.isprintable()


def _flag(members: Mapping[str, Any], name: str) -> bool:
    value = members.get(name, False)
    if not isinstance(value, bool):
        raise HTTPException(400, f"{name} is true or false")
    return value


def _row_members(row: Row) -> dict[str, object]:
    invalidation = row.invalidation
    return {
        "id": row.id,
        "distribution": row.scope,
        "epoch": row.epoch,
        "created_s": row.created_s,
        "items": list(invalidation.items),
        "soft": invalidation.soft,
        "revoke": invalidation.revoke,
        "caller_reference": row.caller_reference or None,
    }

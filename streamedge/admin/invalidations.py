"""Invalidations on the admin address.

    POST /invalidations                    invalidates; it is in force when the call returns
    GET  /invalidations?distribution=ID    those of a distribution, the newest first

``control.invalidations`` parses the items, ``coordination.invalidation_feed`` publishes the rows.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streamedge.control.database import ControlError
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
) -> list[Route]:
    """The routes. ``root_objects`` by id, of all distributions that there are now ("": none);
    ``change_event`` are those of this process, which workers ring when they have looked.
    """

    def root_object_of(distribution: str) -> str:
        """The root object of a distribution. Raises HTTPException 404 where it does not exist."""
        roots = root_objects()
        if distribution not in roots:
            raise HTTPException(404, f"no distribution has the id {distribution!a}")
        return roots[distribution]

    def put_in_force(wanted: _InvalidationRequest, root_object: str) -> tuple[Row, int]:
        row = log.invalidate(
            wanted.distribution,
            with_root_object(wanted.items, root_object),
            soft=wanted.soft,
            revoke=wanted.revoke,
            caller_reference=wanted.caller_reference,
        )
        position = log.position()
        invalidation_feed.publish(position)
        return row, position

    async def invalidate(request: Request) -> Response:
        wanted = _parse(await _body(request))
        root_object = root_object_of(wanted.distribution)
        try:
            row, position = await asyncio.to_thread(put_in_force, wanted, root_object)
        except ItemError as exc:
            raise HTTPException(400, str(exc)) from exc
        except CallerReferenceError as exc:
            raise HTTPException(409, str(exc)) from exc
        answer = _shown(row)
        if wanted.wait:
            await change_event.wait_for(
                lambda: invalidation_feed.have_applied(position), APPLIED_TIMEOUT_S
            )
            answer["applied"] = invalidation_feed.have_applied(position)
        return JSONResponse(answer, 201)

    async def listed(request: Request) -> Response:
        distribution = request.query_params.get("distribution", "")
        root_object_of(distribution)
        rows = await asyncio.to_thread(log.invalidations, distribution, count=LISTED_MAX)
        return JSONResponse({"invalidations": [_shown(row) for row in rows]})

    return [
        Route("/invalidations", invalidate, methods=["POST"]),
        Route("/invalidations", listed),
    ]


async def _body(request: Request) -> bytes:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES_MAX:
            raise HTTPException(413, f"the body is longer than {BODY_BYTES_MAX} bytes")
    return body


def _parse(body: bytes) -> _InvalidationRequest:
    """Parses a body. Raises HTTPException 400 with the reason."""
    try:
        members = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise HTTPException(400, "the body is not JSON") from exc
    if not isinstance(members, dict):
        raise HTTPException(400, "the body is not a JSON object")
    if unknown := members.keys() - _MEMBERS:
        raise HTTPException(400, f"{min(unknown)!a} is not a member of an invalidation")
    items = (*_texts(members, "items"), *(f"#{tag}" for tag in _texts(members, "tags")))
    if not items:
        raise HTTPException(400, "neither items nor tags name anything")
    if len(items) > ITEMS_MAX:
        raise HTTPException(400, f"{len(items)} items are more than {ITEMS_MAX}")
    reference = _text(members, "caller_reference")
    if len(reference) > REFERENCE_CHARACTERS_MAX:
        raise HTTPException(
            400, f"caller_reference is longer than {REFERENCE_CHARACTERS_MAX} characters"
        )
    return _InvalidationRequest(
        distribution=_text(members, "distribution"),
        items=items,
        soft=_truth(members, "soft"),
        revoke=_truth(members, "revoke"),
        caller_reference=reference,
        wait=_truth(members, "wait"),
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
    """Whether a value is text that can be stored: JSON allows lone surrogates."""
    return isinstance(value, str) and value.isprintable()


def _truth(members: Mapping[str, Any], name: str) -> bool:
    value = members.get(name, False)
    if not isinstance(value, bool):
        raise HTTPException(400, f"{name} is true or false")
    return value


def _shown(row: Row) -> dict[str, object]:
    invalidation = row.invalidation
    return {
        "id": row.id,
        "distribution": row.scope,
        "epoch": row.epoch,
        "created_s": row.made_s,
        "items": list(invalidation.items),
        "soft": invalidation.soft,
        "revoke": invalidation.revoke,
        "caller_reference": row.caller_reference or None,
    }


def _json_error(_request: Request, exc: Exception) -> Response:
    return JSONResponse({"error": str(exc)}, 503)


CONTROL_ERRORS = {ControlError: _json_error}
"""The application's handlers beside those of ``writes_admin``."""

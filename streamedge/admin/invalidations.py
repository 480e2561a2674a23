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
class _Wish:
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

    def known(distribution: str) -> str:
        """The root object of a distribution that there is."""
        roots = root_objects()
        if distribution not in roots:
            raise HTTPException(404, f"no distribution has the id {distribution!a}")
        return roots[distribution]

    def put_in_force(wish: _Wish, root_object: str) -> tuple[Row, int]:
        row = log.invalidate(
            wish.distribution,
            with_root_object(wish.items, root_object),
            soft=wish.soft,
            revoke=wish.revoke,
            caller_reference=wish.caller_reference,
        )
        position = log.position()
        invalidation_feed.publish(position)
        return row, position

    async def invalidate(request: Request) -> Response:
        wish = _wish(await _body(request))
        root_object = known(wish.distribution)
        try:
            row, position = await asyncio.to_thread(put_in_force, wish, root_object)
        except ItemError as exc:
            raise HTTPException(400, str(exc)) from exc
        except CallerReferenceError as exc:
            raise HTTPException(409, str(exc)) from exc
        said = _shown(row)
        if wish.wait:
            await change_event.wait_for(
                lambda: invalidation_feed.have_applied(position), APPLIED_TIMEOUT_S
            )
            said["applied"] = invalidation_feed.have_applied(position)
        return JSONResponse(said, 201)

    async def listed(request: Request) -> Response:
        distribution = request.query_params.get("distribution", "")
        known(distribution)
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


def _wish(body: bytes) -> _Wish:
    """What a body asks for. Raises HTTPException 400 with the reason."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise HTTPException(400, "the body is not JSON") from exc
    if not isinstance(said, dict):
        raise HTTPException(400, "the body is no JSON object")
    if unknown := said.keys() - _MEMBERS:
        raise HTTPException(400, f"{min(unknown)!a} is no member of an invalidation")
    items = (*_texts(said, "items"), *(f"#{tag}" for tag in _texts(said, "tags")))
    if not items:
        raise HTTPException(400, "neither items nor tags name anything")
    if len(items) > ITEMS_MAX:
        raise HTTPException(400, f"{len(items)} items are more than {ITEMS_MAX}")
    reference = _text(said, "caller_reference")
    if len(reference) > REFERENCE_CHARACTERS_MAX:
        raise HTTPException(
            400, f"caller_reference is longer than {REFERENCE_CHARACTERS_MAX} characters"
        )
    return _Wish(
        distribution=_text(said, "distribution"),
        items=items,
        soft=_truth(said, "soft"),
        revoke=_truth(said, "revoke"),
        caller_reference=reference,
        wait=_truth(said, "wait"),
    )


def _texts(said: Mapping[str, Any], name: str) -> list[str]:
    values = said.get(name, [])
    if not isinstance(values, list) or not all(_is_text(value) for value in values):
        raise HTTPException(400, f"{name} is a list of texts")
    return values


def _text(said: Mapping[str, Any], name: str) -> str:
    value = said.get(name, "")
    if not _is_text(value):
        raise HTTPException(400, f"{name} is a text")
    return str(value)


def _is_text(value: object) -> bool:
    """Whether a value is text that can be kept: JSON can say halves of characters."""
    return isinstance(value, str) and value.isprintable()


def _truth(said: Mapping[str, Any], name: str) -> bool:
    value = said.get(name, False)
    if not isinstance(value, bool):
        raise HTTPException(400, f"{name} is true or false")
    return value


def _shown(row: Row) -> dict[str, object]:
    asked = row.invalidation
    return {
        "id": row.id,
        "distribution": row.scope,
        "epoch": row.epoch,
        "created_s": row.made_s,
        "items": list(asked.items),
        "soft": asked.soft,
        "revoke": asked.revoke,
        "caller_reference": row.caller_reference or None,
    }


def _told_as_json(_request: Request, exc: Exception) -> Response:
    return JSONResponse({"error": str(exc)}, 503)


CONTROL_ERRORS = {ControlError: _told_as_json}
"""The application's handlers beside those of ``writes_admin``."""

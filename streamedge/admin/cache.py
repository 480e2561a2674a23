"""The cache map on the admin address: what is cached, and how much of each object.

GET    /cache              objects, by pages: ?match=, ?origin=, ?limit=, ?cursor=
GET    /cache/{id}         one object, with its header fields and all ranges
GET    /cache/{id}/poster  a small picture of a film, of its cached bytes; 404 with the reason
DELETE /cache/{id}         purges it from this edge
PUT    /cache/{id}/pin     eviction leaves it in the cache
DELETE /cache/{id}/pin     removes the pin

Nothing is indexed: a page reads the files of its objects, and ends after a quarter of a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streamedge.cache.storage.changes import ChangeCounter
from streamedge.cache.storage.inspection import OBJECTS_MAX, CachedObject, CacheInspector
from streamedge.cache.storage.maintenance import purge
from streamedge.cache.storage.pins import PINS_MAX, is_digest, pin, pinned, unpin
from streamedge.config.schema.config import Config
from streamedge.control.invalidations import tags_of
from streamedge.http_fields import parse_number
from streamedge.media.posters import PosterError, Posters, PostersBusyError, is_film
from streamedge.ops.log import Log

RANGES_LISTED_MAX = 64  # of an object in a page
PINNED_SHARE_MAX = 0.5  # of the cache's size
POSTER_RETRY_S = 5
_LIMIT_DIGITS_MAX = 6

Identities = Callable[[], Mapping[str, str]]
"""Returns the identities of all origins and groups, by name."""


def cache_routes(
    root: Path, identities: Identities, config: Callable[[], Config], posters: Posters, log: Log
) -> list[Route]:
    """The routes. ``config`` returns the config in effect."""
    inspector = CacheInspector(root)
    changes = ChangeCounter(root)

    def names() -> dict[str, str]:
        return {identity: name for name, identity in identities().items()}

    def tag_fields() -> frozenset[str]:
        declared = (getattr(one, "cache_tag_header", "") for one in config().distributions)
        return frozenset(name.lower() for name in declared if name)

    async def find(request: Request) -> CachedObject:
        """The object that a request names. Raises HTTPException 404."""
        digest = request.path_params["id"]
        cached = await asyncio.to_thread(inspector.find, digest)
        if cached is None:
            raise HTTPException(404, f"no cached object has the id {digest!a}")
        return cached

    async def page(request: Request) -> Response:
        query = request.query_params
        cursor, origin = query.get("cursor", ""), query.get("origin", "")
        if cursor and not is_digest(cursor):
            raise HTTPException(400, f"cursor is one that a page returned, not {cursor!a}")
        identity = identities().get(origin, "") if origin else ""
        if origin and not identity:
            raise HTTPException(404, f"no origin has the name {origin!a}")
        limit = _limit(query.get("limit", str(OBJECTS_MAX)))
        result = await asyncio.to_thread(
            inspector.page, cursor, query.get("match", ""), identity, limit
        )
        by_identity, tagged_by, now_s = names(), tag_fields(), time.time()
        return JSONResponse(
            {
                "objects": [
                    object_members(one, by_identity, tagged_by, now_s, RANGES_LISTED_MAX)
                    for one in result.objects
                ],
                "cursor": result.cursor or None,
                "scanned": result.scanned,
            }
        )

    async def show(request: Request) -> Response:
        cached = await find(request)
        members = object_members(cached, names(), tag_fields(), time.time())
        members["headers"] = cached.record.head.headers
        return JSONResponse(members)

    async def poster(request: Request) -> Response:
        cached = await find(request)
        try:
            picture = await posters.poster(cached)
        except PosterError as exc:
            raise HTTPException(404, f"no poster: {exc}") from exc
        except PostersBusyError as exc:
            raise HTTPException(503, str(exc), {"Retry-After": str(POSTER_RETRY_S)}) from exc
        return Response(picture, media_type="image/jpeg")

    async def purge_one(request: Request) -> Response:
        cached = await find(request)
        await asyncio.to_thread(purge, root, changes, cached)
        log.event("object_purged", id=cached.id, name=cached.parts.name, bytes=cached.disk_bytes)
        return JSONResponse({"id": cached.id, "freed_bytes": cached.disk_bytes})

    async def pin_one(request: Request) -> Response:
        cached = await find(request)
        await asyncio.to_thread(_pin, root, inspector, cached, config().edge.cache_size)
        log.event("object_pinned", id=cached.id, name=cached.parts.name)
        return JSONResponse({"id": cached.id, "pinned": True})

    async def unpin_one(request: Request) -> Response:
        digest = request.path_params["id"]
        if not is_digest(digest):
            raise HTTPException(404, f"no cached object has the id {digest!a}")
        await asyncio.to_thread(unpin, root, digest)
        return JSONResponse({"id": digest, "pinned": False})

    return [
        Route("/cache", page),
        Route("/cache/{id}", show),
        Route("/cache/{id}/poster", poster),
        Route("/cache/{id}", purge_one, methods=["DELETE"]),
        Route("/cache/{id}/pin", pin_one, methods=["PUT"]),
        Route("/cache/{id}/pin", unpin_one, methods=["DELETE"]),
    ]


def object_members(
    cached: CachedObject,
    origins: Mapping[str, str],
    tag_fields: Iterable[str],
    now_s: float,
    ranges_max: int | None = None,
) -> dict[str, object]:
    """A cached object for the operator.

    ``origins``: their names by identity. ``tag_fields``: response fields with cache tags, in lower
    case.
    """
    record = cached.record
    version = record.head.version
    ranges = [[one.start, one.end, one.state.value] for one in cached.ranges[:ranges_max]]
    return {
        "id": cached.id,
        "origin": origins.get(cached.parts.identity),
        "name": cached.parts.name,
        "kind": cached.parts.kind.value,
        "details": list(cached.parts.details),
        "status": record.head.status,
        "content_type": record.head.content_type or None,
        "size_bytes": cached.size_bytes,
        "cached_bytes": cached.cached_bytes,
        "disk_bytes": cached.disk_bytes,
        "ranges": ranges,
        "ranges_left_off": len(cached.ranges) - len(ranges),
        "etag": version.etag or None,
        "last_modified_s": version.last_modified_s,
        "tags": sorted(tags_of(record.head.headers.get(name, "") for name in tag_fields)),
        "age_s": None if record.is_marker else round(record.age_s(now_s), 1),
        "used_s": round(cached.used_s, 1),
        "varies_by": list(record.varies_by),
        "pinned": cached.is_pinned,
        "film": is_film(cached),
    }


def _pin(root: Path, inspector: CacheInspector, cached: CachedObject, limit_bytes: int) -> None:
    """Pins an object. Raises HTTPException 409 for a stored error, and when too much would be
    pinned.
    """
    if cached.is_pinned:
        return
    status = cached.record.head.status
    if status >= HTTPStatus.BAD_REQUEST:
        raise HTTPException(
            409,
            f"what is cached of {cached.parts.name!a} is an error that the origin answered"
            f" ({status}), not the object: request it again when the origin has it, then pin it",
        )
    if len(pinned(root)) >= PINS_MAX:
        raise HTTPException(409, f"{PINS_MAX} objects are pinned already")
    size_bytes = max(cached.disk_bytes, cached.size_bytes or 0)
    if inspector.pinned_bytes() + size_bytes > limit_bytes * PINNED_SHARE_MAX:
        raise HTTPException(
            409,
            f"pinned objects would take more than {PINNED_SHARE_MAX:.0%} of edge.cache_size:"
            " remove other pins, or give the cache more space",
        )
    pin(root, cached.id)


def _limit(text: str) -> int:
    limit = parse_number(text, _LIMIT_DIGITS_MAX)
    if limit is None:
        raise HTTPException(400, f"limit is a number from 1 to {OBJECTS_MAX}, not {text!a}")
    return max(1, min(limit, OBJECTS_MAX))

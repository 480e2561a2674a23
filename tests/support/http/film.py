"""The object ``film`` of a location's origin, and requests to a worker's cache for it."""

from __future__ import annotations

import asyncio

from streamedge.cache.lookup.outcome import Outcome, Passed, Stored
from streamedge.cache.origin_requests import WHOLE, CacheRequest
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.records import Asset
from streamedge.origin import OriginRequest
from streamedge.origin.objects import RequestedObject
from streamedge.spans import Span
from tests.support.http.location import Location
from tests.support.origins.scripted_origin import Pattern
from tests.support.patience import PATIENCE_S

FILM = Pattern(300_000, seed=3)
BYTES = FILM.read(Span(0, FILM.size_bytes))
FRESH = (("Cache-Control", "max-age=60"),)
STALE = (("Cache-Control", "max-age=60"), ("Age", "61"))
PRIVATE = (("Cache-Control", "private"),)


def put(location: Location, fields: tuple[tuple[str, str], ...] = FRESH, etag: str = '"1"') -> None:
    location.server.put("film", FILM, etag=etag, last_modified_s=None, headers=fields)


def request(
    location: Location,
    method: str = "GET",
    want: Span = WHOLE,
    fields: dict[str, str] | None = None,
    *,
    applies_request_directives: bool = False,
) -> CacheRequest:
    origin_request = OriginRequest(method, "film")
    origin = RequestedObject("main", location.origin, OriginRequest("GET", "film"))
    asset = Asset("site\nfilm", "film", origin, "main", TtlRules())
    sent = {} if fields is None else fields
    return CacheRequest(
        asset,
        location.origin,
        origin_request,
        sent,
        want,
        applies_request_directives=applies_request_directives,
        selected_by=sent,
    )


async def body_of(outcome: Outcome) -> bytes:
    """Reads a response to its end and releases it."""
    async with asyncio.timeout(PATIENCE_S):
        if isinstance(outcome, Stored):
            try:
                return await outcome.reader.read(Span(0, FILM.size_bytes))
            finally:
                outcome.reader.close()
        assert isinstance(outcome, Passed)
        return b"".join([piece async for piece in outcome.response.body()])

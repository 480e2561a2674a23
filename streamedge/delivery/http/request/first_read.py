"""The part of an object that a request needs first, to request it from the origin. Pure."""

from __future__ import annotations

from streamedge.cache.objects import VERSION_ONLY
from streamedge.cache.origin_requests import WHOLE
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.response.conditions import PRECONDITIONS
from streamedge.delivery.http.response.ranges import first_span, leading_suffix_bytes
from streamedge.origin import UNKNOWN_BYTES
from streamedge.spans import Span


def first_read(request: WebRequest) -> tuple[Span, int]:
    """The span to request from the origin on a miss, and the size of a suffix range, for an object
    whose size may not be known; else 0.
    """
    # A precondition may make the body unnecessary: fetch the object's head first.
    if request.method == "HEAD" or not PRECONDITIONS.isdisjoint(request.headers):
        return VERSION_ONLY, 0
    value = request.headers.get("range")
    if value is None:
        return WHOLE, 0
    suffix_bytes = leading_suffix_bytes(value)
    if suffix_bytes >= UNKNOWN_BYTES:
        return WHOLE, suffix_bytes
    return first_span(value) or VERSION_ONLY, suffix_bytes

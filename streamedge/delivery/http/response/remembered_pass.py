"""What was made of an origin's response that is passed through, for the next equal one."""

from __future__ import annotations

from streamedge.cache.reader import CacheResult
from streamedge.delivery.http.response.response import ResponseHead
from streamedge.origin import Fields

FIELD_CHARACTERS_MAX = 1024
"""Of the fields of a head that is remembered; the memory of a remembered request includes it."""


class RememberedPass:
    """The response that a viewer got for one head of the origin, to one request.

    It holds for the same fields (``origin_fields``, the same object: the origin's client parses
    equal heads once), within the second in which it was made. ``encoded``: its head in HTTP/1.1, on
    a connection that stays open, without an id.
    """

    __slots__ = ("_origin_fields", "_since_s", "encoded", "error", "head", "reason", "result")

    def __init__(
        self,
        origin_fields: Fields,
        now_s: float,
        head: ResponseHead,
        encoded: bytes,
        result: CacheResult,
        reason: str | None,
        error: str,
    ) -> None:
        self._origin_fields = origin_fields
        self._since_s = now_s
        self.head = head
        self.encoded = encoded
        self.result = result
        self.reason = reason
        self.error = error

    def holds(self, origin_fields: Fields, now_s: float) -> bool:
        """Whether a response with these fields gets the same head now."""
        since_s = self._since_s
        return origin_fields is self._origin_fields and since_s <= now_s < int(since_s) + 1


def is_short(fields: Fields) -> bool:
    """Whether the fields of a response are few enough to be remembered."""
    return sum([len(name) + len(value) for name, value in fields]) <= FIELD_CHARACTERS_MAX

"""A request that the cache passes through, from its sending to the origin's response."""

from __future__ import annotations

from collections.abc import Callable

from streamedge.cache.origin_requests import CacheRequest
from streamedge.cache.storage.records import SentAt
from streamedge.origin import OriginRequest, OriginResponse, SentRequest


class RunningPass:
    """A request that was sent to the origin at once, because nothing is stored under its key.

    ``lookups_ended``: as in ``HitForMiss.begin``. ``response`` is set when its head was received.
    """

    __slots__ = ("lookups_ended", "origin_request", "request", "response", "sent", "sent_at")

    def __init__(
        self,
        request: CacheRequest,
        origin_request: OriginRequest,
        sent_at: SentAt,
        sent: SentRequest,
        lookups_ended: int,
    ) -> None:
        self.request = request
        self.origin_request = origin_request
        self.sent_at = sent_at
        self.sent = sent
        self.lookups_ended = lookups_ended
        self.response: OriginResponse | None = None

    def when_answered(self, answered: Callable[[], None]) -> None:
        """As ``SentRequest.when_answered``."""
        self.sent.when_answered(answered)

    async def wait(self) -> OriginResponse:
        """The origin's response, as ``Upstream.send``."""
        return self.response if self.response is not None else await self.sent.response()

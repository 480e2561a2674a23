"""Requests of hit-for-miss keys that are passed through without a task and without disk access.

``begin_pass`` sends the request over an idle connection. ``pass_at_once`` takes the response in the
callback in which it came, if it can only be passed through. Whatever needs a wait goes on in
``ResponseCache.finish_pass``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from streamedge.cache.lookup.hit_for_miss import HitForMiss
from streamedge.cache.lookup.in_flight import CacheStatus
from streamedge.cache.lookup.outcome import Passed
from streamedge.cache.origin_requests import (
    CacheRequest,
    build_origin_request,
    may_pass,
    may_store,
)
from streamedge.cache.storage.records import Asset, SentAt
from streamedge.cache.storage.store import Store
from streamedge.origin import (
    Fields,
    ImmediateUpstream,
    OriginRequest,
    OriginResponse,
    SentRequest,
)
from streamedge.origin.answers import fold_fields

# These depend on a request's own conditions or range, and say nothing about those of others.
_OF_ONE_REQUEST = frozenset({304, 412, 416})


class MarkedKeys(Protocol):
    """The parts of the cache used here: which keys are hit-for-miss, and its store."""

    store: Store
    hit_for_miss: HitForMiss

    def sent_now(self) -> SentAt: ...


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

    def take_response(self) -> OriginResponse | None:
        """As ``SentRequest.take_response``; the response can be taken again."""
        if self.response is None:
            self.response = self.sent.take_response()
        return self.response

    def mark_again(self, cache: MarkedKeys) -> None:
        """Marks the key for a response whose equal was passed through."""
        asset, response = self.request.asset, self.response
        if response is not None:
            status = response.status
            mark_hit_for_miss(cache, asset, self.origin_request, status, self.lookups_ended)

    async def wait(self) -> OriginResponse:
        """The origin's response, as ``Upstream.send``."""
        return self.response if self.response is not None else await self.sent.response()


def begin_pass(
    cache: MarkedKeys,
    request: CacheRequest,
    upstream: ImmediateUpstream,
    interim: Callable[[int, Fields], None] | None,
) -> RunningPass | None:
    """Sends a request to the origin at once, if ``ResponseCache.respond`` would not wait either.

    That is: the key is hit-for-miss, nothing is stored under it, and a connection is idle. When the
    response comes, ``pass_at_once`` or ``ResponseCache.finish_pass`` returns the outcome.
    """
    key = request.asset.key
    ended = cache.store.changes.lookups_ended(key)
    if not cache.hit_for_miss.is_empty(key, time.time(), ended) or request.directives:
        return None
    origin_request = build_origin_request(request, None, is_passed=True)
    sent_at = cache.sent_now()
    sent = upstream.send_at_once(origin_request, interim)
    return None if sent is None else RunningPass(request, origin_request, sent_at, sent, ended)


def pass_at_once(cache: MarkedKeys, running: RunningPass) -> Passed | None:
    """The outcome of a pass whose response has come and can only be passed through; None:
    ``ResponseCache.finish_pass`` returns it.
    """
    response = running.take_response()
    if response is None:
        return None
    request, status, fields = running.request, response.status, fold_fields(response.fields)
    if status == 416 or may_store(request, running.origin_request, status, fields):
        return None
    if not may_pass(request, running.origin_request, status, fields):
        return None
    mark_hit_for_miss(cache, request.asset, running.origin_request, status, running.lookups_ended)
    return Passed(response, CacheStatus(forwarded="uri-miss", status=status))


def mark_hit_for_miss(
    cache: MarkedKeys,
    asset: Asset,
    origin_request: OriginRequest,
    status: int,
    lookups_ended: int | None,
) -> None:
    """Marks the key of a response that is passed through.

    ``lookups_ended``: as in ``HitForMiss.begin``.
    """
    if origin_request.method == "GET" and status not in _OF_ONE_REQUEST:
        cache.hit_for_miss.begin(asset.key, time.time(), lookups_ended)

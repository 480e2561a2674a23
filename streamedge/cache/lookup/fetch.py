"""Requests a key from the origin, and acts on the response: store it, reuse a record, pass it on.

A request that is safe to repeat is sent again after a temporary failure. A response that does not
answer the viewer's own request (a validation, a range) makes a second one, for the whole response.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from typing import Protocol

from streamedge.cache.fill_plan import backoff_s
from streamedge.cache.lookup.in_flight import Lookup
from streamedge.cache.lookup.pass_through import RunningPass, mark_hit_for_miss
from streamedge.cache.lookup.reuse_decision import may_serve_stale
from streamedge.cache.lookup.store_response import StoringVersions, small_body, store_response
from streamedge.cache.origin_requests import (
    CacheRequest,
    build_origin_request,
    confirms_record,
    contradicts_record,
    freshen_record,
    leaves_conditions,
    may_pass,
    may_store,
    record_and_body,
    without_range,
)
from streamedge.cache.rfc9111.storing import withheld_fields
from streamedge.cache.storage.records import Asset, Record, SentAt, stored_fields
from streamedge.control.invalidation_index import Verdict
from streamedge.control.position import older_of
from streamedge.errors import OriginError, OriginFailure
from streamedge.origin import OriginHead, OriginRequest, OriginResponse, Upstream, Version
from streamedge.origin.answers import fold_fields
from streamedge.origin.peer.client import PeerResponse
from streamedge.origin.peer.tier import TieredUpstream


class FetchingVersions(StoringVersions, Protocol):
    """The parts of the cache used here. ``retries``: of a request, after temporary failures."""

    retries: int

    def refuse_older(self, *keys: str) -> None: ...

    def sent_now(self) -> SentAt: ...


async def fetch(
    cache: FetchingVersions,
    lookup: Lookup,
    request: CacheRequest,
    asset: Asset,
    record: Record | None,
    *,
    is_passed: bool = False,
    running: RunningPass | None = None,
) -> None:
    """Sets the outcome of a lookup by a request to the origin. Raises OriginError.

    ``record``: a stored response to validate. ``is_passed``: as in ``build_origin_request``.
    ``running``: the request was sent already.
    """
    origin_request = build_origin_request(request, record, is_passed=is_passed)
    lookup.sent_at = sent_at = cache.sent_now() if running is None else running.sent_at
    try:
        response = await _send(cache, request.upstream, origin_request, running)
        if response.status == 416 and (request.is_object or request.suffix_bytes):
            response.close()  # the size decides, for other ranges too
            method = "HEAD" if request.is_object else origin_request.method
            origin_request = replace(
                origin_request, method=method, fields=without_range(origin_request.fields)
            )
            response = await _send(cache, request.upstream, origin_request)
        if isinstance(response, PeerResponse):
            # The other edge may have requested it earlier than now.
            position = older_of(sent_at.position, response.as_of)
            if _is_refused_as_of(cache, position, asset, record, response):
                response.close()
                response = await _without_tier(request.upstream, origin_request)
            else:
                held_s = response.answer.held_s
                lookup.sent_at = sent_at = sent_at._replace(position=position, held_s=held_s)
    except OriginError as exc:
        if record is None or not may_serve_stale(cache, request, asset, record):
            raise
        lookup.cache_status.detail = exc.failure.value
        lookup.cache_status.served_stale = True
        lookup.resolve(cache.activate(asset, record), unchanged=True)
        return
    try:
        is_handled = await _handle_response(
            cache, lookup, request, asset, record, origin_request, response, sent_at
        )
    except BaseException:
        response.close()
        raise
    if is_handled:
        return
    response.close()
    if is_passed and record is None:
        raise OriginError(
            OriginFailure.UNAVAILABLE,
            f"{asset.origin_name} {asset.name!a}: unexpected status {response.status}",
        )
    await fetch(cache, lookup, request, asset, None, is_passed=True)


async def _send(
    cache: FetchingVersions,
    upstream: Upstream,
    origin_request: OriginRequest,
    running: RunningPass | None = None,
) -> OriginResponse:
    """Sends a request that is safe to repeat, and retries it after temporary failures.

    ``running``: the first attempt, if it was sent already.
    """
    attempt = 0
    while True:
        try:
            if running is not None and not attempt:
                return await running.wait()
            return await upstream.send(origin_request)
        except OriginError as exc:
            if not exc.retryable or attempt == cache.retries:
                raise
            await asyncio.sleep(backoff_s(attempt, random.random()))
        attempt += 1


async def _without_tier(upstream: Upstream, origin_request: OriginRequest) -> OriginResponse:
    """The origin's own response, in place of an older one of another edge."""
    if isinstance(upstream, TieredUpstream):
        return await upstream.send_past_tier(origin_request)
    return await upstream.send(origin_request)


def _is_refused_as_of(
    cache: FetchingVersions,
    position: int,
    asset: Asset,
    record: Record | None,
    response: OriginResponse,
) -> bool:
    """Whether an invalidation forbids a response as of ``position``.

    ``record``: the stored response that it may confirm.
    """
    fields = fold_fields(response.fields)
    stored = fields if record is None else {**record.head.headers, **fields}
    now = cache.sent_now()
    as_of = Record(
        asset.key,
        OriginHead(Version("", 0), "", stored),
        now.time_s,
        sent_change=now.change,
        position=position,
    )
    checker = cache.invalidation_checker
    return checker.invalidated(asset, as_of).verdict is Verdict.REFUSED


async def _handle_response(
    cache: FetchingVersions,
    lookup: Lookup,
    request: CacheRequest,
    asset: Asset,
    record: Record | None,
    origin_request: OriginRequest,
    response: OriginResponse,
    sent_at: SentAt,
) -> bool:
    """Acts on the origin's response: refreshes, stores, serves stale, or passes it through.

    False when the response does not answer the viewer's own request (a validation, a range).
    """
    status, fields = response.status, fold_fields(response.fields)
    lookup.cache_status.status = status
    now_s = time.time()
    if record is not None and confirms_record(record, origin_request, status, fields):
        response.close()
        open_object = cache.activate(asset, freshen_record(record, fields, sent_at, now_s))
        cache.remember(asset, open_object.record)
        lookup.withheld = withheld_fields(stored_fields(open_object.record.head) | fields)
        lookup.resolve(open_object, unchanged=True)
        return True
    if status >= 500 and record is not None and may_serve_stale(cache, request, asset, record):
        response.close()
        lookup.cache_status.served_stale = True
        lookup.resolve(cache.activate(asset, record), unchanged=True)
        return True
    is_stale = isinstance(response, PeerResponse) and response.answer.is_stale
    # Here a stale response of another edge would count as fresh.
    storable = not is_stale and may_store(request, origin_request, status, fields)
    if storable or (request.needs_version and status in (200, 206)):
        record_and_read = record_and_body(asset, origin_request, response, fields, sent_at, now_s)
        if record_and_read is not None:
            new_record, read = record_and_read
            body = await small_body(new_record, read) if storable else None
            stored = store_response(cache, request, new_record, read, body, is_shared=storable)
            if stored is not None:
                lookup.withheld = withheld_fields(fields)
                lookup.cache_status.stored = lookup.is_shared = storable
                if not storable and not is_stale:
                    cache.hit_for_miss.begin(asset.key, now_s)
                lookup.resolve(stored)
                return True
    if record is not None and contradicts_record(record, origin_request, status, fields):
        cache.refuse_older(asset.key)
    if not may_pass(request, origin_request, status, fields):
        return False
    if request.is_object and status >= 400 and response.size_bytes == 0:
        response.close()
        lookup.refusal = status, response.fields
        return True
    if not is_stale:
        mark_hit_for_miss(cache, asset, origin_request, status, lookup.lookups_ended)
    lookup.response = response
    lookup.leaves_conditions = leaves_conditions(request, origin_request)
    return True

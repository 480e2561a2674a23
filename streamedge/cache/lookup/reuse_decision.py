"""Whether a stored response may be used for a request: RFC 9111 reuse rules plus invalidations.

Combines ``rfc9111.reuse`` (one response and one request) with ``invalidated`` (writes and
invalidations since). A soft invalidation is an early expiry: from then on the response is stale,
and the rules of RFC 9111 and RFC 5861 for stale responses apply, with times counted from there.
"""

from __future__ import annotations

import time
from math import inf
from typing import Protocol

from streamedge.cache.invalidated import InvalidationChecker
from streamedge.cache.open_object import OpenObject
from streamedge.cache.origin_requests import CacheRequest
from streamedge.cache.rfc9111.reuse import Reuse, decide_absent, decide_reuse, may_serve_on_error
from streamedge.cache.storage.records import Asset, InvalidationTarget, Record, stored_fields
from streamedge.control.invalidation_index import Validity, Verdict

_STALE = frozenset({Reuse.STALE, Reuse.STALE_WHILE_REVALIDATE})


class Versions(Protocol):
    """The parts of the cache used here."""

    invalidation_checker: InvalidationChecker

    def find_open(self, key: str, subject: InvalidationTarget = ...) -> OpenObject | None: ...

    def validity(self, open_object: OpenObject, subject: InvalidationTarget) -> Validity: ...


def is_refused(cache: Versions, asset: Asset, record: Record) -> bool:
    """Whether a later write or invalidation forbids any use of a stored response."""
    if record.is_marker:
        return False
    return cache.invalidation_checker.check_record(asset, record).verdict is Verdict.REFUSED


def decide(
    cache: Versions, request: CacheRequest, asset: Asset, record: Record | None, now_s: float
) -> Reuse:
    """What to do with a stored response that is not refused, or with none."""
    request_fields = request.directives
    if record is None:
        return decide_absent(request_fields)
    reuse = decide_reuse(
        record.head.status,
        stored_fields(record.head),
        asset.rules,
        response_s=record.validated_s,
        age_s=record.age_s(now_s),
        held_s=record.held_s,
        request_fields=request_fields,
        expired_s=_expired_s(cache, asset, record, now_s),
    )
    if reuse in _STALE and not request.accepts_stale:
        return decide_absent(request_fields)
    return reuse


def may_serve_stale(cache: Versions, request: CacheRequest, asset: Asset, record: Record) -> bool:
    """Whether a stale response may be sent after the origin failed (stale-if-error)."""
    now_s = time.time()
    return not is_refused(cache, asset, record) and may_serve_on_error(
        record.head.status,
        stored_fields(record.head),
        asset.rules,
        response_s=record.validated_s,
        age_s=record.age_s(now_s),
        held_s=record.held_s,
        request_fields=request.directives,
        expired_s=_expired_s(cache, asset, record, now_s),
    )


def _expired_s(cache: Versions, asset: Asset, record: Record, now_s: float) -> float:
    """Seconds since a soft invalidation made it stale; below 0: none did."""
    open_object = cache.find_open(asset.key, asset.subject)
    if open_object is not None and open_object.record is record:
        validity = cache.validity(open_object, asset.subject)
    else:
        validity = cache.invalidation_checker.invalidated(asset, record)
    if validity.verdict is Verdict.FRESH:
        return -inf
    # If the clock went back, the time is unknown: treat it as stale for ever.
    return now_s - validity.since_s if now_s >= validity.since_s else inf

"""Whether what is remembered fits a request: its own rules together with what has come since.

Combines ``rfc9111.reuse`` (one response and one request) with ``invalidated`` (writes and
invalidations since). A soft invalidation is an early expiry: from then on the response is stale,
and what the RFC and RFC 5861 say of stale answers holds, each time counted from there.
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


class Versions(Protocol):
    """What is needed of the cache."""

    invalidation_checker: InvalidationChecker

    def find_open(self, key: str, subject: InvalidationTarget = ...) -> OpenObject | None: ...

    def validity(self, opened: OpenObject, subject: InvalidationTarget) -> Validity: ...


def is_refused(cache: Versions, asset: Asset, record: Record) -> bool:
    """Whether a write or an invalidation since has made an answer unfit for any use."""
    if record.is_marker:
        return False
    return cache.invalidation_checker.check_record(asset, record).verdict is Verdict.REFUSED


def decide(
    cache: Versions, ask: CacheRequest, asset: Asset, record: Record | None, now_s: float
) -> Reuse:
    """What to do with an answer that is not refused, or with none."""
    request_fields = directives(ask)
    if record is None:
        return decide_absent(request_fields)
    return decide_reuse(
        record.head.status,
        stored_fields(record.head),
        asset.rules,
        response_s=record.validated_s,
        age_s=record.age_s(now_s),
        request_fields=request_fields,
        expired_s=_expired_s(cache, asset, record, now_s),
    )


def may_serve_stale(cache: Versions, ask: CacheRequest, asset: Asset, record: Record) -> bool:
    """Whether an answer may be sent because the origin failed; looked at when it has failed."""
    now_s = time.time()
    return not is_refused(cache, asset, record) and may_serve_on_error(
        record.head.status,
        stored_fields(record.head),
        asset.rules,
        response_s=record.validated_s,
        age_s=record.age_s(now_s),
        request_fields=directives(ask),
        expired_s=_expired_s(cache, asset, record, now_s),
    )


def directives(ask: CacheRequest) -> dict[str, str]:
    """The request's own directives (§5.2.1, §5.4), where they count."""
    if not ask.applies_request_directives:
        return {}
    return {name: ask.fields[name] for name in ("cache-control", "pragma") if name in ask.fields}


def _expired_s(cache: Versions, asset: Asset, record: Record, now_s: float) -> float:
    """For how long an invalidation has held it stale; below 0: none does."""
    opened = cache.find_open(asset.key, asset.subject)
    if opened is not None and opened.record is record:
        validity = cache.validity(opened, asset.subject)
    else:
        validity = cache.invalidation_checker.invalidated(asset, record)
    if validity.verdict is Verdict.FRESH:
        return -inf
    # A clock that has gone back cannot tell for how long: then it has been stale for ever.
    return now_s - validity.since_s if now_s >= validity.since_s else inf

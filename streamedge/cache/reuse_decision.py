"""Whether what is remembered fits a request: its own rules together with what has come since.

Owns the place where ``reuse`` (RFC 9111, of one answer and one request) meets ``rulings`` (writes
and invalidations since). A soft invalidation is an early expiry: from then on the answer is stale,
and what the RFC and RFC 5861 say of stale answers holds, each time counted from there.
"""

from __future__ import annotations

import time
from math import inf
from typing import Protocol

from streamedge.cache.invalidated import Rulings
from streamedge.cache.open_object import OpenVersion
from streamedge.cache.origin_requests import Ask
from streamedge.cache.rfc9111.reuse import Reuse, decide_absent, decide_reuse, may_serve_on_error
from streamedge.cache.storage.records import Asset, Record, Subject, stored_fields
from streamedge.control.invalidation_index import Validity, Verdict


class Versions(Protocol):
    """What is needed of the cache."""

    rulings: Rulings

    def present(self, key: str, subject: Subject = ...) -> OpenVersion | None: ...

    def ruling(self, opened: OpenVersion, subject: Subject) -> Validity: ...


def is_refused(cache: Versions, asset: Asset, record: Record) -> bool:
    """Whether a write or an invalidation since has made an answer unfit for any use."""
    if record.is_marker:
        return False
    return cache.rulings.of_record(asset, record).verdict is Verdict.REFUSED


def decide(cache: Versions, ask: Ask, asset: Asset, record: Record | None, now_s: float) -> Reuse:
    """What to do with an answer that is not refused, or with none."""
    heeded = directives(ask)
    if record is None:
        return decide_absent(heeded)
    return decide_reuse(
        record.head.status,
        stored_fields(record.head),
        asset.rules,
        response_s=record.validated_s,
        age_s=record.age_s(now_s),
        request_fields=heeded,
        expired_s=_expired_s(cache, asset, record, now_s),
    )


def may_serve_stale(cache: Versions, ask: Ask, asset: Asset, record: Record) -> bool:
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


def directives(ask: Ask) -> dict[str, str]:
    """The request's own directives (§5.2.1, §5.4), where they count."""
    if not ask.heeds_viewer:
        return {}
    return {name: ask.fields[name] for name in ("cache-control", "pragma") if name in ask.fields}


def _expired_s(cache: Versions, asset: Asset, record: Record, now_s: float) -> float:
    """For how long an invalidation has held it stale; below 0: none does."""
    opened = cache.present(asset.key, asset.subject)
    if opened is not None and opened.record is record:
        ruling = cache.ruling(opened, asset.subject)
    else:
        ruling = cache.rulings.invalidated(asset, record)
    if ruling.verdict is Verdict.FRESH:
        return -inf
    # A clock that has gone back cannot tell for how long: then it has been stale for ever.
    return now_s - ruling.since_s if now_s >= ruling.since_s else inf

"""Whether a stored response may answer a request: RFC 9111 §4, RFC 5861, RFC 8246.

Pure: a stored response, its age and a request in, a decision out. The caller has selected the
stored response (target and variant) and carries the decision out.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from math import inf

from streamedge.cache.rfc9111.cache_control import (
    Directives,
    request_directives,
    response_directives,
)
from streamedge.cache.rfc9111.freshness import TtlRules, forbids_reuse, lifetime_s


class Reuse(Enum):
    """What to do with a stored response."""

    FRESH = "fresh"  # send it
    STALE = "stale"  # send it: the viewer accepts stale responses (max-stale)
    STALE_WHILE_REVALIDATE = "stale_while_revalidate"  # send it, and validate it meanwhile
    VALIDATE = "validate"  # validate it at the origin first
    GATEWAY_TIMEOUT = "gateway_timeout"  # 504: the viewer wants a stored response only


def decide_reuse(
    status: int,
    fields: Mapping[str, str],
    rules: TtlRules,
    *,
    response_s: float,
    age_s: float,
    held_s: float = 0.0,
    request_fields: Mapping[str, str],
    expired_s: float = -inf,
) -> Reuse:
    """Decides on a stored response of age ``age_s`` that arrived at ``response_s`` (seconds).

    ``held_s``: as for ``lifetime_s``.
    ``request_fields`` are the viewer's; empty if viewers' directives do not count. An age below 0
    means that the clock went back: then nothing is fresh. ``expired_s``: the response has been
    stale for at least so long, whatever its lifetime; below 0, it need not be stale.
    """
    request = request_directives(request_fields)
    response = response_directives(fields)
    reuse = Reuse.VALIDATE
    if age_s >= 0 and not _requires_validation(status, response, request, rules, age_s):
        lifetime = lifetime_s(status, fields, rules, response_s, held_s)
        stale_s = max(age_s - lifetime, expired_s)
        reuse = _reuse_by_age(response, request, rules, stale_s)
    if reuse is Reuse.VALIDATE and request.only_if_cached:
        return Reuse.GATEWAY_TIMEOUT
    return reuse


def decide_absent(request_fields: Mapping[str, str]) -> Reuse:
    """Decides for a request without a stored response: VALIDATE (fetch it) or GATEWAY_TIMEOUT."""
    request = request_directives(request_fields)
    return Reuse.GATEWAY_TIMEOUT if request.only_if_cached else Reuse.VALIDATE


def may_serve_on_error(
    status: int,
    fields: Mapping[str, str],
    rules: TtlRules,
    *,
    response_s: float,
    age_s: float,
    held_s: float = 0.0,
    request_fields: Mapping[str, str],
    expired_s: float = -inf,
) -> bool:
    """Whether a stored response may be sent because the origin failed (§4.2.4, RFC 5861 §4).

    A failure is a 5xx or no response at all; a 4xx is none. ``status`` and ``fields`` are the
    stored response's, the others as for ``decide_reuse``. The limit of its staleness is the
    response's stale-if-error, else the request's, else there is none.
    """
    request = request_directives(request_fields)
    response = response_directives(fields)
    if status >= 500 or age_s < 0 or request.no_cache or _forbids_stale(response, rules):
        return False  # a stored error is no better than a new one
    if forbids_reuse(status, response) and not rules.overrules_origin:
        return False
    limit_s = response.stale_if_error_s
    if limit_s is None:
        limit_s = request.stale_if_error_s
    if limit_s is None:
        limit_s = inf
    stale_s = max(age_s - lifetime_s(status, fields, rules, response_s, held_s), expired_s)
    return stale_s < limit_s


def _requires_validation(
    status: int, response: Directives, request: Directives, rules: TtlRules, age_s: float
) -> bool:
    """Whether the response or the request requires validation, even of a fresh response."""
    if forbids_reuse(status, response) and not rules.overrules_origin:
        return True
    if request.no_cache:
        return True
    # RFC 8246 §2: an immutable response is not validated for the max-age=0 of a reload.
    return request.max_age_s is not None and age_s >= request.max_age_s and not response.immutable


def _reuse_by_age(
    response: Directives, request: Directives, rules: TtlRules, stale_s: float
) -> Reuse:
    """Decides by ``stale_s``, the seconds since it became stale; below 0 while it is fresh."""
    if stale_s < 0:
        return Reuse.FRESH if -stale_s >= (request.min_fresh_s or 0.0) else Reuse.VALIDATE
    if _forbids_stale(response, rules):
        return Reuse.VALIDATE
    if request.max_stale_s is not None and stale_s <= request.max_stale_s and stale_s < inf:
        return Reuse.STALE
    wants_fresh = request.max_age_s is not None or request.min_fresh_s is not None
    if stale_s < (response.stale_while_revalidate_s or 0.0) and not wants_fresh:
        return Reuse.STALE_WHILE_REVALIDATE
    return Reuse.VALIDATE


def _forbids_stale(response: Directives, rules: TtlRules) -> bool:
    """Whether a stale response must be validated (§5.2.2.2, §5.2.2.8, §5.2.2.10).

    By §5.2.2.10, s-maxage implies proxy-revalidate. Only strict rules apply that: sites that send
    s-maxage with stale-while-revalidate mean the latter, and CDNs apply it.
    """
    is_implied = rules.strict and response.s_maxage_s is not None
    return response.must_revalidate or response.proxy_revalidate or is_implied

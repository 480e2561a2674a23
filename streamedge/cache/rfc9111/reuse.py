"""Whether a stored response may answer a request: RFC 9111 §4, RFC 5861, RFC 8246.

Pure: what is stored, what is asked and how old it is go in; a decision comes out. Selecting the
stored response (target, variant) has been done before; carrying the decision out comes after.
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
    STALE = "stale"  # send it: the viewer accepts it so (max-stale)
    STALE_WHILE_REVALIDATE = "stale_while_revalidate"  # send it and ask the origin meanwhile
    VALIDATE = "validate"  # ask the origin first
    GATEWAY_TIMEOUT = "gateway_timeout"  # 504: the viewer wants nothing that must be asked for


def decide_reuse(
    status: int,
    fields: Mapping[str, str],
    rules: TtlRules,
    *,
    response_s: float,
    age_s: float,
    request_fields: Mapping[str, str],
    expired_s: float = -inf,
) -> Reuse:
    """Decides on a stored response of ``age_s`` seconds that came at ``response_s``.

    ``request_fields`` are the viewer's; none where viewers' directives do not count. An age below
    0 means that the clock went backwards: nothing is fresh then. ``expired_s``: for how long it
    has been stale at least, whatever its lifetime (below 0: it need not be).
    """
    asked = request_directives(request_fields)
    said = response_directives(fields)
    reuse = Reuse.VALIDATE
    if age_s >= 0 and not _must_ask(status, said, asked, rules, age_s):
        stale_s = max(age_s - lifetime_s(status, fields, rules, response_s), expired_s)
        reuse = _unasked(said, asked, rules, stale_s)
    if reuse is Reuse.VALIDATE and asked.only_if_cached:
        return Reuse.GATEWAY_TIMEOUT
    return reuse


def decide_absent(request_fields: Mapping[str, str]) -> Reuse:
    """Decides where nothing is stored: VALIDATE, which is to fetch, or GATEWAY_TIMEOUT."""
    asked = request_directives(request_fields)
    return Reuse.GATEWAY_TIMEOUT if asked.only_if_cached else Reuse.VALIDATE


def may_serve_on_error(
    status: int,
    fields: Mapping[str, str],
    rules: TtlRules,
    *,
    response_s: float,
    age_s: float,
    request_fields: Mapping[str, str],
    expired_s: float = -inf,
) -> bool:
    """Whether a stored response may be sent because the origin failed (§4.2.4, RFC 5861 §4).

    Failed means a 5xx or no answer at all; a 4xx is an answer. ``status`` and ``fields`` are the
    stored response's, the rest as for ``decide_reuse``. stale-if-error limits for how long; the
    response's outranks the request's; without either there is no limit.
    """
    asked = request_directives(request_fields)
    said = response_directives(fields)
    if status >= 500 or age_s < 0 or asked.no_cache or _forbids_stale(said, rules):
        return False  # an old failure is no better than a new one
    if forbids_reuse(status, said) and not rules.overrules_origin:
        return False
    limit_s = said.stale_if_error_s
    if limit_s is None:
        limit_s = asked.stale_if_error_s
    if limit_s is None:
        limit_s = inf
    stale_s = max(age_s - lifetime_s(status, fields, rules, response_s), expired_s)
    return stale_s < limit_s


def _must_ask(
    status: int, said: Directives, asked: Directives, rules: TtlRules, age_s: float
) -> bool:
    """Whether response or request demand validation, however fresh the response is."""
    if forbids_reuse(status, said) and not rules.overrules_origin:
        return True
    if asked.no_cache:
        return True
    # RFC 8246 §2: what does not change while it is fresh is not asked for by a reload's max-age=0.
    return asked.max_age_s is not None and age_s >= asked.max_age_s and not said.immutable


def _unasked(said: Directives, asked: Directives, rules: TtlRules, stale_s: float) -> Reuse:
    """``stale_s``: for how long it has been stale; below 0 while it is fresh."""
    if stale_s < 0:
        return Reuse.FRESH if -stale_s >= (asked.min_fresh_s or 0.0) else Reuse.VALIDATE
    if _forbids_stale(said, rules):
        return Reuse.VALIDATE
    if asked.max_stale_s is not None and stale_s <= asked.max_stale_s and stale_s < inf:
        return Reuse.STALE
    wants_fresh = asked.max_age_s is not None or asked.min_fresh_s is not None
    if stale_s < (said.stale_while_revalidate_s or 0.0) and not wants_fresh:
        return Reuse.STALE_WHILE_REVALIDATE
    return Reuse.VALIDATE


def _forbids_stale(said: Directives, rules: TtlRules) -> bool:
    """§5.2.2.2, §5.2.2.8 and §5.2.2.10: s-maxage implies proxy-revalidate.

    Sites that send s-maxage beside stale-while-revalidate mean the latter, and CDNs apply it; only
    strict rules take them at their word.
    """
    implied = rules.strict and said.s_maxage_s is not None
    return said.must_revalidate or said.proxy_revalidate or implied

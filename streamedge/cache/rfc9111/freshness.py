"""How long a response is fresh and how old it is: RFC 9111 §4.2, with CloudFront's TTLs.

Pure: header fields, rules and times in, seconds out. Header fields come by lower-case name,
repeated ones joined. A lifetime is in seconds of age (§4.2.3), as the RFC counts: a response is
fresh while it is younger than its lifetime. The operator's TTLs count from when the response
came; so they are added to the age that it had by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor, inf

from streamedge.cache.rfc9111.cache_control import Directives, delta_seconds, response_directives
from streamedge.config.schema.ttl_defaults import (
    DEFAULT_TTL_S,
    ERROR_TTL_S,
    MAX_TTL_S,
    MIN_TTL_S,
)
from streamedge.http_date import parse_http_date_s

HEURISTIC_SHARE = 0.1  # of the time since the last change (§4.2.2)
HEURISTIC_MAX_S = 86400.0

# RFC 9110 §15.1
HEURISTICALLY_CACHEABLE = frozenset({200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501})
# RFC 9110 §15: what the edge handles as its definition asks. 304 is never stored. 206, 412 and
# 416 have conditions of their own in ``storing``.
UNDERSTOOD = frozenset(
    {200, 201, 202, 203, 204, 205, 206, 300, 301, 302, 303, 307, 308}
    | {400, 401, 402, 403, 404, 405, 406, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417}
    | {421, 422, 426, 500, 501, 502, 503, 504, 505}
)
# CloudFront Developer Guide, "How CloudFront processes HTTP 3xx" and "… 4xx and 5xx status codes"
_DEFAULT_TTL_STATUSES = frozenset({200, 203, 204, 206, 300, 301, 302, 307, 308})
_ERROR_TTL_STATUSES = frozenset({404, 414, 500, 501, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class TtlRules:
    """A cache policy's times, in seconds.

    ``error_ttls`` are the least times of errors by status, ``error_ttl_s`` that of the other
    errors that are kept. ``strict`` follows RFC 9111 where CloudFront's defaults differ:
    heuristics of §4.2.2 in place of ``default_ttl_s``, no ``error_ttl_s``, and ``min_ttl_s``
    overrules no no-store, no-cache or private.
    """

    min_ttl_s: float = MIN_TTL_S
    default_ttl_s: float = DEFAULT_TTL_S
    max_ttl_s: float = MAX_TTL_S
    error_ttl_s: float = ERROR_TTL_S
    strict: bool = False
    error_ttls: tuple[tuple[int, float], ...] = ()

    def error_min_ttl_s(self, status: int) -> float | None:
        """How long an error is kept at least; None: only for as long as it says itself."""
        for known, ttl_s in self.error_ttls:
            if known == status:
                return ttl_s
        return self.error_ttl_s if status in _ERROR_TTL_STATUSES and not self.strict else None

    @property
    def overrules_origin(self) -> bool:
        """Whether no-store, no-cache and private are kept for ``min_ttl_s`` all the same."""
        return self.min_ttl_s > 0 and not self.strict


IMMUTABLE = TtlRules(default_ttl_s=inf, max_ttl_s=inf)
"""Of what never changes, because its name says which version it is."""


def lifetime_s(status: int, fields: Mapping[str, str], rules: TtlRules, response_s: float) -> float:
    """The freshness lifetime of a response that came at ``response_s``; 0: never fresh."""
    directives = response_directives(fields)
    came_with_s = initial_age_s(fields, response_s, response_s)
    if forbids_reuse(status, directives):
        return came_with_s + rules.min_ttl_s if rules.overrules_origin else 0.0
    stated_s = explicit_lifetime_s(status, directives, fields, rules, response_s)
    least_s = rules.min_ttl_s
    if stated_s is None:
        if rules.strict:
            stated_s = _heuristic_lifetime_s(status, directives, fields, response_s)
        elif status in _DEFAULT_TTL_STATUSES:
            stated_s = came_with_s + rules.default_ttl_s
        elif rules.error_min_ttl_s(status) is None:
            return 0.0
    error_min_ttl_s = rules.error_min_ttl_s(status)
    if error_min_ttl_s is not None:
        least_s = error_min_ttl_s
    lasts_s = min(stated_s or 0.0, came_with_s + rules.max_ttl_s)
    return max(lasts_s, came_with_s + least_s) if least_s > 0 else lasts_s


def explicit_lifetime_s(
    status: int,
    directives: Directives,
    fields: Mapping[str, str],
    rules: TtlRules,
    response_s: float,
) -> float | None:
    """The lifetime that the response itself states (§4.2.1); None: it states none.

    Expires counts for nothing beside a targeted field and, unless strict, for errors.
    """
    if directives.s_maxage_s is not None:
        return directives.s_maxage_s
    if directives.max_age_s is not None:
        return directives.max_age_s
    expires = fields.get("expires")
    if expires is None or directives.targeted or (status >= 400 and not rules.strict):
        return None
    expires_s = parse_http_date_s(expires, response_s)
    if expires_s is None:
        return 0.0  # §5.3: an invalid date is one in the past
    return max(0.0, expires_s - _date_s(fields, response_s))


def is_cacheable_by_status(status: int, directives: Directives, rules: TtlRules) -> bool:
    """Whether a response that states no lifetime may be kept by its status (§3, last item)."""
    if rules.error_min_ttl_s(status) is not None:
        return True
    if rules.strict:
        return status in HEURISTICALLY_CACHEABLE or directives.public
    return status in _DEFAULT_TTL_STATUSES


def forbids_storing(status: int, directives: Directives) -> bool:
    """Whether no-store or private hold; must-understand lifts no-store (§5.2.2.3)."""
    lifted = directives.must_understand and status in UNDERSTOOD
    return directives.private or (directives.no_store and not lifted)


def forbids_reuse(status: int, directives: Directives) -> bool:
    """Whether it must not be used again without validation, however fresh it is (§4)."""
    return directives.no_cache or forbids_storing(status, directives)


def initial_age_s(fields: Mapping[str, str], request_s: float, response_s: float) -> float:
    """How old a response was when it came: corrected_initial_age of §4.2.3.

    ``request_s`` and ``response_s``: when it was asked for and when it came. Of several Ages the
    first counts; what is no number is ignored (§5.1).
    """
    apparent_s = max(0.0, floor(response_s) - _date_s(fields, floor(response_s)))
    age_s = delta_seconds(fields.get("age", "").partition(",")[0].strip(" \t")) or 0
    return max(apparent_s, age_s + response_s - request_s)


def _heuristic_lifetime_s(
    status: int, directives: Directives, fields: Mapping[str, str], response_s: float
) -> float:
    """§4.2.2: a share of the time that it had not changed for."""
    if status not in HEURISTICALLY_CACHEABLE and not directives.public:
        return 0.0
    modified_s = parse_http_date_s(fields.get("last-modified", ""), response_s)
    if modified_s is None:
        return 0.0
    unchanged_s = _date_s(fields, response_s) - modified_s
    return min(max(0.0, unchanged_s * HEURISTIC_SHARE), HEURISTIC_MAX_S)


def _date_s(fields: Mapping[str, str], response_s: float) -> float:
    """Date, or when the response came if there is none (RFC 9110 §6.6.1)."""
    date_s = parse_http_date_s(fields.get("date", ""), response_s)
    return response_s if date_s is None else date_s

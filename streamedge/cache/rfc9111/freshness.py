"""How long a response is fresh and how old it is: RFC 9111 §4.2, with CloudFront's TTLs.

Pure: header fields, rules and times in, seconds out. Header fields are mappings by lower-case
name; repeated fields are joined. A lifetime is in seconds of age (§4.2.3), as in the RFC: a
response is fresh while its age is below its lifetime. The operator's TTLs count from the time when
the response arrived, so they are added to the age that it had then.
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

HEURISTIC_SHARE = 0.1  # of the time since Last-Modified (§4.2.2)
HEURISTIC_MAX_S = 86400.0

# RFC 9110 §15.1
HEURISTICALLY_CACHEABLE = frozenset({200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501})
# The statuses of RFC 9110 §15 that the edge handles as defined. 304 is never stored; the conditions
# for 206, 412 and 416 are in ``storing``.
UNDERSTOOD_STATUSES = frozenset(
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

    ``error_ttls`` are the minimum TTLs of errors by status; ``error_ttl_s`` is that of the other
    errors that are cached. ``strict`` follows RFC 9111 where CloudFront's defaults differ: the
    heuristics of §4.2.2 instead of ``default_ttl_s``, no ``error_ttl_s``, and ``min_ttl_s`` does
    not overrule no-store, no-cache and private.
    """

    min_ttl_s: float = MIN_TTL_S
    default_ttl_s: float = DEFAULT_TTL_S
    max_ttl_s: float = MAX_TTL_S
    error_ttl_s: float = ERROR_TTL_S
    strict: bool = False
    error_ttls: tuple[tuple[int, float], ...] = ()

    def error_min_ttl_s(self, status: int) -> float | None:
        """The minimum TTL of an error status; None: only its own fields count."""
        for error_status, ttl_s in self.error_ttls:
            if error_status == status:
                return ttl_s
        return self.error_ttl_s if status in _ERROR_TTL_STATUSES and not self.strict else None

    @property
    def overrules_origin(self) -> bool:
        """Whether responses with no-store, no-cache or private are cached for ``min_ttl_s``."""
        return self.min_ttl_s > 0 and not self.strict


IMMUTABLE = TtlRules(default_ttl_s=inf, max_ttl_s=inf)
"""The rules for objects that never change, because the name identifies the version."""


def lifetime_s(
    status: int,
    fields: Mapping[str, str],
    rules: TtlRules,
    response_s: float,
    held_s: float = 0.0,
) -> float:
    """The freshness lifetime of a response that arrived at ``response_s``; 0: never fresh.

    ``held_s``: for how long other edges had it before. The operator's TTLs count from the time when
    the first of them had it from the origin, so a tier makes them no longer.
    """
    directives = response_directives(fields)
    first_age_s = max(0.0, initial_age_s(fields, response_s, response_s) - held_s)
    if forbids_reuse(status, directives):
        return first_age_s + rules.min_ttl_s if rules.overrules_origin else 0.0
    explicit_s = explicit_lifetime_s(status, directives, fields, rules, response_s)
    least_s = rules.min_ttl_s
    if explicit_s is None:
        if rules.strict:
            explicit_s = _heuristic_lifetime_s(status, directives, fields, response_s)
        elif status in _DEFAULT_TTL_STATUSES:
            explicit_s = first_age_s + rules.default_ttl_s
        elif rules.error_min_ttl_s(status) is None:
            return 0.0
    error_min_ttl_s = rules.error_min_ttl_s(status)
    if error_min_ttl_s is not None:
        least_s = error_min_ttl_s
    limited_s = min(explicit_s or 0.0, first_age_s + rules.max_ttl_s)
    return max(limited_s, first_age_s + least_s) if least_s > 0 else limited_s


def explicit_lifetime_s(
    status: int,
    directives: Directives,
    fields: Mapping[str, str],
    rules: TtlRules,
    response_s: float,
) -> float | None:
    """The explicit lifetime in the response's fields (§4.2.1), or None.

    Expires does not count beside a targeted field nor, unless strict, for errors.
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
    """Whether a response without an explicit lifetime may be stored (§3, last item)."""
    if rules.error_min_ttl_s(status) is not None:
        return True
    if rules.strict:
        return status in HEURISTICALLY_CACHEABLE or directives.public
    return status in _DEFAULT_TTL_STATUSES


def forbids_storing(status: int, directives: Directives) -> bool:
    """Whether no-store or private apply; must-understand cancels no-store (§5.2.2.3)."""
    cancels_no_store = directives.must_understand and status in UNDERSTOOD_STATUSES
    return directives.private or (directives.no_store and not cancels_no_store)


def forbids_reuse(status: int, directives: Directives) -> bool:
    """Whether a response must be validated before each use, even if it is fresh (§4)."""
    return directives.no_cache or forbids_storing(status, directives)


def initial_age_s(fields: Mapping[str, str], request_s: float, response_s: float) -> float:
    """The age of a response when it arrived: corrected_initial_age of §4.2.3.

    ``request_s`` and ``response_s``: when the request was sent, and when the response arrived. Of
    several Ages the first counts; an Age that is no number is ignored (§5.1).
    """
    apparent_s = max(0.0, floor(response_s) - _date_s(fields, floor(response_s)))
    age_s, age = 0, fields.get("age")
    if age is not None:
        age_s = delta_seconds(age.partition(",")[0].strip(" \t")) or 0
    return max(apparent_s, age_s + response_s - request_s)


def _heuristic_lifetime_s(
    status: int, directives: Directives, fields: Mapping[str, str], response_s: float
) -> float:
    """§4.2.2: a share of the time since Last-Modified."""
    if status not in HEURISTICALLY_CACHEABLE and not directives.public:
        return 0.0
    modified_s = parse_http_date_s(fields.get("last-modified", ""), response_s)
    if modified_s is None:
        return 0.0
    unchanged_s = _date_s(fields, response_s) - modified_s
    return min(max(0.0, unchanged_s * HEURISTIC_SHARE), HEURISTIC_MAX_S)


def _date_s(fields: Mapping[str, str], response_s: float) -> float:
    """Date, or the time of arrival if there is none (RFC 9110 §6.6.1)."""
    date_s = parse_http_date_s(fields.get("date", ""), response_s)
    return response_s if date_s is None else date_s

"""Which responses may be stored, and which of their fields: RFC 9111 §3.

Pure: a request and a response in, decisions out. The header fields are mappings by lower-case name;
repeated fields are joined with ", ". ``reuse`` decides whether a stored response may be used.
"""

from __future__ import annotations

from collections.abc import Mapping

from streamedge.cache.rfc9111.cache_control import (
    Directives,
    request_directives,
    response_directives,
)
from streamedge.cache.rfc9111.freshness import (
    UNDERSTOOD_STATUSES,
    TtlRules,
    explicit_lifetime_s,
    forbids_storing,
    is_cacheable_by_status,
)
from streamedge.cache.rfc9111.unsafe_methods import local_target
from streamedge.cache.rfc9111.vary import varies_by_everything
from streamedge.http_fields import HOP_BY_HOP, parse_connection, parse_content_range

_PRECONDITIONS = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
# These identify the stored bytes, which cannot be used again without them.
_VERSION_FIELDS = frozenset(
    {"content-encoding", "content-length", "content-range", "content-type", "etag", "last-modified"}
)


def is_storable(
    method: str,
    request_fields: Mapping[str, str],
    status: int,
    response_fields: Mapping[str, str],
    rules: TtlRules,
    *,
    applies_request_directives: bool = False,
    target: str = "",
) -> bool:
    """Whether a response may be stored to answer later GETs of its target.

    ``request_fields`` are those that the origin was sent, without an Authorization that is part of
    the cache key. ``applies_request_directives``: the request's no-store counts. ``target`` (path
    and query) is needed for POST only: its response may be stored if its Content-Location is the
    target (RFC 9110 §9.3.3).
    """
    directives = response_directives(response_fields)
    has_lifetime = (
        explicit_lifetime_s(status, directives, response_fields, rules, response_s=0.0) is not None
    )
    return (
        _fits_method(method, target, request_fields, response_fields, has_lifetime=has_lifetime)
        and _fits_status(status, directives, request_fields, response_fields)
        and (rules.overrules_origin or not forbids_storing(status, directives))
        and not (applies_request_directives and request_directives(request_fields).no_store)
        and _fits_authorization(directives, request_fields)
        and not varies_by_everything(response_fields)
        and (has_lifetime or is_cacheable_by_status(status, directives, rules))
        and (has_lifetime or not rules.strict or "set-cookie" not in response_fields)
        and _VERSION_FIELDS.isdisjoint(directives.no_cache_fields | directives.private_fields)
    )


def storable_fields(fields: Mapping[str, str]) -> dict[str, str]:
    """The fields of a response that may be stored (§3.1).

    Leaves out the hop-by-hop fields, the fields that Connection lists, and the fields that a
    qualified private or no-cache lists. A private field must not be stored. A no-cache field may be
    used after a validation only, whose response has it again (§5.2.2.4, §5.2.2.7).
    """
    directives = response_directives(fields)
    listed = directives.no_cache_fields | directives.private_fields
    left_out = listed | HOP_BY_HOP | parse_connection(fields.get("connection", ""))
    return {name: value for name, value in fields.items() if name not in left_out}


def withheld_fields(fields: Mapping[str, str]) -> dict[str, str]:
    """The fields of a response that a qualified private or no-cache lists.

    They belong to the request that the origin answered, and to no other (§5.2.2.4, §5.2.2.7).
    """
    directives = response_directives(fields)
    listed = directives.no_cache_fields | directives.private_fields
    if not listed:
        return {}
    left_out = HOP_BY_HOP | parse_connection(fields.get("connection", ""))
    return {name: fields[name] for name in listed - left_out if name in fields}


def _fits_method(
    method: str,
    target: str,
    request_fields: Mapping[str, str],
    response_fields: Mapping[str, str],
    *,
    has_lifetime: bool,
) -> bool:
    if method == "POST":
        location = response_fields.get("content-location")
        return (
            has_lifetime
            and location is not None
            and local_target(request_fields.get("host", ""), target, location) == target
        )
    return method == "GET"


def _fits_status(
    status: int,
    directives: Directives,
    request_fields: Mapping[str, str],
    response_fields: Mapping[str, str],
) -> bool:
    """Whether the status is final, is understood if must-understand requires it, and describes the
    target rather than this request alone.
    """
    if status < 200 or status == 304:
        return False
    if directives.must_understand and status not in UNDERSTOOD_STATUSES:
        return False
    if status == 206:
        return _is_whole_part(response_fields)
    if status == 412:
        return not any(name in request_fields for name in _PRECONDITIONS)
    return status != 416 or "range" not in request_fields


def _is_whole_part(fields: Mapping[str, str]) -> bool:
    """Whether a 206 is one part of a representation of known size (RFC 9110 §15.3.7.1)."""
    part = parse_content_range(fields.get("content-range", ""))
    if part is None or part.size_bytes is None:
        return False
    length = fields.get("content-length", "").strip(" \t")
    return not length.isdecimal() or int(length[:19]) == part.span.size


def _fits_authorization(directives: Directives, request_fields: Mapping[str, str]) -> bool:
    """§3.5: a response to a request with Authorization needs permission to be stored."""
    return (
        "authorization" not in request_fields
        or directives.public
        or directives.must_revalidate
        or directives.s_maxage_s is not None
    )

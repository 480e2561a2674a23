"""Which responses may be stored, and which of their fields: RFC 9111 §3.

Pure: a request's and a response's facts in, answers out. Header fields come by lower-case name,
repeated ones joined with ", ". Whether a stored response may be used is ``reuse``'s to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from streamedge.cache.rfc9111.cache_control import (
    Directives,
    request_directives,
    response_directives,
)
from streamedge.cache.rfc9111.freshness import (
    UNDERSTOOD,
    TtlRules,
    explicit_lifetime_s,
    forbids_storing,
    is_kept_unstated,
)
from streamedge.cache.rfc9111.unsafe_methods import local_target
from streamedge.cache.rfc9111.vary import varies_by_everything

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII | re.IGNORECASE)
_PRECONDITIONS = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
# What says which bytes are stored: without it they cannot be used again.
_OF_THE_VERSION = frozenset(
    {"content-encoding", "content-length", "content-range", "content-type", "etag", "last-modified"}
)
# RFC 9110 §7.6.1, RFC 9111 §3.1
_NEVER_STORED = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
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

    ``request_fields`` are what the origin was asked with, less an Authorization that is part of
    the cache key. ``applies_request_directives``: the request's no-store counts. ``target`` (path
    and query) is needed for POST, whose response may be stored when it says that it is its target's
    (RFC 9110 §9.3.3).
    """
    directives = response_directives(response_fields)
    stated = (
        explicit_lifetime_s(status, directives, response_fields, rules, response_s=0.0) is not None
    )
    return (
        _fits_method(method, target, request_fields, response_fields, stated=stated)
        and _fits_status(status, directives, request_fields, response_fields)
        and (rules.overrules_origin or not forbids_storing(status, directives))
        and not (applies_request_directives and request_directives(request_fields).no_store)
        and _fits_authorization(directives, request_fields)
        and not varies_by_everything(response_fields)
        and (stated or is_kept_unstated(status, directives, rules))
        and (stated or not rules.strict or "set-cookie" not in response_fields)
        and _OF_THE_VERSION.isdisjoint(directives.no_cache_fields | directives.private_fields)
    )


def storable_fields(fields: Mapping[str, str]) -> dict[str, str]:
    """The fields of a response that may be stored (§3.1).

    Not those of its connection, nor those that Connection lists; nor those that a qualified
    private or no-cache lists: the one must not be stored, the other only used once validated, and
    a validation brings them anew (§5.2.2.4, §5.2.2.7).
    """
    directives = response_directives(fields)
    withheld = directives.no_cache_fields | directives.private_fields | _nominated(fields)
    return {
        name: value
        for name, value in fields.items()
        if name not in _NEVER_STORED and name not in withheld
    }


def withheld_fields(fields: Mapping[str, str]) -> dict[str, str]:
    """The fields of a response that a qualified private or no-cache lists.

    They are for the request that the origin answered, and for no other (§5.2.2.4, §5.2.2.7).
    """
    directives = response_directives(fields)
    listed = directives.no_cache_fields | directives.private_fields
    left_out = _NEVER_STORED | _nominated(fields)
    return {name: fields[name] for name in listed - left_out if name in fields}


def _nominated(fields: Mapping[str, str]) -> frozenset[str]:
    connection = fields.get("connection", "").lower()
    return frozenset(name.strip(" \t") for name in connection.split(","))


def _fits_method(
    method: str,
    target: str,
    request_fields: Mapping[str, str],
    response_fields: Mapping[str, str],
    *,
    stated: bool,
) -> bool:
    if method == "POST":
        location = response_fields.get("content-location")
        return (
            stated
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
    """Final, understood where that is asked for, and said of the target, not of this request."""
    if status < 200 or status == 304:
        return False
    if directives.must_understand and status not in UNDERSTOOD:
        return False
    if status == 206:
        return _is_whole_part(response_fields)
    if status == 412:
        return not any(name in request_fields for name in _PRECONDITIONS)
    return status != 416 or "range" not in request_fields


def _is_whole_part(fields: Mapping[str, str]) -> bool:
    """Whether a 206 is one part of a representation of known size (RFC 9110 §15.3.7.1)."""
    match = _CONTENT_RANGE.fullmatch(fields.get("content-range", "").strip(" \t"))
    if match is None:
        return False
    first, last, size_bytes = (int(number) for number in match.groups())
    length = fields.get("content-length", "").strip(" \t")
    whole = not length.isdecimal() or int(length[:19]) == last + 1 - first
    return first <= last < size_bytes and whole


def _fits_authorization(directives: Directives, request_fields: Mapping[str, str]) -> bool:
    """§3.5: what somebody had to prove who they are for is stored only by permission."""
    return (
        "authorization" not in request_fields
        or directives.public
        or directives.must_revalidate
        or directives.s_maxage_s is not None
    )

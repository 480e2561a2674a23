"""Validation of stored responses, and how a response to it updates them: RFC 9111 §4.3.

Pure: header fields in (by lower-case name), header fields and decisions out.
"""

from __future__ import annotations

from collections.abc import Mapping

from streamedge.cache.rfc9111.storing import storable_fields
from streamedge.http_date import parse_http_date_s

# §3.2: these describe the stored bytes. The entity tag is the one that was matched; at most it is
# sent in its weak form.
_NOT_UPDATED = frozenset({"content-encoding", "content-length", "content-range", "etag"})
_OF_ONE_MESSAGE = frozenset({"age", "date"})  # old values would make the new response look old


def conditional_fields(stored: Mapping[str, str]) -> dict[str, str]:
    """The conditional fields that validate a stored response (§4.3.1).

    Empty if it has no validator: then it can only be fetched again.
    """
    fields = {}
    if stored.get("etag"):
        fields["if-none-match"] = stored["etag"]
    if stored.get("last-modified"):
        fields["if-modified-since"] = stored["last-modified"]
    return fields


def is_selected(stored: Mapping[str, str], fresh: Mapping[str, str]) -> bool:
    """Whether a 304 to ``conditional_fields(stored)`` selects that stored response (§4.3.4).

    A 304 without a validator does: the request was about one stored response only.
    """
    stored_etag, fresh_etag = stored.get("etag"), fresh.get("etag")
    if stored_etag and fresh_etag:
        if fresh_etag.startswith("W/"):
            return fresh_etag.removeprefix("W/") == stored_etag.removeprefix("W/")
        return fresh_etag == stored_etag
    modified = fresh.get("last-modified")
    if modified is not None:
        return _same_moment(stored.get("last-modified"), modified)
    return fresh_etag is None


def updated_fields(stored: Mapping[str, str], fresh: Mapping[str, str]) -> dict[str, str]:
    """The fields of a stored response after a 304, a 206 or a HEAD confirmed it (§3.2)."""
    old = {name: value for name, value in stored.items() if name not in _OF_ONE_MESSAGE}
    new = {name: value for name, value in fresh.items() if name not in _NOT_UPDATED}
    return storable_fields(old | storable_fields(new))


def head_freshens(stored: Mapping[str, str], head: Mapping[str, str]) -> bool:
    """Whether a 200 to HEAD freshens a stored GET (§4.3.5); unlike there, it needs a validator.

    ``stored`` includes the stored body's content-length.
    """
    has_validator = "etag" in head or "last-modified" in head
    return has_validator and not head_contradicts(stored, head)


def head_contradicts(stored: Mapping[str, str], head: Mapping[str, str]) -> bool:
    """Whether a 200 to HEAD differs from the stored GET (§4.3.5)."""
    if "last-modified" in head and not _same_moment(
        stored.get("last-modified"), head["last-modified"]
    ):
        return True
    return any(
        head[name] != stored.get(name) for name in ("etag", "content-length") if name in head
    )


def _same_moment(stored: str | None, fresh: str) -> bool:
    if stored is None:
        return False
    stored_s, fresh_s = parse_http_date_s(stored), parse_http_date_s(fresh)
    return stored == fresh if stored_s is None or fresh_s is None else stored_s == fresh_s

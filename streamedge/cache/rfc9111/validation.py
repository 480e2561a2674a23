"""Validation of stored responses, and how a response to it updates them: RFC 9111 §4.3.

Pure: header fields in (by lower-case name), header fields and decisions out.
"""

from __future__ import annotations

from collections.abc import Mapping

from streamedge.cache.rfc9111.storing import storable_fields
from streamedge.http_date import parse_http_date_s

# §3.2: what belongs to the bytes that are stored, not to what they mean. The entity tag is that by
# which the answer was matched, at most spelt more weakly.
_NOT_UPDATED = frozenset({"content-encoding", "content-length", "content-range", "etag"})
_OF_ONE_MESSAGE = frozenset({"age", "date"})  # old ones would make the new answer look old


def conditional_fields(stored: Mapping[str, str]) -> dict[str, str]:
    """The request fields that ask whether a stored response still holds (§4.3.1).

    Empty when it has no validator: then it can only be fetched again.
    """
    fields = {}
    if stored.get("etag"):
        fields["if-none-match"] = stored["etag"]
    if stored.get("last-modified"):
        fields["if-modified-since"] = stored["last-modified"]
    return fields


def is_selected(stored: Mapping[str, str], fresh: Mapping[str, str]) -> bool:
    """Whether a 304 to ``conditional_fields(stored)`` speaks of that stored response (§4.3.4).

    A 304 without any validator does: it answers a question about one stored response.
    """
    ours, theirs = stored.get("etag"), fresh.get("etag")
    if ours and theirs:
        if theirs.startswith("W/"):
            return theirs.removeprefix("W/") == ours.removeprefix("W/")
        return theirs == ours
    modified = fresh.get("last-modified")
    if modified is not None:
        return _same_moment(stored.get("last-modified"), modified)
    return theirs is None


def updated_fields(stored: Mapping[str, str], fresh: Mapping[str, str]) -> dict[str, str]:
    """The fields of a stored response after a 304, a 206 or a HEAD confirmed it (§3.2)."""
    kept = {name: value for name, value in stored.items() if name not in _OF_ONE_MESSAGE}
    new = {name: value for name, value in fresh.items() if name not in _NOT_UPDATED}
    return storable_fields(kept | storable_fields(new))


def head_freshens(stored: Mapping[str, str], head: Mapping[str, str]) -> bool:
    """Whether a 200 to HEAD confirms a stored GET (§4.3.5); stricter: by a validator at least.

    ``stored`` includes the stored body's content-length.
    """
    says_which = "etag" in head or "last-modified" in head
    return says_which and not head_contradicts(stored, head)


def head_contradicts(stored: Mapping[str, str], head: Mapping[str, str]) -> bool:
    """Whether a 200 to HEAD tells of another answer than the stored GET (§4.3.5)."""
    if "last-modified" in head and not _same_moment(
        stored.get("last-modified"), head["last-modified"]
    ):
        return True
    return any(
        head[name] != stored.get(name) for name in ("etag", "content-length") if name in head
    )


def _same_moment(ours: str | None, theirs: str) -> bool:
    if ours is None:
        return False
    ours_s, theirs_s = parse_http_date_s(ours), parse_http_date_s(theirs)
    return ours == theirs if ours_s is None or theirs_s is None else ours_s == theirs_s

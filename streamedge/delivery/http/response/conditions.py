"""Evaluates a request's preconditions: RFC 9110 §13, in the order of §13.2.2. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

from streamedge.http_date import parse_http_date_s
from streamedge.origin import Version

# Some clients send tags without quotes. A quote that is not closed ends the list.
_ENTITY_TAG = re.compile(r'[ \t,]*+((?:W/)?"[^"]*"|(?!(?:W/)?")[^,]+)')


class Condition(Enum):
    """The result of the preconditions of a GET or HEAD."""

    HOLDS = "holds"
    NOT_MODIFIED = "not_modified"  # 304
    FAILED = "failed"  # 412


PRECONDITIONS = frozenset({"if-match", "if-none-match", "if-modified-since", "if-unmodified-since"})


def evaluate(headers: Mapping[str, str], version: Version) -> Condition:
    """Evaluates If-Match, If-Unmodified-Since, If-None-Match and If-Modified-Since.

    ``headers`` have names in lower case.
    """
    if "if-match" in headers:
        if not _lists(headers["if-match"], version.etag, weak=False):
            return Condition.FAILED
    elif "if-unmodified-since" in headers:
        since_s = parse_http_date_s(headers["if-unmodified-since"])
        if since_s is not None and (version.last_modified_s or 0) > since_s:
            return Condition.FAILED
    if "if-none-match" in headers:
        if _lists(headers["if-none-match"], version.etag, weak=True):
            return Condition.NOT_MODIFIED
    elif "if-modified-since" in headers:
        since_s = parse_http_date_s(headers["if-modified-since"])
        modified_s = version.last_modified_s
        if since_s is not None and modified_s is not None and modified_s <= since_s:
            return Condition.NOT_MODIFIED
    return Condition.HOLDS


def range_applies(if_range: str | None, version: Version) -> bool:
    """Whether a Range header applies, given If-Range (§13.1.5): strong comparison, exact date.

    A weak entity tag means that other bytes may have the same date, so the date is weak too
    (§8.8.2.2).
    """
    if if_range is None:
        return True
    if_range = if_range.strip()
    if if_range.startswith(('"', "W/")):
        return version.is_strong and if_range == version.etag
    since_s = parse_http_date_s(if_range)
    is_exact = since_s is not None and since_s == version.last_modified_s
    return is_exact and not version.etag.startswith("W/")


def _lists(value: str, etag: str, *, weak: bool) -> bool:
    """Whether a list of entity tags contains ``etag``; "*" matches any (§13.1.1, §13.1.2)."""
    if value.strip() == "*":
        return True
    if not etag or (not weak and etag.startswith("W/")):
        return False
    own_tag = etag.removeprefix("W/") if weak else etag
    for candidate in _entity_tags(value):
        if (candidate.removeprefix("W/") if weak else candidate) == own_tag:
            return True
    return False


def _entity_tags(value: str) -> list[str]:
    """The entity tags of a list; commas inside quotes belong to the tag (§8.8.3)."""
    tags = []
    value = value.strip()
    match = _ENTITY_TAG.match(value)
    while match is not None:
        tags.append(match[1].rstrip())
        match = _ENTITY_TAG.match(value, match.end())
    return tags

"""Parses Cache-Control and CDN-Cache-Control: RFC 9111 §5.2, RFC 5861, RFC 8246, RFC 9213.

Pure: header fields in, ``Directives`` out. ``freshness``, ``storing`` and ``reuse`` decide on the
effects of a directive. Cache-Control is parsed leniently, each directive on its own, and with
caution: a malformed number counts as 0. A targeted field is parsed as a Structured Field; one error
makes it all invalid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf

from streamedge.cache.rfc9111.structured_fields import UnreadableFieldError, parse_dictionary
from streamedge.memo import cache_short_texts

DELTA_SECONDS_MAX = 2**31  # larger numbers count as this: 68 years (RFC 9111 §1.2.2)
REMEMBERED_VALUES = 256  # a site repeats a few values
REMEMBERED_CHARACTERS = 512  # longer values are parsed each time

_TARGETED_FIELD = "cdn-cache-control"  # RFC 9213 §3.1
_SECONDS = frozenset(
    {
        "max-age",
        "s-maxage",
        "max-stale",
        "min-fresh",
        "stale-while-revalidate",
        "stale-if-error",
    }
)
_FIELD_LISTS = frozenset({"no-cache", "private"})
_FLAGS = frozenset(
    {
        "no-store",
        "no-transform",
        "public",
        "must-revalidate",
        "proxy-revalidate",
        "must-understand",
        "immutable",
        "only-if-cached",
    }
)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Directives:
    """The directives of one message. Times are in seconds; None: absent.

    ``no_cache`` and ``private`` are the unqualified directives; ``no_cache_fields`` and
    ``private_fields`` have the header fields that qualified ones list, in lower case.
    ``max_stale_s`` is infinite if the directive has no argument. ``targeted``: they come from
    CDN-Cache-Control, so Expires does not count (RFC 9213 §2.2).
    """

    max_age_s: float | None = None
    s_maxage_s: float | None = None
    max_stale_s: float | None = None
    min_fresh_s: float | None = None
    stale_while_revalidate_s: float | None = None
    stale_if_error_s: float | None = None
    no_cache: bool = False
    no_cache_fields: frozenset[str] = frozenset()
    no_store: bool = False
    no_transform: bool = False
    private: bool = False
    private_fields: frozenset[str] = frozenset()
    public: bool = False
    must_revalidate: bool = False
    proxy_revalidate: bool = False
    must_understand: bool = False
    immutable: bool = False
    only_if_cached: bool = False
    targeted: bool = False


NO_DIRECTIVES = Directives()


def response_directives(fields: Mapping[str, str]) -> Directives:
    """A response's directives for this cache: CDN-Cache-Control if it is valid, else Cache-Control.

    Pragma has no meaning in a response (RFC 9111 §5.4).
    """
    targeted = fields.get(_TARGETED_FIELD)
    if targeted is not None:
        directives = parse_targeted(targeted)
        if directives is not None:
            return directives
    value = fields.get("cache-control")
    return NO_DIRECTIVES if value is None else parse_cache_control(value)


def request_directives(fields: Mapping[str, str]) -> Directives:
    """A request's directives: Cache-Control, or Pragma: no-cache without it (RFC 9111 §5.4).

    For a behavior whose viewers' directives do not count, use ``NO_DIRECTIVES`` instead.
    """
    value = fields.get("cache-control")
    if value is None:
        value = fields.get("pragma")
        if value is None or not parse_cache_control(value).no_cache:
            return NO_DIRECTIVES
        return Directives(no_cache=True)
    return parse_cache_control(value)


@cache_short_texts(REMEMBERED_VALUES, REMEMBERED_CHARACTERS)
def parse_cache_control(value: str) -> Directives:
    """Parses a Cache-Control value; members that are no directive are skipped.

    If a number is repeated, the first one counts (§4.2.1). If a directive appears with and without
    a field list, the one without counts.
    """
    return _directives(_arguments(value), targeted=False)


@cache_short_texts(REMEMBERED_VALUES, REMEMBERED_CHARACTERS)
def parse_targeted(value: str) -> Directives | None:
    """Parses a targeted field; None: it must be ignored (RFC 9213 §2.1).

    That is so if it is empty, no Dictionary, or has a directive with a value of the wrong type.
    """
    try:
        members = parse_dictionary(value)
    except UnreadableFieldError:
        return None
    arguments: list[tuple[str, str | None]] = []
    for name, member in members.items():
        if name in _SECONDS:
            if isinstance(member, bool) or not isinstance(member, int):
                return None
            arguments.append((name, str(member)))
        elif name in _FIELD_LISTS and isinstance(member, str):
            arguments.append((name, member))
        elif name in _FIELD_LISTS or name in _FLAGS:
            if not isinstance(member, bool):
                return None
            if member:
                arguments.append((name, None))
    return _directives(arguments, targeted=True) if members else None


def split_list(value: str) -> list[str]:
    """The members of a comma-separated list, stripped, empty ones too (RFC 9110 §5.6.1).

    A comma in a quoted string is no separator, unless the string never ends: then its quote counts
    as an ordinary character, so that the members behind it are not ignored.
    """
    if '"' not in value:
        return [member.strip(" \t") for member in value.split(",")]
    members: list[str] = []
    start = 0
    quoted = escaped = False
    for position, character in enumerate(value):
        if escaped:
            escaped = False
        elif quoted:
            escaped = character == "\\"
            quoted = character != '"'
        elif character == '"':
            quoted = True
        elif character == ",":
            members.append(value[start:position])
            start = position + 1
    rest = value[start:]
    members.extend(rest.split(",") if quoted else [rest])
    return [member.strip(" \t") for member in members]


def delta_seconds(text: str) -> int | None:
    """A number of seconds, at most ``DELTA_SECONDS_MAX``; None: it is no number (§1.2.2)."""
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0") or "0"
    return DELTA_SECONDS_MAX if len(digits) > 10 else min(int(digits), DELTA_SECONDS_MAX)


def _arguments(value: str) -> Iterable[tuple[str, str | None]]:
    """Names in lower case, and arguments: "" if it is malformed, None if it is absent."""
    for member in split_list(value):
        name = _TOKEN.match(member)
        if name is None:
            continue
        rest = member[name.end() :]
        if not rest:
            yield name[0].lower(), None
        elif rest.startswith("="):
            yield name[0].lower(), _unquoted(rest[1:])
        else:
            yield name[0].lower(), ""


def _unquoted(argument: str) -> str:
    if len(argument) >= 2 and argument[0] == argument[-1] == '"':
        return _ESCAPED.sub(r"\1", argument[1:-1])
    return argument


def _directives(arguments: Iterable[tuple[str, str | None]], *, targeted: bool) -> Directives:
    seconds: dict[str, float] = {}
    listed: dict[str, frozenset[str]] = {}
    flags: set[str] = set()
    for name, argument in arguments:
        if name in _SECONDS:
            if name == "max-stale" and argument is None:
                seconds.setdefault(name, inf)
            else:
                seconds.setdefault(name, float(delta_seconds(argument or "") or 0))
        elif name in _FIELD_LISTS:
            names = frozenset(split_list((argument or "").lower())) - {""}
            if names:
                listed[name] = listed.get(name, frozenset()) | names
            else:
                flags.add(name)
        elif name in _FLAGS:
            flags.add(name)
    return Directives(
        max_age_s=seconds.get("max-age"),
        s_maxage_s=seconds.get("s-maxage"),
        max_stale_s=seconds.get("max-stale"),
        min_fresh_s=seconds.get("min-fresh"),
        stale_while_revalidate_s=seconds.get("stale-while-revalidate"),
        stale_if_error_s=seconds.get("stale-if-error"),
        no_cache="no-cache" in flags,
        no_cache_fields=listed.get("no-cache", frozenset()),
        no_store="no-store" in flags,
        no_transform="no-transform" in flags,
        private="private" in flags,
        private_fields=listed.get("private", frozenset()),
        public="public" in flags,
        must_revalidate="must-revalidate" in flags,
        proxy_revalidate="proxy-revalidate" in flags,
        must_understand="must-understand" in flags,
        immutable="immutable" in flags,
        only_if_cached="only-if-cached" in flags,
        targeted=targeted,
    )

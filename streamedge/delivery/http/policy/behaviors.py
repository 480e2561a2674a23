"""Behaviors: how a path selects its rules, what is in the cache key, and what is forwarded.

Everything in the cache key is forwarded to the origin; of the rest, only what an origin request
policy names. Pure. ``cache.rfc9111`` decides on freshness and storing.

A query is split at "&" only, and its bytes and order do not change, as with CloudFront. Origins may
read it in another way: split at ";" too, or decode a name first. So a policy selects a parameter
when any such reading has a name of the policy. No parameter that an origin could take for a keyed
one stays out of the key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeVar
from urllib.parse import unquote_plus

from streamedge.access.admission import OPEN_TO_ALL, AccessRules
from streamedge.config.schema.field_names import (
    CONDITION_FIELDS,
    EDGE_OWNED,
    SCHEME_FIELDS,
    dashed_name,
    is_override,
    is_plain_name,
)
from streamedge.config.schema.selection import SELECT_ALL, SELECT_NONE, Selection, SelectionMode
from streamedge.config.schema.ttl_defaults import (
    DEFAULT_TTL_S,
    ERROR_TTL_S,
    MAX_TTL_S,
    MIN_TTL_S,
)
from streamedge.delivery.http.policy.response_headers import NO_POLICY, Field, ResponseHeadersPolicy
from streamedge.http_fields import connection_options

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

# Fields for the meaning and the authorization of a body. Without them it would be another write.
WRITE_FIELDS = CONDITION_FIELDS | {
    *("authorization", "content-type", "content-encoding", "content-language", "content-location"),
    *("content-disposition", "content-md5", "content-digest", "repr-digest", "digest", "date"),
    "content-range",  # the body is a part: without it the origin would take it for the whole
}


class ViewerProtocol(Enum):
    """What happens to requests over plain HTTP."""

    ALLOW_ALL = "allow-all"
    HTTPS_ONLY = "https-only"
    REDIRECT_TO_HTTPS = "redirect-to-https"


class WriteMode(Enum):
    """When a write is answered."""

    THROUGH = "through"  # when the origin has it
    BACK = "back"  # when this edge has it on disk


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """The cache key's parts beside the path, and the TTLs. ``headers`` are in lower case."""

    name: str = ""
    strict: bool = False
    viewer_directives: bool = False
    min_ttl_s: float = MIN_TTL_S
    default_ttl_s: float = DEFAULT_TTL_S
    max_ttl_s: float = MAX_TTL_S
    error_ttl_s: float = ERROR_TTL_S
    query_strings: Selection = SELECT_NONE
    headers: tuple[str, ...] = ()
    cookies: Selection = SELECT_NONE


@dataclass(frozen=True, slots=True)
class OriginRequestPolicy:
    """What is forwarded besides the cache key. Names in ``headers`` are in lower case."""

    name: str = ""
    query_strings: Selection = SELECT_NONE
    headers: Selection = SELECT_NONE
    cookies: Selection = SELECT_NONE


@dataclass(frozen=True, slots=True)
class Behavior:
    """The rules for the paths of one pattern. ``origin``: the name of an origin or a group.

    ``lists_objects``: S3 clients may list the objects whose names match.
    """

    pattern: str
    origin: str
    methods: frozenset[str] = frozenset({"GET", "HEAD"})
    viewer_protocol: ViewerProtocol = ViewerProtocol.ALLOW_ALL
    cache: CachePolicy = CachePolicy()
    origin_request: OriginRequestPolicy = OriginRequestPolicy()
    response_headers: ResponseHeadersPolicy = NO_POLICY
    compress: bool = False
    write: WriteMode = WriteMode.THROUGH
    lists_objects: bool = False
    access: AccessRules = OPEN_TO_ALL
    _expression: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_expression", _compiled(self.pattern))

    def matches(self, path: str) -> bool:
        """Whether the pattern matches ``path``; a leading slash of either is ignored."""
        return self._expression.fullmatch(path.removeprefix("/")) is not None

    def may_match_below(self, prefix: str) -> bool:
        """Whether the pattern may match a path that begins with ``prefix``; True when in doubt."""
        pattern, prefix = self.pattern.removeprefix("/"), prefix.removeprefix("/")
        literal = re.split(r"[*?]", pattern, maxsplit=1)[0]
        if literal.startswith(prefix):
            return True
        return literal != pattern and prefix.startswith(literal)

    def matches_all_below(self, prefix: str) -> bool:
        """Whether the pattern matches every path that begins with ``prefix``."""
        return self.pattern.endswith("*") and self.matches(prefix)


@dataclass(frozen=True, slots=True)
class ErrorPage:
    """The page for an error status of the origin; ``path`` "" keeps the origin's body."""

    status: int
    path: str
    response_status: int
    ttl_s: float


class _Matching(Protocol):
    def matches(self, path: str) -> bool: ...


_Rule = TypeVar("_Rule", bound=_Matching)


def choose_behavior(behaviors: Sequence[_Rule], path: str) -> _Rule:
    """The first behavior whose pattern matches ``path``, decoded once and without query.

    If the encoded path were matched, "%61dmin" would bypass the rules of "admin*". The last
    behavior is the distribution's default, with the pattern "*". Raises LookupError without one.
    """
    for behavior in behaviors:
        if behavior.matches(path):
            return behavior
    raise LookupError("no behavior matches: the last one has to have the pattern *")


def key_parts(
    policy: CachePolicy, path: str, query: str, fields: Iterable[Field]
) -> tuple[str, ...]:
    """The parts of a request's cache key within its origin.

    ``query`` is without "?"; "" means none. Different selections give different parts: the part of
    the query begins with "?", the part of a field with its name. Fields that Connection lists are
    not selected, because the origin does not get them either.
    """
    parts = [path]
    selected = keyed_query(policy, query)
    if selected:
        parts.append(f"?{selected}")
    if not policy.headers and policy.cookies.mode is SelectionMode.NONE:
        return tuple(parts)
    fields = _end_to_end(fields)
    for name in policy.headers:
        parts += [f"{name}: {value}" for field_name, value in fields if field_name.lower() == name]
    cookies = _selected_cookies(fields, (policy.cookies,))
    if cookies:
        parts.append(f"cookie: {cookies}")
    return tuple(parts)


def keyed_query(policy: CachePolicy, query: str) -> str:
    """The part of a query that is in the cache key; both without "?"."""
    return _selected_query(query, (policy.query_strings,))


def forwarded_query(cache: CachePolicy, request: OriginRequestPolicy, query: str) -> str:
    """The query that the origin gets, without "?"."""
    return _selected_query(query, (cache.query_strings, request.query_strings))


_REMOVED_FROM_SAFE = EDGE_OWNED | CONDITION_FIELDS


def forwarded_fields(
    cache: CachePolicy, request: OriginRequestPolicy, method: str, fields: Iterable[Field]
) -> list[Field]:
    """The viewer's fields that the origin gets, in their order.

    Fields of the connection, fields that Connection lists and fields that the edge sets itself
    (EDGE_OWNED) are never forwarded; nor are conditions of a safe method, because the edge
    evaluates them. An unsafe method also forwards the fields for its body and its conditions.
    """
    removed, allowed = _REMOVED_FROM_SAFE, frozenset(cache.headers)
    if method not in SAFE_METHODS:
        removed, allowed = EDGE_OWNED, allowed | WRITE_FIELDS
    forwards_fields = allowed or request.headers.mode is not SelectionMode.NONE
    if not forwards_fields and _select_nothing((cache.cookies, request.cookies)):
        return []
    fields = _end_to_end(fields)
    forwarded = []
    if forwards_fields:
        forwarded = [
            sent
            for sent in fields
            if dashed_name(name := sent[0].lower()) not in removed
            and (name in allowed or _forwards(request.headers, name))
        ]
    cookies = _selected_cookies(fields, (cache.cookies, request.cookies))
    return [*forwarded, ("Cookie", cookies)] if cookies else forwarded


def with_scheme(
    cache: CachePolicy, request: OriginRequestPolicy, fields: Sequence[Field], *, secure: bool
) -> Sequence[Field]:
    """The viewer's fields, with its true scheme in the fields of SCHEME_FIELDS that a policy names.

    What a viewer states in such a field is replaced: an origin makes links and redirects of it.
    """
    names = SCHEME_FIELDS.intersection(cache.headers)
    if request.headers.mode is SelectionMode.ONLY:
        names |= SCHEME_FIELDS.intersection(request.headers.names)
    if not names:
        return fields
    scheme = "https" if secure else "http"
    sent = [field for field in fields if field[0].lower() not in names]
    return [*sent, *((name, scheme) for name in sorted(names))]


def forwarded_for(fields: Iterable[Field], client: str) -> str:
    """X-Forwarded-For for the origin: the viewer's value with ``client`` appended."""
    claimed = [value for name, value in fields if name.lower() == "x-forwarded-for" and value]
    return ", ".join([*claimed, client])


def _compiled(pattern: str) -> re.Pattern[str]:
    first, *rest = [
        "".join("." if character == "?" else re.escape(character) for character in literal)
        for literal in pattern.removeprefix("/").split("*")
    ]
    if not rest:
        return re.compile(first, re.DOTALL)
    # Atomic groups: each literal matches at its first position, without backtracking. Otherwise a
    # hostile path could need time that grows with a power of its length.
    middle = "".join(f"(?>.*?{literal})" for literal in rest[:-1] if literal)
    return re.compile(f"{first}{middle}.*{rest[-1]}", re.DOTALL)


def _end_to_end(fields: Iterable[Field]) -> list[Field]:
    """``fields`` without those that Connection lists (RFC 9110 §7.6.1)."""
    fields = list(fields)
    listed = connection_options(fields)
    return [sent for sent in fields if sent[0].lower() not in listed] if listed else fields


def _forwards(selection: Selection, name: str) -> bool:
    match selection.mode:
        case SelectionMode.NONE:
            return False
        case SelectionMode.ONLY:
            return name in selection.names
        case SelectionMode.ALL:
            return is_plain_name(name) and not is_override(name)
        case SelectionMode.EXCEPT:
            return is_plain_name(name) and not is_override(name) and name not in selection.names


def _selected_query(query: str, selections: tuple[Selection, ...]) -> str:
    if not query or SELECT_ALL in selections:
        return query
    if _select_nothing(selections):
        return ""
    return "&".join(_selected(query.split("&"), selections, ";"))


def _selected_cookies(fields: Iterable[Field], selections: tuple[Selection, ...]) -> str:
    if _select_nothing(selections):
        return ""
    pairs = [
        pair
        for name, value in fields
        if name.lower() == "cookie"
        for part in value.split(";")
        if (pair := part.strip(" \t"))
    ]
    return "; ".join(_selected(pairs, selections, ","))


def _select_nothing(selections: tuple[Selection, ...]) -> bool:
    modes = [selection.mode for selection in selections]
    return modes.count(SelectionMode.NONE) == len(modes)  # in half the time of all()


def _selected(
    parameters: list[str], selections: tuple[Selection, ...], separator: str
) -> list[str]:
    return [
        parameter
        for parameter in parameters
        if any(
            _selects(selection, _possible_names(parameter, separator)) for selection in selections
        )
    ]


def _selects(selection: Selection, possible_names: set[str]) -> bool:
    match selection.mode:
        case SelectionMode.NONE:
            return False
        case SelectionMode.ALL:
            return True
        case SelectionMode.ONLY:
            return not possible_names.isdisjoint(selection.names)
        case SelectionMode.EXCEPT:
            return not possible_names.issubset(selection.names)


def _possible_names(parameter: str, separator: str) -> set[str]:
    """All names that an origin may read from ``parameter``; some also split at ``separator``."""
    names = {piece.partition("=")[0].strip() for piece in parameter.split(separator)}
    return {parameter.partition("=")[0]} | names | {unquote_plus(name).strip() for name in names}

"""Which rules a path has, what tells its responses apart, and what of a request an origin sees.

Owns the choice of a behavior, the cache key, and the way of query, headers and cookies to the
origin. One rule joins the last two: what is in the key is forwarded, and of the rest only what an
origin request policy names. Neither freshness nor storing is decided here. Pure.

Queries are cut at "&" alone and kept byte for byte, in the order in which they came, as
CloudFront's keys are. Origins may read them otherwise: cut at ";" too, or decode a name first. So a
parameter counts as named when any such reading of it has the name; nothing that an origin could
take for a keyed parameter stays out of the key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import unquote_plus

from streamedge.access.admission import OPEN_TO_ALL, AccessRules
from streamedge.config.schema.field_names import (
    CONDITIONS,
    EDGE_OWNED,
    OVERRIDES,
    dashed_name,
    is_plain_name,
)
from streamedge.config.schema.selection import ALL, NONE, Selection, SelectionMode
from streamedge.config.schema.ttl_defaults import (
    DEFAULT_TTL_S,
    ERROR_TTL_S,
    MAX_TTL_S,
    MIN_TTL_S,
)
from streamedge.delivery.http.policy.response_headers import UNCHANGED, Field, ResponseHeadersPolicy

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

# What a body means, and who sends it: without them a write is another write.
WRITE_FIELDS = CONDITIONS | {
    *("authorization", "content-type", "content-encoding", "content-language", "content-location"),
    *("content-disposition", "content-md5", "content-digest", "repr-digest", "digest", "date"),
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
    """What tells responses apart, and the bounds of their time. ``headers`` are in lower case."""

    name: str = ""
    strict: bool = False
    viewer_directives: bool = False
    min_ttl_s: float = MIN_TTL_S
    default_ttl_s: float = DEFAULT_TTL_S
    max_ttl_s: float = MAX_TTL_S
    error_ttl_s: float = ERROR_TTL_S
    query_strings: Selection = NONE
    headers: tuple[str, ...] = ()
    cookies: Selection = NONE


@dataclass(frozen=True, slots=True)
class OriginRequestPolicy:
    """What an origin gets beyond the key. Names in ``headers`` are in lower case."""

    name: str = ""
    query_strings: Selection = NONE
    headers: Selection = NONE
    cookies: Selection = NONE


@dataclass(frozen=True, slots=True)
class Behavior:
    """The rules of the paths of one pattern. ``origin`` names an origin or a group of them.

    ``lists_objects``: clients of S3 may list the objects whose names match.
    """

    pattern: str
    origin: str
    methods: frozenset[str] = frozenset({"GET", "HEAD"})
    viewer_protocol: ViewerProtocol = ViewerProtocol.ALLOW_ALL
    cache: CachePolicy = CachePolicy()
    origin_request: OriginRequestPolicy = OriginRequestPolicy()
    response_headers: ResponseHeadersPolicy = UNCHANGED
    compress: bool = False
    write: WriteMode = WriteMode.THROUGH
    lists_objects: bool = False
    access: AccessRules = OPEN_TO_ALL
    _expression: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_expression", _compiled(self.pattern))

    def matches(self, path: str) -> bool:
        """Whether the pattern means ``path``; both with or without the slash in front."""
        return self._expression.fullmatch(path.removeprefix("/")) is not None

    def may_match_below(self, prefix: str) -> bool:
        """Whether the pattern may mean a path that begins with ``prefix``; in doubt, it may."""
        pattern, prefix = self.pattern.removeprefix("/"), prefix.removeprefix("/")
        literal = re.split(r"[*?]", pattern, maxsplit=1)[0]
        if literal.startswith(prefix):
            return True
        return literal != pattern and prefix.startswith(literal)


@dataclass(frozen=True, slots=True)
class ErrorPage:
    """What viewers get instead of an origin's error; ``path`` "" is the origin's own body."""

    status: int
    path: str
    response_status: int
    ttl_s: float


def choose_behavior(behaviors: Sequence[Behavior], path: str) -> Behavior:
    """The first behavior whose pattern matches ``path``, decoded once and without query.

    Matching what was sent instead would let "%61dmin" step round the rules of "admin*". The last
    behavior is a distribution's default, with the pattern "*"; LookupError without one.
    """
    for behavior in behaviors:
        if behavior.matches(path):
            return behavior
    raise LookupError("no behavior matches: the last one has to have the pattern *")


def key_parts(
    policy: CachePolicy, path: str, query: str, fields: Iterable[Field]
) -> tuple[str, ...]:
    """What tells the response to a request apart from others at one origin: the parts of its key.

    ``query`` comes without "?"; an empty one is none. Two requests have the same parts only if all
    that is selected is the same: a query's part begins with "?", a field's with its name.
    Fields that Connection lists are not selected, because the origin does not get them either.
    """
    parts = [path]
    selected = keyed_query(policy, query)
    if selected:
        parts.append(f"?{selected}")
    if not policy.headers and policy.cookies.mode is SelectionMode.NONE:
        return tuple(parts)
    fields = _end_to_end(fields)
    for name in policy.headers:
        parts += [f"{name}: {value}" for sent, value in fields if sent.lower() == name]
    cookies = _kept_cookies(fields, (policy.cookies,))
    if cookies:
        parts.append(f"cookie: {cookies}")
    return tuple(parts)


def keyed_query(policy: CachePolicy, query: str) -> str:
    """The part of a query that tells responses apart; both without "?"."""
    return _kept_query(query, (policy.query_strings,))


def forwarded_query(cache: CachePolicy, request: OriginRequestPolicy, query: str) -> str:
    """The query that the origin gets, without "?"."""
    return _kept_query(query, (cache.query_strings, request.query_strings))


def forwarded_fields(
    cache: CachePolicy, request: OriginRequestPolicy, method: str, fields: Iterable[Field]
) -> list[Field]:
    """The viewer's fields that the origin gets, in their order.

    Never those of the connection, those that Connection lists, and those that the edge says itself
    (EDGE_OWNED; conditions, too, of a method that the cache answers). With a method that writes,
    also what its body means and on what condition.
    """
    fields = _end_to_end(fields)
    refused, allowed = EDGE_OWNED | CONDITIONS, frozenset(cache.headers)
    if method not in SAFE_METHODS:
        refused, allowed = EDGE_OWNED, allowed | WRITE_FIELDS
    kept = [
        sent
        for sent in fields
        if dashed_name(name := sent[0].lower()) not in refused
        and (name in allowed or _forwards(request.headers, name))
    ]
    cookies = _kept_cookies(fields, (cache.cookies, request.cookies))
    return [*kept, ("Cookie", cookies)] if cookies else kept


def forwarded_for(fields: Iterable[Field], client: str) -> str:
    """X-Forwarded-For as an origin gets it: what the viewer claims, and after it ``client``."""
    claimed = [value for name, value in fields if name.lower() == "x-forwarded-for" and value]
    return ", ".join([*claimed, client])


def _compiled(pattern: str) -> re.Pattern[str]:
    first, *rest = [
        "".join("." if character == "?" else re.escape(character) for character in literal)
        for literal in pattern.removeprefix("/").split("*")
    ]
    if not rest:
        return re.compile(first, re.DOTALL)
    # Each piece is taken where it stands first and never looked for again: a path made for it
    # could otherwise cost time that grows with a power of its length.
    middle = "".join(f"(?>.*?{literal})" for literal in rest[:-1] if literal)
    return re.compile(f"{first}{middle}.*{rest[-1]}", re.DOTALL)


def _end_to_end(fields: Iterable[Field]) -> list[Field]:
    """``fields`` without those that Connection lists (RFC 9110, section 7.6.1)."""
    fields = list(fields)
    listed = {
        option.strip().lower()
        for name, value in fields
        if name.lower() == "connection"
        for option in value.split(",")
    }
    return [sent for sent in fields if sent[0].lower() not in listed] if listed else fields


def _forwards(selection: Selection, name: str) -> bool:
    match selection.mode:
        case SelectionMode.NONE:
            return False
        case SelectionMode.ONLY:
            return name in selection.names
        case SelectionMode.ALL:
            return is_plain_name(name) and name not in OVERRIDES
        case SelectionMode.EXCEPT:
            return is_plain_name(name) and name not in OVERRIDES and name not in selection.names


def _kept_query(query: str, selections: tuple[Selection, ...]) -> str:
    if ALL in selections:
        return query
    if all(selection.mode is SelectionMode.NONE for selection in selections):
        return ""
    return "&".join(_kept(query.split("&"), selections, ";"))


def _kept_cookies(fields: Iterable[Field], selections: tuple[Selection, ...]) -> str:
    if all(selection.mode is SelectionMode.NONE for selection in selections):
        return ""
    crumbs = [
        crumb
        for name, value in fields
        if name.lower() == "cookie"
        for part in value.split(";")
        if (crumb := part.strip(" \t"))
    ]
    return "; ".join(_kept(crumbs, selections, ","))


def _kept(parameters: list[str], selections: tuple[Selection, ...], parting: str) -> list[str]:
    return [
        parameter
        for parameter in parameters
        if any(_selects(selection, _readings(parameter, parting)) for selection in selections)
    ]


def _selects(selection: Selection, readings: set[str]) -> bool:
    match selection.mode:
        case SelectionMode.NONE:
            return False
        case SelectionMode.ALL:
            return True
        case SelectionMode.ONLY:
            return not readings.isdisjoint(selection.names)
        case SelectionMode.EXCEPT:
            return not readings.issubset(selection.names)


def _readings(parameter: str, parting: str) -> set[str]:
    """All names that an origin might see in ``parameter``; some cut it at ``parting`` as well."""
    names = {piece.partition("=")[0].strip() for piece in parameter.split(parting)}
    return {parameter.partition("=")[0]} | names | {unquote_plus(name).strip() for name in names}

"""Items of invalidations: parsing, and matching against targets.

Pure. A *target* is the public name of a distribution's asset, as ``target_of`` writes it: "/" and
the object's name, then "?" and the query if it is part of the cache key. An *item* is one entry of
an invalidation:

    /dir/film.mp4       that path, in the form without query
    /dir/film.mp4?v=2   that path with that query
    /dir/*              all that begin with /dir/, with any query; * may be anywhere
    /*                  everything
    #news               all whose response had the cache tag "news"

Percent-encoding in both is decoded once, as in a request; an encoded star or question mark is part
of the name. Queries are compared decoded too, so an item matches every encoding of a query.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple
from urllib.parse import quote, unquote

from streamedge.errors import StreamEdgeError

EVERYTHING = "/*"
ITEM_CHARACTERS_MAX = 4000  # CloudFront's limit on a path
TAG_CHARACTERS_MAX = 256
TAGS_MAX = 256  # of one response

# Marks the decoded question marks of a query, to tell them from those of a name. Requests and names
# have no NUL.
_QUERY_MARK = "\0"

_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NOT_IN_A_TAG = re.compile(r"[\s,\x00-\x1f\x7f]")
_CONTROL = re.compile(r"[\x00-\x20\x7f]")


class ItemError(StreamEdgeError):
    """Text that is not an item; the message says why."""


class ItemKind(Enum):
    """How an item matches."""

    EXACT = "exact"
    WILDCARD = "wildcard"
    TAG = "tag"
    EVERYTHING = "everything"


class Item(NamedTuple):
    """A parsed item. ``text`` is the target, or the tag in lower case.

    ``pieces`` of a wildcard are the texts before, between and after its stars.
    """

    kind: ItemKind
    text: str
    pieces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Invalidation:
    """An invalidation at ``at_s`` (seconds since 1970) of everything requested before.

    ``soft``: matching objects are stale, otherwise they must not be served again. ``revoke``:
    running responses and plays are ended too.
    """

    items: tuple[str, ...]
    soft: bool
    revoke: bool
    at_s: float


def parse_item(text: str) -> Item:
    """Parses an item. Raises ItemError."""
    if len(text) > ITEM_CHARACTERS_MAX:
        raise ItemError(f"{text[:40]!a}… is longer than {ITEM_CHARACTERS_MAX} characters")
    if text.startswith("#"):
        tag = text[1:]
        if not tag or len(tag) > TAG_CHARACTERS_MAX or _NOT_IN_A_TAG.search(tag):
            raise ItemError(
                f"{tag!a} is not a cache tag: use one word without commas,"
                f" at most {TAG_CHARACTERS_MAX} characters"
            )
        return Item(ItemKind.TAG, tag.lower())
    if not text.startswith("/"):
        raise ItemError(f'{text!a} is not a path: a path begins with "/"')
    if _CONTROL.search(text):
        raise ItemError(f"{text!a} has a space or a control character: percent-encode it")
    if _ESCAPE.search(text):
        raise ItemError(f'{text!a}: after "%" two hexadecimal digits are missing')
    path, mark, query = text.partition("?")
    *before, last = (_decoded(piece) for piece in path.split("*"))
    first, *after = (_decoded_query(piece) for piece in (mark + query).split("*"))
    pieces = (*before, last + first, *after)
    if len(pieces) == 1:
        return Item(ItemKind.EXACT, pieces[0])
    if pieces[0] == "/" and not any(pieces[1:]):
        return Item(ItemKind.EVERYTHING, EVERYTHING)
    wildcard = (pieces[0], *(piece for piece in pieces[1:-1] if piece), pieces[-1])
    return Item(ItemKind.WILDCARD, "*".join(wildcard), wildcard)


def with_root_object(items: Iterable[str], root_object: str) -> tuple[str, ...]:
    """The items; if one of them is "/", the path of the default root object is added."""
    paths = tuple(items)
    if not root_object or "/" not in paths:
        return paths
    return (*paths, f"/{quote(root_object)}")


def target_of(name: str, query: str = "") -> str:
    """The target of an object's name, decoded, and a query as it was sent, without "?"."""
    path = name.replace("%", "%25").replace("?", "%3F")
    return f"/{path}?{query}" if query else f"/{path}"


def comparable(target: str) -> str:
    """A target in the decoded form that items are compared with."""
    path, mark, query = target.partition("?")
    return _decoded(path) + _decoded_query(mark + query)


def _decoded(text: str) -> str:
    return unquote(text, errors="surrogateescape") if "%" in text else text


def _decoded_query(text: str) -> str:
    return _decoded(text).replace("?", _QUERY_MARK)


def matches_pieces(pieces: tuple[str, ...], target: str) -> bool:
    """Whether a target is the pieces in order with any text between them; in linear time.

    The first match of a piece leaves most text for the pieces after it, so there is no
    backtracking.
    """
    first, last = pieces[0], pieces[-1]
    end = len(target) - len(last)
    at = len(first)
    if at > end or not target.startswith(first) or not target.endswith(last):
        return False
    for piece in pieces[1:-1]:
        start = target.find(piece, at, end)
        if start < 0:
            return False
        at = start + len(piece)
    return True


def tags_of(values: Iterable[str]) -> frozenset[str]:
    """The cache tags in the values of a response's field: comma separated, in lower case."""
    words = (word.strip() for value in values for word in value.split(","))
    tags: list[str] = []
    for word in words:
        if word:
            tags.append(word.lower())
        if len(tags) == TAGS_MAX:
            break
    return frozenset(tags)

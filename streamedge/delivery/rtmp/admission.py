"""What of a client is let in, and which of the objects that its stream name may mean it may have.

Pure: rules, keys and time are given. A signature must cover the very object that would be played,
in one of the spellings that signers use for it. Application, folder and name are compared as the
object is made from them, so of tcUrl only scheme, host and port count: the rest a client could make
up. Reasons are for the log alone; a viewer is told NOT_ALLOWED.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

from streamedge.access.admission import AccessRules, Denied, covered
from streamedge.access.proxies import parse_address
from streamedge.access.remembered import Remembered
from streamedge.access.signing import SIGNATURE_LIMIT_BYTES, SignatureError, from_query
from streamedge.access.wildcards import ResourcePattern
from streamedge.delivery.names import object_name
from streamedge.delivery.rtmp.events import Connect
from streamedge.delivery.rtmp.names import (
    known_extension,
    split_stream_name,
    usual_prefix,
)

NOT_ALLOWED = "Not allowed."
RTMP_PORT = "1935"
KEY_ID_LOGGED_MAX = 128  # characters of a Key-Pair-Id, which anybody may make up

# When which kind of spelling is tried: the name, with its prefix, as a URL, below "/", and as a URL
# with its prefix. The two that a name means most often, with the usual extension and as it stands,
# have all of theirs tried, where one verification is enough for each.
_LIKELY_OBJECTS = 2
_RANKS = (0, 0, 1, 4, 5)
_RANKS_UNLIKELY = (2, 3, 6, 6, 6)

# "rtmp", "rtmps", "rtmpt", "rtmpe", "rtmpte", "rtmpts"; what else stands here is no place.
_PLACE = re.compile(
    r"(rtmp[a-z]{0,2}://(?:[\w.-]+|\[[0-9a-f:.]+\]))(?::(\d{1,5}))?(?:/|$)",
    re.ASCII | re.IGNORECASE,
)
# A signature where none is looked for, put there by a player that appends to what has a query.
_STRAY = re.compile(r"((?:Signature|Policy)(?:=|%3D))[^&?%]+", re.IGNORECASE)


class Visitor(NamedTuple):
    """Who asks: what its connect said, and the address that it comes from, without port."""

    connect: Connect
    address: str


class Rejection(NamedTuple):
    """Why a client is turned away: NetConnection's code, words for the viewer and for the log.

    ``word`` is CloudFront's, for ``info.application``; empty where CloudFront has none.
    """

    code: str
    description: str
    word: str
    reason: str


class SpokenName(NamedTuple):
    """A stream name or URL as it may be logged, and the key that it says it is signed with."""

    text: str
    key_id: str


def spoken_name(name: str) -> SpokenName:
    """``name`` as it is, but for the signature, which is left out."""
    text, key_id = name, ""
    parsed = split_stream_name(name)
    signed, rest = from_query(parsed.query)
    if signed is not None:
        prefix = f"{parsed.prefix}:" if parsed.prefix else ""
        text = f"{prefix}{parsed.path}{_as_query(rest)}"
        key_id = "" if isinstance(signed, SignatureError) else signed.key_id
    return SpokenName(_STRAY.sub(r"\1…", text), key_id[:KEY_ID_LOGGED_MAX])


def page_rejection(pages: Sequence[ResourcePattern], connect: Connect) -> Rejection | None:
    """Why the page that a player says it is in may not have it; None when it may.

    Without any ``pages`` all may, and players outside of a page.
    """
    page = connect.page_url.partition("#")[0]
    if not pages or (page and any(pattern.match(page) for pattern in pages)):
        return None
    said = f"page {spoken_name(page).text!r} is none of pages" if page else "no pageUrl was told"
    return _rejected(said)


def country_rejection(rules: AccessRules, country: str) -> Rejection | None:
    """Why a viewer of ``country`` ("" is unknown) is turned away; None when it is not."""
    if rules.countries is None or rules.countries.allows(country):
        return None
    return _rejected(f"country {country or 'unknown'} is not allowed")


def _rejected(reason: str) -> Rejection:
    return Rejection("NetConnection.Connect.Rejected", NOT_ALLOWED, "", reason)


def permitted(
    rules: AccessRules,
    visitor: Visitor,
    folder: str,
    name: str,
    objects: Sequence[str],
    now_s: float,
    remembered: Remembered,
    limit_bytes: int = SIGNATURE_LIMIT_BYTES,
) -> tuple[str, ...] | Denied:
    """Those of ``objects``, which are ``candidates(name, folder)``, that the visitor may have now.

    Denied when that is none of them. ``limit_bytes`` bounds policy and signature.
    """
    keys = rules.keys
    if keys is None:
        return tuple(objects)
    address = parse_address(visitor.address)
    if address is None:
        return Denied("the viewer's address is unknown")
    whole = _whole(folder, name, objects)
    spelled = _spellings(visitor.connect, folder, name, objects, whole)
    query = split_stream_name(name).query
    found = covered(keys, query, "", list(spelled), address, now_s, remembered, limit_bytes)
    if isinstance(found, Denied):
        return found
    granted = {spelled[each] for each in found.resources}
    if whole in granted:  # signed without an extension: for all that the name may mean
        return tuple(objects)
    return tuple(each for each in objects if each in granted)


def _whole(folder: str, name: str, objects: Sequence[str]) -> str:
    """The object that a name means as it stands; "" where it cannot be one."""
    if len(objects) == 1:  # asked for with its extension
        return objects[0]
    return object_name(_below(folder, split_stream_name(name).path.lstrip("/"))) or ""


def _spellings(
    connect: Connect, folder: str, name: str, objects: Sequence[str], whole: str
) -> dict[str, str]:
    """What signers call the objects, and which of them each spelling is, the likeliest first.

    Only RESOURCES_LIMIT verifications are made over all of them, so the order decides: the rarest
    are left out, more of them where a name is encoded or beyond ASCII.
    """
    asked = split_stream_name(name)
    rest = _as_query(from_query(asked.query)[1])
    path = asked.path.lstrip("/")
    ranked: list[tuple[int, str, str]] = []
    for number, each in enumerate(objects):
        tail = each[len(whole) :]
        sent, decoded = [path + tail], [unquote(path) + tail]
        if len(objects) == 1:
            sent.append(_without_extension(*sent))
            decoded.append(_without_extension(*decoded))
        prefix = asked.prefix or usual_prefix(known_extension(each))
        ranks = _RANKS if number < _LIKELY_OBJECTS else _RANKS_UNLIKELY
        kinds = _forms(connect, folder, sent, decoded, prefix)
        for rank, forms in zip(ranks, kinds, strict=True):
            ranked += [(rank, f"{form}{rest}", each) for form in forms]
    ranked.sort(key=lambda spelling: spelling[0])
    spelled: dict[str, str] = {}
    for _, form, each in ranked:
        spelled.setdefault(form, each)
    return spelled


def _forms(
    connect: Connect, folder: str, sent: Sequence[str], decoded: Sequence[str], prefix: str
) -> tuple[list[str], ...]:
    """What signers call an object whose name came as ``sent``, by kind, as _RANKS has them.

    A URL is encoded as it was sent.
    """
    names = [_below(folder, stem) for stem in dict.fromkeys((*sent, *decoded))]
    urls = [(place, stem) for place in _places(connect) for stem in sent]
    return (
        names,
        [f"{prefix}:{name}" for name in names] if prefix else [],
        [f"{place}/{stem}" for place, stem in urls],
        [f"/{name}" for name in names],
        [f"{place}/{prefix}:{stem}" for place, stem in urls] if prefix else [],
    )


def _places(connect: Connect) -> list[str]:
    """The URLs of the application that the client is in, with RTMP's port and without it.

    Players add the port to tcUrl or leave it out as they please.
    """
    place = _PLACE.match(connect.tc_url)
    if place is None:
        return []
    application = connect.app.partition("?")[0].strip("/")
    port = place[2] or RTMP_PORT
    ports = ["", f":{port}"] if port == RTMP_PORT else [f":{port}"]
    return [f"{place[1]}{spelled}/{application}" for spelled in ports]


def _without_extension(path: str) -> str:
    extension = known_extension(path)
    return path[: -len(extension) - 1] if extension else path


def _below(folder: str, path: str) -> str:
    return f"{folder}/{path}" if folder else path


def _as_query(query: str) -> str:
    return f"?{query}" if query else ""

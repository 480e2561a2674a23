"""What of a client is let in, and which of the objects that its stream name may mean it may have.

Pure: rules, keys and time are given. A signature must cover the very object that would be played,
in one of the spellings that signers use for it. A signature is compared with the names that the
object is made from (``names``), and of tcUrl only scheme, host and port count: the rest a client
could make up. Reasons are for the log alone; a viewer is told NOT_ALLOWED.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote, unquote

from streamedge.access.admission import AccessRules, Denied, authorize
from streamedge.access.client_address import parse_address
from streamedge.access.signature_cache import SignatureCache
from streamedge.access.signed_request import SIGNATURE_LIMIT_BYTES, SignatureError, from_query
from streamedge.access.wildcards import ResourcePattern
from streamedge.delivery.object_names import object_name
from streamedge.delivery.rtmp.protocol.events import Connect
from streamedge.delivery.rtmp.stream_names import (
    DEFAULT_INSTANCE,
    StreamName,
    candidates,
    known_extension,
    split_query,
    usual_prefix,
)

NOT_ALLOWED = "Not allowed."
RTMP_PORT = "1935"
KEY_ID_LOGGED_MAX = 128  # characters of a Key-Pair-Id, which anybody may make up

# When which kind of spelling is tried: the name, with its prefix, as a URL, below "/", as a URL
# with its prefix where the client had it and where it did not, and encoded, as a name and as a URL.
# The two objects that a name means most often, with the usual extension and as it stands, come
# first.
_LIKELY_OBJECTS = 2
_RANKS = (0, 0, 1, 5, 6, 7, 3, 6)
_RANKS_UNLIKELY = (2, 4, 7, 7, 7, 8, 8, 8)
_UNENCODED = "/:@!$&'()*+,;=~"  # RFC 3986 §3.3: what may stand in a path

# "rtmp", "rtmps", "rtmpt", "rtmpe", "rtmpte", "rtmpts"; what else stands here is no place.
_PLACE = re.compile(
    r"(rtmp[a-z]{0,2}://(?:[\w.-]+|\[[0-9a-f:.]+\]))(?::(\d{1,5}))?(?:/|$)",
    re.ASCII | re.IGNORECASE,
)
# A signature where none is looked for, put there by a player that appends to what has a query.
_STRAY = re.compile(r"((?:Signature|Policy)(?:=|%3D))[^&?%]+", re.IGNORECASE)


class Client(NamedTuple):
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


class RedactedName(NamedTuple):
    """A stream name or URL as it may be logged, and the key that it says it is signed with."""

    text: str
    key_id: str


def redact_name(name: str) -> RedactedName:
    """``name`` as it is, but for the signature, which is left out."""
    text, key_id = name, ""
    path, query = split_query(name)
    signed, rest = from_query(query)
    if signed is not None:
        text = f"{path}{_as_query(rest)}"
        key_id = "" if isinstance(signed, SignatureError) else signed.key_id
    return RedactedName(_STRAY.sub(r"\1…", text), key_id[:KEY_ID_LOGGED_MAX])


def page_rejection(pages: Sequence[ResourcePattern], connect: Connect) -> Rejection | None:
    """Why the page that a player says it is in may not have it; None when it may.

    Without any ``pages`` all may, and players outside of a page.
    """
    page = connect.page_url.partition("#")[0]
    if not pages or (page and any(pattern.match(page) for pattern in pages)):
        return None
    said = f"page {redact_name(page).text!r} is none of pages" if page else "no pageUrl was told"
    return _rejected(said)


def country_rejection(rules: AccessRules, country: str) -> Rejection | None:
    """Why a viewer of ``country`` ("" is unknown) is turned away; None when it is not."""
    if rules.countries is None or rules.countries.allows(country):
        return None
    return _rejected(f"country {country or 'unknown'} is not allowed")


def _rejected(reason: str) -> Rejection:
    return Rejection("NetConnection.Connect.Rejected", NOT_ALLOWED, "", reason)


def permitted_objects(
    rules: AccessRules,
    visitor: Client,
    application: str,
    streams: Sequence[StreamName],
    now_s: float,
    remembered: SignatureCache,
    limit_bytes: int = SIGNATURE_LIMIT_BYTES,
) -> tuple[str, ...] | Denied:
    """The objects that the visitor may have now of those that ``streams`` may mean.

    ``streams`` are the readings of one name below ``application``, which share their query. The
    likeliest object comes first. Denied when the visitor may have none; empty when there is none.
    ``limit_bytes`` bounds policy and signature.
    """
    objects = {each: None for stream in streams for each in candidates(stream)}
    keys = rules.keys
    if keys is None or not objects:
        return tuple(objects)
    address = parse_address(visitor.address)
    if address is None:
        return Denied("the viewer's address is unknown")
    ranked = [
        spelling for stream in streams for spelling in _spellings(visitor, application, stream)
    ]
    ranked.sort(key=lambda spelling: spelling.rank)
    spelled: dict[str, tuple[str, ...]] = {}
    for spelling in ranked:
        spelled.setdefault(spelling.text, spelling.objects)
    query = streams[0].query
    found = authorize(keys, query, "", list(spelled), address, now_s, remembered, limit_bytes)
    if isinstance(found, Denied):
        return found
    granted = {each for text in found.resources for each in spelled[text]}
    return tuple(each for each in objects if each in granted)


class _Spelling(NamedTuple):
    """What a signer may have signed, and for which objects that counts."""

    rank: int
    text: str
    objects: tuple[str, ...]


def _spellings(visitor: Client, application: str, stream: StreamName) -> list[_Spelling]:
    """What signers call the objects of a stream.

    Only RESOURCES_LIMIT verifications are made over all of them, so the order decides: the rarest
    are left out, more of them where a name is encoded or beyond ASCII.
    """
    objects = candidates(stream)
    # A name that is signed without an extension is signed for all that it may mean.
    whole = objects[0] if len(objects) == 1 else object_name(stream.path) or ""
    rest = _as_query(from_query(stream.query)[1])
    path = stream.path.lstrip("/")
    spelled: list[_Spelling] = []
    for number, each in enumerate(objects):
        tail = each[len(whole) :]
        sent, decoded = [path + tail], [unquote(path) + tail]
        if len(objects) == 1:
            sent.append(_without_extension(*sent))
            decoded.append(_without_extension(*decoded))
        prefix = stream.prefix or usual_prefix(known_extension(each))
        ranks = _RANKS if number < _LIKELY_OBJECTS else _RANKS_UNLIKELY
        kinds = _forms(_places(visitor.connect, application, stream), sent, decoded, prefix, stream)
        meant = tuple(objects) if each == whole else (each,)
        for rank, forms in zip(ranks, kinds, strict=True):
            spelled += [_Spelling(rank, f"{form}{rest}", meant) for form in forms]
    return spelled


def _forms(
    places: Sequence[str],
    sent: Sequence[str],
    decoded: Sequence[str],
    prefix: str,
    stream: StreamName,
) -> tuple[list[str], ...]:
    """What signers call an object whose name came as ``sent``, by kind, as _RANKS has them.

    A URL is encoded as it was sent. rtmpdump decodes names, so what was sent may have been signed
    encoded.
    """
    names = list(dict.fromkeys((*sent, *decoded)))
    encoded = [quote(name, safe=_UNENCODED) for name in decoded]
    encoded = [name for name in dict.fromkeys(encoded) if name not in names]
    urls = [f"{place}/{name}" for place in places for name in sent]
    with_prefix = [f"{place}/{prefix}:{name}" for place in places for name in sent]
    with_inner_prefix = [
        f"{place}/{folder}/{prefix}:{name}"
        for place in places
        for folder, slash, name in (each.rpartition("/") for each in sent)
        if slash
    ]
    if stream.has_inner_prefix:
        with_prefix, with_inner_prefix = with_inner_prefix, with_prefix
    return (
        names,
        [f"{prefix}:{name}" for name in names] if prefix else [],
        urls,
        [f"/{name}" for name in names],
        with_prefix if prefix else [],
        with_inner_prefix if prefix else [],
        encoded + [f"{prefix}:{name}" for name in encoded if prefix],
        [f"{place}/{name}" for place in places for name in encoded],
    )


def _places(connect: Connect, application: str, stream: StreamName) -> list[str]:
    """The URLs of the application that the client is in, with RTMP's port and without it.

    Players add the port to tcUrl or leave it out as they please.
    """
    place = _PLACE.match(connect.tc_url)
    if place is None:
        return []
    if stream.has_instance:
        application = f"{application}/{DEFAULT_INSTANCE}"
    port = place[2] or RTMP_PORT
    ports = ["", f":{port}"] if port == RTMP_PORT else [f":{port}"]
    return [f"{place[1]}{spelled}/{application}" for spelled in ports]


def _without_extension(path: str) -> str:
    extension = known_extension(path)
    return path[: -len(extension) - 1] if extension else path


def _as_query(query: str) -> str:
    return f"?{query}" if query else ""

"""RTMP access rules: may this client connect, and which candidate objects may it play?

Pure: rules, keys and time are arguments. A signature must cover the object that would be played,
under one of the names that signers use for it. Of tcUrl only scheme, host and port are checked,
because a client can invent the rest. Reasons are for the log only; the viewer gets NOT_ALLOWED.
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
KEY_ID_LOGGED_MAX = 128  # characters of a Key-Pair-Id, which a client can invent

# The order in which the kinds of signed names are tried: name, name with prefix, URL, name below
# "/", URL with the prefix where the client had it, URL with the prefix elsewhere, encoded name,
# encoded URL. The two most frequent objects of a name come first: the one with the usual extension
# and the one without an extension.
_LIKELY_OBJECTS = 2
_RANKS = (0, 0, 1, 5, 6, 7, 3, 6)
_RANKS_UNLIKELY = (2, 4, 7, 7, 7, 8, 8, 8)
_UNENCODED = "/:@!$&'()*+,;=~"  # RFC 3986 §3.3: allowed in a path

# "rtmp", "rtmps", "rtmpt", "rtmpe", "rtmpte", "rtmpts"; anything else is not an RTMP URL.
_RTMP_URL = re.compile(
    r"(rtmp[a-z]{0,2}://(?:[\w.-]+|\[[0-9a-f:.]+\]))(?::(\d{1,5}))?(?:/|$)",
    re.ASCII | re.IGNORECASE,
)
# A signature in an unexpected position, from a player that appends to a URL with a query.
_STRAY = re.compile(r"((?:Signature|Policy)(?:=|%3D))[^&?%]+", re.IGNORECASE)


class Client(NamedTuple):
    """A client: its connect, and its address without port.

    ``edge_label``: the edge whose name below the host in tcUrl the client used; the connect here
    is without it.
    """

    connect: Connect
    address: str
    edge_label: str = ""


class Rejection(NamedTuple):
    """Why a client is rejected: NetConnection's code, texts for the viewer and for the log.

    ``word`` is CloudFront's, for ``info.application``; empty where CloudFront has none.
    """

    code: str
    description: str
    word: str
    reason: str


class RedactedName(NamedTuple):
    """A stream name or URL without its signature, for the log, and the Key-Pair-Id in it."""

    text: str
    key_id: str


def redact_name(name: str) -> RedactedName:
    """Removes the signature from ``name``."""
    text, key_id = name, ""
    path, query = split_query(name)
    signature, rest = from_query(query)
    if signature is not None:
        text = f"{path}{_as_query(rest)}"
        key_id = "" if isinstance(signature, SignatureError) else signature.key_id
    return RedactedName(_STRAY.sub(r"\1…", text), key_id[:KEY_ID_LOGGED_MAX])


def page_rejection(pages: Sequence[ResourcePattern], connect: Connect) -> Rejection | None:
    """The rejection of a player whose page is not in ``pages``; None if it is allowed.

    Empty ``pages`` allow all players, also those that are in no page.
    """
    page = connect.page_url.partition("#")[0]
    if not pages or (page and any(pattern.match(page) for pattern in pages)):
        return None
    reason = (
        f"page {redact_name(page).text!r} is none of pages"
        if page
        else "the client sent no pageUrl"
    )
    return _rejected(reason)


def country_rejection(rules: AccessRules, country: str) -> Rejection | None:
    """The rejection of a viewer of ``country`` ("" is unknown); None if it is allowed."""
    if rules.countries is None or rules.countries.allows(country):
        return None
    return _rejected(f"country {country or 'unknown'} is not allowed")


def _rejected(reason: str) -> Rejection:
    return Rejection("NetConnection.Connect.Rejected", NOT_ALLOWED, "", reason)


def permitted_objects(
    rules: AccessRules,
    client: Client,
    application: str,
    streams: Sequence[StreamName],
    now_s: float,
    signatures: SignatureCache,
    limit_bytes: int = SIGNATURE_LIMIT_BYTES,
) -> tuple[str, ...] | Denied:
    """The candidate objects of ``streams`` that the client may play now.

    ``streams`` are the readings of one name below ``application``, which share their query. The
    likeliest object comes first. Denied when the client may play none; empty when there is none.
    ``limit_bytes`` bounds policy and signature.
    """
    objects = {each: None for stream in streams for each in candidates(stream)}
    keys = rules.keys
    if keys is None or not objects:
        return tuple(objects)
    address = parse_address(client.address)
    if address is None:
        return Denied("the viewer's address is unknown")
    ranked = [
        signed_name
        for stream in streams
        for signed_name in _signed_names(client, application, stream)
    ]
    ranked.sort(key=lambda signed_name: signed_name.rank)
    covered_objects: dict[str, tuple[str, ...]] = {}
    for signed_name in ranked:
        covered_objects.setdefault(signed_name.text, signed_name.objects)
    query = streams[0].query
    grant = authorize(
        keys, query, "", list(covered_objects), address, now_s, signatures, limit_bytes
    )
    if isinstance(grant, Denied):
        return grant
    allowed = {each for text in grant.resources for each in covered_objects[text]}
    return tuple(each for each in objects if each in allowed)


class _SignedName(NamedTuple):
    """A name that a signer may have signed, and the objects that it covers."""

    rank: int
    text: str
    objects: tuple[str, ...]


def _signed_names(client: Client, application: str, stream: StreamName) -> list[_SignedName]:
    """The names that signers use for the objects of a stream.

    At most RESOURCES_LIMIT of them are verified, so the order matters: the rarest are left out,
    more of them where a name is encoded or not ASCII.
    """
    objects = candidates(stream)
    # A signed name without an extension covers all objects that it may mean.
    whole = object_name(stream.path) or ""
    has_extension = bool(known_extension(whole))
    rest = _as_query(from_query(stream.query)[1])
    path = stream.path.lstrip("/")
    signed_names: list[_SignedName] = []
    for number, each in enumerate(objects):
        tail = each[len(whole) :]
        sent, decoded = [path + tail], [unquote(path) + tail]
        if has_extension and each == whole:
            sent.append(_without_extension(*sent))
            decoded.append(_without_extension(*decoded))
        prefix = stream.prefix or usual_prefix(known_extension(each))
        ranks = _RANKS if number < (1 if has_extension else _LIKELY_OBJECTS) else _RANKS_UNLIKELY
        kinds = _forms(
            _application_urls(client.connect, application, stream), sent, decoded, prefix, stream
        )
        covered = tuple(objects) if each == whole and not has_extension else (each,)
        for rank, forms in zip(ranks, kinds, strict=True):
            signed_names += [_SignedName(rank, f"{form}{rest}", covered) for form in forms]
    return signed_names


def _forms(
    urls_of_application: Sequence[str],
    sent: Sequence[str],
    decoded: Sequence[str],
    prefix: str,
    stream: StreamName,
) -> tuple[list[str], ...]:
    """The signed names of an object whose name was ``sent``, by kind, in the order of _RANKS.

    URLs keep the encoding of the client. rtmpdump decodes names, so the signed name may have been
    encoded.
    """
    names = list(dict.fromkeys((*sent, *decoded)))
    encoded = [quote(name, safe=_UNENCODED) for name in decoded]
    encoded = [name for name in dict.fromkeys(encoded) if name not in names]
    urls = [f"{url}/{name}" for url in urls_of_application for name in sent]
    with_prefix = [f"{url}/{prefix}:{name}" for url in urls_of_application for name in sent]
    with_inner_prefix = [
        f"{url}/{folder}/{prefix}:{name}"
        for url in urls_of_application
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
        [f"{url}/{name}" for url in urls_of_application for name in encoded],
    )


def _application_urls(connect: Connect, application: str, stream: StreamName) -> list[str]:
    """The URLs of the client's application, with RTMP's port and without it.

    Some players add the default port to tcUrl, some leave it out.
    """
    url = _RTMP_URL.match(connect.tc_url)
    if url is None:
        return []
    if stream.has_instance:
        application = f"{application}/{DEFAULT_INSTANCE}"
    port = url[2] or RTMP_PORT
    port_suffixes = ["", f":{port}"] if port == RTMP_PORT else [f":{port}"]
    return [f"{url[1]}{port_suffix}/{application}" for port_suffix in port_suffixes]


def _without_extension(path: str) -> str:
    extension = known_extension(path)
    return path[: -len(extension) - 1] if extension else path


def _as_query(query: str) -> str:
    return f"?{query}" if query else ""

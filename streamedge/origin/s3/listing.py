"""Listings of a bucket below a prefix: what the bucket is asked, and its answer made the client's.

Pure. Names are translated both ways, so that a client sees the origin's prefix as the bucket's
root. Of the bucket's document only what ListObjects and ListObjectsV2 of the Amazon S3 API
Reference say of objects is passed on: not who owns them.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote, unquote_plus
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin.s3.protocol import (
    LISTED_KEYS_MAX,
    BucketCall,
    BucketOperation,
    encoded_query,
)

LISTING_MAX_BYTES = 8 << 20
"""The longest document that is taken: 1,000 names of 1,024 bytes, percent-encoded, are 4 MB."""

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_OF_AN_OBJECT = ("LastModified", "ETag", "ChecksumAlgorithm", "ChecksumType", "Size")
_NAMES = ("marker", "start-after")


def listing_query(call: BucketCall, prefix: str) -> str:
    """The query that asks a bucket for a listing below ``prefix`` ("" or a folder with its slash).

    Names are always asked for percent-encoded, because XML cannot hold every character.
    """
    asked = {**call.parameters, "prefix": prefix + call.prefix, "encoding-type": "url"}
    asked.pop("fetch-owner", None)
    asked["max-keys"] = str(min(int(asked.get("max-keys", LISTED_KEYS_MAX)), LISTED_KEYS_MAX))
    for parameter in _NAMES:
        if asked.get(parameter):
            asked[parameter] = prefix + asked[parameter]
        else:
            asked.pop(parameter, None)
    if not asked.get("delimiter"):
        asked.pop("delimiter", None)
    if not asked.get("continuation-token"):
        asked.pop("continuation-token", None)
    return encoded_query(asked)


def translated_listing(body: bytes, call: BucketCall, bucket: str, prefix: str) -> bytes:
    """The bucket's document as the client's. Raises OriginError UNAVAILABLE for what is none."""
    root = _parse(body)
    is_encoded = _text(root, "EncodingType") == "url"

    def named(text: str) -> str | None:
        """A name as the client knows it; None when it is not below the prefix."""
        name = unquote_plus(text) if is_encoded else text
        return name.removeprefix(prefix) if name.startswith(prefix) else None

    parameters = call.parameters
    encodes = "encoding-type" in parameters
    is_v2 = call.operation is BucketOperation.LIST_OBJECTS_V2

    def spelled(name: str) -> str:
        return quote(name, safe="/~") if encodes else name

    objects = [(name, one) for one in _all(root, "Contents") if (name := named(_text(one, "Key")))]
    folders = [
        name
        for one in _all(root, "CommonPrefixes")
        if (name := named(_text(one, "Prefix"))) is not None
    ]
    is_truncated = _text(root, "IsTruncated").strip().lower() == "true"
    parts = [_element("Name", bucket), _element("Prefix", spelled(call.prefix))]
    if is_v2:
        if parameters.get("continuation-token"):
            parts.append(_element("ContinuationToken", parameters["continuation-token"]))
        if parameters.get("start-after"):
            parts.append(_element("StartAfter", spelled(parameters["start-after"])))
        parts.append(_element("KeyCount", str(len(objects) + len(folders))))
        if is_truncated:
            token = _text(root, "NextContinuationToken")
            parts.append(_element("NextContinuationToken", token))
    else:
        parts.append(_element("Marker", spelled(parameters.get("marker", ""))))
        if is_truncated:
            # Where the bucket says none, the last name is (ListObjects: NextMarker).
            last = max([*(name for name, _one in objects), *folders], default="")
            marker = named(_text(root, "NextMarker")) or last
            parts.append(_element("NextMarker", spelled(marker)))
    parts.append(_element("MaxKeys", parameters.get("max-keys", str(LISTED_KEYS_MAX))))
    if parameters.get("delimiter"):
        parts.append(_element("Delimiter", spelled(parameters["delimiter"])))
    if encodes:
        parts.append(_element("EncodingType", "url"))
    parts.append(_element("IsTruncated", "true" if is_truncated else "false"))
    parts += (_object(spelled(name), one) for name, one in objects)
    parts += (
        f"<CommonPrefixes>{_element('Prefix', spelled(name))}</CommonPrefixes>" for name in folders
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="{_NAMESPACE}">'
        f"{''.join(parts)}</ListBucketResult>"
    ).encode()


def _object(name: str, found: ElementTree.Element) -> str:
    parts = [_element("Key", name)]
    for tag in _OF_AN_OBJECT:
        parts += (_element(tag, one.text or "") for one in _all(found, tag))
    parts.append(_element("StorageClass", _text(found, "StorageClass") or "STANDARD"))
    return f"<Contents>{''.join(parts)}</Contents>"


def _parse(body: bytes) -> ElementTree.Element:
    try:
        if b"<!" in body:
            raise ValueError("a document type is declared")
        root = ElementTree.fromstring(body)  # noqa: S314  # no document type, and bounded
        if _plain(root.tag) != "ListBucketResult":
            raise ValueError(f"the document is {_plain(root.tag)[:40]!a}")
    except (ElementTree.ParseError, ValueError) as exc:
        raise OriginError(
            OriginFailure.UNAVAILABLE, f"what came is no listing of a bucket: {exc}"
        ) from exc
    return root


def _plain(tag: str) -> str:
    """A tag without its namespace, which servers of the protocol leave out or change."""
    return tag.rpartition("}")[2]


def _all(parent: ElementTree.Element, tag: str) -> Iterator[ElementTree.Element]:
    return (child for child in parent if _plain(child.tag) == tag)


def _text(parent: ElementTree.Element, tag: str) -> str:
    return next((child.text or "" for child in _all(parent, tag)), "")


def _element(tag: str, text: str) -> str:
    return f"<{tag}>{_escaped(text)}</{tag}>"


_CONTROLS = {chr(code): f"&#x{code:x};" for code in (*range(1, 32), 127)}


def _escaped(text: str) -> str:
    """As S3 writes names; clients that want control characters ask for percent-encoding."""
    return escape(text, _CONTROLS)

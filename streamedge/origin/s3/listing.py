"""Listings of a bucket below a prefix: the request to the bucket, and the client's document.

Pure. Names are translated in both directions, so that a client sees the origin's prefix as the root
of the bucket. The client gets the properties of objects in ListObjects and ListObjectsV2 (Amazon S3
API Reference), without their owners.
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
"""The longest document that is accepted: 1,000 names of 1,024 bytes, percent-encoded, are 4 MB."""

_NAME_PARAMETERSPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_OBJECT_TAGS = ("LastModified", "ETag", "ChecksumAlgorithm", "ChecksumType", "Size")
_NAME_PARAMETERS = ("marker", "start-after")


def listing_query(call: BucketCall, prefix: str) -> str:
    """The query of a listing below ``prefix`` ("" or a folder with its slash).

    Names are always requested percent-encoded, because XML cannot represent every character.
    """
    parameters = {**call.parameters, "prefix": prefix + call.prefix, "encoding-type": "url"}
    parameters.pop("fetch-owner", None)
    parameters["max-keys"] = str(
        min(int(parameters.get("max-keys", LISTED_KEYS_MAX)), LISTED_KEYS_MAX)
    )
    for parameter in _NAME_PARAMETERS:
        if parameters.get(parameter):
            parameters[parameter] = prefix + parameters[parameter]
        else:
            parameters.pop(parameter, None)
    if not parameters.get("delimiter"):
        parameters.pop("delimiter", None)
    if not parameters.get("continuation-token"):
        parameters.pop("continuation-token", None)
    return encoded_query(parameters)


def translated_listing(body: bytes, call: BucketCall, bucket: str, prefix: str) -> bytes:
    """Translates the bucket's document for the client. Raises OriginError UNAVAILABLE for an
    invalid one."""
    root = _parse(body)
    is_encoded = _text(root, "EncodingType") == "url"

    def client_name(text: str) -> str | None:
        """The name for the client; None if it is not below the prefix."""
        name = unquote_plus(text) if is_encoded else text
        return name.removeprefix(prefix) if name.startswith(prefix) else None

    parameters = call.parameters
    encodes = "encoding-type" in parameters
    is_v2 = call.operation is BucketOperation.LIST_OBJECTS_V2

    def encoded(name: str) -> str:
        return quote(name, safe="/~") if encodes else name

    objects = [
        (name, one) for one in _all(root, "Contents") if (name := client_name(_text(one, "Key")))
    ]
    folders = [
        name
        for one in _all(root, "CommonPrefixes")
        if (name := client_name(_text(one, "Prefix"))) is not None
    ]
    is_truncated = _text(root, "IsTruncated").strip().lower() == "true"
    parts = [_element("Name", bucket), _element("Prefix", encoded(call.prefix))]
    if is_v2:
        if parameters.get("continuation-token"):
            parts.append(_element("ContinuationToken", parameters["continuation-token"]))
        if parameters.get("start-after"):
            parts.append(_element("StartAfter", encoded(parameters["start-after"])))
        parts.append(_element("KeyCount", str(len(objects) + len(folders))))
        if is_truncated:
            token = _text(root, "NextContinuationToken")
            parts.append(_element("NextContinuationToken", token))
    else:
        parts.append(_element("Marker", encoded(parameters.get("marker", ""))))
        if is_truncated:
            # Without NextMarker from the bucket, the last name is the marker (ListObjects).
            last = max([*(name for name, _one in objects), *folders], default="")
            marker = client_name(_text(root, "NextMarker")) or last
            parts.append(_element("NextMarker", encoded(marker)))
    parts.append(_element("MaxKeys", parameters.get("max-keys", str(LISTED_KEYS_MAX))))
    if parameters.get("delimiter"):
        parts.append(_element("Delimiter", encoded(parameters["delimiter"])))
    if encodes:
        parts.append(_element("EncodingType", "url"))
    parts.append(_element("IsTruncated", "true" if is_truncated else "false"))
    parts += (_object(encoded(name), one) for name, one in objects)
    parts += (
        f"<CommonPrefixes>{_element('Prefix', encoded(name))}</CommonPrefixes>" for name in folders
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="{_NAME_PARAMETERSPACE}">'
        f"{''.join(parts)}</ListBucketResult>"
    ).encode()


def _object(name: str, element: ElementTree.Element) -> str:
    parts = [_element("Key", name)]
    for tag in _OBJECT_TAGS:
        parts += (_element(tag, one.text or "") for one in _all(element, tag))
    parts.append(_element("StorageClass", _text(element, "StorageClass") or "STANDARD"))
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
            OriginFailure.UNAVAILABLE, f"the response is not a listing of a bucket: {exc}"
        ) from exc
    return root


def _plain(tag: str) -> str:
    """A tag without its namespace, which differs between servers."""
    return tag.rpartition("}")[2]


def _all(parent: ElementTree.Element, tag: str) -> Iterator[ElementTree.Element]:
    return (child for child in parent if _plain(child.tag) == tag)


def _text(parent: ElementTree.Element, tag: str) -> str:
    return next((child.text or "" for child in _all(parent, tag)), "")


def _element(tag: str, text: str) -> str:
    return f"<{tag}>{_escaped(text)}</{tag}>"


_CONTROLS = {chr(code): f"&#x{code:x};" for code in (*range(1, 32), 127)}


def _escaped(text: str) -> str:
    """In S3's format; clients that need control characters request percent-encoding."""
    return escape(text, _CONTROLS)

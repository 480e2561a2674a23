"""Listings in the formats of several S3 servers, translated for the client."""

from __future__ import annotations

from urllib.parse import quote_plus, unquote_plus
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.errors import OriginError
from streamedge.origin.s3.listing import listing_query, translated_listing
from streamedge.origin.s3.protocol import BucketCall, BucketOperation

V1, V2 = BucketOperation.LIST_OBJECTS, BucketOperation.LIST_OBJECTS_V2
PREFIX = "own/"
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


def listed(body: str, call: BucketCall, prefix: str = PREFIX) -> dict[str, list[str]]:
    """The texts of a translated listing, by tag."""
    root = ElementTree.fromstring(translated_listing(body.encode(), call, "bucket", prefix))
    assert root.tag == f"{NAMESPACE}ListBucketResult"
    elements: dict[str, list[str]] = {}

    def gather(parent: ElementTree.Element, above: str) -> None:
        for child in parent:
            tag = above + child.tag.removeprefix(NAMESPACE)
            if len(child):
                gather(child, f"{tag}/")
            else:
                elements.setdefault(tag, []).append(child.text or "")

    gather(root, "")
    return elements


@pytest.mark.parametrize(
    ("call", "query"),
    [
        (
            BucketCall(V2, {"list-type": "2"}),
            "encoding-type=url&list-type=2&max-keys=1000&prefix=own%2F",
        ),
        (
            BucketCall(
                V2,
                {
                    **{"list-type": "2", "prefix": "a b/", "start-after": "a b/c", "max-keys": "9"},
                    **{"continuation-token": "t+/=", "delimiter": "/", "fetch-owner": "true"},
                },
            ),
            "continuation-token=t%2B%2F%3D&delimiter=%2F&encoding-type=url&list-type=2&max-keys=9"
            "&prefix=own%2Fa%20b%2F&start-after=own%2Fa%20b%2Fc",
        ),
        (
            BucketCall(V1, {"marker": "x", "max-keys": "99999", "delimiter": ""}),
            "encoding-type=url&marker=own%2Fx&max-keys=1000&prefix=own%2F",
        ),
    ],
)
def test_listing_request_is_below_the_prefix(call: BucketCall, query: str) -> None:
    assert listing_query(call, PREFIX) == query


def test_listing_of_amazon_is_translated() -> None:
    body = f"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="{NAMESPACE[1:-1]}"><Name>real</Name><Prefix>own/</Prefix>
<KeyCount>2</KeyCount><MaxKeys>2</MaxKeys><EncodingType>url</EncodingType>
<IsTruncated>true</IsTruncated><NextContinuationToken>next==</NextContinuationToken>
<Contents><Key>own/a+b%2Bc.txt</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>
<ETag>&quot;e&quot;</ETag><Size>5</Size><ChecksumAlgorithm>CRC32</ChecksumAlgorithm>
<Owner><ID>secret</ID></Owner><StorageClass>GLACIER</StorageClass></Contents>
<CommonPrefixes><Prefix>own/d%C3%A9r/</Prefix></CommonPrefixes></ListBucketResult>"""
    plain = listed(body, BucketCall(V2, {"list-type": "2", "delimiter": "/"}))
    assert plain == {
        **{"Name": ["bucket"], "Prefix": [""], "KeyCount": ["2"], "MaxKeys": ["1000"]},
        **{"NextContinuationToken": ["next=="], "Delimiter": ["/"], "IsTruncated": ["true"]},
        **{"Contents/Key": ["a b+c.txt"], "Contents/Size": ["5"], "Contents/ETag": ['"e"']},
        **{"Contents/LastModified": ["2026-01-01T00:00:00.000Z"]},
        **{"Contents/ChecksumAlgorithm": ["CRC32"], "Contents/StorageClass": ["GLACIER"]},
        "CommonPrefixes/Prefix": ["dér/"],
    }
    encoded = listed(body, BucketCall(V2, {"list-type": "2", "encoding-type": "url"}))
    assert encoded["Contents/Key"] == ["a%20b%2Bc.txt"]
    assert encoded["EncodingType"] == ["url"]


def test_listing_without_namespace_encoding_or_marker_is_translated() -> None:
    body = """<ListBucketResult><IsTruncated>True</IsTruncated>
<Contents><Key>own/a+b</Key></Contents><Contents><Key>other/c</Key></Contents>
<Contents><Key>own</Key></Contents></ListBucketResult>"""
    elements = listed(body, BucketCall(V1, {"marker": "a"}))
    assert elements["Contents/Key"] == ["a+b"]
    assert (elements["Marker"], elements["NextMarker"]) == (["a"], ["a+b"])
    assert elements["Contents/StorageClass"] == ["STANDARD"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<Error><Code>AccessDenied</Code></Error>",
        b"<ListBucketResult>",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><ListBucketResult/>",
        b"\xff\xfe",
    ],
)
def test_invalid_listing_is_unavailable(body: bytes) -> None:
    with pytest.raises(OriginError, match="not a listing"):
        translated_listing(body, BucketCall(V1, {}), "bucket", PREFIX)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_response_is_a_listing_or_the_named_error(body: bytes) -> None:
    try:
        translated_listing(body, BucketCall(V2, {"list-type": "2"}), "bucket", PREFIX)
    except OriginError:
        return


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], min_codepoint=32), min_size=1)))
def test_names_survive_the_translation(names: list[str]) -> None:

    contents = "".join(
        f"<Contents><Key>{quote_plus(PREFIX + name)}</Key></Contents>" for name in names
    )
    body = f"<ListBucketResult><EncodingType>url</EncodingType>{contents}</ListBucketResult>"
    call = BucketCall(V2, {"list-type": "2", "encoding-type": "url"})

    elements = listed(body, call).get("Contents/Key", [])
    assert [unquote_plus(name) for name in elements] == names

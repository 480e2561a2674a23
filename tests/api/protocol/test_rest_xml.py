"""Documents by botocore's shapes: what a member may be, and the refusal that names it."""

from __future__ import annotations

import datetime

import pytest
from botocore.model import StructureShape
from hypothesis import given
from hypothesis import strategies as st

from streamedge.api.errors import ApiError
from streamedge.api.protocol.model import cloudfront
from streamedge.api.protocol.rest_xml import QUOTED_MAX_CHARACTERS, parse, serialize
from streamedge.api.protocol.xml_tree import NAMESPACE, Element, write_tree
from tests.support.api_operations import OFFERED_OPERATIONS, example


def input_shape(operation: str, member: str) -> StructureShape:
    shape = cloudfront().operation(operation).input_shape
    assert shape is not None
    found = shape.members[member]
    assert isinstance(found, StructureShape)
    return found


BATCH = input_shape("CreateInvalidation", "InvalidationBatch")
STREAMING = input_shape("CreateStreamingDistribution", "StreamingDistributionConfig")
HEADERS_POLICY = input_shape("CreateResponseHeadersPolicy", "ResponseHeadersPolicyConfig")
CACHE_POLICY = input_shape("CreateCachePolicy", "CachePolicyConfig")
DISTRIBUTION = input_shape("CreateDistribution", "DistributionConfig")
TAGS = input_shape("TagResource", "Tags")


def batch(paths: str = "<Quantity>1</Quantity><Items><Path>/a</Path></Items>") -> bytes:
    return (
        f'<InvalidationBatch xmlns="{NAMESPACE}"><Paths>{paths}</Paths>'
        "<CallerReference>r</CallerReference></InvalidationBatch>"
    ).encode()


def cache_policy(members: str) -> bytes:
    text = f"<CachePolicyConfig><Name>n</Name><MinTTL>1</MinTTL>{members}</CachePolicyConfig>"
    return text.encode()


def refused(shape: StructureShape, name: str, body: bytes) -> tuple[str, str]:
    with pytest.raises(ApiError) as raised:
        parse(shape, name, body)
    return raised.value.code, raised.value.message


def test_an_invalidation_batch() -> None:
    """The example of CloudFront's API Reference, "CreateInvalidation"."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<InvalidationBatch xmlns="http://cloudfront.amazonaws.com/doc/2020-05-31/">\n'
        "  <CallerReference>20120301090001</CallerReference>\n  <Paths>\n"
        "    <Quantity>2</Quantity>\n    <Items>\n      <Path>/image1.jpg</Path>\n"
        "      <Path>/videos/*</Path>\n    </Items>\n  </Paths>\n</InvalidationBatch>\n"
    )
    assert parse(BATCH, "InvalidationBatch", body.encode()) == {
        "CallerReference": "20120301090001",
        "Paths": {"Quantity": 2, "Items": ["/image1.jpg", "/videos/*"]},
    }


def test_the_root_has_a_name() -> None:
    code, message = refused(BATCH, "InvalidationBatch", b"<Batch/>")
    assert (code, message) == (
        "MalformedXML",
        "The root of the body is InvalidationBatch, not 'Batch'.",
    )


@pytest.mark.parametrize(
    ("paths", "code", "named"),
    [
        ("<Quantity>0</Quantity><Size>1</Size>", "MalformedXML", "Paths has no member 'Size'"),
        ("<quantity>0</quantity>", "MalformedXML", "no member 'quantity'"),
        ("<Quantity>0</Quantity><Quantity>0</Quantity>", "MalformedXML", "Paths.Quantity is given"),
        ("0", "MalformedXML", "InvalidationBatch.Paths has elements"),
        ("<Quantity><Items/></Quantity>", "MalformedXML", "Paths.Quantity has a value"),
        ("<Quantity>0</Quantity><Items>/a</Items>", "MalformedXML", "Paths.Items has elements"),
        ("<Quantity>1</Quantity><Items><Key>a</Key></Items>", "MalformedXML", "a list of Path"),
        ("", "InvalidArgument", "Paths.Quantity is not valid: it is required"),
        ("<Quantity/>", "InvalidArgument", "Paths.Quantity is not valid: '' is not an integer"),
        ("<Quantity>one</Quantity>", "InvalidArgument", "'one' is not an integer"),
        ("<Quantity>1.0</Quantity>", "InvalidArgument", "'1.0' is not an integer"),
        ("<Quantity>0x1</Quantity>", "InvalidArgument", "'0x1' is not an integer"),
        ("<Quantity>1_0</Quantity>", "InvalidArgument", "'1_0' is not an integer"),
        ("<Quantity>١</Quantity>", "InvalidArgument", "'١' is not an integer"),
        ("<Quantity>2147483648</Quantity>", "InvalidArgument", "does not fit integer"),
        (f"<Quantity>{'9' * 60_000}</Quantity>", "InvalidArgument", "is not an integer"),
        ("<Quantity>1</Quantity>", "InconsistentQuantities", "says 1 and has 0"),
        ("<Quantity>0</Quantity><Items><Path>/</Path></Items>", "InconsistentQuantities", "has 1"),
        ("<Quantity>-1</Quantity>", "InconsistentQuantities", "says -1 and has 0"),
    ],
)
def test_a_wrong_member_is_named(paths: str, code: str, named: str) -> None:
    said, message = refused(BATCH, "InvalidationBatch", batch(paths))
    assert said == code
    assert named in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ("<MaxTTL>9223372036854775808</MaxTTL>", "CachePolicyConfig.MaxTTL"),
        (
            "<ParametersInCacheKeyAndForwardedToOrigin><EnableAcceptEncodingGzip>TRUE"
            "</EnableAcceptEncodingGzip></ParametersInCacheKeyAndForwardedToOrigin>",
            "EnableAcceptEncodingGzip is not valid: 'TRUE' is neither true nor false",
        ),
        (
            "<ParametersInCacheKeyAndForwardedToOrigin><HeadersConfig><HeaderBehavior>some"
            "</HeaderBehavior></HeadersConfig></ParametersInCacheKeyAndForwardedToOrigin>",
            "HeaderBehavior is not valid: 'some' is not one of none, whitelist",
        ),
    ],
)
def test_a_wrong_value_is_an_invalid_argument(members: str, named: str) -> None:
    code, message = refused(CACHE_POLICY, "CachePolicyConfig", cache_policy(members))
    assert code == "InvalidArgument"
    assert named in message


@pytest.mark.parametrize("rate", ["nan", "inf", "1e999", "100.5", "-1", "0x10", "", "1,5"])
def test_a_rate_outside_or_no_number(rate: str) -> None:
    body = (
        "<ResponseHeadersPolicyConfig><Name>n</Name><ServerTimingHeadersConfig>"
        f"<Enabled>true</Enabled><SamplingRate>{rate}</SamplingRate>"
        "</ServerTimingHeadersConfig></ResponseHeadersPolicyConfig>"
    )
    code, message = refused(HEADERS_POLICY, "ResponseHeadersPolicyConfig", body.encode())
    assert code == "InvalidArgument"
    assert "ResponseHeadersPolicyConfig.ServerTimingHeadersConfig.SamplingRate" in message


@pytest.mark.parametrize(
    ("key", "bound"), [("", "0 is less than 1 characters"), ("k" * 129, "129 is more than 128")]
)
def test_lengths_are_the_models(key: str, bound: str) -> None:
    code, message = refused(
        TAGS, "Tags", f"<Tags><Items><Tag><Key>{key}</Key></Tag></Items></Tags>".encode()
    )
    assert code == "InvalidArgument"
    assert f"Tags.Items[0].Key is not valid: {bound}" in message


def test_a_callers_value_is_quoted_in_part() -> None:
    _, message = refused(BATCH, "InvalidationBatch", batch(f"<Quantity>{'x' * 9999}</Quantity>"))
    assert f"'{'x' * QUOTED_MAX_CHARACTERS}…'" in message


def test_times_are_cloudfronts() -> None:
    shape = cloudfront().operation("GetInvalidation").output_shape
    assert shape is not None
    invalidation = shape.members["Invalidation"]
    east = datetime.timezone(datetime.timedelta(hours=2))
    made = datetime.datetime(2026, 1, 31, 14, 0, 0, 125_999, tzinfo=east)
    assert isinstance(invalidation, StructureShape)
    document = serialize(invalidation, "Invalidation", {"CreateTime": made, "Status": None})
    assert (
        document
        == (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Invalidation xmlns="{NAMESPACE}">'
            "<CreateTime>2026-01-31T12:00:00.125Z</CreateTime></Invalidation>"
        ).encode()
    )


def test_an_own_member_that_the_shape_does_not_have_is_a_defect() -> None:
    with pytest.raises(KeyError, match="Pats"):
        serialize(BATCH, "InvalidationBatch", {"Pats": {}})


ELEMENT_NAMES = st.sampled_from(
    [
        *("DistributionConfig", "Origins", "Origin", "Items", "Quantity", "Aliases", "CNAME"),
        *("DefaultCacheBehavior", "Enabled", "PriceClass", "Id", "Comment", "Logging", "Nonsense"),
    ]
)
TREES = st.recursive(
    st.builds(Element, ELEMENT_NAMES, st.just([]), st.sampled_from(["", "0", "1", "true", "x"])),
    lambda trees: st.builds(Element, ELEMENT_NAMES, st.lists(trees, min_size=1, max_size=4)),
    max_leaves=20,
)


@given(TREES)
def test_any_document_is_refused_by_name(tree: Element) -> None:
    body = write_tree(Element("DistributionConfig", tree.children, tree.text))
    with pytest.raises(ApiError) as raised:
        parse(DISTRIBUTION, "DistributionConfig", body)
    assert raised.value.code in {"MalformedXML", "InvalidArgument", "InconsistentQuantities"}
    assert "DistributionConfig" in raised.value.message


def _payloads() -> list[tuple[StructureShape, str]]:
    found = []
    for operation in OFFERED_OPERATIONS:
        shape = cloudfront().operation(operation).input_shape
        if shape is not None and (payload := shape.serialization.get("payload")):
            found.append((input_shape(operation, payload), payload))
    return found


PAYLOADS = _payloads()


@given(st.data())
def test_a_document_with_one_byte_changed_is_a_value_or_refused(data: st.DataObject) -> None:
    shape, name = data.draw(st.sampled_from(PAYLOADS))
    body = bytearray(serialize(shape, name, example(shape)))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] = data.draw(st.integers(0, 255))
    outcome: object
    try:
        outcome = parse(shape, name, bytes(body)).keys()
    except ApiError as exc:
        outcome = exc.status
    assert outcome in (400, example(shape).keys())

"""Documents by botocore's shapes: valid members, and errors that name a member."""

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
from tests.support.api.api_operations import OFFERED_OPERATIONS, example


def input_shape(operation: str, member: str) -> StructureShape:
    shape = cloudfront().operation(operation).input_shape
    assert shape is not None
    member_shape = shape.members[member]
    assert isinstance(member_shape, StructureShape)
    return member_shape


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


def test_invalidation_batch_is_parsed() -> None:
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


def test_root_with_another_name_is_refused() -> None:
    code, message = refused(BATCH, "InvalidationBatch", b"<Batch/>")
    assert (code, message) == (
        "MalformedXML",
        "The root of the body is InvalidationBatch, not 'Batch'.",
    )


@pytest.mark.parametrize(
    ("paths", "code", "reason"),
    [
        ("<Quantity>0</Quantity><Size>1</Size>", "MalformedXML", "Paths has no member 'Size'"),
        ("<quantity>0</quantity>", "MalformedXML", "no member 'quantity'"),
        ("<Quantity>0</Quantity>" * 2, "MalformedXML", "Paths.Quantity is repeated"),
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
def test_wrong_member_is_named(paths: str, code: str, reason: str) -> None:
    actual, message = refused(BATCH, "InvalidationBatch", batch(paths))
    assert actual == code
    assert reason in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("members", "reason"),
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
def test_wrong_value_is_an_invalid_argument(members: str, reason: str) -> None:
    code, message = refused(CACHE_POLICY, "CachePolicyConfig", cache_policy(members))
    assert code == "InvalidArgument"
    assert reason in message


@pytest.mark.parametrize("rate", ["nan", "inf", "1e999", "100.5", "-1", "0x10", "", "1,5"])
def test_rate_out_of_range_or_not_a_number_is_refused(rate: str) -> None:
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
def test_lengths_are_those_of_the_model(key: str, bound: str) -> None:
    code, message = refused(
        TAGS, "Tags", f"<Tags><Items><Tag><Key>{key}</Key></Tag></Items></Tags>".encode()
    )
    assert code == "InvalidArgument"
    assert f"Tags.Items[0].Key is not valid: {bound}" in message


def test_long_value_is_shortened_in_the_message() -> None:
    _, message = refused(BATCH, "InvalidationBatch", batch(f"<Quantity>{'x' * 9999}</Quantity>"))
    assert f"'{'x' * QUOTED_MAX_CHARACTERS}…'" in message


def test_times_have_the_form_of_cloudfront() -> None:
    shape = cloudfront().operation("GetInvalidation").output_shape
    assert shape is not None
    invalidation = shape.members["Invalidation"]
    east = datetime.timezone(datetime.timedelta(hours=2))
    time = datetime.datetime(2026, 1, 31, 14, 0, 0, 125_999, tzinfo=east)
    assert isinstance(invalidation, StructureShape)
    document = serialize(invalidation, "Invalidation", {"CreateTime": time, "Status": None})
    assert (
        document
        == (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Invalidation xmlns="{NAMESPACE}">'
            "<CreateTime>2026-01-31T12:00:00.125Z</CreateTime></Invalidation>"
        ).encode()
    )


def test_output_member_without_a_shape_raises_key_error() -> None:
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
def test_any_wrong_document_is_refused_with_a_reason(tree: Element) -> None:
    body = write_tree(Element("DistributionConfig", tree.children, tree.text))
    with pytest.raises(ApiError) as raised:
        parse(DISTRIBUTION, "DistributionConfig", body)
    assert raised.value.code in {"MalformedXML", "InvalidArgument", "InconsistentQuantities"}
    assert "DistributionConfig" in raised.value.message


def _payloads() -> list[tuple[StructureShape, str]]:
    payloads = []
    for operation in OFFERED_OPERATIONS:
        shape = cloudfront().operation(operation).input_shape
        if shape is not None and (payload := shape.serialization.get("payload")):
            payloads.append((input_shape(operation, payload), payload))
    return payloads


PAYLOADS = _payloads()


@given(st.data())
def test_document_with_one_byte_changed_is_parsed_or_refused(data: st.DataObject) -> None:
    shape, name = data.draw(st.sampled_from(PAYLOADS))
    body = bytearray(serialize(shape, name, example(shape)))
    index = data.draw(st.integers(0, len(body) - 1))
    body[index] = data.draw(st.integers(0, 255))
    outcome: object
    try:
        outcome = parse(shape, name, bytes(body)).keys()
    except ApiError as exc:
        outcome = exc.status
    assert outcome in (400, example(shape).keys())

"""Members and their locations, checked with botocore's serializer and parser."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from botocore.utils import percent_encode_sequence
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamedge.api.errors import ApiError
from streamedge.api.protocol.binding import read_input, read_path, read_query, write_output
from streamedge.api.protocol.model import OperationMatch, cloudfront
from tests.support.api.api_operations import OFFERED_OPERATIONS, example, values

EXAMPLES_PER_OPERATION = 8


def receive(operation: str, members: dict[str, Any]) -> tuple[OperationMatch, dict[str, Any]]:
    """The operation and input that the API reads from a request of botocore."""
    model = cloudfront().operation(operation)
    request = create_serializer("rest-xml", include_validation=True).serialize_to_request(
        members, model
    )
    path, _, marker = request["url_path"].partition("?")
    query = read_query(f"{marker}&{percent_encode_sequence(request['query_string'])}")
    match = cloudfront().find(request["method"], read_path(path), query)
    assert match is not None
    fields = {name.lower(): value for name, value in request["headers"].items()}
    return match, read_input(match, query, fields, request["body"] or b"")


def parse_with_botocore(operation: str, output: dict[str, Any]) -> dict[str, Any]:
    """The output that botocore reads from a response of the API."""
    model = cloudfront().operation(operation)
    written = write_output(model, output, "http://edge.example")
    response = {"status_code": written.status, "headers": written.fields, "body": written.body}
    parser: Any = create_parser("rest-xml")  # the stubs have no operation without output
    value: dict[str, Any] = parser.parse(response, model.output_shape)
    assert value.pop("ResponseMetadata")["HTTPStatusCode"] == model.http["responseCode"]
    return value


@pytest.mark.parametrize("operation", OFFERED_OPERATIONS)
@settings(
    max_examples=EXAMPLES_PER_OPERATION,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_request_of_botocore_is_read(operation: str, data: st.DataObject) -> None:
    members = data.draw(values(cloudfront().operation(operation).input_shape))
    match, value = receive(operation, members)
    assert match.operation.name == operation
    assert value == members


@pytest.mark.parametrize("operation", OFFERED_OPERATIONS)
@settings(
    max_examples=EXAMPLES_PER_OPERATION,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_response_is_parsed_by_botocore(operation: str, data: st.DataObject) -> None:
    output = data.draw(values(cloudfront().operation(operation).output_shape))
    value = parse_with_botocore(operation, output)
    if "Location" in output:
        output["Location"] = "http://edge.example" + output["Location"]
    assert value == output


@pytest.mark.parametrize(
    "operation", [name for name in OFFERED_OPERATIONS if name.startswith("Update")]
)
def test_document_from_get_is_accepted_by_update(operation: str) -> None:
    """A document from a response is sent back unchanged."""
    members = example(cloudfront().operation(operation).input_shape)
    payload = cloudfront().operation(operation).input_shape.serialization["payload"]  # type: ignore[union-attr]
    getter = operation.replace("Update", "Get")
    getter = getter if getter.endswith("Config") else f"{getter}Config"
    document = parse_with_botocore(getter, {payload: members[payload]})[payload]
    assert receive(operation, members | {payload: document})[1] == members


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("", {}),
        ("WithTags", {"WithTags": ""}),
        ("WithTags=&&Marker=a%2Fb+c", {"WithTags": "", "Marker": "a/b+c"}),
        ("a=b=c", {"a": "b=c"}),
        ("%41=%C3%A9", {"A": "é"}),
        ("a=%zz", {"a": "%zz"}),
    ],
)
def test_query_is_decoded_once(query: str, parameters: dict[str, str]) -> None:
    assert read_query(query) == parameters


@pytest.mark.parametrize("query", ["Resource=a&Resource=b", "A&%41", "a=%ff", "%ff"])
def test_query_with_a_repeated_name_or_other_bytes_is_refused(query: str) -> None:
    with pytest.raises(ApiError, match="InvalidArgument"):
        read_query(query)


def test_path_is_split_before_it_is_decoded() -> None:
    assert read_path("/2020-05-31/distribution/a%2Fb%20c") == (
        *("2020-05-31", "distribution"),
        "a/b c",
    )
    assert read_path("/2020-05-31/distribution/") == ("2020-05-31", "distribution", "")
    with pytest.raises(ApiError, match="InvalidArgument"):
        read_path("/2020-05-31/%ff")


def test_missing_query_member_is_named() -> None:
    match = cloudfront().find("GET", ("2020-05-31", "tagging"), {})
    assert match is not None
    with pytest.raises(ApiError, match="The parameter Resource is required"):
        read_input(match, {}, {}, b"")


def test_query_enum_is_checked() -> None:
    match = cloudfront().find("GET", ("2020-05-31", "cache-policy"), {})
    assert match is not None
    with pytest.raises(ApiError, match="Type is not valid: 'all' is not one of managed, custom"):
        read_input(match, {"Type": "all"}, {}, b"")


def test_unexpected_body_is_ignored() -> None:
    match = cloudfront().find("GET", ("2020-05-31", "distribution", "E1"), {})
    assert match is not None
    assert read_input(match, {}, {}, b"<not xml") == {"Id": "E1"}


def test_operation_without_output_gives_no_body() -> None:
    operation = cloudfront().operation("DeleteDistribution")
    assert write_output(operation, {}, "").status == 204
    with pytest.raises(KeyError):
        write_output(operation, {"ETag": "E1"}, "")

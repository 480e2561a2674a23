"""Members and their places, by botocore's own serializer and parser of the client's side."""

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
from tests.support.api_operations import OFFERED_OPERATIONS, example, values

EXAMPLES_PER_OPERATION = 8


def received(operation: str, given: dict[str, Any]) -> tuple[OperationMatch, dict[str, Any]]:
    """What the API makes of a request that botocore has made of ``given``."""
    model = cloudfront().operation(operation)
    request = create_serializer("rest-xml", include_validation=True).serialize_to_request(
        given, model
    )
    path, _, marker = request["url_path"].partition("?")
    query = read_query(f"{marker}&{percent_encode_sequence(request['query_string'])}")
    found = cloudfront().find(request["method"], read_path(path), query)
    assert found is not None
    fields = {name.lower(): value for name, value in request["headers"].items()}
    return found, read_input(found, query, fields, request["body"] or b"")


def parsed(operation: str, output: dict[str, Any]) -> dict[str, Any]:
    """What botocore makes of an answer that the API has made of ``output``."""
    model = cloudfront().operation(operation)
    answer = write_output(model, output, "http://edge.example")
    response = {"status_code": answer.status, "headers": answer.fields, "body": answer.body}
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
def test_what_botocore_serializes_is_read(operation: str, data: st.DataObject) -> None:
    members = data.draw(values(cloudfront().operation(operation).input_shape))
    found, value = received(operation, members)
    assert found.operation.name == operation
    assert value == members


@pytest.mark.parametrize("operation", OFFERED_OPERATIONS)
@settings(
    max_examples=EXAMPLES_PER_OPERATION,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_what_is_written_botocore_parses(operation: str, data: st.DataObject) -> None:
    output = data.draw(values(cloudfront().operation(operation).output_shape))
    value = parsed(operation, output)
    if "Location" in output:
        output["Location"] = "http://edge.example" + output["Location"]
    assert value == output


@pytest.mark.parametrize(
    "operation", [name for name in OFFERED_OPERATIONS if name.startswith("Update")]
)
def test_what_get_gives_update_takes(operation: str) -> None:
    """A document goes round: read from an answer, it is sent back as it is."""
    members = example(cloudfront().operation(operation).input_shape)
    payload = cloudfront().operation(operation).input_shape.serialization["payload"]  # type: ignore[union-attr]
    getter = operation.replace("Update", "Get")
    getter = getter if getter.endswith("Config") else f"{getter}Config"
    document = parsed(getter, {payload: members[payload]})[payload]
    assert received(operation, members | {payload: document})[1] == members


@pytest.mark.parametrize(
    ("query", "read"),
    [
        ("", {}),
        ("WithTags", {"WithTags": ""}),
        ("WithTags=&&Marker=a%2Fb+c", {"WithTags": "", "Marker": "a/b+c"}),
        ("a=b=c", {"a": "b=c"}),
        ("%41=%C3%A9", {"A": "é"}),
        ("a=%zz", {"a": "%zz"}),
    ],
)
def test_a_query_is_decoded_once(query: str, read: dict[str, str]) -> None:
    assert read_query(query) == read


@pytest.mark.parametrize("query", ["Resource=a&Resource=b", "A&%41", "a=%ff", "%ff"])
def test_a_query_that_is_doubled_or_not_utf8(query: str) -> None:
    with pytest.raises(ApiError, match="InvalidArgument"):
        read_query(query)


def test_a_path_is_decoded_after_it_is_split() -> None:
    assert read_path("/2020-05-31/distribution/a%2Fb%20c") == (
        *("2020-05-31", "distribution"),
        "a/b c",
    )
    assert read_path("/2020-05-31/distribution/") == ("2020-05-31", "distribution", "")
    with pytest.raises(ApiError, match="InvalidArgument"):
        read_path("/2020-05-31/%ff")


def test_a_required_member_of_the_query_is_named() -> None:
    found = cloudfront().find("GET", ("2020-05-31", "tagging"), {})
    assert found is not None
    with pytest.raises(ApiError, match="The parameter Resource is required"):
        read_input(found, {}, {}, b"")


def test_an_enum_of_the_query_is_checked() -> None:
    found = cloudfront().find("GET", ("2020-05-31", "cache-policy"), {})
    assert found is not None
    with pytest.raises(ApiError, match="Type is not valid: 'all' is not one of managed, custom"):
        read_input(found, {"Type": "all"}, {}, b"")


def test_a_body_nobody_asked_for_is_not_looked_at() -> None:
    found = cloudfront().find("GET", ("2020-05-31", "distribution", "E1"), {})
    assert found is not None
    assert read_input(found, {}, {}, b"<not xml") == {"Id": "E1"}


def test_an_operation_without_output_gives_none() -> None:
    operation = cloudfront().operation("DeleteDistribution")
    assert write_output(operation, {}, "").status == 204
    with pytest.raises(KeyError):
        write_output(operation, {"ETag": "E1"}, "")

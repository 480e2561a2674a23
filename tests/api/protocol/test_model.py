"""The operation of a method, a path and a query."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.model import ListShape, Shape, StructureShape

from streamedge.api.protocol.model import cloudfront
from tests.support.api.api_operations import OFFERED_OPERATIONS


@pytest.mark.parametrize(
    ("method", "path", "query", "operation", "parameters"),
    [
        ("GET", "distribution", {}, "ListDistributions", {}),
        ("POST", "distribution", {}, "CreateDistribution", {}),
        ("POST", "distribution", {"WithTags": ""}, "CreateDistributionWithTags", {}),
        ("GET", "distribution", {"WithTags": ""}, "ListDistributions", {}),
        ("GET", "distribution/E1", {}, "GetDistribution", {"Id": "E1"}),
        ("GET", "distribution/E1", {"x-id": "GetDistribution"}, "GetDistribution", {"Id": "E1"}),
        ("GET", "distribution/E1/config", {}, "GetDistributionConfig", {"Id": "E1"}),
        (
            *("GET", "distribution/E1/invalidation/I2", {}, "GetInvalidation"),
            {"DistributionId": "E1", "Id": "I2"},
        ),
        ("GET", "tagging", {"Resource": "arn"}, "ListTagsForResource", {}),
        ("POST", "tagging", {"Operation": "Tag", "Resource": "arn"}, "TagResource", {}),
        ("POST", "tagging", {"Resource": "arn", "Operation": "Untag"}, "UntagResource", {}),
        (
            *("POST", "streaming-distribution", {"WithTags": ""}),
            *("CreateStreamingDistributionWithTags", {}),
        ),
        (
            *("GET", "origin-access-identity/cloudfront/config", {}),
            *("GetCloudFrontOriginAccessIdentity", {"Id": "config"}),
        ),
    ],
)
def test_request_matches_an_operation(
    method: str, path: str, query: dict[str, str], operation: str, parameters: dict[str, str]
) -> None:
    match = cloudfront().find(method, ("2020-05-31", *path.split("/")), query)
    assert match is not None
    assert (match.operation.name, match.path_parameters) == (operation, parameters)


@pytest.mark.parametrize(
    ("method", "segments", "query"),
    [
        ("GET", ("2020-05-31",), {}),
        ("GET", ("2020-05-31", ""), {}),
        ("GET", ("2019-03-26", "distribution"), {}),
        ("GET", ("2020-05-31", "distribution", ""), {}),
        ("GET", ("2020-05-31", "distribution", "", "config"), {}),
        ("get", ("2020-05-31", "distribution"), {}),
        ("POST", ("2020-05-31", "tagging"), {}),
        ("POST", ("2020-05-31", "tagging"), {"Operation": "tag"}),
        ("GET", ("2020-05-31", "distribution", "E1", "config", "more"), {}),
    ],
)
def test_other_request_matches_no_operation(
    method: str, segments: tuple[str, ...], query: dict[str, str]
) -> None:
    assert cloudfront().find(method, segments, query) is None


@pytest.mark.parametrize("operation", OFFERED_OPERATIONS)
def test_operation_matches_its_own_uri(operation: str) -> None:
    http = cloudfront().operation(operation).http
    path, _, query = http["requestUri"].partition("?")
    names = re.findall(r"{(\w+)}", path)
    segments = tuple(re.sub(r"[{}]", "", path).strip("/").split("/"))
    name, _, value = query.partition("=")
    match = cloudfront().find(http["method"], segments, {name: value})
    assert match is not None
    assert match.operation.name == operation
    assert match.path_parameters == dict(zip(names, names, strict=True))


def test_model_is_read_once_for_all_threads() -> None:
    with ThreadPoolExecutor(4) as pool:
        models = [future.result() for future in [pool.submit(cloudfront) for _ in range(8)]]
    assert all(model is models[0] for model in models)


def _shapes(shape: Shape | None, seen: dict[str, Shape]) -> dict[str, Shape]:
    if shape is not None and shape.name not in seen:
        seen[shape.name] = shape
        if isinstance(shape, StructureShape):
            for member in shape.members.values():
                _shapes(member, seen)
        if isinstance(shape, ListShape):
            _shapes(shape.member, seen)
    return seen


@pytest.mark.parametrize("operation", OFFERED_OPERATIONS)
def test_offered_operations_use_only_supported_features(operation: str) -> None:
    """Checks what ``rest_xml`` and ``binding`` assume of the shapes of offered operations."""
    model = cloudfront().operation(operation)
    scalars = {"string", "boolean", "integer", "long", "double"}
    assert all(
        shape.type_name in scalars | {"structure", "list"}
        for shape in _shapes(model.input_shape, {}).values()
    )
    all_shapes = _shapes(model.output_shape, _shapes(model.input_shape, {}))
    for shape in all_shapes.values():
        assert shape.type_name in scalars | {"structure", "list", "timestamp"}
        assert not shape.serialization.get("flattened")
        if isinstance(shape, StructureShape):
            for name, member in shape.members.items():
                assert not member.serialization.get("xmlAttribute")
                assert not member.serialization.get("flattened")
                if "location" not in member.serialization:
                    assert member.serialization.get("name", name) == name
    for message in (model.input_shape, model.output_shape):
        if message is not None:
            without_location = [
                name
                for name, member in message.members.items()
                if "location" not in member.serialization
            ]
            payload = message.serialization.get("payload")
            is_whole_body = payload is None and model.http["method"] == "POST"
            assert is_whole_body or without_location == ([] if payload is None else [payload])

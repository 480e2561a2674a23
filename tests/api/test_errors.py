"""Codes and their statuses, held against CloudFront's service model."""

from __future__ import annotations

import pytest
from botocore.session import get_session

from streamedge.api.errors import STATUS_BY_CODE, ApiError
from streamedge.api.protocol.model import cloudfront
from tests.support.api_operations import OFFERED_OPERATIONS

# AWS's common errors, which no service model lists, and what a server says of itself.
COMMON = {
    *("InvalidClientTokenId", "MissingAuthenticationToken", "SignatureDoesNotMatch"),
    *("InternalError", "NotImplemented", "RequestTimeout", "ServiceUnavailable"),
}
# What no edge has, so that no call of it can be refused for it.
FOREIGN = ("ContinuousDeployment", "FieldLevelEncryption", "RealtimeLogConfig", "Staging")
STATUS_BY_SHAPE = {
    shape.name: shape.metadata["error"]["httpStatusCode"]
    for shape in get_session().get_service_model("cloudfront").error_shapes
}
POSSIBLE = {
    shape.name
    for operation in OFFERED_OPERATIONS
    for shape in cloudfront().operation(operation).error_shapes
    if not any(word in shape.name for word in FOREIGN)
}


@pytest.mark.parametrize("code", sorted(POSSIBLE | STATUS_BY_CODE.keys() - COMMON))
def test_a_code_has_the_models_status(code: str) -> None:
    assert ApiError(code, "").status == STATUS_BY_SHAPE[code]


@pytest.mark.parametrize(
    ("code", "is_sender_fault"),
    [("NoSuchDistribution", True), ("InvalidArgument", True), ("InternalError", False)],
)
def test_whose_fault_it_is(code: str, is_sender_fault: bool) -> None:
    error = ApiError(code, "It is so.")
    assert error.is_sender_fault is is_sender_fault
    assert str(error) == f"{code}: It is so."

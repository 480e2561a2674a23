"""Error codes and their statuses, compared with CloudFront's service model."""

from __future__ import annotations

import pytest
from botocore.session import get_session

from streamedge.api.errors import STATUS_BY_CODE, ApiError
from streamedge.api.protocol.model import cloudfront
from tests.support.api.api_operations import OFFERED_OPERATIONS

# AWS's common errors, which are in no service model, and errors of the server.
COMMON = {
    *("InvalidClientTokenId", "MissingAuthenticationToken", "SignatureDoesNotMatch"),
    *("InternalError", "NotImplemented", "RequestTimeout", "ServiceUnavailable"),
}
# Features that the edge does not have, so it never returns their codes.
UNSUPPORTED = ("ContinuousDeployment", "FieldLevelEncryption", "RealtimeLogConfig", "Staging")
STATUS_BY_SHAPE = {
    shape.name: shape.metadata["error"]["httpStatusCode"]
    for shape in get_session().get_service_model("cloudfront").error_shapes
}
MODEL_CODES = {
    shape.name
    for operation in OFFERED_OPERATIONS
    for shape in cloudfront().operation(operation).error_shapes
    if not any(word in shape.name for word in UNSUPPORTED)
}


@pytest.mark.parametrize("code", sorted(MODEL_CODES | STATUS_BY_CODE.keys() - COMMON))
def test_code_has_the_status_of_the_model(code: str) -> None:
    assert ApiError(code, "").status == STATUS_BY_SHAPE[code]


@pytest.mark.parametrize(
    ("code", "is_sender_fault"),
    [("NoSuchDistribution", True), ("InvalidArgument", True), ("InternalError", False)],
)
def test_error_code_decides_whether_the_sender_is_at_fault(
    code: str, is_sender_fault: bool
) -> None:
    error = ApiError(code, "It is so.")
    assert error.is_sender_fault is is_sender_fault
    assert str(error) == f"{code}: It is so."

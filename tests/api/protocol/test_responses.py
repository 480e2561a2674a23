"""CloudFront's form of a refusal."""

from __future__ import annotations

from streamedge.api.errors import ApiError
from streamedge.api.protocol.responses import error_response


def test_a_refusal() -> None:
    """Form: CloudFront API Reference, "Making API requests", "Error responses"."""
    answer = error_response(ApiError("InvalidArgument", "a < b"), "id-1")
    assert (answer.status, answer.fields) == (400, {})
    assert answer.body.decode() == (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<ErrorResponse xmlns="http://cloudfront.amazonaws.com/doc/2020-05-31/">'
        "<Error><Type>Sender</Type><Code>InvalidArgument</Code>"
        "<Message>a &lt; b</Message></Error><RequestId>id-1</RequestId></ErrorResponse>"
    )


def test_a_refusal_that_is_the_edges_fault() -> None:
    answer = error_response(ApiError("InternalError", "x"), "id-1")
    assert answer.status == 500
    assert b"<Type>Receiver</Type>" in answer.body

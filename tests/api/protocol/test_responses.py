"""CloudFront's form of error responses."""

from __future__ import annotations

from streamedge.api.errors import ApiError
from streamedge.api.protocol.responses import error_response


def test_error_response_has_the_form_of_cloudfront() -> None:
    """Form: CloudFront API Reference, "Making API requests", "Error responses"."""
    response = error_response(ApiError("InvalidArgument", "a < b"), "id-1")
    assert (response.status, response.fields) == (400, {})
    assert response.body.decode() == (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<ErrorResponse xmlns="http://cloudfront.amazonaws.com/doc/2020-05-31/">'
        "<Error><Type>Sender</Type><Code>InvalidArgument</Code>"
        "<Message>a &lt; b</Message></Error><RequestId>id-1</RequestId></ErrorResponse>"
    )


def test_error_response_to_an_internal_error_names_the_receiver() -> None:
    response = error_response(ApiError("InternalError", "x"), "id-1")
    assert response.status == 500
    assert b"<Type>Receiver</Type>" in response.body

"""HTTP responses of the API, and the XML of CloudFront's errors.

The service model is not loaded here, because an unauthenticated request is refused without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streamedge.api.errors import ApiError
from streamedge.api.protocol.xml_tree import Element, write_tree


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """A status, header fields by name, and an XML document (or an empty body)."""

    status: int
    fields: Mapping[str, str]
    body: bytes


def error_response(error: ApiError, request_id: str) -> ApiResponse:
    """The response to a refused call."""
    fault = [
        Element("Type", text="Sender" if error.is_sender_fault else "Receiver"),
        Element("Code", text=error.code),
        Element("Message", text=error.message),
    ]
    children = [Element("Error", fault), Element("RequestId", text=request_id)]
    return ApiResponse(error.status, {}, write_tree(Element("ErrorResponse", children)))

"""HTTP responses of the API, and CloudFront's form of an error.

It does not load the service model, so an unauthenticated request is refused without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streamedge.api.errors import ApiError
from streamedge.api.protocol.xml_tree import Element, write_tree


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, header fields by name, and a document or nothing."""

    status: int
    fields: Mapping[str, str]
    body: bytes


def refusal(error: ApiError, request_id: str) -> Answer:
    """The answer to a call that was refused."""
    fault = [
        Element("Type", text="Sender" if error.is_senders else "Receiver"),
        Element("Code", text=error.code),
        Element("Message", text=error.message),
    ]
    children = [Element("Error", fault), Element("RequestId", text=request_id)]
    return Answer(error.status, {}, write_tree(Element("ErrorResponse", children)))

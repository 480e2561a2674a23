"""What the request handler needs of a viewer's connection, whatever its HTTP version."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from streamedge.delivery.http.request.dispatch import Outcome
from streamedge.delivery.http.request.request import WebRequest
from streamedge.origin import Fields


class Exchange(Protocol):
    """One request of a viewer, and the way to it."""

    @property
    def request(self) -> WebRequest: ...

    @property
    def outcome(self) -> Outcome:
        """How the request was dispatched."""
        ...

    def body(self) -> AsyncIterator[bytes] | None:
        """The body as it arrives; None if there is none.

        It raises ConnectionResetError if the viewer leaves before its end.
        """
        ...

    def trailers(self) -> Fields:
        """The trailer fields; complete when the body has ended."""
        ...

    def interim(self, status: int, fields: Fields) -> None:
        """Sends a 1xx response, unless the final one has begun (RFC 9110 §15.2)."""
        ...

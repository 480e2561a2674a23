"""What a connection reports of its responses, for the log and the metrics."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Protocol

from streamedge.delivery.http.fast_path.remembered import QueuedHit, SentHit
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.response.build import Response
from streamedge.delivery.http.viewer import Viewer


class ResponseReports(Protocol):
    """Gets each response once, at its end: ``ResponseLog``, or the server of other edges."""

    def finished(
        self,
        request: WebRequest,
        response: Response,
        viewer: Viewer,
        first_byte_s: float,
        sent_bytes: int,
        duration_s: float,
        cut: str | None,
    ) -> None:
        """A response of the general path has ended.

        ``first_byte_s``: from the request to the response's first byte. ``cut``: why it ended
        early, or None.
        """
        ...

    def hits_finished(
        self, hits: Sequence[SentHit], duration_s: float = 0.0, cut: str | None = None
    ) -> None:
        """Responses of the fast path have ended."""
        ...

    def hit_finished(
        self, hit: QueuedHit, sent_bytes: int, duration_s: float, cut: str | None
    ) -> None:
        """A hit that was not sent at once has ended."""
        self.hits_finished([hit.sent(sent_bytes)], duration_s, cut)

    def refused_connection(
        self,
        client: str,
        status: HTTPStatus,
        request: WebRequest | None = None,
        request_id: str = "",
        body_bytes: int = 0,
    ) -> None:
        """Bytes that are no request got an error response.

        ``request``: the one in whose body they are, if any. ``request_id`` and
        ``body_bytes``: of the response.
        """
        ...

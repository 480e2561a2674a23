"""What a connection knows of a response while it sends it, in HTTP/1.1 and in HTTP/2."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from streamedge.cache.storage.records import Provenance
from streamedge.delivery.http.fast_path.remembered import QueuedHit
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.response.build import Response
from streamedge.delivery.http.response_reports import ResponseReports
from streamedge.delivery.http.seen_viewers import RunningResponse
from streamedge.delivery.http.viewer import Viewer

Finished = Callable[[int, float, str | None], None]
"""Logs and counts a response: bytes sent, seconds taken, and why it was cut off."""


class ResponseInfo(NamedTuple):
    """A response in flight, as operators and invalidations see it, and its report.

    ``address``: the viewer's. ``distribution``: its id, "" where none matches. ``started_s``: the
    loop's time of the request. ``provenance``: None where no invalidation applies. ``finished`` is
    called at the response's end.
    """

    request: WebRequest
    address: str
    distribution: str
    started_s: float
    provenance: Callable[[], Provenance] | None
    finished: Finished

    def is_covered(self, covers: Callable[[Provenance], bool]) -> bool:
        """Whether a revocation covers it."""
        return self.provenance is not None and covers(self.provenance())

    def running(self, client: str, sent_bytes: int) -> RunningResponse:
        """The response as operators see it, on the connection of ``client``."""
        return RunningResponse(
            self.request, client, self.address, self.distribution, sent_bytes, self.started_s
        )


def info_of_hit(hit: QueuedHit, reports: ResponseReports, started_s: float) -> ResponseInfo:
    """What is known of a hit of the fast path."""
    remembered = hit.remembered
    return ResponseInfo(
        remembered.request,
        remembered.address or hit.viewer.address,
        remembered.distribution,
        started_s,
        remembered.provenance(hit.response),
        partial(reports.hit_finished, hit),
    )


def info_of_response(
    request: WebRequest,
    response: Response,
    viewer: Viewer,
    reports: ResponseReports,
    first_byte_s: float,
) -> ResponseInfo:
    """What is known of a response of the general path."""
    return ResponseInfo(
        request,
        request.address,
        response.distribution or "",
        request.started_s,
        response.provenance,
        partial(reports.finished, request, response, viewer, first_byte_s),
    )

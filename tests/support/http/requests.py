"""Requests as the handler gets them, for tests."""

from __future__ import annotations

from collections.abc import Sequence

from streamedge.delivery.http.request.request import WebRequest, web_request
from streamedge.delivery.http.viewer import Viewer


def request_of(
    viewer: Viewer,
    target: bytes,
    fields: Sequence[tuple[bytes, bytes]],
    *,
    method: str = "GET",
    request_id: str = "the-id",
) -> WebRequest:
    """A request over HTTP/2, with TLS, without a proxy."""
    return web_request(
        method,
        target,
        fields,
        client=viewer.client,
        address=viewer.address,
        proxies=(),
        keep_alive=True,
        started_s=0.0,
        secure=True,
        http_version="2",
        request_id=request_id,
    )

"""A web server in the test's own process over each HTTP version, with a viewer for each.

A test module lists the versions that its tests run over:

    @pytest.fixture(params=VERSIONS)
    def http(request: pytest.FixtureRequest, authority: CertificateAuthority) -> WebVersion:
        return WebVersion(request.param, authority)

    async def test_something(cache_root: Path, http: WebVersion) -> None:
        async with http.serve(cache_root) as edge, http.viewer(edge) as viewer:
            ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamedge.process.certificates import CertificateFiles, Certificates
from tests.support.certificate_authority import CertificateAuthority
from tests.support.http.http2_viewer import StreamViewer, open_http2_viewer
from tests.support.http.http_viewer import Response, Viewer, open_viewer
from tests.support.http.web_edge import WebEdge, serve_web

HTTP1, HTTP1_TLS, HTTP2 = "HTTP/1.1", "HTTP/1.1 over TLS", "HTTP/2"
HTTP1_VERSIONS = (HTTP1, HTTP1_TLS)
VERSIONS = (HTTP1, HTTP1_TLS, HTTP2)
NAME = "edge"  # the default Host of ``http_viewer``


@dataclass(frozen=True, slots=True)
class WebVersion:
    """Servers and viewers that speak one version."""

    name: str
    authority: CertificateAuthority

    def serve(self, root: Path, **more: Any) -> AbstractAsyncContextManager[WebEdge]:
        """Serves as ``serve_web`` does, with the arguments ``more``."""
        context = None
        if self.name != HTTP1:
            pair = self.authority.issue(NAME)
            context = Certificates([CertificateFiles(pair.certificate, pair.key)]).front
        return serve_web(root, context=context, **more)

    @asynccontextmanager
    async def http1_viewer(
        self, edge: WebEdge, *, receive_buffer_bytes: int | None = None
    ) -> AsyncIterator[Viewer]:
        """A viewer that can send any bytes; not for HTTP/2."""
        tls = None if self.name == HTTP1 else self.authority.client()
        async with open_viewer(
            edge.port, receive_buffer_bytes=receive_buffer_bytes, tls=tls, server_name=NAME
        ) as viewer:
            yield viewer

    @asynccontextmanager
    async def viewer(self, edge: WebEdge) -> AsyncIterator[Viewer | StreamViewer]:
        """A viewer on a connection of its own."""
        if self.name == HTTP2:
            async with open_http2_viewer(edge.port, self.authority.client()) as connection:
                yield StreamViewer(connection)
        else:
            async with self.http1_viewer(edge) as viewer:
                yield viewer

    async def fetch(self, edge: WebEdge, path: str, method: str = "GET", **fields: str) -> Response:
        """Sends one request on a connection of its own."""
        async with self.viewer(edge) as viewer:
            return await viewer.get(path, method, **fields)

"""A real edge for journeys over one HTTP version: plain HTTP/1.1, or HTTP/2 over TLS."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.certificate_authority import CertificateAuthority
from tests.support.http.http2_viewer import StreamViewer, open_http2_viewer
from tests.support.http.http_viewer import Response, Viewer, open_viewer
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, run_edge

HTTP1, HTTP2 = "HTTP/1.1", "HTTP/2"
VERSIONS = (HTTP1, HTTP2)
NAME = "edge"  # in the certificate, and the default Host of ``http_viewer``


@dataclass(frozen=True, slots=True)
class ViewerEdge:
    """A running edge, and clients that reach it over ``version``."""

    process: EdgeProcess
    version: str
    authority: CertificateAuthority

    def url(self, path: str) -> str:
        if self.version == HTTP1:
            return self.process.http(path)
        return f"https://{NAME}:{self.process.https_port}/{path.lstrip('/')}"

    def curl(self, *arguments: str) -> bytes:
        """What curl writes to its standard output; it fails on statuses above 399."""
        command = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*"]
        if self.version == HTTP2:
            command += ["--http2", "--cacert", str(self.authority.root)]
            command += ["--resolve", f"{NAME}:{self.process.https_port}:127.0.0.1"]
        command += arguments
        return subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S).stdout

    @contextmanager
    def httpx(self) -> Iterator[httpx.Client]:
        """A client whose requests go to the edge; paths are sent as they are."""
        port = self.process.http_port if self.version == HTTP1 else self.process.https_port
        scheme = "http" if self.version == HTTP1 else "https"
        context = self._context()
        context.check_hostname = False
        with httpx.Client(
            base_url=f"{scheme}://127.0.0.1:{port}",
            verify=context,
            http1=self.version == HTTP1,
            http2=self.version == HTTP2,
            trust_env=False,
            timeout=PATIENCE_S,
        ) as client:
            yield client

    @asynccontextmanager
    async def viewer(
        self, *, receive_buffer_bytes: int | None = None
    ) -> AsyncIterator[Viewer | StreamViewer]:
        """A connection. With a buffer size it stops reading: by TCP, or by HTTP/2's windows."""
        if self.version == HTTP1:
            async with open_viewer(
                self.process.http_port, receive_buffer_bytes=receive_buffer_bytes
            ) as viewer:
                yield viewer
        else:
            async with open_http2_viewer(
                self.process.https_port, self._context(), reads=receive_buffer_bytes is None
            ) as connection:
                yield StreamViewer(connection)

    async def fetch(self, path: str, method: str = "GET", **fields: str) -> Response:
        """Sends one request on a connection of its own."""
        async with self.viewer() as viewer:
            return await viewer.get(path, method, **fields)

    def _context(self) -> ssl.SSLContext:
        return self.authority.client()


@contextmanager
def run_viewer_edge(version: str, folder: Path, origins: str, **more: Any) -> Iterator[ViewerEdge]:
    """Runs an edge as ``run_edge`` does, with the arguments ``more``."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = CertificateAuthority(folder)
    certificate = authority.issue(NAME)
    with run_edge(folder, origins, certificate=certificate, **more) as edge:
        yield ViewerEdge(edge, version, authority)

"""A web server over TLS in the test's own process, and viewers that reach it over HTTP/2.

async with serve_http2(root) as served, open_http2(served) as viewer:
    response = await viewer.get("/film.mp4", range="bytes=0-99")
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from streamedge.delivery.http.http2.connection import Http2Connection
from streamedge.process.certificates import CertificateFiles, Certificates
from tests.support.certificate_authority import CertificateAuthority
from tests.support.http.http2_viewer import Http2Viewer, open_http2_viewer
from tests.support.http.web_edge import WebEdge, serve_web

HOST = "edge"  # the default of ``http2_viewer``


def secure_contexts(folder: Path, *names: tuple[str, ...]) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of an edge and of a viewer; each of ``names`` has a certificate."""
    authority = CertificateAuthority(folder)
    pairs = [authority.issue(*one) for one in names]
    client = authority.client()
    client.check_hostname = False
    return Certificates([CertificateFiles(one.certificate, one.key) for one in pairs]).front, client


@asynccontextmanager
async def serve_http2(
    root: Path, *, names: tuple[tuple[str, ...], ...] = ((HOST,),), **options: Any
) -> AsyncIterator[tuple[WebEdge, ssl.SSLContext]]:
    """Serves as ``serve_web``, over TLS, and the context of its viewers."""
    server, client = secure_contexts(root, *names)
    async with serve_web(root, context=server, **options) as edge:
        yield edge, client


@asynccontextmanager
async def open_http2(
    served: tuple[WebEdge, ssl.SSLContext],
    *,
    name: str = HOST,
    settings: Sequence[tuple[int, int]] = (),
) -> AsyncIterator[Http2Viewer]:
    """A connection to an edge of ``serve_http2``; ``settings`` are the viewer's."""
    edge, client = served
    async with open_http2_viewer(edge.port, client, server_name=name, settings=settings) as viewer:
        yield viewer


def http2_connections(edge: WebEdge) -> list[Http2Connection]:
    """The open connections, from within."""
    return [one for one in edge.server.connections if isinstance(one, Http2Connection)]

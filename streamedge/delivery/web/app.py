"""The application behind the short lane: whatever is not a fresh hit.

Owns which requests are answered from the cache. The bytes of its answers are sent by the
connection (``EXTENSION``), not through ASGI messages.
"""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from streamedge.delivery.web.protocol import EXTENSION
from streamedge.delivery.web.site import Site


class CachedObject:
    """The endpoint for every path of every web distribution."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"][EXTENSION]
        request = connection["request"]()
        if request.method in {"GET", "HEAD"}:
            try:
                opened = await self._site.serve(request)
            except asyncio.CancelledError:
                return  # the edge stops, and has cut the connection: nobody is left to answer
            await connection["answer"](request, opened)
        else:
            await connection["answer"](request, self._site.refuse_method(request))


def create_app(site: Site) -> Starlette:
    """The ASGI application of the viewers' listeners."""
    endpoint = CachedObject(site)
    return Starlette(routes=[Route("/{path:path}", endpoint, methods=None)])

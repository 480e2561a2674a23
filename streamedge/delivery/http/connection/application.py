"""The application behind the short lane: whatever is not a plain fresh hit.

Owns which way a request goes: to the cache, to the origin, or into a tunnel. The bytes of its
answers are sent by the connection (``EXTENSION``), not through ASGI messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.types import Receive, Scope, Send

from streamedge.delivery.http.connection.request_side import EXTENSION
from streamedge.delivery.http.connection.response_sender import ResponseSender
from streamedge.delivery.http.connection.tunnel import tunnel
from streamedge.delivery.http.handler import HttpHandler, Upgraded
from streamedge.delivery.http.request.routing import Route
from streamedge.delivery.http.response.build import Response


class Application:
    """The ASGI application of the viewers' listeners: one for every path and distribution."""

    def __init__(self, site: HttpHandler) -> None:
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        bridge: ResponseSender = scope["extensions"][EXTENSION]
        try:
            opened = await self._open(bridge, receive)
        except asyncio.CancelledError:
            return  # the edge stops, and has cut the connection: nobody is left to answer
        if isinstance(opened, Upgraded):
            await tunnel(bridge, opened)
        else:
            await bridge.answer(opened)

    async def _open(self, bridge: ResponseSender, receive: Receive) -> Response | Upgraded:
        request = bridge.request
        found = self._site.find(request)
        if not isinstance(found, Route):
            return found
        if self._site.is_for_cache(found, request):
            return await self._site.serve(found, request, bridge.interim)
        body = Body(receive) if request.has_body else None
        try:
            return await self._site.forward(found, request, body, bridge.interim, bridge.trailers)
        except ConnectionResetError as exc:
            return self._site.left(request, found, exc)
        finally:
            if body is not None and not body.is_begun and "expect" in request.headers:
                bridge.close_afterwards()  # whether a body follows is the viewer's choice now


class Body:
    """A request's body as it comes. Raises ConnectionResetError when the viewer leaves in it."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._more = True
        self.is_begun = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self.is_begun = True
        while self._more:
            message = await self._receive()
            if message["type"] != "http.request":
                raise ConnectionResetError("the viewer left before its request was all sent")
            self._more = message.get("more_body", False)
            if message["body"]:
                return bytes(message["body"])
        raise StopAsyncIteration

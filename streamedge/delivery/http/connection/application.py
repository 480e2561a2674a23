"""The ASGI application behind the fast path: handles all requests that are not fresh hits.

It sends each request to the cache, to the origin, or into a tunnel. The connection sends the
response bytes (``EXTENSION``), not ASGI messages.
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
    """The ASGI application of the viewers' listeners, for all distributions."""

    def __init__(self, site: HttpHandler) -> None:
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender: ResponseSender = scope["extensions"][EXTENSION]
        try:
            response = await self._open(sender, receive)
        except asyncio.CancelledError:
            return  # the edge is stopping and has closed the connection
        if isinstance(response, Upgraded):
            await tunnel(sender, response)
        else:
            await sender.answer(response)

    async def _open(self, sender: ResponseSender, receive: Receive) -> Response | Upgraded:
        request = sender.request
        route = self._site.find(request)
        if not isinstance(route, Route):
            return route
        if self._site.is_for_cache(route, request):
            return await self._site.serve(route, request, sender.interim)
        body = Body(receive) if request.has_body else None
        try:
            return await self._site.forward(route, request, body, sender.interim, sender.trailers)
        except ConnectionResetError as exc:
            return self._site.viewer_left(request, route, exc)
        finally:
            if body is not None and not body.is_begun and "expect" in request.headers:
                sender.close_afterwards()  # the viewer may or may not send the body now


class Body:
    """A request's body as it comes. Raises ConnectionResetError if the viewer leaves early."""

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
                raise ConnectionResetError("the viewer left before its request was complete")
            self._more = message.get("more_body", False)
            if message["body"]:
                return bytes(message["body"])
        raise StopAsyncIteration

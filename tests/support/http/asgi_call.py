"""One call of an ASGI application, without a server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Scope


async def call(app: ASGIApp, method: str, target: str, **request: Any) -> tuple[int, bytes]:
    """As ``exchange``, without the header fields of the response."""
    status, _fields, content = await exchange(app, method, target, **request)
    return status, content


async def exchange(
    app: ASGIApp,
    method: str,
    target: str,
    *,
    fields: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    client: str = "127.0.0.1",
    server: str = "127.0.0.1",
    scheme: str = "http",
) -> tuple[int, Headers, bytes]:
    """Sends a request; returns the response's status, header fields and body.

    ``client`` and ``server`` are the addresses of the connection's ends.
    """
    path, _, query = target.partition("?")
    scope: Scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in fields],
        "http_version": "1.1",
        "scheme": scheme,
        "client": (client, 50_000),
        "server": (server, 9090),
        "root_path": "",
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], Headers(raw=sent[0]["headers"]), content

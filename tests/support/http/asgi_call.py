"""One call of an ASGI application, without a server."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Scope


async def call(
    app: ASGIApp,
    method: str,
    target: str,
    *,
    fields: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
) -> tuple[int, bytes]:
    """Sends a request; returns the response's status and body."""
    path, _, query = target.partition("?")
    scope: Scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in fields],
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])

"""The middleware of the admin address: header fields, foreign pages, roles, and a line per change.

CloudFront's API is exempt, because every call there is signed.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamedge.admin.access.control import AccessControl, Caller
from streamedge.admin.access.response_fields import RESPONSE_FIELD_NAMES, RESPONSE_FIELDS
from streamedge.admin.access.rules import (
    LOGIN_PATH,
    LOGOUT_PATH,
    SAFE_METHODS,
    Connection,
    Refusal,
    refusal,
)
from streamedge.admin.access.same_origin import page_refusal
from streamedge.api.protocol.service import API_VERSION

_SIGNED = f"/{API_VERSION}/"
CALLER = "streamedge.caller"  # in the scope: the Caller
CONNECTION = "streamedge.connection"  # in the scope: the Connection


class AccessMiddleware:
    """ASGI middleware. ``is_own``: whether a Host is a name of this edge."""

    def __init__(self, app: ASGIApp, access: AccessControl, is_own: Callable[[str], bool]) -> None:
        self._app = app
        self._access = access
        self._is_own = is_own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_SIGNED):
            await self._app(scope, receive, send)
            return
        fields = Headers(scope=scope)
        connection = self._access.connection(scope)
        caller = self._access.caller(connection, fields)
        scope[CALLER], scope[CONNECTION] = caller, connection
        method, path = scope["method"], scope["path"]
        status = 0

        async def send_with_fields(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [
                    one for one in message["headers"] if one[0].lower() not in RESPONSE_FIELD_NAMES
                ]
                message["headers"] = [*own, *RESPONSE_FIELDS]
            await send(message)

        refused = self._refusal(scope, connection, caller, fields)
        app = self._app if refused is None else _response_to(refused)
        await app(scope, receive, send_with_fields)
        if method not in SAFE_METHODS and path not in {LOGIN_PATH, LOGOUT_PATH}:
            client = scope.get("client")
            self._access.record(
                "admin_call",
                client=client[0] if client else None,
                user=caller.user or None,
                method=method,
                path=path,
                status=status,
            )

    def _refusal(
        self, scope: Scope, connection: Connection, caller: Caller, fields: Headers
    ) -> Refusal | None:
        method, scheme = scope["method"], scope.get("scheme", "http")
        return page_refusal(method, scheme, fields, self._is_own) or refusal(
            connection,
            has_users=self._access.has_users,
            role=caller.role,
            method=method,
            path=scope["path"],
        )


def _response_to(refused: Refusal) -> JSONResponse:
    # RFC 9110 §11.6.1 requires a challenge; this one opens no dialog in a browser.
    is_challenge = refused.status is HTTPStatus.UNAUTHORIZED
    fields = {"WWW-Authenticate": 'Bearer realm="streamedge"'} if is_challenge else None
    return JSONResponse({"error": refused.reason}, refused.status, fields)

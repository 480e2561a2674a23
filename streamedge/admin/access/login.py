"""Login and logout on the admin address.

    POST /login      {"user": NAME, "password": TEXT}: 200 and a cookie; 401; 429 after five tries
    POST /logout     ends the session
    GET  /session    the caller: {"user", "role", "edge"}; 401 before the login

The cookie is for this host alone (RFC 6265bis, prefix ``__Host-``), is not sent by pages of other
sites, and no script can read it.
"""

from __future__ import annotations

import json

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streamedge.admin.access.control import COOKIE, AccessControl, Caller, TooManyTriesError
from streamedge.admin.access.middleware import CALLER
from streamedge.admin.access.rules import LOGIN_PATH, LOGOUT_PATH, NO_USERS, SESSION_PATH
from streamedge.admin.request_body import read_body

BODY_BYTES_MAX = 16 << 10
WRONG = "the name or the password is wrong"


def login_routes(access: AccessControl, edge_name: str) -> list[Route]:
    """The routes."""

    async def log_in(request: Request) -> Response:
        if not access.has_users:
            raise HTTPException(409, "no users are declared under [admin]: no login is needed")
        user, password = _credentials(await read_body(request, BODY_BYTES_MAX))
        client = request.client.host if request.client else ""
        try:
            identifier = await access.log_in(client, user, password)
        except TooManyTriesError as exc:
            fields = {"Retry-After": f"{exc.wait_s:.0f}"}
            raise HTTPException(429, str(exc), fields) from exc
        if identifier is None:
            raise HTTPException(401, WRONG)
        response = JSONResponse({"user": user})
        response.set_cookie(
            COOKIE, identifier, path="/", secure=True, httponly=True, samesite="strict"
        )
        return response

    async def log_out(request: Request) -> Response:
        access.log_out(request.scope[CALLER])
        response = JSONResponse({})
        response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")
        return response

    async def show_session(request: Request) -> Response:
        caller: Caller = request.scope[CALLER]
        if caller.role is None:
            raise HTTPException(NO_USERS.status, NO_USERS.reason)
        return JSONResponse(
            {
                "user": caller.user or None,
                "role": caller.role.value,
                "has_session": bool(caller.session),
                "edge": edge_name,
            }
        )

    return [
        Route(LOGIN_PATH, log_in, methods=["POST"]),
        Route(LOGOUT_PATH, log_out, methods=["POST"]),
        Route(SESSION_PATH, show_session),
    ]


def _credentials(body: bytes) -> tuple[str, str]:
    """User and password of a body. Raises HTTPException 400."""
    try:
        document = json.loads(body)
        user, password = document["user"], document["password"]
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise HTTPException(400, 'the body is not {"user": NAME, "password": TEXT}') from exc
    if not isinstance(user, str) or not isinstance(password, str):
        raise HTTPException(400, "user and password are texts")
    return user, password

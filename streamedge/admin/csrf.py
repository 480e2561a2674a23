"""The CSRF and DNS-rebinding guard of the admin address.

The admin address has no password, so it must not obey a page that an operator's browser opens. A
page of another site names itself in ``Origin`` or ``Sec-Fetch-Site`` when it makes a call (Fetch
Standard, "Origin header"; Fetch Metadata, §2.3), which is enough to refuse changes. A page whose
own host name was rebound to this address could read responses too; it sends that host name, which
is none of this edge's. CloudFront's API is exempt: every call there is signed.
"""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from streamedge.access.client_address import parse_address
from streamedge.api.protocol.service import VERSION
from streamedge.delivery.hosts import host_name, is_host

_SIGNED = f"/{VERSION}/"
_READING = frozenset({"GET", "HEAD"})
_OWN_SITES = frozenset({"none", "same-origin"})


class CsrfGuard:
    """ASGI middleware. ``host``: the one that ``listen.admin`` names, a name or an address."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._names = frozenset({"localhost", host_name(host)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(_SIGNED):
            refused = self._refused(scope["method"], Headers(scope=scope))
            if refused is not None:
                status, reason = refused
                await JSONResponse({"error": reason}, status)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refused(self, method: str, fields: Headers) -> tuple[HTTPStatus, str] | None:
        for host in fields.getlist("host"):
            if not self._is_own(host):
                reason = (
                    f"{host[:100]!a} is not this edge's: ask by its IP address, as localhost or by"
                    " the name in listen.admin"
                )
                return HTTPStatus.MISDIRECTED_REQUEST, reason
        if method in _READING:
            return None
        sites = fields.getlist("sec-fetch-site")
        if "origin" in fields or not _OWN_SITES.issuperset(sites):
            return HTTPStatus.FORBIDDEN, "a web page may not ask for this"
        return None

    def _is_own(self, host: str) -> bool:
        if not is_host(host):
            return False  # host_name would make a good one of it
        name = host_name(host)
        return name in self._names or parse_address(name) is not None

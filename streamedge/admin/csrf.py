"""The CSRF and DNS-rebinding guard of the admin address.

The admin address has no password, so a web page in an operator's browser must not be able to use
it. Calls from a page of another site have ``Origin`` or ``Sec-Fetch-Site`` (Fetch Standard, "Origin
header"; Fetch Metadata, §2.3), which is enough to refuse changes. A page could also rebind its own
host name to this address and then read responses; the Host of such calls is not a name of this
edge, so they are refused. CloudFront's API is exempt: every call there is signed.
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
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_OWN_SITES = frozenset({"none", "same-origin"})


class CsrfGuard:
    """ASGI middleware. ``host``: the name or address in ``listen.admin``."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._names = frozenset({"localhost", host_name(host)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(_SIGNED):
            refusal = self._refusal(scope["method"], Headers(scope=scope))
            if refusal is not None:
                status, reason = refusal
                await JSONResponse({"error": reason}, status)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, method: str, fields: Headers) -> tuple[HTTPStatus, str] | None:
        for host in fields.getlist("host"):
            if not self._is_own(host):
                reason = (
                    f"{host[:100]!a} is not a name of this edge: use its IP address, localhost or"
                    " the name in listen.admin"
                )
                return HTTPStatus.MISDIRECTED_REQUEST, reason
        if method in _SAFE_METHODS:
            return None
        sites = fields.getlist("sec-fetch-site")
        if "origin" in fields or not _OWN_SITES.issuperset(sites):
            return HTTPStatus.FORBIDDEN, "web pages of other sites may not do this"
        return None

    def _is_own(self, host: str) -> bool:
        if not is_host(host):
            return False  # host_name would repair it
        name = host_name(host)
        return name in self._names or parse_address(name) is not None

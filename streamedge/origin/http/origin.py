"""An origin that is any HTTP server, with objects below a base URL.

Maps names to URLs; ``exchange`` does the rest.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence

from streamedge.origin import (
    OriginHead,
    OriginRead,
    OriginRequest,
    OriginResponse,
    Version,
)
from streamedge.origin.http.exchange import (
    CONNECT_TIMEOUT_S,
    CONNECTIONS_MAX,
    READ_TIMEOUT_S,
    Exchange,
    parse_base_url,
)
from streamedge.origin.http_client.tls import system_tls
from streamedge.origin.names import object_key, site_path, site_target
from streamedge.spans import Span


class HttpOrigin:
    """Objects at ``url``/``prefix``/name. Raises ValueError for a URL that cannot be a base.

    ``host`` is the Host to send: "origin" (the URL's), "viewer" (the request's, if it has one) or
    a name. For the other parameters see ``Exchange``.
    """

    def __init__(
        self,
        url: str,
        prefix: str = "",
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        connections_max: int = CONNECTIONS_MAX,
        total_timeout_s: float = 0,
        tls: Callable[[], ssl.SSLContext] = system_tls,
        host: str = "origin",
        headers: Sequence[tuple[str, str]] = (),
        redirects_max: int = 0,
    ) -> None:
        self._base = parse_base_url(url)
        self._prefix = prefix
        self._exchange = Exchange(
            self._base,
            self._address,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            connections_max=connections_max,
            total_timeout_s=total_timeout_s,
            tls=tls,
            headers=headers if host in ("origin", "viewer") else (("Host", host), *headers),
            keeps_host=host == "viewer",
            redirects_max=redirects_max,
        )

    async def head(self, name: str) -> OriginHead:
        return await self._exchange.head(name)

    async def read(
        self,
        name: str,
        span: Span | None = None,
        *,
        if_match: Version | None = None,
        if_none_match: Version | None = None,
    ) -> OriginRead | None:
        return await self._exchange.read(name, span, if_match=if_match, if_none_match=if_none_match)

    async def send(self, request: OriginRequest) -> OriginResponse:
        """As ``Upstream.send``."""
        if not request.path:
            return await self._exchange.send(request)
        url = f"{self._base}/{site_target(self._prefix, request.path)}"
        return await self._exchange.send(request, url)

    def retire(self) -> None:
        """As ``Client.retire``."""
        self._exchange.retire()

    async def close(self) -> None:
        await self._exchange.close()

    def _address(self, name: str) -> str:
        return f"{self._base}/{site_path(object_key(self._prefix, name))}"

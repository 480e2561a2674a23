"""GET and HEAD of objects over HTTP, the same for HTTP and S3 origins.

Makes a request from an ``ObjectRequest`` and interprets the response. The ``http_client`` sends it.
One call makes one attempt.
"""

from __future__ import annotations

import ssl
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial

from yarl import URL

from streamedge.origin import OriginHead, OriginRead, Version
from streamedge.origin.answers import ObjectRequest, Opening, request_fields
from streamedge.origin.http_client.client import (
    Client,
    Interim,
    PreparedRequest,
    Response,
    Trailers,
)
from streamedge.origin.http_client.redirects import redirect_url
from streamedge.origin.http_client.request import Body, RequestFields
from streamedge.origin.http_client.tls import system_tls
from streamedge.origin.objects import request_head, request_object
from streamedge.spans import Span

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 15.0
CONNECTIONS_MAX = 256

Sign = Callable[[str, str, Mapping[str, str]], Awaitable[dict[str, str]]]
"""Method, URL and header fields in; the fields with those that authorise the request out. Raises
OriginError."""


def parse_base_url(text: str) -> str:
    """``text`` as scheme, host and path without a final slash.

    Raises ValueError for another scheme, no host, a query, a fragment, or credentials, which
    would be logged.
    """
    url = URL(text)
    if url.scheme not in ("http", "https") or not url.raw_host:
        raise ValueError("the URL of an origin begins with http:// or https:// and a host")
    if url.raw_user is not None or url.raw_password is not None:
        raise ValueError("the URL of an origin holds no user or password")
    if url.raw_query_string or url.raw_fragment:
        raise ValueError("the URL of an origin has no query and no fragment")
    try:
        url.raw_host.encode("idna")
    except UnicodeError as exc:
        raise ValueError("the host of an origin is not a host name") from exc
    return str(url).rstrip("/")


_REDIRECTED_METHODS = frozenset({"GET", "HEAD"})


class HttpObjects(ABC):
    """An ``Origin`` over HTTP; the base class of HTTP and S3 origins.

    ``label`` names the origin in messages. ``headers`` are sent with every request; ``sign`` adds
    to them. GET and HEAD follow up to ``redirects_max`` redirects on the same host. For ``tls``
    and the limits see ``Client``.
    """

    def __init__(
        self,
        label: str,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        connections_max: int = CONNECTIONS_MAX,
        total_timeout_s: float = 0,
        tls: Callable[[], ssl.SSLContext] = system_tls,
        headers: Sequence[tuple[str, str]] = (),
        redirects_max: int = 0,
        sign: Sign | None = None,
    ) -> None:
        self.client = Client(
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            connections_max=connections_max,
            total_timeout_s=total_timeout_s,
            tls=tls,
        )
        self._label = label
        self._own = dict(headers)
        self._redirects_max = redirects_max
        self._sign = sign
        self._refuses_if_match = False  # whether it answers 412 to conditions that hold

    @abstractmethod
    def _address(self, name: str) -> str:
        """An object's URL, percent-encoded. Raises OriginError."""

    async def head(
        self, name: str, *, query: str = "", fields: Sequence[tuple[str, str]] = ()
    ) -> OriginHead:
        """As ``Origin.head``; with ``query``, percent-encoded, and ``fields`` in the request."""
        send = partial(self._request, query=query, extra=fields)
        return await request_head(ObjectRequest(self._subject(name), name), send)

    async def read(
        self,
        name: str,
        span: Span | None = None,
        *,
        if_match: Version | None = None,
        if_none_match: Version | None = None,
        query: str = "",
        fields: Sequence[tuple[str, str]] = (),
    ) -> OriginRead | None:
        """As ``Origin.read``; with ``query``, percent-encoded, and ``fields`` in the request."""
        request = ObjectRequest(
            self._subject(name),
            name,
            span=span,
            if_match=if_match,
            if_none_match=if_none_match,
            sends_if_match=not self._refuses_if_match,
        )
        send = partial(self._request, query=query, extra=fields)
        opened = await request_object(request, send, Response.error_code)
        if opened is None:
            return None
        if opened.refused_if_match:
            self._refuses_if_match = True
        return _HttpRead(opened.opening, opened.response)

    def retire(self) -> None:
        """As ``Client.retire``."""
        self.client.retire()

    async def close(self) -> None:
        """Drops all connections; bodies that are being read end BROKEN."""
        await self.client.close()

    def _subject(self, name: str) -> str:
        return f"{self._label} {name!a}"

    async def _request(
        self, request: ObjectRequest, *, query: str, extra: Sequence[tuple[str, str]]
    ) -> Response:
        url = self._address(request.name) + (f"?{query}" if query else "")
        origin_fields = self._own
        if self._sign is not None:
            origin_fields = await self._sign(request.method, url, origin_fields)
        origin_names = {name.lower() for name in origin_fields}
        values = {"User-Agent": "StreamEdge", **dict(extra), **request_fields(request)}
        fields = {name: value for name, value in values.items() if name.lower() not in origin_names}
        fields |= origin_fields
        prepared = self.client.prepare(request.method, url, fields)
        return await self._follow(request.subject, prepared, url, fields)

    async def _follow(
        self,
        subject: str,
        prepared: PreparedRequest,
        url: str,
        fields: RequestFields,
        *,
        body: Body = None,
        interim: Interim | None = None,
        trailers: Trailers = list,
    ) -> Response:
        """As ``Client.send_prepared``, following redirects; returns a redirect beyond the limit.

        ``prepared`` was made of ``url`` and ``fields``.
        """
        method = prepared.head.method
        redirects_left = (
            self._redirects_max if method in _REDIRECTED_METHODS and body is None else 0
        )
        while True:
            response = await self.client.send_prepared(
                subject, prepared, body=body, interim=interim, trailers=trailers
            )
            target = redirect_url(url, response.status, response.fields) if redirects_left else None
            if target is None:
                return response
            response.close()
            url, redirects_left = target, redirects_left - 1
            prepared = self.client.prepare(method, url, fields)


class _HttpRead:
    """An ``OriginRead`` over one response."""

    def __init__(self, opening: Opening, response: Response) -> None:
        self.head = opening.head
        self.span = opening.span
        self._response = response

    def pieces(self) -> AsyncIterator[bytes]:
        return self._response.pieces(self.span.size)

    async def buffered(self, within_s: float) -> bytes | None:
        """As ``BufferedBody.buffered``."""
        body = await self._response.buffered(within_s)
        return body if body is not None and len(body) == self.span.size else None

    async def close(self) -> None:
        # After a whole body the connection is in the pool again; otherwise this drops it.
        self._response.close()

"""Objects over HTTP: one request to an origin and what its answer means, wherever the bucket lies.

Owns the way from a question about an object to a request, and what an answer's opening says. What
goes over the wire is ``client``'s business. Never tries again: one call, one attempt.
"""

from __future__ import annotations

import ssl
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import replace

from yarl import URL

from streamedge.origin import (
    OriginHead,
    OriginRead,
    OriginRequest,
    OriginResponse,
    Version,
)
from streamedge.origin.answers import (
    ObjectRequest,
    Opening,
    may_retry_unconditionally,
    request_fields,
)
from streamedge.origin.http_client.client import Client, Interim, Response, Trailers
from streamedge.origin.http_client.redirects import redirect_url
from streamedge.origin.http_client.request import Body, RequestFields
from streamedge.origin.http_client.tls import system_tls
from streamedge.origin.objects import open_answer
from streamedge.spans import Span

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 15.0
CONNECTIONS_MAX = 256

Sign = Callable[[str, str, Mapping[str, str]], Awaitable[dict[str, str]]]
"""From method, URL and header fields to these and those that authorise the request. Raises
OriginError."""


def parse_base_url(text: str) -> str:
    """``text`` as scheme, host and path without a final slash.

    Raises ValueError for another scheme, no host, a query, a fragment, or credentials, which
    would end in logs.
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
        raise ValueError("the host of an origin is no host name") from exc
    return str(url).rstrip("/")


_FOLLOWING = frozenset({"GET", "HEAD"})
_UNLESS_SAID = (("user-agent", "StreamEdge"), ("accept-encoding", "identity"))


class Exchange:
    """GET and HEAD of objects at one origin.

    ``label`` names the origin in messages, ``address`` gives an object's URL, percent-encoded,
    or raises OriginError. ``headers`` are sent with every request, ``sign`` adds to them.
    ``keeps_host``: a request's own Host is sent, if it has one. GET and HEAD follow
    ``redirects_max`` redirects, none of which leads to another host. ``tls`` and the limits are
    ``Client``'s.
    """

    def __init__(
        self,
        label: str,
        address: Callable[[str], str],
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        connections_max: int = CONNECTIONS_MAX,
        total_timeout_s: float = 0,
        tls: Callable[[], ssl.SSLContext] = system_tls,
        headers: Sequence[tuple[str, str]] = (),
        keeps_host: bool = False,
        redirects_max: int = 0,
        sign: Sign | None = None,
    ) -> None:
        self._label = label
        self._address = address
        self.client = Client(
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            connections_max=connections_max,
            total_timeout_s=total_timeout_s,
            tls=tls,
        )
        self._own = dict(headers)
        self._keeps_host = keeps_host
        self._redirects_max = redirects_max
        self._refuses_if_match = False  # whether it says 412 to conditions that hold
        self._sign = sign

    async def head(
        self, name: str, *, query: str = "", fields: Sequence[tuple[str, str]] = ()
    ) -> OriginHead:
        """As ``Origin.head``; with ``query``, percent-encoded, and ``fields`` in the request."""
        request = ObjectRequest(self._subject(name), name, method="HEAD")
        opening = open_answer(request, await self._send(request, query, fields))
        assert opening is not None, "only If-None-Match is answered with None"
        return opening.head

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
        response = await self._send(request, query, fields)
        is_refused = may_retry_unconditionally(request, response.status)
        if is_refused:
            response.close()
            request = replace(request, sends_if_match=False)
            response = await self._send(request, query, fields)
        try:
            error_code = await response.error_code() if response.status >= 400 else ""
        except BaseException:
            response.close()
            raise
        opening = open_answer(request, response, error_code)
        if is_refused and opening is not None:
            self._refuses_if_match = True  # the version is the one that was asked for
        return None if opening is None else _HttpRead(opening, response)

    async def send(self, request: OriginRequest, url: str = "") -> OriginResponse:
        """As ``Upstream.send``; to ``url``, percent-encoded and without query, where one is given.

        What is sent with every request replaces the viewer's.
        """
        url = url or self._address(request.name)
        if request.query:
            url = f"{url}?{request.query}"
        own = dict(self._own)
        if self._sign is not None:
            own = await self._sign(request.method, url, own)
        refused = {name.lower() for name in own}
        if not self._keeps_host:
            refused.add("host")
        fields = _without(refused, request.fields)
        said = {name.lower() for name, _value in fields}
        fields += own.items()
        fields += [field for field in _UNLESS_SAID if field[0] not in said | refused]
        return await self._follow(
            self._subject(request.name),
            request.method,
            url,
            fields,
            body=request.body,
            interim=request.interim,
            trailers=lambda: _without(refused, request.trailers()),
        )

    def retire(self) -> None:
        """As ``Client.retire``."""
        self.client.retire()

    async def close(self) -> None:
        """Drops all connections; bodies still being read end BROKEN."""
        await self.client.close()

    def _subject(self, name: str) -> str:
        return f"{self._label} {name!a}"

    async def _send(
        self, request: ObjectRequest, query: str, extra: Sequence[tuple[str, str]]
    ) -> Response:
        url = self._address(request.name) + (f"?{query}" if query else "")
        own = self._own
        if self._sign is not None:
            own = await self._sign(request.method, url, own)
        spoken = {name.lower() for name in own}
        said = {"User-Agent": "StreamEdge", **dict(extra), **request_fields(request)}
        fields = {name: value for name, value in said.items() if name.lower() not in spoken}
        return await self._follow(request.subject, request.method, url, fields | own)

    async def _follow(
        self,
        subject: str,
        method: str,
        url: str,
        fields: RequestFields,
        *,
        body: Body = None,
        interim: Interim | None = None,
        trailers: Trailers = list,
    ) -> Response:
        """As ``Client.send``, after the redirects that are followed; one too many is the answer."""
        left = self._redirects_max if method in _FOLLOWING and body is None else 0
        while True:
            response = await self.client.send(
                subject, method, url, fields, body=body, interim=interim, trailers=trailers
            )
            target = redirect_url(url, response.status, response.fields) if left else None
            if target is None:
                return response
            response.close()
            url, left = target, left - 1


def _without(refused: Collection[str], fields: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [field for field in fields if field[0].lower() not in refused]


class _HttpRead:
    """An OriginRead over one response."""

    def __init__(self, opening: Opening, response: Response) -> None:
        self.head = opening.head
        self.span = opening.span
        self._response = response

    def pieces(self) -> AsyncIterator[bytes]:
        return self._response.pieces(self.span.size)

    async def close(self) -> None:
        # A body read to its end has given its connection back; this drops any other.
        self._response.close()

"""One HTTP request to an origin and its answer, for every origin that speaks HTTP.

Owns the connections, their timeouts and the naming of what goes wrong with them. What an answer
means is ``answers``'s business. Never follows a redirect, keeps a cookie, unpacks a body or tries
again: one call, one attempt (aiohttp itself replaces a kept connection that turns out to be dead).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import aiohttp
from yarl import URL

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin import OriginHead, OriginRead, Version
from streamedge.origin.answers import (
    Ask,
    Opening,
    find_error_code,
    fold_fields,
    read_answer,
    request_fields,
)
from streamedge.spans import Span

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 15.0
CONNECTIONS_MAX = 256
READ_BUFFER_BYTES = 256 << 10  # aiohttp stops reading from the socket at twice this
IDLE_CONNECTION_S = 15.0  # below the usual 60 s of servers, so that few die under a new request
ERROR_BODY_MAX_BYTES = 4 << 10
ERROR_BODY_TIMEOUT_S = 2.0

Sign = Callable[[str, str], Awaitable[dict[str, str]]]
"""From method and URL to the header fields that authorise the request. Raises OriginError."""


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


class Exchange:
    """GET and HEAD of objects at one origin.

    ``label`` names the origin in messages, ``address`` gives an object's URL, percent-encoded,
    or raises OriginError. ``headers`` are sent with every request, ``sign`` adds to them.
    ``connect_timeout_s`` holds from the call to the connection, with the wait for one of
    ``connections_max``; ``read_timeout_s`` is the longest silence; a body may take any time.
    """

    def __init__(
        self,
        label: str,
        address: Callable[[str], str],
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        connections_max: int = CONNECTIONS_MAX,
        headers: Sequence[tuple[str, str]] = (),
        sign: Sign | None = None,
    ) -> None:
        self._label = label
        self._address = address
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._connections_max = connections_max
        self._headers = {"User-Agent": "StreamEdge", **dict(headers)}
        self._sign = sign
        self._session: aiohttp.ClientSession | None = None

    async def head(self, name: str) -> OriginHead:
        """As ``Origin.head``."""
        ask = Ask(self._subject(name), name, method="HEAD")
        response = await self._send(ask)
        try:
            opening = read_answer(ask, response.status, fold_fields(response.headers.items()))
        finally:
            response.close()
        assert opening is not None, "only If-None-Match is answered with None"
        return opening.head

    async def read(
        self,
        name: str,
        span: Span | None = None,
        *,
        if_match: Version | None = None,
        if_none_match: Version | None = None,
    ) -> OriginRead | None:
        """As ``Origin.read``."""
        ask = Ask(
            self._subject(name),
            name,
            span=span,
            if_match=if_match,
            if_none_match=if_none_match,
        )
        response = await self._send(ask)
        try:
            error_code = await _read_error_code(response) if response.status >= 400 else ""
            fields = fold_fields(response.headers.items())
            opening = read_answer(ask, response.status, fields, error_code)
        except BaseException:
            response.close()
            raise
        if opening is None:
            response.close()
            return None
        return _HttpRead(ask.subject, opening, response)

    async def close(self) -> None:
        """Drops all connections; bodies still being read end BROKEN."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _subject(self, name: str) -> str:
        return f"{self._label} {name!a}"

    async def _send(self, ask: Ask) -> aiohttp.ClientResponse:
        url = self._address(ask.name)
        headers = self._headers | request_fields(ask)
        if self._sign is not None:
            headers |= await self._sign(ask.method, url)
        try:
            return await self._open_session().request(
                ask.method, URL(url, encoded=True), headers=headers, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError) as exc:
            raise connection_failure(ask.subject, exc) from exc

    def _open_session(self) -> aiohttp.ClientSession:
        # Made on first use, because a session belongs to the event loop that runs then.
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._connections_max, keepalive_timeout=IDLE_CONNECTION_S
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=self._connect_timeout_s,
                    sock_connect=self._connect_timeout_s,
                    sock_read=self._read_timeout_s,
                ),
                auto_decompress=False,
                read_bufsize=READ_BUFFER_BYTES,
                trust_env=False,
            )
        return self._session


class _HttpRead:
    """An OriginRead over one response."""

    def __init__(self, subject: str, opening: Opening, response: aiohttp.ClientResponse) -> None:
        self._subject = subject
        self._opening = opening
        self._response = response

    @property
    def head(self) -> OriginHead:
        return self._opening.head

    @property
    def span(self) -> Span:
        return self._opening.span

    async def pieces(self) -> AsyncIterator[bytes]:
        missing_bytes = self.span.size
        while piece := await self._receive(missing_bytes):
            missing_bytes -= len(piece)
            if missing_bytes < 0:
                raise self._broken(f"the body runs over its {self.span.size} bytes")
            yield piece
        if missing_bytes:
            raise self._broken(f"the body ended {missing_bytes} bytes early")

    async def _receive(self, missing_bytes: int) -> bytes:
        """What has come since, at least one byte; b"" at the end of the body."""
        where = f"{missing_bytes} of {self.span.size} bytes missing"
        try:
            return await self._response.content.readany()
        except TimeoutError as exc:
            raise OriginError(
                OriginFailure.TIMEOUT, f"{self._subject}: fell silent with {where}"
            ) from exc
        except (aiohttp.ClientError, OSError, RuntimeError) as exc:
            # aiohttp's RuntimeError says that this side has closed the connection.
            raise self._broken(f"connection lost with {where}") from exc

    async def close(self) -> None:
        # A body read to its end has given its connection back; this drops any other.
        self._response.close()

    def _broken(self, what: str) -> OriginError:
        return OriginError(OriginFailure.BROKEN, f"{self._subject}: {what}")


def connection_failure(subject: str, exc: Exception) -> OriginError:
    """Names what kept ``subject`` from being answered at all; ``exc`` as aiohttp raised it."""
    match exc:
        case aiohttp.ConnectionTimeoutError():
            failure, what = OriginFailure.REFUSED, "no connection within the time for it"
        case TimeoutError():
            failure, what = OriginFailure.TIMEOUT, "connected, but no answer came"
        case aiohttp.ClientConnectorError() | aiohttp.ServerFingerprintMismatch():
            failure, what = OriginFailure.REFUSED, f"no connection: {exc}"
        case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError() | OSError():
            failure, what = OriginFailure.BROKEN, "connection lost before an answer"
        case _:
            failure, what = OriginFailure.UNAVAILABLE, f"no HTTP answer ({type(exc).__name__})"
    return OriginError(failure, f"{subject}: {what}")


async def _read_error_code(response: aiohttp.ClientResponse) -> str:
    """The error code in a refusal's body; "" when there is none, or it is long in coming."""
    body = bytearray()
    try:
        async with asyncio.timeout(ERROR_BODY_TIMEOUT_S):
            while len(body) < ERROR_BODY_MAX_BYTES and (piece := await response.content.readany()):
                body += piece
    except (aiohttp.ClientError, OSError):
        # The status is the answer; its explanation only helps whoever reads the log.
        return ""
    return find_error_code(bytes(body))

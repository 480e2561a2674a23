"""The HTTP client: connections to origins, their timeouts, and the naming of what goes wrong.

Owns everything that touches aiohttp. Never follows a redirect, keeps a cookie or unpacks a body;
the one thing it does again by itself is to replace a kept connection that turns out to be dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping

import aiohttp
from yarl import URL

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin.answers import find_error_code

READ_BUFFER_BYTES = 256 << 10  # aiohttp stops reading from the socket at twice this
IDLE_CONNECTION_S = 15.0  # below the usual 60 s of servers, so that few die under a new request
ERROR_BODY_MAX_BYTES = 4 << 10
ERROR_BODY_TIMEOUT_S = 2.0


class Client:
    """The connections to one origin. The arguments mean what they do in ``exchange``."""

    def __init__(
        self, *, connect_timeout_s: float, read_timeout_s: float, connections_max: int
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._connections_max = connections_max
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self, subject: str, method: str, url: str, headers: Mapping[str, str]
    ) -> Response:
        """Sends a request; returns once the answer's header has come. Raises OriginError.

        ``url`` is percent-encoded, ``subject`` says in errors what was asked for.
        """
        try:
            response = await self._open_session().request(
                method, URL(url, encoded=True), headers=headers, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError) as exc:
            raise connection_failure(subject, exc) from exc
        return Response(subject, response)

    async def close(self) -> None:
        """Drops all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

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


class Response:
    """An answer whose header has come. Whoever has it reads it to its end or closes it."""

    def __init__(self, subject: str, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self._subject = subject
        self._response = response

    @property
    def fields(self) -> Iterable[tuple[str, str]]:
        """Its header fields as they were sent."""
        return self._response.headers.items()

    async def pieces(self, size_bytes: int) -> AsyncIterator[bytes]:
        """The body, which must have ``size_bytes``. Raises OriginError."""
        missing_bytes = size_bytes
        while True:
            where = f"{missing_bytes} of {size_bytes} bytes missing"
            piece = await self._receive(where)
            if not piece:
                break
            missing_bytes -= len(piece)
            if missing_bytes < 0:
                raise self._broken(f"the body runs over its {size_bytes} bytes")
            yield piece
        if missing_bytes:
            raise self._broken(f"the body ended {missing_bytes} bytes early")

    async def error_code(self) -> str:
        """The error code in a refusal's body; "" when there is none, or it is long in coming."""
        body = bytearray()
        try:
            async with asyncio.timeout(ERROR_BODY_TIMEOUT_S):
                while len(body) < ERROR_BODY_MAX_BYTES:
                    piece = await self._response.content.readany()
                    if not piece:
                        break
                    body += piece
        except (aiohttp.ClientError, OSError):
            # The status is the answer; its explanation only helps whoever reads the log.
            return ""
        return find_error_code(bytes(body))

    def close(self) -> None:
        """Drops the connection, unless the body was read to its end."""
        self._response.close()

    async def _receive(self, where: str) -> bytes:
        """What has come since, at least one byte; b"" at the end of the body."""
        try:
            return await self._response.content.readany()
        except TimeoutError as exc:
            raise OriginError(
                OriginFailure.TIMEOUT, f"{self._subject}: fell silent with {where}"
            ) from exc
        except (aiohttp.ClientError, OSError, RuntimeError) as exc:
            # aiohttp's RuntimeError says that this side has closed the connection.
            raise self._broken(f"connection lost with {where}") from exc

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

"""The HTTP client: sends a request to an origin, with time limits, and classifies failures.

It follows no redirects, stores no cookies and decodes no bodies. It repeats a request only if the
request is idempotent and a reused connection turns out to be closed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin.answers import find_error_code
from streamedge.origin.health import UNOBSERVED, RequestObserver
from streamedge.origin.http_client.connection import (
    JOINED_MAX_BYTES,
    Connection,
    ConnectionLostError,
    DeadlineError,
    UnreadBytes,
)
from streamedge.origin.http_client.pool import NoConnectionError, Pool, PoolStats
from streamedge.origin.http_client.request import (
    Body,
    Endpoint,
    RequestFields,
    RequestHead,
    encode_trailers,
    make_request,
    split_url,
)
from streamedge.origin.http_client.response_parser import FieldList, ResponseError, ResponseHead
from streamedge.origin.http_client.tls import system_tls

CONTINUE_S = 1.0  # the longest wait for 100 (Continue) (RFC 9110 §10.1.1)
BODY_PIECE_BYTES = 256 << 10  # of a request body given as bytes
ERROR_BODY_MAX_BYTES = 4 << 10
ERROR_BODY_TIMEOUT_S = 2.0

Interim = Callable[[int, FieldList], None]
Trailers = Callable[[], FieldList]

_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})


class _TimeLimits(NamedTuple):
    """The read timeout of an exchange, and the loop's time when it must have ended, or None."""

    loop: asyncio.AbstractEventLoop  # to look for the running one costs a system call
    read_timeout_s: float
    ends_at_s: float | None

    def read_timeout_ends_s(self) -> float:
        return self.within_total_s(self.read_timeout_s)

    def within_total_s(self, time_s: float) -> float:
        """The loop's time ``time_s`` from now, or the end of the exchange if that is earlier."""
        at_s = self.loop.time() + time_s
        return at_s if self.ends_at_s is None else min(at_s, self.ends_at_s)

    def is_over(self) -> bool:
        if self.ends_at_s is None:
            return False
        return self.loop.time() >= self.ends_at_s

    def describe(self) -> str:
        """What happened when a deadline has passed."""
        return "took too long" if self.is_over() else "fell silent"


class PreparedRequest(NamedTuple):
    """An encoded request, and where it is sent."""

    endpoint: Endpoint
    head: RequestHead


class Client:
    """A client with its own connection pool for one origin.

    ``connect_timeout_s`` limits the wait for a connection, including the wait for one of
    ``connections_max``. ``read_timeout_s`` is the longest time without a byte from the origin.
    ``total_timeout_s`` limits a request with the body of its response; 0: no limit. ``tls`` makes
    the context for https, in a thread; the default trusts the system's authorities.
    ``server_name``: the name that the server's certificate must have; "": that of the URL.
    """

    def __init__(
        self,
        *,
        connect_timeout_s: float,
        read_timeout_s: float,
        connections_max: int,
        total_timeout_s: float = 0,
        tls: Callable[[], ssl.SSLContext] = system_tls,
        server_name: str = "",
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._total_timeout_s = total_timeout_s
        self._pool = Pool(connections_max, tls, server_name)
        self.observer: RequestObserver = UNOBSERVED

    async def send(
        self,
        subject: str,
        method: str,
        url: str,
        headers: RequestFields,
        *,
        body: Body = None,
        interim: Interim | None = None,
        trailers: Trailers = list,
    ) -> Response:
        """Sends a request, as ``prepare`` and ``send_prepared`` do."""
        prepared = self.prepare(method, url, headers, body)
        return await self.send_prepared(
            subject, prepared, body=body, interim=interim, trailers=trailers
        )

    @staticmethod
    def prepare(
        method: str, url: str, headers: RequestFields, body: Body = None
    ) -> PreparedRequest:
        """Encodes the head of a request, which can be sent more than once.

        ``url`` is percent-encoded and sent unchanged. Host is the URL's unless ``headers`` has one.
        A ``body`` without Content-Length will be sent in chunks. Raises ValueError for a URL or a
        field that cannot be sent.
        """
        endpoint, authority, target = split_url(url)
        return PreparedRequest(endpoint, make_request(method, authority, target, headers, body))

    def send_at_once(
        self, subject: str, prepared: PreparedRequest, interim: Interim | None = None
    ) -> SentRequest | None:
        """Sends a request without a body over an idle connection; None if there is none."""
        connection = self._pool.lease_idle(prepared.endpoint)
        if connection is None:
            return None
        limits = self._limits(connection.loop)
        try:
            _send_head(connection, prepared.head, limits, has_body=False)
        except ConnectionLostError:
            connection.abort()
            self._pool.release(connection)
            return None
        return SentRequest(self, self._pool, subject, prepared, connection, limits, interim)

    async def send_prepared(
        self,
        subject: str,
        prepared: PreparedRequest,
        *,
        body: Body = None,
        interim: Interim | None = None,
        trailers: Trailers = list,
        sent: SentRequest | None = None,
    ) -> Response:
        """Sends a request; returns when the final head of the response was received, even if the
        body is not sent completely.

        ``subject`` names the object in errors. With "Expect: 100-continue" the body waits for 100
        (Continue), for ``CONTINUE_S`` at most. A response before the end of the body stops the
        body; the caller closes it. ``interim`` gets status and fields of each 1xx response except
        101, which is final. ``trailers`` is called at the end of a chunked body. ``sent``: the same
        request, from ``send_at_once``; it is sent again only if its connection turns out closed.

        Raises OriginError; ValueError for a body of another length than announced; and what
        ``body`` raises.
        """
        endpoint, request = prepared
        limits = self._limits(asyncio.get_running_loop()) if sent is None else sent.limits
        is_repeatable = request.method in _REPEATABLE and (body is None or isinstance(body, bytes))
        only_new = False
        while True:
            try:
                is_sent = sent is not None
                if sent is not None:
                    connection, is_reused, sent = sent.connection, True, None
                else:
                    connection, is_reused = await self._pool.lease(
                        endpoint,
                        limits.within_total_s(self._connect_timeout_s),
                        only_new=only_new,
                        streams_body=body is not None and not isinstance(body, bytes),
                    )
                try:
                    if not is_sent:
                        _send_head(connection, request, limits, has_body=body is not None)
                    head = await _final_head(connection, request, body, trailers, interim, limits)
                except BaseException:
                    connection.abort()
                    self._pool.release(connection)
                    raise
                self.observer.answered(head.status)
                return Response(subject, head, connection, self._pool, limits)
            except ConnectionLostError as exc:
                if not (is_reused and is_repeatable) or connection.has_received:
                    raise self._failure(subject, exc) from exc
                only_new = True
            except DeadlineError as exc:
                raise self._failure(subject, DeadlineError(limits.describe())) from exc
            except (NoConnectionError, ResponseError) as exc:
                raise self._failure(subject, exc) from exc

    def _failure(self, subject: str, exc: Exception) -> OriginError:
        """The error of a request without a response."""
        error = connection_failure(subject, exc)
        self.observer.failed(error.failure)
        return error

    def _limits(self, loop: asyncio.AbstractEventLoop) -> _TimeLimits:
        """The time limits of a request that begins now."""
        total_s = self._total_timeout_s
        return _TimeLimits(loop, self._read_timeout_s, loop.time() + total_s if total_s else None)

    def stats(self) -> PoolStats:
        """The connections now."""
        return self._pool.stats()

    def retire(self) -> None:
        """Keeps no idle connections from now on; running responses can be read to their end."""
        self._pool.retire()

    async def close(self) -> None:
        """Drops all connections, for good; bodies that are being read end BROKEN."""
        self._pool.close()


class SentRequest:
    """A request without a body that was sent over an idle connection (``Client.send_at_once``).

    Its response comes by a callback where it is complete and plain, and to a task otherwise.
    """

    __slots__ = ("_client", "_interim", "_pool", "_prepared", "_subject", "connection", "limits")

    def __init__(
        self,
        client: Client,
        pool: Pool,
        subject: str,
        prepared: PreparedRequest,
        connection: Connection,
        limits: _TimeLimits,
        interim: Interim | None,
    ) -> None:
        self.connection = connection
        self.limits = limits
        self._client = client
        self._pool = pool
        self._subject = subject
        self._prepared = prepared
        self._interim = interim

    def when_answered(self, answered: Callable[[], None]) -> None:
        """As ``origin.SentRequest.when_answered``."""
        self.connection.when_received(partial(self._received, answered))

    def take_response(self) -> Response | None:
        """As ``origin.SentRequest.take_response``."""
        head = self.connection.take_final_head()
        if head is None:
            return None
        self._client.observer.answered(head.status)
        return Response(self._subject, head, self.connection, self._pool, self.limits)

    async def response(self) -> Response:
        """As ``origin.SentRequest.response``."""
        return await self._client.send_prepared(
            self._subject, self._prepared, interim=self._interim, sent=self
        )

    def _received(self, answered: Callable[[], None], error: DeadlineError | None) -> None:
        if error is None and self.connection.awaits_head:
            self.when_answered(answered)
        else:
            answered()


class Response:
    """A response whose head was received. Read it to its end, or close it.

    ``fields`` are in the order in which they were sent; ``trailers`` are complete at the end of
    the body.
    """

    __slots__ = (
        "_connection",
        "_is_closed",
        "_limits",
        "_pool",
        "_subject",
        "fields",
        "http_version",
        "reason",
        "size_bytes",
        "status",
        "trailers",
    )

    def __init__(
        self,
        subject: str,
        head: ResponseHead,
        connection: Connection,
        pool: Pool,
        limits: _TimeLimits,
    ) -> None:
        self.status = head.status
        self.reason = head.reason
        self.http_version = head.http_version
        self.fields = head.fields
        self.trailers: FieldList = []
        self.size_bytes = head.size_bytes
        self._subject = subject
        self._pool = pool
        self._limits = limits
        self._connection: Connection | None = connection  # None after it was returned to the pool
        self._is_closed = False

    async def pieces(self, size_bytes: int) -> AsyncIterator[bytes]:
        """The body, which must have ``size_bytes``. Raises OriginError."""
        missing_bytes = size_bytes
        while piece := await self._receive(f"{missing_bytes} of {size_bytes} bytes missing"):
            missing_bytes -= len(piece)
            if missing_bytes < 0:
                raise self._broken_error(f"the body is longer than its {size_bytes} bytes")
            yield piece
        if missing_bytes:
            raise self._broken_error(f"the body ended {missing_bytes} bytes early")

    async def body(self) -> AsyncIterator[bytes]:
        """The body, of any length. Raises OriginError BROKEN if it is truncated, TIMEOUT."""
        received_bytes = 0
        while piece := await self._receive(f"{received_bytes} bytes received"):
            received_bytes += len(piece)
            yield piece

    async def buffered(self, within_s: float) -> bytes | None:
        """The whole body of a known size, once it was received; None if that takes longer, or
        fails. It can still be read.
        """
        if self._connection is None or not self.size_bytes:
            return None
        return await self._connection.buffered(self.size_bytes, within_s)

    def take_received_body(self) -> bytes | None:
        """The body, of a known length, if all of it was received already and it is short."""
        connection = self._connection
        if connection is None or connection.unread.size_bytes != self.size_bytes:
            return None
        if self.size_bytes > JOINED_MAX_BYTES or not connection.is_complete:
            return None
        body = connection.read_available()
        self._release(connection)
        return body

    async def error_code(self) -> str:
        """The S3 error code in the body; "" if there is none, or it does not arrive in time."""
        body = bytearray()
        try:
            async with asyncio.timeout(ERROR_BODY_TIMEOUT_S):
                while len(body) < ERROR_BODY_MAX_BYTES:
                    piece = await self._receive("an error's body")
                    if not piece:
                        break
                    body += piece
        except (OriginError, TimeoutError):
            # The status decides; the code is only for messages.
            return ""
        return find_error_code(bytes(body))

    def upgrade(self) -> tuple[bytes, UpgradedConnection]:
        """After status 101: the bytes received after the head, and the connection.

        From now on the caller closes the connection; it has no time limits.
        """
        if self.status != 101 or self._connection is None:
            raise ValueError(f"{self._subject}: the response is not an upgrade")
        connection, self._connection = self._connection, None
        connection.limit_wait(None)
        self._is_closed = True
        upgraded = UpgradedConnection(self._subject, connection, self._pool)
        return connection.read_available(), upgraded

    @property
    def unread(self) -> UnreadBytes:
        """The received bytes of the body that were not read yet."""
        if self._connection is None:
            return UnreadBytes(0, False)
        return self._connection.unread

    def close(self) -> None:
        """Drops the connection, unless the body was read to its end."""
        self._is_closed = True
        if self._connection is not None:
            self._release(self._connection)

    async def _receive(self, progress: str) -> bytes:
        """The bytes received since the last call, at least one; b"" at the end of the body."""
        connection = self._connection
        if connection is None:
            if self._is_closed:
                raise self._broken_error(f"closed by this side with {progress}")
            return b""
        try:
            piece = await _read_body(connection, self._limits)
            if self._connection is not connection:
                # Closed meanwhile: another request may use the connection now.
                raise ConnectionLostError("closed by this side")
        except DeadlineError as exc:
            self.close()
            message = f"{self._subject}: {self._limits.describe()} with {progress}"
            raise OriginError(OriginFailure.TIMEOUT, message) from exc
        except (ConnectionLostError, ResponseError) as exc:
            self.close()
            raise self._broken_error(f"connection lost with {progress}") from exc
        except BaseException:
            self.close()
            raise
        if connection.is_exhausted:
            self._release(connection)
        return piece

    def _release(self, connection: Connection) -> None:
        self._connection = None
        self.trailers = connection.trailers
        self._pool.release(connection)

    def _broken_error(self, message: str) -> OriginError:
        return OriginError(OriginFailure.BROKEN, f"{self._subject}: {message}")


class UpgradedConnection:
    """A connection after an upgrade (``Duplex``). One task may read while another writes."""

    def __init__(self, subject: str, connection: Connection, pool: Pool) -> None:
        self._subject = subject
        self._connection = connection
        self._pool = pool

    async def read(self) -> bytes:
        """The next received bytes, at least one; b"" after the origin closed its side.

        Raises OriginError BROKEN.
        """
        try:
            return await self._connection.read()
        except ConnectionLostError as exc:
            raise self._lost_error() from exc

    async def write(self, data: bytes) -> None:
        """Sends ``data``; returns when more may follow. Raises OriginError BROKEN."""
        try:
            self._connection.write(data)
            await self._connection.drain()
        except ConnectionLostError as exc:
            raise self._lost_error() from exc

    def close(self) -> None:
        """Closes the connection after the written bytes were sent. Never raises."""
        self._connection.close()
        self._pool.release(self._connection)

    def _lost_error(self) -> OriginError:
        return OriginError(
            OriginFailure.BROKEN, f"{self._subject}: connection lost after the upgrade"
        )


def connection_failure(subject: str, exc: Exception) -> OriginError:
    """The OriginError for a request that got no response."""
    match exc:
        case NoConnectionError():
            failure, message = OriginFailure.REFUSED, str(exc)
        case DeadlineError():
            failure, message = OriginFailure.TIMEOUT, f"connected, but no response came ({exc})"
        case ConnectionLostError():
            failure, message = OriginFailure.BROKEN, "connection lost before a response"
        case _:
            failure, message = OriginFailure.UNAVAILABLE, "the response is not HTTP"
    return OriginError(failure, f"{subject}: {message}")


def _send_head(
    connection: Connection, request: RequestHead, limits: _TimeLimits, *, has_body: bool
) -> None:
    """Starts a request, and ends it if it has no body. Raises ConnectionLostError."""
    connection.limit_wait(limits.read_timeout_ends_s())
    connection.send_head(request)
    if not has_body:
        connection.end_body()


async def _final_head(
    connection: Connection,
    request: RequestHead,
    body: Body,
    trailers: Trailers,
    interim: Interim | None,
    limits: _TimeLimits,
) -> ResponseHead:
    """Sends the body of a request and waits for the response; returns its final head, or that of
    a 101.

    Raises ConnectionLostError, DeadlineError, ResponseError, and what ``body`` raises.
    """
    may_upload = upload = None
    if body is not None:
        may_upload = asyncio.Event()
        upload = asyncio.create_task(
            _upload(connection, request, body, trailers, may_upload, limits)
        )
    try:
        while True:
            head = await connection.head()
            if not head.is_interim:
                return head
            if upload is None or upload.done():
                connection.limit_wait(limits.read_timeout_ends_s())
            if may_upload is not None:
                may_upload.set()
            if interim is not None:
                interim(head.status, head.fields)
    except ConnectionLostError:
        if upload is not None and upload.done():
            upload.result()  # raises the error of the body, if it failed
        raise
    finally:
        if upload is not None:
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)


async def _upload(
    connection: Connection,
    request: RequestHead,
    body: AsyncIterator[bytes] | bytes,
    trailers: Trailers,
    may_upload: asyncio.Event,
    limits: _TimeLimits,
) -> None:
    """Sends a request's body. The read timeout runs only while the client waits for the origin.

    Raises what ``body`` raises and ValueError, after dropping the connection.
    """

    def set_waiting(is_waiting: bool) -> None:
        connection.limit_wait(limits.read_timeout_ends_s() if is_waiting else limits.ends_at_s)

    try:
        set_waiting(False)
        if request.expects_continue:
            with suppress(TimeoutError):
                async with asyncio.timeout(CONTINUE_S):
                    await may_upload.wait()
        async for piece in _split_body(body) if isinstance(body, bytes) else body:
            connection.send_body(piece)
            set_waiting(True)
            await connection.drain()
            set_waiting(False)
        connection.end_body(encode_trailers(trailers()) if request.body_bytes is None else b"")
        set_waiting(True)
    except ConnectionLostError:
        return  # the task that waits for the response reports it, or returns an early response
    except Exception:
        connection.abort()
        raise


async def _split_body(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), BODY_PIECE_BYTES):
        yield body[start : start + BODY_PIECE_BYTES]


async def _read_body(connection: Connection, limits: _TimeLimits) -> bytes:
    """As ``Connection.read`` with the time limits."""
    if limits.is_over():
        raise DeadlineError
    if piece := connection.read_available():
        return piece
    connection.deadline_s = limits.read_timeout_ends_s()
    return await connection.read()

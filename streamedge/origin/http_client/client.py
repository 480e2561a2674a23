"""The HTTP client: a request to an origin, its answer, their time limits, and what went wrong.

Owns the way of one request from URL and fields to a ``Response``, and the naming of failures.
Never follows a redirect, keeps a cookie or unpacks a body; the one thing it does again by itself is
a request that may be repeated, when a kept connection turns out to be dead.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import h11

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin.answers import find_error_code
from streamedge.origin.http_client.connection import (
    Connection,
    ConnectionLostError,
    FieldList,
    decode_fields,
)
from streamedge.origin.http_client.pool import NoConnectionError, Pool
from streamedge.origin.http_client.request import (
    Body,
    RequestFields,
    encode_fields,
    make_request,
    split_url,
)
from streamedge.origin.http_client.tls import system_tls

CONTINUE_S = 1.0  # the wait for 100 (Continue): RFC 9110 §10.1.1 wants it bounded
BODY_PIECE_BYTES = 256 << 10  # of a request's body that is given whole
ERROR_BODY_MAX_BYTES = 4 << 10
ERROR_BODY_TIMEOUT_S = 2.0

Interim = Callable[[int, FieldList], None]
Trailers = Callable[[], FieldList]

_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})


class SilenceError(Exception):
    """The origin said nothing for too long, or the whole exchange took too long."""


@dataclass(frozen=True, slots=True)
class _Patience:
    """How long an exchange may be silent, and when (loop's time) it must be over, if ever."""

    read_timeout_s: float
    ends_at_s: float | None

    def silence_ends_s(self) -> float:
        return self.bounded_s(self.read_timeout_s)

    def bounded_s(self, time_s: float) -> float:
        """The moment in ``time_s`` from now, or the end of all if that comes first."""
        at_s = asyncio.get_running_loop().time() + time_s
        return at_s if self.ends_at_s is None else min(at_s, self.ends_at_s)

    def is_over(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        return self.ends_at_s is not None and now_s >= self.ends_at_s


class Client:
    """The connections to one origin.

    ``connect_timeout_s`` holds from the call to the connection, with the wait for one of
    ``connections_max``; ``read_timeout_s`` is the longest silence; ``total_timeout_s`` holds for
    a request with its answer's body, 0 for as long as it takes. ``tls`` makes the context for
    https, in a thread; by default it trusts the system's authorities.
    """

    def __init__(
        self,
        *,
        connect_timeout_s: float,
        read_timeout_s: float,
        connections_max: int,
        total_timeout_s: float = 0,
        tls: Callable[[], ssl.SSLContext] = system_tls,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._total_timeout_s = total_timeout_s
        self._pool = Pool(connections_max, tls)

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
        """Sends a request; returns once the answer's final head has come, be the body sent or not.

        ``subject`` says in errors what was asked for. ``url`` goes out as it is, percent-encoded.
        Host is the URL's unless ``headers`` names one; a ``body`` without Content-Length is sent
        in chunks. With "Expect: 100-continue" it is held back until the origin wants it, for
        ``CONTINUE_S`` at most. An answer that comes before its end stops it; closing it is the
        caller's. ``interim`` gets status and fields of each 1xx answer but 101, which is final.
        ``trailers`` are asked for when all of a body has gone that was sent in chunks.

        Raises OriginError; ValueError for what is no HTTP request (a URL, field or body that
        cannot be sent, or a body that is not as long as it says); and what ``body`` raises.
        """
        place, authority, target = split_url(url)
        request = make_request(method, authority, target, headers, body)
        total_s = self._total_timeout_s
        ends_at_s = asyncio.get_running_loop().time() + total_s if total_s else None
        patience = _Patience(self._read_timeout_s, ends_at_s)
        is_repeatable = method in _REPEATABLE and (body is None or isinstance(body, bytes))
        only_new = False
        while True:
            try:
                connection, is_reused = await self._pool.lease(
                    place,
                    patience.bounded_s(self._connect_timeout_s),
                    only_new=only_new,
                    streams_body=body is not None and not isinstance(body, bytes),
                )
                try:
                    head = await _exchange(connection, request, body, trailers, interim, patience)
                except BaseException:
                    connection.abort()
                    self._pool.give_back(connection)
                    raise
                return Response(subject, head, connection, self._pool, patience)
            except ConnectionLostError as exc:
                if not (is_reused and is_repeatable) or connection.is_answered:
                    raise connection_failure(subject, exc) from exc
                only_new = True
            except (NoConnectionError, SilenceError, h11.RemoteProtocolError) as exc:
                raise connection_failure(subject, exc) from exc
            except h11.LocalProtocolError as exc:
                raise ValueError(f"{subject}: cannot be asked for: {exc}") from exc

    def retire(self) -> None:
        """Keeps no connection between requests from now on; what is being read is read on."""
        self._pool.retire()

    async def close(self) -> None:
        """Drops all connections, for good; bodies still being read end BROKEN."""
        self._pool.close()


class Response:
    """An answer whose head has come. Whoever has it reads it to its end or closes it.

    ``fields`` are as they were sent, in order; ``trailers`` those after the body, once it has
    been read.
    """

    def __init__(
        self,
        subject: str,
        head: h11.Response | h11.InformationalResponse,
        connection: Connection,
        pool: Pool,
        patience: _Patience,
    ) -> None:
        self.status = head.status_code
        self.reason = head.reason.decode("latin-1")
        self.http_version = head.http_version.decode("ascii")
        self.fields = decode_fields(head.headers.raw_items())
        self.trailers: FieldList = []
        self.size_bytes = connection.size_bytes
        self._subject = subject
        self._pool = pool
        self._patience = patience
        self._connection: Connection | None = connection  # None once it was given back
        self._is_closed = False

    async def pieces(self, size_bytes: int) -> AsyncIterator[bytes]:
        """The body, which must have ``size_bytes``. Raises OriginError."""
        missing_bytes = size_bytes
        while piece := await self._receive(f"{missing_bytes} of {size_bytes} bytes missing"):
            missing_bytes -= len(piece)
            if missing_bytes < 0:
                raise self._broken(f"the body runs over its {size_bytes} bytes")
            yield piece
        if missing_bytes:
            raise self._broken(f"the body ended {missing_bytes} bytes early")

    async def body(self) -> AsyncIterator[bytes]:
        """The body, however long. Raises OriginError BROKEN when it is cut, TIMEOUT."""
        received_bytes = 0
        while piece := await self._receive(f"{received_bytes} bytes received"):
            received_bytes += len(piece)
            yield piece

    async def error_code(self) -> str:
        """The error code in a refusal's body; "" when there is none, or it is long in coming."""
        body = bytearray()
        try:
            async with asyncio.timeout(ERROR_BODY_TIMEOUT_S):
                while len(body) < ERROR_BODY_MAX_BYTES:
                    piece = await self._receive("an error's body")
                    if not piece:
                        break
                    body += piece
        except (OriginError, TimeoutError):
            # The status is the answer; its explanation only helps whoever reads the log.
            return ""
        return find_error_code(bytes(body))

    def upgrade(self) -> tuple[bytes, UpgradedConnection]:
        """After status 101: the bytes that came behind the head, and the way for the rest.

        From here on the duplex is what must be closed; no time limit holds for it.
        """
        if self.status != 101 or self._connection is None:
            raise ValueError(f"{self._subject}: the answer is no upgrade")
        connection, self._connection = self._connection, None
        self._is_closed = True
        return connection.take_unread(), UpgradedConnection(self._subject, connection, self._pool)

    def close(self) -> None:
        """Drops the connection, unless the body has come to its end."""
        self._is_closed = True
        if self._connection is not None:
            self._give_back(self._connection)

    async def _receive(self, where: str) -> bytes:
        """What has come since, at least one byte; b"" at the end of the body."""
        connection = self._connection
        if connection is None:
            if self._is_closed:
                raise self._broken(f"closed by this side with {where}")
            return b""
        try:
            piece = await _read_body(connection, self._patience)
            if self._connection is not connection:
                # Closed meanwhile: the connection may be another's by now.
                raise ConnectionLostError("closed by this side")
        except SilenceError as exc:
            self.close()
            what = f"{self._subject}: {exc} with {where}"
            raise OriginError(OriginFailure.TIMEOUT, what) from exc
        except (ConnectionLostError, h11.RemoteProtocolError) as exc:
            self.close()
            raise self._broken(f"connection lost with {where}") from exc
        except BaseException:
            self.close()
            raise
        if connection.is_exhausted:
            self._give_back(connection)
        return piece

    def _give_back(self, connection: Connection) -> None:
        self._connection = None
        self.trailers = connection.trailers
        self._pool.give_back(connection)

    def _broken(self, what: str) -> OriginError:
        return OriginError(OriginFailure.BROKEN, f"{self._subject}: {what}")


class UpgradedConnection:
    """Bytes both ways, after an upgrade. One task may read while another writes."""

    def __init__(self, subject: str, connection: Connection, pool: Pool) -> None:
        self._subject = subject
        self._connection = connection
        self._pool = pool

    async def read(self) -> bytes:
        """What has come since, at least one byte; b"" once the origin has ended its side.

        Raises OriginError BROKEN.
        """
        try:
            return await self._connection.read()
        except ConnectionLostError as exc:
            raise self._lost() from exc

    async def write(self, data: bytes) -> None:
        """Sends ``data``; returns when more may follow. Raises OriginError BROKEN."""
        try:
            self._connection.write(data)
            await self._connection.drain()
        except ConnectionLostError as exc:
            raise self._lost() from exc

    def close(self) -> None:
        """Ends the connection when what was written has left. Never raises."""
        self._connection.close()
        self._pool.give_back(self._connection)

    def _lost(self) -> OriginError:
        return OriginError(
            OriginFailure.BROKEN, f"{self._subject}: connection lost after the upgrade"
        )


def connection_failure(subject: str, exc: Exception) -> OriginError:
    """Names what kept ``subject`` from being answered at all."""
    match exc:
        case NoConnectionError():
            failure, what = OriginFailure.REFUSED, str(exc)
        case SilenceError():
            failure, what = OriginFailure.TIMEOUT, f"connected, but no answer came ({exc})"
        case ConnectionLostError():
            failure, what = OriginFailure.BROKEN, "connection lost before an answer"
        case _:
            failure, what = OriginFailure.UNAVAILABLE, "what came is no HTTP answer"
    return OriginError(failure, f"{subject}: {what}")


async def _exchange(
    connection: Connection,
    request: h11.Request,
    body: Body,
    trailers: Trailers,
    interim: Interim | None,
    patience: _Patience,
) -> h11.Response | h11.InformationalResponse:
    """Sends a request, until it is all sent or answered; the final head, or that of a 101.

    Raises ConnectionLostError, SilenceError, h11.ProtocolError, and what ``body`` raises.
    """
    async with _silence_bounded(patience) as silence:
        connection.send_head(request)
        may_upload = asyncio.Event()
        uploading = None
        if body is None:
            connection.end_body()
        else:
            uploading = asyncio.create_task(
                _upload(connection, request, body, trailers, may_upload, silence, patience)
            )
        try:
            while True:
                head = await connection.head()
                if isinstance(head, h11.Response) or head.status_code == 101:
                    return head
                if uploading is None or uploading.done():
                    silence.reschedule(patience.silence_ends_s())
                may_upload.set()
                if interim is not None:
                    interim(head.status_code, decode_fields(head.headers.raw_items()))
        except ConnectionLostError:
            if uploading is not None and uploading.done():
                uploading.result()  # a body that failed is why there is no connection any more
            raise
        finally:
            if uploading is not None:
                uploading.cancel()
                await asyncio.gather(uploading, return_exceptions=True)


async def _upload(
    connection: Connection,
    request: h11.Request,
    body: AsyncIterator[bytes] | bytes,
    trailers: Trailers,
    may_upload: asyncio.Event,
    silence: asyncio.Timeout,
    patience: _Patience,
) -> None:
    """Sends a request's body. ``silence`` runs only while the origin has to do something.

    Raises what ``body`` raises and h11.LocalProtocolError, after dropping the connection.
    """

    def await_origin(is_awaited: bool) -> None:
        if not silence.expired():
            silence.reschedule(patience.silence_ends_s() if is_awaited else patience.ends_at_s)

    try:
        await_origin(False)
        if (b"expect", b"100-continue") in request.headers:
            with suppress(TimeoutError):
                async with asyncio.timeout(CONTINUE_S):
                    await may_upload.wait()
        async for piece in _cut(body) if isinstance(body, bytes) else body:
            connection.send_body(piece)
            await_origin(True)
            await connection.drain()
            await_origin(False)
        is_chunked = any(name == b"transfer-encoding" for name, _value in request.headers)
        connection.end_body(encode_fields(trailers()) if is_chunked else ())
        await_origin(True)
    except ConnectionLostError:
        return  # whoever waits for the answer finds that out, and maybe an answer before it
    except Exception:
        connection.abort()
        raise


async def _cut(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), BODY_PIECE_BYTES):
        yield body[start : start + BODY_PIECE_BYTES]


async def _read_body(connection: Connection, patience: _Patience) -> bytes:
    """As ``Connection.read``, in time. Raises SilenceError too."""
    if patience.is_over():
        raise SilenceError("took too long")
    if piece := connection.take_unread():
        return piece
    async with _silence_bounded(patience):
        return await connection.read()


@asynccontextmanager
async def _silence_bounded(patience: _Patience) -> AsyncIterator[asyncio.Timeout]:
    """Raises SilenceError when what is inside takes longer than the origin may be silent."""
    silence = asyncio.timeout_at(patience.silence_ends_s())
    try:
        async with silence:
            yield silence
    except TimeoutError as exc:
        if not silence.expired():
            raise  # another's
        raise SilenceError("took too long" if patience.is_over() else "fell silent") from exc

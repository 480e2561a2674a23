"""RTMPE on a connection: the handshake, then a session over a transport that encrypts.

The session does not know about it. Clients of plain RTMP use the same addresses: the first byte of
a connection decides, and a session of plain RTMP then has the connection for itself.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from streamedge.delivery.net.accept import OnClose, Peer
from streamedge.delivery.net.writers import TLS_WRITE_BYTES, VirtualTransport, Writer, writer_to
from streamedge.delivery.rtmp.context import ServerContext
from streamedge.delivery.rtmp.protocol.errors import ProtocolError
from streamedge.delivery.rtmp.protocol.handshake import RANDOM_SIZE_BYTES
from streamedge.delivery.rtmp.rtmpe.handshake import EncryptedHandshake, HandshakeState
from streamedge.delivery.rtmp.rtmpe.key_exchange import (
    EXPONENT_SIZE_BYTES,
    RTMPE_VERSION,
    Ciphers,
    KeyExchange,
    exchange_keys,
)
from streamedge.delivery.rtmp.rtmpe.writer import EncryptingWriter
from streamedge.delivery.rtmp.session import RtmpSession
from streamedge.ops.metrics import Counter
from streamedge.ops.rate_limited import RateLimitedEvent
from streamedge.ops.threads import Threads

EXPONENTS = 16  # of which one in 128 cannot be used

# What the log calls the transport of a session, by the transport below.
_TRANSPORT_NAMES = {"rtmp": "rtmpe", "rtmpt": "rtmpte", "rtmpts": "rtmpte"}


class Encryption:
    """What all RTMPE connections of a worker share.

    ``executor`` has one thread, because Python computes one power at a time: 0.7 ms, in which the
    event loop waits. It runs between two of them, however many clients connect at once.
    """

    def __init__(self, context: ServerContext) -> None:
        self.context = context
        self.loop = asyncio.get_running_loop()
        self.handshakes: set[RtmpeConnection] = set()
        self.executor = Threads(1, "rtmpe-key-exchange")
        self.buffer = memoryview(bytearray(TLS_WRITE_BYTES))
        self.is_stopping = False
        self._failed = RateLimitedEvent(context.log, "rtmpe_handshake_failed")

    def connect(self, peer: Peer, on_close: OnClose) -> RtmpeConnection:
        """The first protocol of an accepted connection."""
        return RtmpeConnection(self, peer, on_close)

    def report(self, peer: Peer, reason: str) -> None:
        """Counts and logs a handshake that failed."""
        self.context.counts.add(Counter.ERRORS, "rtmpe_handshake")
        self._failed.emit(self.loop.time(), client=str(peer), reason=reason)

    def sweep(self, now_s: float) -> None:
        """Closes the connections whose handshake takes too long."""
        for connection in list(self.handshakes):
            if now_s - connection.began_s > self.context.limits.handshake_s:
                connection.time_out()

    def stop(self) -> None:
        """Closes the connections that have no session yet."""
        self.is_stopping = True
        for connection in list(self.handshakes):
            connection.abort()
        self.executor.shutdown(wait=False, cancel_futures=True)


class RtmpeConnection(asyncio.Protocol):
    """A connection until it has a session: of plain RTMP, or after the handshake of RTMPE."""

    def __init__(self, encryption: Encryption, peer: Peer, on_close: OnClose) -> None:
        self._encryption = encryption
        self._peer = peer
        self._on_close = on_close
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # from the beginning
        self._handshake: EncryptedHandshake | None = None  # from the first byte on
        self._keys: asyncio.Future[KeyExchange] | None = None
        self.began_s = encryption.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        handshakes = self._encryption.handshakes
        handshakes.add(self)
        if self._encryption.is_stopping:
            self.abort()
        elif len(handshakes) > self._encryption.context.limits.connections_max:
            self._fail("too many connections")

    def data_received(self, data: bytes) -> None:
        if self not in self._encryption.handshakes:
            return  # closed; bytes in flight still arrive
        if self._handshake is None:
            if data[0] != RTMPE_VERSION:
                self._begin_plain_session(data)
                return
            self._handshake = EncryptedHandshake()
        try:
            c1 = self._handshake.receive_data(data)
        except ProtocolError as exc:
            self._fail(str(exc))
            return
        if c1 is not None:
            self._exchange_keys(c1)
        elif self._handshake.state is HandshakeState.DONE:
            self._begin_encrypted_session(*self._handshake.result())

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._encryption.handshakes.discard(self)
        if self._keys is not None:
            self._keys.cancel()
        self._on_close()

    def time_out(self) -> None:
        """Closes the connection; reports it if it has begun a handshake."""
        if self._handshake is None:
            self.abort()
        else:
            self._fail("it took too long")

    def abort(self) -> None:
        """Closes the connection at once."""
        self._encryption.handshakes.discard(self)
        self._transport.abort()

    def _fail(self, reason: str) -> None:
        """Closes the connection and reports why, unless it is closed already."""
        if self in self._encryption.handshakes:
            self._encryption.report(self._peer, reason)
            self.abort()

    def _exchange_keys(self, c1: bytes) -> None:
        self._transport.pause_reading()  # a tunnel's request then waits for its response
        self._keys = self._encryption.loop.run_in_executor(
            self._encryption.executor,
            exchange_keys,
            c1,
            os.urandom(RANDOM_SIZE_BYTES),
            os.urandom(EXPONENTS * EXPONENT_SIZE_BYTES),
        )
        self._keys.add_done_callback(self._respond)

    def _respond(self, keys: asyncio.Future[KeyExchange]) -> None:
        if keys.cancelled():
            return
        try:
            exchange = keys.result()
        except ProtocolError as exc:
            self._fail(str(exc))
            return
        if self not in self._encryption.handshakes or self._handshake is None:
            return
        response = self._handshake.respond(exchange)
        writer = writer_to(self._transport, self._encryption.loop)
        try:
            sent = writer.send(response, more=False)
        except OSError:
            sent = 0
        writer.close()  # the session has its own
        if sent < len(response):  # the send buffer of a new connection has room for it
            self._fail("the client is gone")
            return
        self._transport.resume_reading()

    def _begin_plain_session(self, data: bytes) -> None:
        """Lets a session speak plain RTMP; it refuses the versions that are not served."""
        session = self._session()
        self._transport.set_protocol(session)
        session.connection_made(self._transport)
        session.data_received(data)

    def _begin_encrypted_session(self, exchange: KeyExchange, data: bytes) -> None:
        session = self._session(is_encrypted=True)
        ciphers = Ciphers(exchange)
        self._transport.set_protocol(_DecryptingProtocol(session, ciphers))
        writer = EncryptingWriter(
            writer_to(self._transport, self._encryption.loop),
            ciphers.encrypt_into,
            self._encryption.buffer,
        )
        session.connection_made(_EncryptingTransport(self._transport, writer))
        if data:
            session.data_received(ciphers.decrypt(data))

    def _session(self, *, is_encrypted: bool = False) -> RtmpSession:
        encryption = self._encryption
        encryption.handshakes.discard(self)
        return RtmpSession(
            encryption.context,
            encryption.loop,
            self._peer,
            self._on_close,
            is_encrypted=is_encrypted,
        )


class _DecryptingProtocol(asyncio.Protocol):
    """Decrypts what a session receives."""

    def __init__(self, session: RtmpSession, ciphers: Ciphers) -> None:
        self._session = session
        self._ciphers = ciphers

    def data_received(self, data: bytes) -> None:
        self._session.data_received(self._ciphers.decrypt(data))

    def eof_received(self) -> bool:
        return self._session.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._session.connection_lost(exc)


class _EncryptingTransport(VirtualTransport):
    """What a session sees as its connection: another transport, with a writer that encrypts."""

    def __init__(self, transport: asyncio.Transport, writer: EncryptingWriter) -> None:
        super().__init__()
        self._transport = transport
        self._writer = writer

    def writer(self) -> Writer:
        return self._writer

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        value = self._transport.get_extra_info(name, default)
        return _TRANSPORT_NAMES[value] if name == "rtmp_transport" else value

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

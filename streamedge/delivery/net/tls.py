"""TLS between the socket and a viewer's protocol: handshake, records and close_notify.

A ``TlsConnection`` is the protocol of the socket's transport and the transport of the viewer's
protocol, which is created after the handshake. All data goes through one SSL object, in order, and
then through the socket's transport. A writer must limit what waits in that transport
(``get_write_buffer_size``, ``when_writable``).

``close`` sends close_notify (RFC 8446 §6.1). ``abort`` does not, so that a peer can detect a
truncated response. The TLS of asyncio's event loops is not used: it does not report handshakes that
are running or have failed, so they cannot be limited or counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from streamedge.callbacks import do_nothing
from streamedge.delivery.net.accept import OnClose, Peer

READ_BYTES = 64 << 10
UNSENT_BYTES_MAX = 4 << 20  # disconnects a peer that forces replies (KeyUpdate) and reads nothing
LINGER_S = 10.0  # time for a peer to receive the data that was written before ``close``

_PLAIN_HTTP_REASON = "HTTP_REQUEST"  # OpenSSL's reason code
_PLAIN_HTTP_RESPONSE = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n"
    b"x-reason: plain HTTP was sent to an HTTPS address\r\n\r\n"
)


class NamedTls(ssl.SSLObject):
    """The server's end of a connection, and the hosts that its certificate covers.

    ``serves`` returns whether requests for a host may use this connection. It is None if the
    client sent no server name (RFC 6066 §3) and received the default certificate.
    """

    serves: Callable[[str], bool] | None = None


class _Phase(Enum):
    HANDSHAKE = auto()
    OPEN = auto()
    CLOSE_NOTIFY_SENT = auto()  # data that still arrives is ignored
    FAILED = auto()  # the handshake failed
    LOST = auto()  # the connection has ended


@dataclass(frozen=True, slots=True)
class TlsAcceptor:
    """The state that all TLS connections of a server share.

    ``connect`` creates a viewer's protocol; it gets the name that ALPN has chosen (RFC 7301), or
    None. ``handshakes`` holds the connections whose handshake
    is running, at most ``handshakes_max``. ``failed(client, reason)`` is called for each handshake
    that fails.
    """

    context: ssl.SSLContext
    connect: Callable[[Peer, str | None], asyncio.Protocol]
    handshakes: set[TlsConnection]
    handshakes_max: int
    failed: Callable[[str, str], None]


class TlsConnection(asyncio.Transport, asyncio.Protocol):
    """One TLS connection, from accept to end."""

    def __init__(
        self,
        acceptor: TlsAcceptor,
        loop: asyncio.AbstractEventLoop,
        peer: Peer,
        on_close: OnClose,
    ) -> None:
        super().__init__()
        self._acceptor = acceptor
        self._loop = loop
        self._peer = peer
        self._on_close = on_close
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = acceptor.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._phase = _Phase.HANDSHAKE
        self._raw: asyncio.Transport = None  # type: ignore[assignment]  # from connection_made on
        self._protocol = _NO_PROTOCOL
        self._has_received = False
        self._writable: Callable[[], None] | None = None
        self.is_blocked = False
        """Whether encrypted bytes wait for the kernel."""
        self._linger: asyncio.TimerHandle | None = None
        self.began_s = loop.time()

    # Called by the socket's transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._raw = transport
        transport.set_write_buffer_limits(high=0)  # pause_writing comes at once
        self._acceptor.handshakes.add(self)
        if len(self._acceptor.handshakes) > self._acceptor.handshakes_max:
            self.fail_handshake("too many handshakes at once")

    def data_received(self, data: bytes) -> None:
        if self._phase is _Phase.OPEN:
            self._incoming.write(data)
            self._read(len(data))
        elif self._phase is _Phase.HANDSHAKE:
            self._incoming.write(data)
            if self._continue_handshake():
                self._read(READ_BYTES)

    def eof_received(self) -> None:
        # The peer has left, or the connection was cut on the way: close_notify alone would leave
        # its other direction open (RFC 8446 §6.1).
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._linger is not None:
            self._linger.cancel()
        self._on_close()
        self._writable = None
        protocol, self._protocol = self._protocol, _NO_PROTOCOL
        if protocol is not _NO_PROTOCOL:
            protocol.connection_lost(exc)
        elif self._has_received or exc is not None:
            self.fail_handshake("the client left")
        else:  # port checks send nothing
            self._acceptor.handshakes.discard(self)
        self._phase = _Phase.LOST
        self.is_blocked = False
        # The SSL object has 20 KB, and refers to what refers to this object. Without this and the
        # new ``_protocol``, only the garbage collector could free it and the viewer's protocol.
        del self._ssl, self._incoming, self._outgoing

    def pause_writing(self) -> None:
        self.is_blocked = True
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self.is_blocked = False
        self._protocol.resume_writing()
        self._call_writable()

    # Called by the server.

    def fail_handshake(self, reason: str) -> None:
        """Aborts the handshake; does nothing after its end."""
        if self._phase is _Phase.HANDSHAKE:
            self._phase = _Phase.FAILED
            self._acceptor.handshakes.discard(self)
            self._acceptor.failed(str(self._peer), reason)
            self._raw.abort()

    def release_slot(self) -> None:
        """Another server counts the connection from now on, no longer the one that accepted it."""
        on_close, self._on_close = self._on_close, do_nothing
        on_close()

    # Called by the viewer's protocol.

    @property
    def serves(self) -> Callable[[str], bool] | None:
        """Whether requests for a host may use this connection (RFC 9110 §7.4); None: all hosts."""
        return self._ssl.serves if isinstance(self._ssl, NamedTls) else None

    def write(self, data: bytes | bytearray | memoryview, *, more: bool = False) -> None:
        """Encrypts and writes ``data``; with ``more`` the records leave with the next call's."""
        raw = self._raw
        if self._phase is not _Phase.OPEN or raw.is_closing():
            return
        encrypt = self._ssl.write
        position = encrypt(data) if data else 0
        while position < len(data):  # one record of at most 16 KiB per call (RFC 8446 §5.1)
            position += encrypt(memoryview(data)[position:])
        if not more:
            raw.write(self._outgoing.read())

    def write_eof(self) -> None:
        """Closes this direction; data that the peer still sends is ignored."""
        if not self._raw.is_closing():
            self._send_close_notify()
            self._raw.write_eof()

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        """Closes the connection after all written data has been sent."""
        if self._raw.is_closing():
            return
        self._send_close_notify()
        if self._raw.get_write_buffer_size():
            self._linger = self._loop.call_later(LINGER_S, self._raw.abort)
        self._raw.close()

    def abort(self) -> None:
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._raw.is_closing()

    def when_writable(self, call: Callable[[], None] | None) -> None:
        """Calls ``call`` once, later, when the write buffer is empty; None cancels that."""
        self._writable = call
        if call is not None and not self.is_blocked:
            self._loop.call_soon(self._call_writable)

    def get_write_buffer_size(self) -> int:
        """Encrypted bytes that the kernel has not accepted yet."""
        return self._raw.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Has no effect: writing pauses as soon as the kernel does not accept all data."""

    def pause_reading(self) -> None:
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._raw.resume_reading()

    def is_reading(self) -> bool:
        return self._raw.is_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        if not isinstance(protocol, asyncio.Protocol):
            raise TypeError("a TLS connection needs a streaming protocol")
        self._protocol = protocol

    def get_protocol(self) -> asyncio.Protocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._ssl
        if name == "sslcontext":
            return self._acceptor.context
        return self._raw.get_extra_info(name, default)

    def _call_writable(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None:
            writable()

    def _continue_handshake(self) -> bool:
        """Continues the handshake; returns whether it is done and the viewer's protocol exists."""
        self._has_received = True
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as exc:
            if exc.reason == _PLAIN_HTTP_REASON:
                self._raw.write(_PLAIN_HTTP_RESPONSE)
            self._end_failed_handshake(exc.reason or str(exc))
            return False
        self._acceptor.handshakes.discard(self)
        self._phase = _Phase.OPEN
        self._flush()
        self._protocol = self._acceptor.connect(self._peer, self._ssl.selected_alpn_protocol())
        self._protocol.connection_made(self)
        return True

    def _end_failed_handshake(self, reason: str) -> None:
        """Ends a failed handshake; an alert tells the peer the cause."""
        self._phase = _Phase.FAILED
        self._acceptor.handshakes.discard(self)
        self._acceptor.failed(str(self._peer), reason)
        self._flush()
        self._raw.close()

    def _read(self, size_bytes: int) -> None:
        """Decrypts the received records and passes their data on in one piece.

        ``size_bytes``: of the buffer for the first record. A size near the record's takes least
        time to allocate; whole records have less data than that.
        """
        pieces: list[bytes] = []
        incoming, decrypt, ended = self._incoming, self._ssl.read, False
        try:
            while piece := decrypt(size_bytes):
                pieces.append(piece)
                if len(piece) < size_bytes and not incoming.pending:
                    break  # another read would raise SSLWantReadError, which takes longer
                size_bytes = READ_BYTES
            else:
                ended = True
        except ssl.SSLWantReadError:
            pass  # no complete record is left
        except ssl.SSLError:
            self._flush()  # sends an alert: an invalid record arrived
            self._raw.close()
            return
        if self._outgoing.pending:  # a reply of TLS itself
            self._flush()
            if self._raw.get_write_buffer_size() > UNSENT_BYTES_MAX:
                self._raw.abort()
                return
        if pieces:
            self._protocol.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if ended and not self._raw.is_closing():
            keeps_open = self._protocol.eof_received()
            if not keeps_open:
                self.close()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())

    def _send_close_notify(self) -> None:
        """Sends close_notify without waiting for the peer's."""
        if self._phase is not _Phase.OPEN:
            return
        self._phase = _Phase.CLOSE_NOTIFY_SENT
        with contextlib.suppress(
            ssl.SSLError
        ):  # raised while the peer's has not arrived; it is not needed
            self._ssl.unwrap()
        self._flush()


_NO_PROTOCOL = asyncio.Protocol()
"""Before the handshake has ended, and after the connection is lost; its methods do nothing."""

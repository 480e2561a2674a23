"""TLS between the socket and a viewer's protocol: handshake, records, and a last word.

A ``TlsConnection`` is the protocol of the socket's transport and the transport of the viewer's
protocol, which is only made once the handshake is done. Everything goes through one SSL object,
in order, and leaves through the socket's transport; so whoever writes has to mind what waits there
(``get_write_buffer_size``, ``when_writable``).

An end that is meant is told by close_notify (RFC 8446 §6.1); ``abort`` says nothing, so that a
peer can tell a response that was cut. Loops have TLS of their own; it tells nobody of connections
whose handshake is under way, or has failed, and lets nobody bound them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from streamedge.delivery.net.accept import OnClose, Peer

READ_BYTES = 64 << 10
UNSENT_BYTES_MAX = 4 << 20  # a peer that makes us answer (KeyUpdate) and reads nothing is dropped
LINGER_S = 10.0  # for a peer to take what was written before ``close``

_PLAIN_HTTP = "HTTP_REQUEST"  # OpenSSL's reason
_PLAIN_HTTP_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n"
    b"x-reason: plain HTTP was sent to an HTTPS address\r\n\r\n"
)


class NamedTls(ssl.SSLObject):
    """The server's end of a connection, with what the choice of its certificate meant.

    ``serves``: whether requests for a host may come over it; None where the client named none
    (RFC 6066 §3), and so was shown whatever there is.
    """

    serves: Callable[[str], bool] | None = None


class _Phase(Enum):
    HANDSHAKE = auto()
    OPEN = auto()
    SAID_ALL = auto()  # close_notify is out; what still comes is not looked at
    FAILED = auto()  # in the handshake


@dataclass(frozen=True, slots=True)
class TlsAcceptor:
    """What all TLS connections of a server share.

    ``connect`` makes a viewer's protocol. ``handshakes`` are those under way, at most
    ``handshakes_max``. ``failed(client, reason)`` hears of each handshake that came to nothing.
    """

    context: ssl.SSLContext
    connect: Callable[[Peer], asyncio.Protocol]
    handshakes: set[TlsConnection]
    handshakes_max: int
    failed: Callable[[str, str], None]


class TlsConnection(asyncio.Transport, asyncio.Protocol):
    """One TLS connection, from accept to end."""

    def __init__(
        self, door: TlsAcceptor, loop: asyncio.AbstractEventLoop, peer: Peer, left: OnClose
    ) -> None:
        super().__init__()
        self._door = door
        self._loop = loop
        self._peer = peer
        self._left = left
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = door.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._phase = _Phase.HANDSHAKE
        self._raw: asyncio.Transport = None  # type: ignore[assignment]  # from connection_made on
        self._protocol: asyncio.BaseProtocol = self
        self._heard = False  # the peer has said something
        self._writable: Callable[[], None] | None = None
        self._linger: asyncio.TimerHandle | None = None
        self.began_s = loop.time()

    # What the socket's transport calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._raw = transport
        transport.set_write_buffer_limits(high=0)  # whoever writes hears at once that it waits
        self._door.handshakes.add(self)
        if len(self._door.handshakes) > self._door.handshakes_max:
            self.fail_handshake("too many handshakes at once")

    def data_received(self, data: bytes) -> None:
        if self._phase in {_Phase.SAID_ALL, _Phase.FAILED} or self._raw.is_closing():
            return
        self._incoming.write(data)
        if self._phase is _Phase.OPEN or self._shake_hands():
            self._read()

    def eof_received(self) -> None:
        # Without close_notify: the peer is gone, or somebody cut the connection.
        self._raw.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._linger is not None:
            self._linger.cancel()
        self._left()
        self._writable = None
        if self._protocol is not self:
            self._protocol.connection_lost(exc)
        elif self._heard or exc is not None:
            self.fail_handshake("the client left")
        else:
            self._phase = _Phase.FAILED  # opened and closed without a word, as port checks do
            self._door.handshakes.discard(self)

    def pause_writing(self) -> None:
        if self._protocol is not self:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol is not self:
            self._protocol.resume_writing()
        self._tell_writable()

    # What the server calls.

    def fail_handshake(self, reason: str) -> None:
        """Gives a handshake up; harmless when it is over."""
        if self._phase is _Phase.HANDSHAKE:
            self._phase = _Phase.FAILED
            self._door.handshakes.discard(self)
            self._door.failed(str(self._peer), reason)
            self._raw.abort()

    # What the viewer's protocol calls.

    @property
    def serves(self) -> Callable[[str], bool] | None:
        """Whether requests for a host may come over it (RFC 9110 §7.4); None: for any."""
        return self._ssl.serves if isinstance(self._ssl, NamedTls) else None

    def write(self, data: bytes | bytearray | memoryview, *, more: bool = False) -> None:
        """Seals and writes; ``more``: what is sealed goes with the next call, which is to come."""
        if self._phase is not _Phase.OPEN or self._raw.is_closing():
            return
        seal = self._ssl.write
        view = memoryview(data)
        position, size = 0, len(view)
        while position < size:  # a record at a time, of at most 16 KiB (RFC 8446 §5.1)
            position += seal(view[position:])
        if not more:
            self._raw.write(self._outgoing.read())

    def write_eof(self) -> None:
        """Ends this direction; the peer may go on, unheard."""
        self._say_all()
        self._raw.write_eof()

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        """Ends the connection once all that was written has left."""
        if self._raw.is_closing():
            return
        self._say_all()
        if self._raw.get_write_buffer_size():
            self._linger = self._loop.call_later(LINGER_S, self._raw.abort)
        self._raw.close()

    def abort(self) -> None:
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._raw.is_closing()

    def when_writable(self, call: Callable[[], None] | None) -> None:
        """Calls once, later, when the write buffer is empty; None takes the wish back."""
        self._writable = call
        if call is not None and not self._raw.get_write_buffer_size():
            self._loop.call_soon(self._tell_writable)

    def get_write_buffer_size(self) -> int:
        """Sealed bytes that the kernel has not taken yet."""
        return self._raw.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Has no effect: writing pauses as soon as the kernel does not take all."""

    def pause_reading(self) -> None:
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._raw.resume_reading()

    def is_reading(self) -> bool:
        return self._raw.is_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._ssl
        if name == "sslcontext":
            return self._door.context
        return self._raw.get_extra_info(name, default)

    def _tell_writable(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None:
            writable()

    def _shake_hands(self) -> bool:
        """Goes on with the handshake; whether it is done, and the viewer's protocol made."""
        self._heard = True
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as exc:
            if exc.reason == _PLAIN_HTTP:
                self._raw.write(_PLAIN_HTTP_ANSWER)
            self._give_up(exc.reason or str(exc))
            return False
        self._door.handshakes.discard(self)
        self._phase = _Phase.OPEN
        self._flush()
        self._protocol = self._door.connect(self._peer)
        self._protocol.connection_made(self)
        return True

    def _give_up(self, reason: str) -> None:
        """Ends a handshake that failed; the peer is told why by an alert."""
        self._phase = _Phase.FAILED
        self._door.handshakes.discard(self)
        self._door.failed(str(self._peer), reason)
        self._flush()
        self._raw.close()

    def _read(self) -> None:
        """Opens what has come, and hands it on in one piece."""
        pieces: list[bytes] = []
        ended = False
        try:
            while piece := self._ssl.read(READ_BYTES):
                pieces.append(piece)
            ended = True
        except ssl.SSLWantReadError:
            pass  # all of it has been read
        except ssl.SSLError:
            self._flush()  # an alert: what came was no record of this connection
            self._raw.close()
            return
        self._flush()
        if self._raw.get_write_buffer_size() > UNSENT_BYTES_MAX:
            self._raw.abort()
            return
        assert isinstance(self._protocol, asyncio.Protocol)
        if pieces:
            self._protocol.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if ended and not self._raw.is_closing():
            self._protocol.eof_received()
            self.close()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())

    def _say_all(self) -> None:
        """Sends close_notify, and waits for nobody's."""
        if self._phase is not _Phase.OPEN:
            return
        self._phase = _Phase.SAID_ALL
        with contextlib.suppress(ssl.SSLError):  # the peer's has not come, and need not
            self._ssl.unwrap()
        self._flush()

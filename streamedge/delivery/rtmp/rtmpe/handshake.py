"""The handshake of RTMPE with one client, byte by byte. Pure.

    C1 ──C0, C1──▸ KEYS ──respond──▸ C2 ──C2──▸ DONE        any ──wrong bytes──▸ FAILED

The caller computes the keys between two steps, because that takes some CPU time.
"""

from __future__ import annotations

from enum import Enum

from streamedge.delivery.rtmp.protocol.errors import ProtocolError
from streamedge.delivery.rtmp.protocol.handshake import PACKET_SIZE_BYTES
from streamedge.delivery.rtmp.rtmpe.key_exchange import RTMPE_VERSION, KeyExchange


class HandshakeState(Enum):
    """What the handshake waits for; at the end, its result."""

    C1 = "C1"
    KEYS = "keys"
    C2 = "C2"
    DONE = "done"
    FAILED = "failed"


class EncryptedHandshake:
    """The handshake from the first byte of a client on."""

    def __init__(self) -> None:
        self.state = HandshakeState.C1
        self._received = bytearray()
        self._exchange: KeyExchange | None = None

    @property
    def waiting_bytes(self) -> int:
        """How many received bytes wait: for the rest of C1 or C2, or for a session."""
        return len(self._received)

    def receive_data(self, data: bytes) -> bytes | None:
        """Takes bytes of the client; returns C1 once it is complete.

        The caller then gives its ``KeyExchange`` to ``respond``. Raises ProtocolError for another
        version, for bytes behind C1, which a client has no reason to send before S1, and for a C2
        that is not the client's signature of S1.
        """
        try:
            return self._receive(data)
        except ProtocolError:
            self._received.clear()
            self.state = HandshakeState.FAILED
            raise

    def respond(self, exchange: KeyExchange) -> bytes:
        """S0, S1 and S2, after which the client sends C2."""
        if self.state is not HandshakeState.KEYS:
            raise ValueError(f"no C1 waits for keys: {self.state}")
        self._exchange = exchange
        self.state = HandshakeState.C2
        return exchange.response

    def result(self) -> tuple[KeyExchange, bytes]:
        """The keys of a handshake that is done, and the encrypted bytes received after C2."""
        if self.state is not HandshakeState.DONE or self._exchange is None:
            raise ValueError(f"the handshake is not done: {self.state}")
        return self._exchange, bytes(self._received)

    def _receive(self, data: bytes) -> bytes | None:
        match self.state:
            case HandshakeState.C1:
                self._received += data
                return self._receive_c1()
            case HandshakeState.KEYS:
                if data:
                    raise ProtocolError("RTMPE: bytes behind C1, before S1")
            case HandshakeState.C2:
                self._received += data
                self._receive_c2()
            case HandshakeState.DONE:
                raise ValueError("what comes after the handshake is the session's")
            case HandshakeState.FAILED:
                raise ProtocolError("RTMPE: the handshake has failed before")
        return None

    def _receive_c1(self) -> bytes | None:
        received = self._received
        if received and received[0] != RTMPE_VERSION:
            raise ProtocolError(f"RTMPE: version {received[0]} is not served, only {RTMPE_VERSION}")
        if len(received) <= PACKET_SIZE_BYTES:
            return None
        if len(received) > 1 + PACKET_SIZE_BYTES:
            raise ProtocolError("RTMPE: bytes behind C1, before S1")
        c1 = bytes(received[1:])
        received.clear()
        self.state = HandshakeState.KEYS
        return c1

    def _receive_c2(self) -> None:
        if self._exchange is not None and len(self._received) >= PACKET_SIZE_BYTES:
            self._exchange.check_signature(bytes(self._received[:PACKET_SIZE_BYTES]))
            del self._received[:PACKET_SIZE_BYTES]
            self.state = HandshakeState.DONE

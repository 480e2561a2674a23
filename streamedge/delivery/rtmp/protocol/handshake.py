"""The server's side of the RTMP handshake, from C0 to C2.

Handles the simple form (RTMP 1.0 §5.2) and the digest form that Flash Player and FFmpeg use. Pure:
the caller passes the random bytes. The digest form is not in
the specification; librtmp's handshake.h and FFmpeg's rtmpproto.c describe the same rules as these.

    C0    S0    1 byte       the version, 3
    C1    S1    1536 bytes   time (4), version or zero (4), random (1528)
    C2    S2    1536 bytes   the peer's S1 or C1 echoed, or random (1504) and a signature (32)

In the digest form 32 of the random bytes of C1 and S1 are an HMAC-SHA256 over the other 1504 of
that packet. Its position follows from four bytes of the packet; the scheme defines which four.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import IntEnum

from streamedge.delivery.rtmp.protocol.errors import ProtocolError

RTMP_VERSION = 3
PACKET_SIZE_BYTES = 1536
RANDOM_SIZE_BYTES = 1528

DIGEST_SIZE_BYTES = 32
_DIGEST_PLACES = 728  # a 764-byte block, less its 4 offset bytes and the digest itself
_ENCRYPTED_VERSIONS = frozenset({6, 8, 9})  # RTMPE in its three forms
_TLS_HANDSHAKE = 0x16  # how a ClientHello begins (RFC 8446 §5.1)
_FIRST_TEXT_VERSION = 32  # §5.2.2: reserved, to distinguish text protocols from RTMP
_FIRST_STEP_SIZE_BYTES = 1 + PACKET_SIZE_BYTES

# FFmpeg verifies a server's digest as soon as the first version byte is 3 or more, so a server
# that signs nothing must call itself version 0.
_UNSIGNED_SERVER_VERSION = bytes(4)
_SIGNED_SERVER_VERSION = bytes((3, 5, 7, 1))

# Each digest is keyed with the name alone, the signature with name and the shared tail.
PLAYER_NAME = b"Genuine Adobe Flash Player 001"
SERVER_NAME = b"Genuine Adobe Flash Media Server 001"
KEY_TAIL = bytes.fromhex("f0eec24a8068bee82e00d0d1029e7e576eec5d2d29806fab93b8e636cfeb31ae")


class DigestScheme(IntEnum):
    """The block of C1 and S1 that holds the digest; the value is the block's position."""

    FIRST_BLOCK = 8
    SECOND_BLOCK = 772


class ServerHandshake:
    """The handshake with one client.

    ``random`` is 1528 unpredictable bytes. ``done`` is True once the handshake is complete;
    ``remainder`` then holds the bytes after C2.
    """

    def __init__(self, random: bytes) -> None:
        if len(random) != RANDOM_SIZE_BYTES:
            raise ValueError(f"the handshake takes {RANDOM_SIZE_BYTES} random bytes")
        self._random = random
        self._received = bytearray()
        self._has_responded = False
        self.done = False
        self.remainder = b""

    def receive_data(self, data: bytes) -> bytes:
        """Parses data of the client and returns the bytes to send, often none.

        Raises ProtocolError for a first byte that is not a version of plain RTMP. The content of C2
        is ignored: clients send the echo, a signature or zeros.
        """
        response = b""
        self._received += data
        if not self._has_responded and self._received:
            check_version(self._received[0])
        if not self._has_responded and len(self._received) >= _FIRST_STEP_SIZE_BYTES:
            response = self._respond(bytes(self._received[1:_FIRST_STEP_SIZE_BYTES]))
            self._has_responded = True
            del self._received[:_FIRST_STEP_SIZE_BYTES]
        if self._has_responded and len(self._received) >= PACKET_SIZE_BYTES:
            self.remainder = bytes(self._received[PACKET_SIZE_BYTES:])
            self._received.clear()
            self.done = True
        return response

    def _respond(self, c1: bytes) -> bytes:
        digest = find_digest(c1)
        if digest is None:
            s1 = bytes(4) + _UNSIGNED_SERVER_VERSION + self._random
            return bytes((RTMP_VERSION,)) + s1 + c1
        scheme, client_digest = digest
        s1 = sign_packet(bytes(4) + _SIGNED_SERVER_VERSION + self._random, scheme, SERVER_NAME)
        return bytes((RTMP_VERSION,)) + s1 + sign_echo(c1, client_digest, SERVER_NAME)


def check_version(version: int) -> None:
    """Raises ProtocolError for a C0 to which version 3 is no valid response.

    §5.2.2: a server responds with 3 to unknown versions, and the client decides. Encrypted versions
    are refused, because their clients continue encrypted after any response. TLS and text are
    refused: they are other protocols on the wrong port.
    """
    if version == 6:
        raise ProtocolError("encrypted RTMP (RTMPE, version 6) is not offered: listen.rtmpe is off")
    if version in _ENCRYPTED_VERSIONS:
        raise ProtocolError(f"encrypted RTMP (RTMPE) of version {version} is not offered, only 6")
    if version == _TLS_HANDSHAKE:
        raise ProtocolError("TLS (RTMPS) on a port that takes plain RTMP")
    if version >= _FIRST_TEXT_VERSION:
        raise ProtocolError(f"not RTMP: the first byte is 0x{version:02x}")


def digest_position(packet: bytes, scheme: DigestScheme) -> int:
    """The position of this scheme's digest in a 1536-byte C1 or S1."""
    return scheme + 4 + sum(packet[scheme : scheme + 4]) % _DIGEST_PLACES


def find_digest(c1: bytes) -> tuple[DigestScheme, bytes] | None:
    """The scheme and digest of a Flash Player's C1; None when it is not signed."""
    for scheme in DigestScheme:
        position = digest_position(c1, scheme)
        digest = c1[position : position + DIGEST_SIZE_BYTES]
        if hmac.compare_digest(digest, _packet_digest(c1, position, PLAYER_NAME)):
            return scheme, digest
    return None


def sign_packet(packet: bytes, scheme: DigestScheme, key: bytes) -> bytes:
    """The 1536-byte C1 or S1 with its digest."""
    position = digest_position(packet, scheme)
    digest = _packet_digest(packet, position, key)
    return packet[:position] + digest + packet[position + DIGEST_SIZE_BYTES :]


def sign_echo(packet: bytes, peer_digest: bytes, name: bytes) -> bytes:
    """C2 or S2: ``packet`` with a signature of ``name`` at its end, for the peer's digest.

    The unsigned part may be anything; a client of the simple form expects its C1.
    """
    echo = packet[:-DIGEST_SIZE_BYTES]
    return echo + sha256_hmac(sha256_hmac(name + KEY_TAIL, peer_digest), echo)


def _packet_digest(packet: bytes, position: int, key: bytes) -> bytes:
    return sha256_hmac(key, packet[:position] + packet[position + DIGEST_SIZE_BYTES :])


def sha256_hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, hashlib.sha256)

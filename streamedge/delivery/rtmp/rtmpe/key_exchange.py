"""The key exchange of RTMPE, and the two ciphers that follow.

The key exchange is anonymous Diffie-Hellman, so a man in the middle is not noticed, and RC4 is
broken: RTMPE protects nothing. It serves clients that know nothing else.

Pure: the caller passes random bytes. No specification is public; librtmp's handshake.h and FFmpeg's
rtmpcrypt.c describe the same rules as these. Packets, digests and signatures are those of the plain
handshake (``handshake``), with C0 and S0 of 6, and a public key in the random bytes of C1 and S1.
The bytes after C2 and S2 are encrypted, each direction with a key of its own.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from streamedge.delivery.rtmp.protocol.errors import ProtocolError
from streamedge.delivery.rtmp.protocol.handshake import (
    DIGEST_SIZE_BYTES,
    PACKET_SIZE_BYTES,
    PLAYER_NAME,
    RANDOM_SIZE_BYTES,
    SERVER_NAME,
    DigestScheme,
    digest_position,
    find_digest,
    sha256_hmac,
    sign_echo,
    sign_packet,
)
from streamedge.rc4 import rc4

RTMPE_VERSION = 6
"""C0 and S0. Versions 8 and 9 encrypt the signatures as well; they are not served."""

EXPONENT_SIZE_BYTES = 32
"""Of the server's secret exponent: twice the strength that a group of 1024 bits can have."""

KEY_SIZE_BYTES = 128
PRIME = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD"
    "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
    "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE65381FFFFFFFFFFFFFFFF",
    16,
)
"""The modulus of the second Oakley group (RFC 2409, §6.2)."""

GENERATOR = 2

_SERVER_VERSION = bytes((3, 5, 7, 1))
_RC4_KEY_SIZE_BYTES = 16
_KEY_PLACES = 632  # a 764-byte block, less its 4 offset bytes and the key itself


@dataclass(frozen=True, slots=True)
class KeyExchange:
    """The response to C1. ``response``: S0, S1 and S2.

    ``server_digest``: of S1, which C2 signs. The keys: of RC4, for each direction.
    """

    response: bytes
    server_digest: bytes
    key_to_client: bytes
    key_from_client: bytes

    def check_signature(self, c2: bytes) -> None:
        """Raises ProtocolError if C2 is not the client's signature of S1."""
        signed = sign_echo(c2, self.server_digest, PLAYER_NAME)
        if not hmac.compare_digest(signed, c2):
            raise ProtocolError("RTMPE: C2 has a wrong signature")


class Ciphers:
    """RC4 in both directions, from the first byte after the handshake.

    The key streams begin at byte 1536, as if they had encrypted C2 and S2.
    """

    __slots__ = ("_decrypt", "_encrypt")

    def __init__(self, exchange: KeyExchange) -> None:
        self._encrypt = rc4(exchange.key_to_client, dropped_bytes=PACKET_SIZE_BYTES)
        self._decrypt = rc4(exchange.key_from_client, dropped_bytes=PACKET_SIZE_BYTES)

    def encrypt_into(self, data: bytes | memoryview, target: memoryview) -> None:
        """Encrypts ``data`` into the beginning of ``target``."""
        self._encrypt.update_into(data, target)

    def decrypt(self, data: bytes) -> bytes:
        return self._decrypt.update(data)


def key_position(packet: bytes, scheme: DigestScheme) -> int:
    """The position of the public key in a 1536-byte C1 or S1: in the block without the digest."""
    if scheme is DigestScheme.SECOND_BLOCK:
        return 8 + sum(packet[768:772]) % _KEY_PLACES
    return 772 + sum(packet[1532:1536]) % _KEY_PLACES


def exchange_keys(c1: bytes, random: bytes, exponents: bytes) -> KeyExchange:
    """The response to a 1536-byte C1, and the keys. Takes two powers, 2 ms of CPU time.

    ``random``: 1528 unpredictable bytes. ``exponents``: unpredictable bytes, of which each
    ``EXPONENT_SIZE_BYTES`` are one secret exponent. The first is used whose public key and secret
    begin with no zero byte, because librtmp leaves these out. Raises ProtocolError.
    """
    if len(random) != RANDOM_SIZE_BYTES:
        raise ValueError(f"the handshake takes {RANDOM_SIZE_BYTES} random bytes")
    match = find_digest(c1)
    if match is None:
        raise ProtocolError("RTMPE: C1 has no valid digest")
    scheme, client_digest = match
    position = key_position(c1, scheme)
    client_key = c1[position : position + KEY_SIZE_BYTES]
    server_key, secret = _agree(client_key, exponents)
    s1 = bytes(4) + _SERVER_VERSION + random
    position = key_position(s1, scheme)
    s1 = s1[:position] + server_key + s1[position + KEY_SIZE_BYTES :]
    s1 = sign_packet(s1, scheme, SERVER_NAME)
    position = digest_position(s1, scheme)
    return KeyExchange(
        bytes((RTMPE_VERSION,)) + s1 + sign_echo(c1, client_digest, SERVER_NAME),
        s1[position : position + DIGEST_SIZE_BYTES],
        sha256_hmac(secret, client_key)[:_RC4_KEY_SIZE_BYTES],
        sha256_hmac(secret, server_key)[:_RC4_KEY_SIZE_BYTES],
    )


def _agree(client_key: bytes, exponents: bytes) -> tuple[bytes, bytes]:
    """The server's public key and the shared secret, 128 bytes each. Raises ProtocolError."""
    client_value = int.from_bytes(client_key)
    if not 1 < client_value < PRIME - 1:
        raise ProtocolError("RTMPE: the client's public key is no key")
    for start in range(0, len(exponents), EXPONENT_SIZE_BYTES):
        exponent = int.from_bytes(exponents[start : start + EXPONENT_SIZE_BYTES])
        server_key = pow(GENERATOR, exponent, PRIME).to_bytes(KEY_SIZE_BYTES)
        secret = pow(client_value, exponent, PRIME).to_bytes(KEY_SIZE_BYTES)
        if server_key[0] and secret[0]:
            return server_key, secret
    raise ProtocolError("RTMPE: no exponent gives a key without a leading zero byte")

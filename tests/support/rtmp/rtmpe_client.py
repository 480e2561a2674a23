"""The client's side of RTMPE: C1 with any public key, and a client after the handshake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streamedge.delivery.rtmp.protocol.handshake import (
    DIGEST_SIZE_BYTES,
    PACKET_SIZE_BYTES,
    PLAYER_NAME,
    RANDOM_SIZE_BYTES,
    DigestScheme,
    digest_position,
    sha256_hmac,
    sign_echo,
    sign_packet,
)
from streamedge.delivery.rtmp.rtmpe.key_exchange import (
    GENERATOR,
    KEY_SIZE_BYTES,
    PRIME,
    RTMPE_VERSION,
    key_position,
)
from streamedge.rc4 import rc4
from tests.support.rtmp.rtmp_client import HUGE_BUFFER_MS, RtmpClient

C0 = bytes((RTMPE_VERSION,))
EXPONENT = 3**150
RC4_KEY_SIZE_BYTES = 16


def public_key(exponent: int) -> bytes:
    return pow(GENERATOR, exponent, PRIME).to_bytes(KEY_SIZE_BYTES)


def c1_with(key: bytes, scheme: DigestScheme, random: bytes = bytes(RANDOM_SIZE_BYTES)) -> bytes:
    """A signed C1 with this public key."""
    packet = bytes(4) + bytes((128, 0, 3, 2)) + random
    position = key_position(packet, scheme)
    packet = packet[:position] + key + packet[position + KEY_SIZE_BYTES :]
    return sign_packet(packet, scheme, PLAYER_NAME)


async def receive_response(reader: asyncio.StreamReader) -> bytes:
    """S0, S1 and S2."""
    return await reader.readexactly(1 + 2 * PACKET_SIZE_BYTES)


def c2_for(s1: bytes, scheme: DigestScheme) -> bytes:
    position = digest_position(s1, scheme)
    digest = s1[position : position + DIGEST_SIZE_BYTES]
    return sign_echo(bytes(PACKET_SIZE_BYTES), digest, PLAYER_NAME)


@asynccontextmanager
async def open_encrypted_client(
    port: int,
    app: str = "cfx/st",
    *,
    buffer_ms: int = HUGE_BUFFER_MS,
    scheme: DigestScheme = DigestScheme.SECOND_BLOCK,
) -> AsyncIterator[RtmpClient]:
    """A client of RTMPE with stream 1; by default all media come at once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = RtmpClient(reader, writer)
    client_key = public_key(EXPONENT)
    try:
        client.send(C0 + c1_with(client_key, scheme))
        s1 = (await receive_response(reader))[1 : 1 + PACKET_SIZE_BYTES]
        position = key_position(s1, scheme)
        server_key = s1[position : position + KEY_SIZE_BYTES]
        shared = pow(int.from_bytes(server_key), EXPONENT, PRIME).to_bytes(KEY_SIZE_BYTES)
        client.send(c2_for(s1, scheme))
        encrypt, decrypt = (
            rc4(sha256_hmac(shared, key)[:RC4_KEY_SIZE_BYTES], dropped_bytes=PACKET_SIZE_BYTES)
            for key in (server_key, client_key)
        )
        client.encrypt_with(encrypt.update, decrypt.update)
        await client.connect(app, tcUrl=f"rtmpe://127.0.0.1:{port}/{app}")
        assert await client.create_stream() == 1
        client.buffer(buffer_ms)
        yield client
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)

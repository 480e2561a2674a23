"""RTMPE: a recorded handshake, unfit keys, wrong digests and signatures, any bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.rtmp.protocol import amf0
from streamedge.delivery.rtmp.protocol.chunks import ChunkReader
from streamedge.delivery.rtmp.protocol.errors import ProtocolError
from streamedge.delivery.rtmp.protocol.handshake import (
    PACKET_SIZE_BYTES,
    RANDOM_SIZE_BYTES,
    SERVER_NAME,
    DigestScheme,
    digest_position,
    sha256_hmac,
    sign_packet,
)
from streamedge.delivery.rtmp.rtmpe import key_exchange as rtmpe
from tests.support.rtmp.rtmpe_client import c1_with, public_key

RANDOM = bytes(index * 7 % 251 for index in range(RANDOM_SIZE_BYTES))
EXPONENT = bytes(range(1, rtmpe.EXPONENT_SIZE_BYTES + 1))

VECTORS = Path(__file__).parents[1] / "protocol" / "vectors"
RECORDED = (VECTORS / "rtmpdump_rtmpe_play.bin").read_bytes()
C1, C2, ENCRYPTED = RECORDED[1:1537], RECORDED[1537:3073], RECORDED[3073:]
# rtmpdump's debug log of this recording: "RC4 In Key" and "RC4 Out Key".
LOGGED_KEY_TO_CLIENT = bytes.fromhex("835f772db0def8165d3cc993a19c81f0")
LOGGED_KEY_FROM_CLIENT = bytes.fromhex("638daf452c9a5f1fb340ffdb5e1054de")

SCHEMES = list(DigestScheme)


def exponent_bytes(value: int) -> bytes:
    return value.to_bytes(rtmpe.EXPONENT_SIZE_BYTES, "big")


def test_recorded_client_has_the_same_keys() -> None:
    exchange = rtmpe.exchange_keys(C1, RANDOM, EXPONENT)
    assert exchange.key_to_client == LOGGED_KEY_TO_CLIENT
    assert exchange.key_from_client == LOGGED_KEY_FROM_CLIENT
    exchange.check_signature(C2)
    assert rtmpe.Ciphers(exchange).decrypt(ENCRYPTED)[12:22] == b"\x02\x00\x07connect"


@pytest.mark.parametrize("name", ["rtmpdump_rtmpe_play.bin", "ffmpeg9_rtmpe_play.bin"])
def test_recorded_commands_are_decrypted(name: str) -> None:
    recorded = (VECTORS / name).read_bytes()
    exchange = rtmpe.exchange_keys(recorded[1:1537], RANDOM, EXPONENT)
    exchange.check_signature(recorded[1537:3073])
    (message,) = ChunkReader(message_limit_bytes=4096).receive_data(
        rtmpe.Ciphers(exchange).decrypt(recorded[3073:])
    )
    command, _transaction, properties = amf0.decode_all(message.payload)
    assert command == "connect"
    assert isinstance(properties, dict)
    assert properties["app"] == "cfx/st"


def test_response_is_of_version_6() -> None:
    response = rtmpe.exchange_keys(C1, RANDOM, EXPONENT).response
    assert response[0] == rtmpe.RTMPE_VERSION == 6
    assert len(response) == 1 + 2 * PACKET_SIZE_BYTES


def test_prime_is_that_of_rfc_2409() -> None:
    """A safe prime, and the generator is a square: librtmp accepts only such keys."""
    order = (rtmpe.PRIME - 1) // 2
    assert rtmpe.PRIME.bit_length() == 1024
    assert pow(rtmpe.GENERATOR, order, rtmpe.PRIME) == 1
    assert pow(3, rtmpe.PRIME - 1, rtmpe.PRIME) == pow(3, order - 1, order) == 1


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("first", [0, 255])
def test_both_sides_have_the_same_keys(scheme: DigestScheme, first: int) -> None:
    """In both schemes, with the key at the first and at a late position."""
    secret_exponent = 3**150
    random = bytes((first,)) * RANDOM_SIZE_BYTES
    client_key = public_key(secret_exponent)
    exchange = rtmpe.exchange_keys(c1_with(client_key, scheme, random), RANDOM, EXPONENT)
    s1 = exchange.response[1:1537]
    position = rtmpe.key_position(s1, scheme)
    server_key = s1[position : position + rtmpe.KEY_SIZE_BYTES]
    shared = pow(int.from_bytes(server_key, "big"), secret_exponent, rtmpe.PRIME)
    secret = shared.to_bytes(rtmpe.KEY_SIZE_BYTES, "big")
    assert exchange.key_to_client == sha256_hmac(secret, client_key)[:16]
    assert exchange.key_from_client == sha256_hmac(secret, server_key)[:16]
    assert sign_packet(s1, scheme, SERVER_NAME) == s1


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "value", [0, 1, rtmpe.PRIME - 1, rtmpe.PRIME, rtmpe.PRIME + 1, 2**1024 - 1]
)
def test_unfit_public_keys_are_refused(scheme: DigestScheme, value: int) -> None:
    c1 = c1_with(value.to_bytes(rtmpe.KEY_SIZE_BYTES, "big"), scheme)
    with pytest.raises(ProtocolError, match="public key"):
        rtmpe.exchange_keys(c1, RANDOM, EXPONENT)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_exponents_with_leading_zeros_are_left_out(scheme: DigestScheme) -> None:
    """2**5 as a public key begins with zeros, so the next exponent is used."""
    c1 = c1_with(public_key(3**150), scheme)
    fit = rtmpe.exchange_keys(c1, RANDOM, EXPONENT)
    assert rtmpe.exchange_keys(c1, RANDOM, exponent_bytes(5) + EXPONENT) == fit
    with pytest.raises(ProtocolError, match="leading zero"):
        rtmpe.exchange_keys(c1, RANDOM, exponent_bytes(5))


def test_no_secret_begins_with_zero() -> None:
    """The client's key of 2**1 makes the secret equal to the server's key, 2**x."""
    short = next(x for x in range(1100, 10_000) if public_key(x * 2)[0] == 0 != public_key(x)[0])
    c1 = c1_with(public_key(2), DigestScheme.SECOND_BLOCK)
    fit = rtmpe.exchange_keys(c1, RANDOM, EXPONENT)
    assert rtmpe.exchange_keys(c1, RANDOM, exponent_bytes(short) + EXPONENT) == fit


@pytest.mark.parametrize("scheme", SCHEMES)
@given(index=st.integers(0, PACKET_SIZE_BYTES - 1), flip=st.integers(1, 255))
def test_each_changed_byte_of_c1_is_noticed(scheme: DigestScheme, index: int, flip: int) -> None:
    c1 = bytearray(c1_with(public_key(3**150), scheme))
    c1[index] ^= flip
    with pytest.raises(ProtocolError, match="digest"):
        rtmpe.exchange_keys(bytes(c1), RANDOM, EXPONENT)


@given(index=st.integers(0, PACKET_SIZE_BYTES - 1), flip=st.integers(1, 255))
def test_each_changed_byte_of_c2_is_noticed(index: int, flip: int) -> None:
    c2 = bytearray(C2)
    c2[index] ^= flip
    with pytest.raises(ProtocolError, match="signature"):
        EXCHANGE.check_signature(bytes(c2))


@given(st.binary(min_size=PACKET_SIZE_BYTES, max_size=PACKET_SIZE_BYTES))
def test_any_c1_is_refused_without_a_digest(c1: bytes) -> None:
    assert all(0 <= digest_position(c1, scheme) <= PACKET_SIZE_BYTES - 32 for scheme in SCHEMES)
    assert all(0 <= rtmpe.key_position(c1, scheme) <= PACKET_SIZE_BYTES - 128 for scheme in SCHEMES)
    with pytest.raises(ProtocolError):
        rtmpe.exchange_keys(c1, RANDOM, EXPONENT)


EXCHANGE = rtmpe.exchange_keys(C1, RANDOM, EXPONENT)

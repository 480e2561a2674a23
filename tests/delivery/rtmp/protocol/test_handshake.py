"""Handshake: recorded clients in every form; responses are verified as a recorded server's are."""

from __future__ import annotations

import hashlib
import hmac
import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.delivery.rtmp.protocol.errors import ProtocolError
from streamedge.delivery.rtmp.protocol.handshake import (
    PACKET_SIZE_BYTES,
    RANDOM_SIZE_BYTES,
    DigestScheme,
    ServerHandshake,
    find_digest,
)

VECTORS = Path(__file__).parent / "vectors"
RANDOM = bytes(index * 7 % 251 for index in range(RANDOM_SIZE_BYTES))

FFMPEG_SIGNED = (VECTORS / "ffmpeg_play.bin").read_bytes()[:1537]
RTMPDUMP_SIGNED = (VECTORS / "rtmpdump_play_signed.bin").read_bytes()[:1537]
RTMPDUMP_UNSIGNED = (VECTORS / "rtmpdump_play_from_30_to_60.bin").read_bytes()[:1537]
# The version byte is not signed, so the one of plain RTMP replaces RTMPE's.
SECOND_BLOCK = b"\x03" + (VECTORS / "rtmpdump_rtmpe_c0c1.bin").read_bytes()[1:]
C2 = bytes(PACKET_SIZE_BYTES)


def client_accepts(client_digest: bytes, answer: bytes) -> bool:
    """The checks of FFmpeg and Flash Player on a signed S0, S1 and S2 (rtmpproto.c): first the
    digest of S1 in either block, then the signature of S2.
    """
    tail = bytes.fromhex("f0eec24a8068bee82e00d0d1029e7e576eec5d2d29806fab93b8e636cfeb31ae")
    name = b"Genuine Adobe Flash Media Server 001"
    assert len(answer) == 1 + 2 * PACKET_SIZE_BYTES
    s1, s2 = answer[1:1537], answer[1537:]

    def signed_at(offsets: slice, first: int) -> bool:
        position = first + sum(s1[offsets]) % 728
        rest = s1[:position] + s1[position + 32 :]
        return hmac.new(name, rest, hashlib.sha256).digest() == s1[position : position + 32]

    key = hmac.new(name + tail, client_digest, hashlib.sha256).digest()
    signature = hmac.new(key, s2[:1504], hashlib.sha256).digest()
    return (signed_at(slice(8, 12), 12) or signed_at(slice(772, 776), 776)) and (
        s2[1504:] == signature
    )


def digest_of(c0c1: bytes) -> bytes:
    match = find_digest(c0c1[1:])
    assert match is not None
    return match[1]


def test_verifier_accepts_a_recorded_server() -> None:
    answer = (VECTORS / "nginx_s0s1s2.bin").read_bytes()
    assert client_accepts(digest_of(FFMPEG_SIGNED), answer)


@pytest.mark.parametrize(
    ("c0c1", "scheme"),
    [
        (FFMPEG_SIGNED, DigestScheme.FIRST_BLOCK),
        (RTMPDUMP_SIGNED, DigestScheme.FIRST_BLOCK),
        (SECOND_BLOCK, DigestScheme.SECOND_BLOCK),
    ],
)
def test_signed_client_gets_a_signed_response(c0c1: bytes, scheme: DigestScheme) -> None:
    match = find_digest(c0c1[1:])
    assert match is not None
    assert match[0] is scheme

    answer = ServerHandshake(RANDOM).receive_data(c0c1)

    assert answer[0] == 3
    assert answer[5] >= 3, "a version below 3 tells FFmpeg that nothing is signed"
    assert client_accepts(match[1], answer)


def test_signature_covers_every_byte_of_c1() -> None:
    spoiled = bytearray(FFMPEG_SIGNED[1:])
    spoiled[-1] ^= 1
    assert find_digest(bytes(spoiled)) is None


def test_unsigned_client_gets_its_echo_from_version_zero() -> None:
    answer = ServerHandshake(RANDOM).receive_data(RTMPDUMP_UNSIGNED)
    assert answer[:1] == b"\x03"
    assert answer[1:1537] == bytes(8) + RANDOM  # RTMP 1.0 §5.2.3: time, zero, random
    assert answer[1537:] == RTMPDUMP_UNSIGNED[1:]  # §5.2.4: the echo


@pytest.mark.parametrize("c0c1", [FFMPEG_SIGNED, RTMPDUMP_UNSIGNED, SECOND_BLOCK])
def test_handshake_byte_by_byte_is_the_same_as_whole(c0c1: bytes) -> None:
    whole = ServerHandshake(RANDOM)
    expected = whole.receive_data(c0c1 + C2 + b"first chunk")
    assert whole.done
    assert whole.remainder == b"first chunk"

    slow = ServerHandshake(RANDOM)
    answers = []
    for position, byte in enumerate(c0c1 + C2):
        assert slow.done is False
        answers.append(slow.receive_data(bytes((byte,))))
        assert bool(answers[-1]) == (position == 1536), "answered exactly when C1 is complete"
    assert b"".join(answers) == expected
    assert slow.done
    assert slow.remainder == b""


@pytest.mark.parametrize("version", [0, 1, 2, 4, 5, 31])
def test_other_versions_get_version_three(version: int) -> None:
    """RTMP 1.0 §5.2.2: a server that does not know the version SHOULD respond with 3."""
    answer = ServerHandshake(RANDOM).receive_data(bytes((version,)) + RTMPDUMP_UNSIGNED[1:])
    assert answer[0] == 3


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (b"\x06", "encrypted RTMP"),
        (b"\x08", "encrypted RTMP"),
        (b"GET / HTTP/1.1\r\n", "0x47"),
        (b"\xff", "0xff"),
        (b"\x16\x03\x01", "TLS"),
    ],
)
def test_other_protocols_are_refused_at_the_first_byte(first: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        ServerHandshake(RANDOM).receive_data(first)


def test_too_few_random_bytes_raise_value_error() -> None:
    with pytest.raises(ValueError, match="1528"):
        ServerHandshake(RANDOM[1:])


@settings(deadline=None, max_examples=50)
@given(
    c1=st.binary(min_size=PACKET_SIZE_BYTES, max_size=PACKET_SIZE_BYTES),
    cuts=st.lists(st.integers(0, 3073), max_size=6),
    trailing=st.binary(max_size=40),
)
def test_any_c1_in_any_pieces_completes_the_handshake(
    c1: bytes, cuts: list[int], trailing: bytes
) -> None:
    sent = b"\x03" + c1 + C2 + trailing
    handshake = ServerHandshake(RANDOM)
    answer = b""
    edges = [0, *sorted(cuts), len(sent)]
    remainder = b""
    for start, end in itertools.pairwise(edges):
        if handshake.done:
            remainder += sent[start:end]
        else:
            answer += handshake.receive_data(sent[start:end])
            remainder = handshake.remainder
    assert len(answer) == 3073
    assert handshake.done
    assert remainder == trailing

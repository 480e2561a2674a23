"""The handshake of RTMPE: any split, any truncation, any edit of recorded bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.rtmp.protocol.errors import ProtocolError
from streamedge.delivery.rtmp.protocol.handshake import PACKET_SIZE_BYTES, RANDOM_SIZE_BYTES
from streamedge.delivery.rtmp.rtmpe.handshake import EncryptedHandshake, HandshakeState
from streamedge.delivery.rtmp.rtmpe.key_exchange import (
    EXPONENT_SIZE_BYTES,
    KeyExchange,
    exchange_keys,
)

VECTORS = Path(__file__).parents[1] / "protocol" / "vectors"
RECORDED = (VECTORS / "rtmpdump_rtmpe_play.bin").read_bytes()
FIRST_STEP = 1 + PACKET_SIZE_BYTES
SECOND_STEP = FIRST_STEP + PACKET_SIZE_BYTES
ENCRYPTED = RECORDED[SECOND_STEP:]
# The server's random bytes and exponent when the vector was recorded.
RANDOM = bytes(index * 7 % 251 for index in range(RANDOM_SIZE_BYTES))
EXPONENT = bytes(range(1, EXPONENT_SIZE_BYTES + 1))
EXCHANGE = exchange_keys(RECORDED[1:FIRST_STEP], RANDOM, EXPONENT)
READ_BYTES_MAX = 4096  # of the reads in these tests


def feed(handshake: EncryptedHandshake, *pieces: bytes) -> None:
    """Feeds pieces, and answers C1 as the recorded server did."""
    for piece in pieces:
        c1 = handshake.receive_data(piece)
        if c1 is not None:
            handshake.respond(exchange_for(c1))


def exchange_for(c1: bytes) -> KeyExchange:
    """The recorded exchange, or that of another C1."""
    return EXCHANGE if c1 == RECORDED[1:FIRST_STEP] else exchange_keys(c1, RANDOM, EXPONENT)


def steps(data: bytes) -> tuple[bytes, bytes]:
    """What a client sends before S0, S1 and S2, and what it sends after them."""
    return data[:FIRST_STEP], data[FIRST_STEP:]


def test_recorded_handshake_is_done_after_c2() -> None:
    handshake = EncryptedHandshake()
    assert handshake.receive_data(RECORDED[:FIRST_STEP]) == RECORDED[1:FIRST_STEP]
    assert handshake.state is HandshakeState.KEYS
    assert handshake.respond(EXCHANGE) == EXCHANGE.response
    assert handshake.receive_data(RECORDED[FIRST_STEP:]) is None
    assert handshake.result() == (EXCHANGE, ENCRYPTED)


@pytest.mark.parametrize("whole", [RECORDED[:FIRST_STEP], RECORDED[FIRST_STEP:]])
def test_split_at_each_byte_changes_nothing(whole: bytes) -> None:
    before = b"" if whole == RECORDED[:FIRST_STEP] else RECORDED[:FIRST_STEP]
    for position in range(1, len(whole)):
        handshake = EncryptedHandshake()
        feed(handshake, before, whole[:position])
        rest = whole[position:]
        if handshake.state is not HandshakeState.DONE:
            feed(handshake, rest)
            rest = b""
        if before:
            exchange, encrypted = handshake.result()
            assert (exchange, encrypted + rest) == (EXCHANGE, ENCRYPTED), position
        else:
            assert handshake.state is HandshakeState.C2, position


def test_handshake_byte_by_byte_is_done() -> None:
    handshake = EncryptedHandshake()
    feed(handshake, *(RECORDED[at : at + 1] for at in range(SECOND_STEP)))
    assert handshake.result() == (EXCHANGE, b"")


def test_each_truncation_waits_for_the_rest() -> None:
    for size in range(SECOND_STEP):
        handshake = EncryptedHandshake()
        feed(handshake, *steps(RECORDED[:size]))
        first = size < FIRST_STEP
        assert handshake.state is (HandshakeState.C1 if first else HandshakeState.C2), size
        assert handshake.waiting_bytes == (size if first else size - FIRST_STEP)
        with pytest.raises(ValueError, match="not done"):
            handshake.result()


@pytest.mark.parametrize("version", [0, 3, 5, 7, 8, 9, 22, 71, 255])
def test_other_versions_are_refused(version: int) -> None:
    handshake = EncryptedHandshake()
    with pytest.raises(ProtocolError, match=f"version {version} is not served, only 6"):
        handshake.receive_data(bytes((version,)))
    assert handshake.state is HandshakeState.FAILED


def test_bytes_before_s1_are_refused() -> None:
    """C2 signs S1, so that no client can send it before."""
    with pytest.raises(ProtocolError, match="before S1"):
        EncryptedHandshake().receive_data(RECORDED[: FIRST_STEP + 1])
    handshake = EncryptedHandshake()
    handshake.receive_data(RECORDED[:FIRST_STEP])
    with pytest.raises(ProtocolError, match="before S1"):
        handshake.receive_data(RECORDED[FIRST_STEP:])
    assert handshake.state is HandshakeState.FAILED
    assert handshake.waiting_bytes == 0


def test_failed_handshake_takes_no_more_bytes() -> None:
    handshake = EncryptedHandshake()
    for _ in range(2):
        with pytest.raises(ProtocolError):
            handshake.receive_data(b"GET / HTTP/1.1\r\n")
    assert handshake.waiting_bytes == 0


def test_bytes_after_c2_belong_to_the_session() -> None:
    handshake = EncryptedHandshake()
    feed(handshake, *steps(RECORDED[:SECOND_STEP]))
    with pytest.raises(ValueError, match="the session's"):
        handshake.receive_data(ENCRYPTED)


def test_response_is_sent_once_and_only_after_c1() -> None:
    handshake = EncryptedHandshake()
    with pytest.raises(ValueError, match="no C1"):
        handshake.respond(EXCHANGE)
    feed(handshake, RECORDED[:FIRST_STEP])
    with pytest.raises(ValueError, match="no C1"):
        handshake.respond(EXCHANGE)


edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "remove", "insert", "repeat", "cut"]),
        st.integers(0, len(RECORDED) - 1),
        st.integers(1, 255),
    ),
    max_size=3,
)


def edited(data: bytes, changes: list[tuple[str, int, int]]) -> bytes:
    """A corpus of damaged recordings: ``changes`` are a kind, a place and a value or a size."""
    for kind, place, value in changes:
        at = place % max(1, len(data))
        match kind:
            case "flip" if data:
                data = data[:at] + bytes((data[at] ^ value,)) + data[at + 1 :]
            case "remove":
                data = data[:at] + data[at + value :]
            case "insert":
                data = data[:at] + bytes((value,)) * value + data[at:]
            case "repeat":
                data = data[:at] + data[max(0, at - value) : at] * 2 + data[at:]
            case "cut":
                data = data[:at]
    return data


@given(changes=edits, sizes=st.lists(st.integers(1, READ_BYTES_MAX), min_size=1, max_size=8))
def test_edited_recordings_are_refused_or_give_the_same_keys(
    changes: list[tuple[str, int, int]], sizes: list[int]
) -> None:
    """In bounded memory: a step of the handshake, and one read."""
    data = edited(RECORDED, changes)
    handshake = EncryptedHandshake()
    try:
        for step in steps(data):
            at = 0
            for size in [*sizes, *[READ_BYTES_MAX] * (1 + len(step) // READ_BYTES_MAX)]:
                if handshake.state is not HandshakeState.DONE:
                    feed(handshake, step[at : at + size])
                    assert handshake.waiting_bytes <= FIRST_STEP + READ_BYTES_MAX
                    at += size
    except ProtocolError as exc:
        assert str(exc).startswith("RTMPE")  # noqa: PT017 - that it is named is the property
        return
    if handshake.state is HandshakeState.DONE:
        assert data[:SECOND_STEP] == RECORDED[:SECOND_STEP]
        assert handshake.result()[0] == EXCHANGE
    else:
        assert len(data) < SECOND_STEP


@given(st.lists(st.binary(max_size=READ_BYTES_MAX), max_size=6))
def test_any_bytes_are_refused_or_wait_in_bounded_memory(pieces: list[bytes]) -> None:
    handshake = EncryptedHandshake()
    try:
        for piece in pieces:
            feed(handshake, b"\x06" + piece if piece is pieces[0] else piece)
            assert handshake.waiting_bytes < FIRST_STEP
    except ProtocolError:
        return
    assert handshake.state is HandshakeState.C1

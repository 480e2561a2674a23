"""Shared objects: requests in both formats, the refusal, and any bytes."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamedge.delivery.rtmp.protocol import messages
from streamedge.delivery.rtmp.protocol.chunks import Message
from streamedge.delivery.rtmp.protocol.events import Ignored
from streamedge.delivery.rtmp.protocol.shared_objects import (
    NAME_LIMIT_BYTES,
    UseSharedObject,
    parse_use,
    refusal,
)
from tests.delivery.rtmp.protocol.test_connection import Client, connected

# As Flash Player writes them: name, version, persistence, 0, then the event and its length.
USE = bytes.fromhex("0004 63686174 00000000 00000000 00000000 01 00000000")
USE_PERSISTENT = bytes.fromhex("0004 63686174 00000000 00000002 00000000 01 00000000")
RELEASE = bytes.fromhex("0004 63686174 00000000 00000000 00000000 02 00000000")
CHANGE = bytes.fromhex(
    "0004 63686174 00000001 00000000 00000000 03 00000010 0001 61 00 3ff0000000000000 0000 0000"
)
REFUSAL = bytes.fromhex("0004 63686174 00000000 00000002 00000000 07 00000022") + (
    b"\0\x19SharedObject.NoReadAccess\0\x05error"
)


def shared_object(payload: bytes, type_id: int = 19) -> Message:
    return Message(type_id, 0, 0, payload, 3)


@pytest.mark.parametrize(("type_id", "start"), [(19, b""), (16, b"\x00"), (16, b"\x03")])
def test_request_of_each_format_is_refused(type_id: int, start: bytes) -> None:
    client = connected()
    assert client.send(shared_object(start + USE_PERSISTENT, type_id)) == [Ignored("shared object")]
    (message,) = client.received()
    assert (message.type_id, message.stream_id, message.payload) == (19, 0, REFUSAL)
    # The connection goes on.
    client.call("createStream", transaction=3)
    assert client.answers()


def test_flags_of_the_request_are_repeated() -> None:
    request = parse_use(19, USE)
    assert request == UseSharedObject(b"chat", bytes(8))
    assert refusal(request).payload[10:18] == bytes(8)


@pytest.mark.parametrize("payload", [RELEASE, CHANGE])
def test_other_events_get_no_response(payload: bytes) -> None:
    client = connected()
    assert client.send(shared_object(payload)) == []
    assert client.received() == []


def test_request_before_connect_gets_no_response() -> None:
    client = Client()
    assert client.send(shared_object(USE)) == []
    assert client.received() == []


def test_long_name_gets_no_response() -> None:
    def named(size: int) -> bytes:
        return size.to_bytes(2) + b"x" * size + bytes(12) + b"\x01" + bytes(4)

    assert parse_use(19, named(NAME_LIMIT_BYTES)) is not None
    assert parse_use(19, named(NAME_LIMIT_BYTES + 1)) is None
    assert parse_use(19, named(0)) is None


CORPUS = [USE, USE_PERSISTENT, RELEASE, CHANGE, REFUSAL, b"\0" + USE, b"", b"\xff\xff"]


@given(
    st.sampled_from([16, 19]),
    st.sampled_from(CORPUS),
    st.integers(0, 40),
    st.binary(max_size=8),
)
@example(19, USE, 22, b"")
def test_any_bytes_are_a_short_request_or_unused(
    type_id: int, seed: bytes, at: int, change: bytes
) -> None:
    payload = seed[:at] + change + seed[at + len(change) :]
    received = messages.parse(shared_object(payload, type_id))
    if isinstance(received, UseSharedObject):
        assert received.name in payload
        assert len(refusal(received).payload) <= len(payload) + 34
    else:
        assert received == messages.Unused(type_id)

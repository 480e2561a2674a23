"""Shared objects, which this server does not have: a client that uses one is refused.

A message (types 16 and 19; RTMP 1.0 §7.1.4) has the object's name, a version, flags, and events of
a type, a length and data. Their types are in no specification; these are those of Red5.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from streamedge.delivery.rtmp.protocol.chunks import Message, MessageType

NAME_LIMIT_BYTES: Final = 1024  # a longer name is not answered
NO_ACCESS: Final = "SharedObject.NoReadAccess"

_LENGTH_BYTES: Final = 2
_VERSION_BYTES: Final = 4
_FLAGS_BYTES: Final = 8  # whether it is persistent, and a number that is always 0
_EVENT_HEADER_BYTES: Final = 5
_CHUNK_STREAM_ID: Final = 3


class SharedObjectEvent(IntEnum):
    USE = 1
    STATUS = 7


class UseSharedObject(NamedTuple):
    """The client wants the shared object ``name``; ``flags`` are repeated in the response."""

    name: bytes
    flags: bytes


def parse_use(type_id: int, payload: bytes) -> UseSharedObject | None:
    """The request in a client's message; None for other events, and for one that is malformed."""
    if type_id == MessageType.SHARED_OBJECT_AMF3:
        payload = payload[1:]  # the format of values, of which a request has none
    size_bytes = int.from_bytes(payload[:_LENGTH_BYTES])
    version = _LENGTH_BYTES + size_bytes
    flags = version + _VERSION_BYTES
    event = flags + _FLAGS_BYTES
    if not 0 < size_bytes <= NAME_LIMIT_BYTES or len(payload) < event + _EVENT_HEADER_BYTES:
        return None
    if payload[event] != SharedObjectEvent.USE:
        return None
    return UseSharedObject(payload[_LENGTH_BYTES:version], payload[flags:event])


def refusal(request: UseSharedObject) -> Message:
    """The status that ends the client's attempt, in AMF0."""
    data = _text(NO_ACCESS.encode()) + _text(b"error")
    event = bytes((SharedObjectEvent.STATUS,)) + len(data).to_bytes(4) + data
    return Message(
        type_id=MessageType.SHARED_OBJECT,
        stream_id=0,
        timestamp_ms=0,
        payload=_text(request.name) + bytes(_VERSION_BYTES) + request.flags + event,
        chunk_stream_id=_CHUNK_STREAM_ID,
    )


def _text(data: bytes) -> bytes:
    return len(data).to_bytes(_LENGTH_BYTES) + data

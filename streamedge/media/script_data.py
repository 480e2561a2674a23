"""SCRIPTDATA of FLV files: the AMF0 values of an onMetaData tag.

Writes onMetaData, and reads script tags within limits. Only the values that occur in files are
supported; RTMP's commands have their own reader.
Source: Adobe FLV 10.1 §E.4.4; AMF0 specification §2.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from streamedge.media.faults import invalid

DEPTH_MAX = 16
VALUES_MAX = 1 << 16  # in one tag; an array of numbers counts as one

# The values of a script tag. Strict arrays of numbers are numpy arrays, other arrays tuples; null,
# undefined and unsupported are None; dates are numbers (ms since 1970).
ScriptValue: TypeAlias = Union[
    float, bool, str, NDArray[np.float64], tuple["ScriptValue", ...], "ScriptObject", None
]
ScriptObject: TypeAlias = dict[str, "ScriptValue"]

_NUMBER, _BOOLEAN, _STRING, _OBJECT = 0, 1, 2, 3
_NULL, _UNDEFINED, _REFERENCE, _ECMA_ARRAY, _OBJECT_END = 5, 6, 7, 8, 9
_STRICT_ARRAY, _DATE, _LONG_STRING, _UNSUPPORTED, _XML, _TYPED_OBJECT = 10, 11, 12, 13, 15, 16
_END = b"\x00\x00\x09"
_NUMBER_TYPE = np.dtype([("marker", "u1"), ("value", ">f8")])


def encode_on_metadata(values: Mapping[str, ScriptValue]) -> bytes:
    """The body of an onMetaData tag: its name, then the values as an ECMA array.

    Players insist on an ECMA array here; objects inside are written as objects.
    """
    pieces = [_encode("onMetaData"), bytes([_ECMA_ARRAY]), struct.pack(">I", len(values))]
    pieces += _encode_members(values)
    return b"".join(pieces)


def _encode_members(values: Mapping[str, ScriptValue]) -> list[bytes]:
    pieces = []
    for name, value in values.items():
        name_bytes = name.encode()
        pieces += [struct.pack(">H", len(name_bytes)), name_bytes, _encode(value)]
    return [*pieces, _END]


def _encode(value: ScriptValue) -> bytes:
    if isinstance(value, bool):
        return bytes([_BOOLEAN, value])
    if isinstance(value, (int, float)):
        return struct.pack(">Bd", _NUMBER, value)
    if isinstance(value, str):
        text_bytes = value.encode()
        if len(text_bytes) > 0xFFFF:
            return struct.pack(">BI", _LONG_STRING, len(text_bytes)) + text_bytes
        return struct.pack(">BH", _STRING, len(text_bytes)) + text_bytes
    if isinstance(value, np.ndarray):
        numbers = np.zeros(len(value), _NUMBER_TYPE)
        numbers["value"] = value
        return struct.pack(">BI", _STRICT_ARRAY, len(value)) + numbers.tobytes()
    if isinstance(value, dict):
        return bytes([_OBJECT]) + b"".join(_encode_members(value))
    if isinstance(value, tuple):
        return struct.pack(">BI", _STRICT_ARRAY, len(value)) + b"".join(map(_encode, value))
    return bytes([_NULL])


def decode_script(body: bytes | memoryview) -> tuple[str, tuple[ScriptValue, ...]]:
    """(name, values) of a script tag's body. The last object end may be missing, because some
    writers omit it. Invalid UTF-8 becomes replacement characters.

    Raises MediaError STRUCTURE_INVALID when the body is cut off, is nested deeper than DEPTH_MAX,
    has more than VALUES_MAX values, or has values of unknown types.
    """
    decoder = _Decoder(memoryview(body))
    name = decoder.value(0)
    if not isinstance(name, str):
        raise invalid("the FLV has a script tag without a name")
    values = []
    while decoder.position < len(decoder.data):
        values.append(decoder.value(0))
    return name, tuple(values)


class _Decoder:
    """A position in one script tag's body."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.position = 0
        self.values = 0

    def read(self, size: int) -> memoryview:
        end = self.position + size
        if end > len(self.data):
            raise invalid("the FLV's script tag is cut off")
        part = self.data[self.position : end]
        self.position = end
        return part

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.read(size), "big")

    def text(self, length_size: int) -> str:
        return str(self.read(self.unsigned(length_size)), "utf-8", "replace")

    def number(self) -> float:
        value: float = struct.unpack(">d", self.read(8))[0]
        return value

    def value(self, depth: int) -> ScriptValue:
        self.values += 1
        if depth > DEPTH_MAX or self.values > VALUES_MAX:
            raise invalid(f"the FLV's script tag exceeds {DEPTH_MAX} levels or {VALUES_MAX} values")
        marker = self.unsigned(1)
        if marker == _NUMBER:
            return self.number()
        if marker == _BOOLEAN:
            return self.unsigned(1) != 0
        if marker == _STRING:
            return self.text(2)
        if marker in (_LONG_STRING, _XML):
            return self.text(4)
        if marker == _OBJECT:
            return self.members(depth)
        if marker == _TYPED_OBJECT:
            self.text(2)
            return self.members(depth)
        if marker == _ECMA_ARRAY:
            self.read(4)  # the count is often wrong; the end marker decides
            return self.members(depth)
        if marker == _STRICT_ARRAY:
            return self.array(depth)
        if marker == _DATE:
            moment = self.number()
            self.read(2)  # time zone, always 0
            return moment
        if marker in (_NULL, _UNDEFINED, _UNSUPPORTED):
            return None
        if marker == _REFERENCE:
            self.read(2)
            return None
        raise invalid(f"the FLV's script tag has a value of unknown type {marker}")

    def members(self, depth: int) -> ScriptObject:
        members: ScriptObject = {}
        while self.position < len(self.data):
            name = self.text(2)
            if name == "" and self.data[self.position : self.position + 1] == bytes([_OBJECT_END]):
                self.position += 1
                break
            members[name] = self.value(depth + 1)
        return members

    def array(self, depth: int) -> ScriptValue:
        count = self.unsigned(4)
        if count > len(self.data) - self.position:
            raise invalid("the FLV's script tag is cut off")
        if count * 9 <= len(self.data) - self.position:
            # Keyframe tables have tens of thousands of numbers: read them in one step.
            numbers = np.frombuffer(self.data, _NUMBER_TYPE, count, self.position)
            if not numbers["marker"].any():
                self.position += count * 9
                return numbers["value"].astype(np.float64)
        return tuple(self.value(depth + 1) for _ in range(count))

"""AMF0, the value format of RTMP commands: bytes to Python values and back.

Implements the AMF 0 Specification §2, with limits on nesting, values and strings. References (§2.9)
are not resolved. A value in AMF3 (§3.1) is read by ``amf3``. Only AMF0 is written.

    number float   boolean bool   string, long string, XML document str   null None
    undefined, unsupported, reference, movie clip, record set UNDEFINED   date Date
    object, typed object dict   ECMA array EcmaArray   strict array list
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Final

from streamedge.delivery.rtmp.protocol import amf3
from streamedge.delivery.rtmp.protocol.amf_values import (
    ELEMENTS_LIMIT,
    NESTING_LIMIT,
    STRING_LIMIT_BYTES,
    UNDEFINED,
    AmfError,
    AmfValue,
    Buffer,
    Date,
    EcmaArray,
    Undefined,
)

_SHORT_STRING_LIMIT_BYTES: Final = 0xFFFF  # the largest 16-bit length

_NUMBER = struct.Struct(">d")
_DATE = struct.Struct(">dh")
_SHORT_LENGTH = struct.Struct(">H")
_LONG_LENGTH = struct.Struct(">I")


class Marker(IntEnum):
    """The byte before each value (§2.1)."""

    NUMBER = 0x00
    BOOLEAN = 0x01
    STRING = 0x02
    OBJECT = 0x03
    MOVIE_CLIP = 0x04  # reserved (§2.6), as the record set is (§2.15)
    NULL = 0x05
    UNDEFINED = 0x06
    REFERENCE = 0x07
    ECMA_ARRAY = 0x08
    OBJECT_END = 0x09
    STRICT_ARRAY = 0x0A
    DATE = 0x0B
    LONG_STRING = 0x0C
    UNSUPPORTED = 0x0D
    RECORD_SET = 0x0E
    XML_DOCUMENT = 0x0F
    TYPED_OBJECT = 0x10
    AVMPLUS_OBJECT = 0x11


def decode_all(data: Buffer) -> list[AmfValue]:
    """All values of ``data``, which must end where the last one does. Raises AmfError."""
    decoder = _Decoder(data)
    values = []
    while decoder.position < len(data):
        values.append(decoder.value(0))
    return values


def decode_readable(data: Buffer) -> list[AmfValue]:
    """The values of ``data`` up to the first that cannot be read, or is over a limit.

    An object or array that is cut there has its members up to there. Never raises: clients send
    values that this server does not need, and the values before them are used.
    """
    decoder = _Decoder(data, ends_at_fault=True)
    values: list[AmfValue] = []
    while decoder.position < len(data) and not decoder.has_ended:
        value = decoder.value(0)
        if value is not UNDEFINED or not decoder.has_ended:
            values.append(value)
    return values


def decode(data: Buffer, position: int = 0) -> tuple[AmfValue, int]:
    """The value that begins at ``position``, and the position after it. Raises AmfError."""
    decoder = _Decoder(data, position)
    return decoder.value(0), decoder.position


def encode(*values: AmfValue) -> bytes:
    """The values one after the other.

    Raises AmfError for what AMF0 cannot represent: a key over 65,535 bytes, a string over 4 GiB, an
    integer beyond a double's range.
    """
    out = bytearray()
    for value in values:
        _encode(out, value)
    return bytes(out)


class _Decoder:
    """A position in the bytes, and the number of values decoded so far.

    With ``ends_at_fault`` an unreadable value is UNDEFINED, and decoding ends there
    (``has_ended``); without, AmfError is raised.
    """

    __slots__ = ("_data", "_elements", "_ends_at_fault", "has_ended", "position")

    def __init__(self, data: Buffer, position: int = 0, *, ends_at_fault: bool = False) -> None:
        self._data = data
        self._elements = 0
        self._ends_at_fault = ends_at_fault
        self.has_ended = False
        self.position = position

    def value(self, depth: int) -> AmfValue:
        try:
            return self._value(depth)
        except AmfError:
            if not self._ends_at_fault:
                raise
            self.has_ended = True
            return UNDEFINED

    def _value(self, depth: int) -> AmfValue:
        self._elements += 1
        if self._elements > ELEMENTS_LIMIT:
            raise AmfError(f"AMF0 message has more than {ELEMENTS_LIMIT} values")
        if depth > NESTING_LIMIT:
            raise AmfError(f"AMF0 values are nested deeper than {NESTING_LIMIT}")
        marker = self._read(1)[0]
        match marker:
            case Marker.OBJECT:
                return self._properties({}, depth)
            case Marker.TYPED_OBJECT:
                self._short_string()  # the class name: classes mean nothing outside Flash
                return self._properties({}, depth)
            case Marker.ECMA_ARRAY:
                # Encoders write 0, the true count or anything else; only the end marker counts.
                self._read(4)
                array = EcmaArray()
                self._properties(array, depth)
                return array
            case Marker.AVMPLUS_OBJECT:
                return self._amf3_value(depth)
            case Marker.STRICT_ARRAY:
                return self._items(_LONG_LENGTH.unpack(self._read(4))[0], depth)
            case _:
                return self._scalar(marker)

    def _amf3_value(self, depth: int) -> AmfValue:
        elements_max = ELEMENTS_LIMIT - self._elements + 1  # its first one is counted already
        decoded = amf3.decode(self._data, self.position, depth=depth, elements_max=elements_max)
        self._elements += decoded.elements - 1
        self.position = decoded.end
        return decoded.value

    def _scalar(self, marker: int) -> AmfValue:
        match marker:
            case Marker.NUMBER:
                number: float = _NUMBER.unpack(self._read(8))[0]
                return number
            case Marker.BOOLEAN:
                return self._read(1) != b"\0"
            case Marker.STRING:
                return self._short_string()
            case Marker.LONG_STRING | Marker.XML_DOCUMENT:
                return self._text(_LONG_LENGTH.unpack(self._read(4))[0])
            case Marker.NULL:
                return None
            case Marker.UNDEFINED | Marker.UNSUPPORTED | Marker.MOVIE_CLIP | Marker.RECORD_SET:
                return UNDEFINED
            case Marker.REFERENCE:
                self._read(2)
                return UNDEFINED
            case Marker.DATE:
                return Date(*_DATE.unpack(self._read(10)))
            case _:
                raise AmfError(f"AMF0 marker 0x{marker:02x} is not supported")

    def _properties(self, properties: dict[str, AmfValue], depth: int) -> dict[str, AmfValue]:
        while not self.has_ended:
            try:
                key = self._short_string()
            except AmfError:
                if not self._ends_at_fault:
                    raise
                self.has_ended = True
                break
            # An empty key is legal before a value; before the end marker it ends the object.
            if not key and self._data[self.position : self.position + 1] == bytes(
                (Marker.OBJECT_END,)
            ):
                self.position += 1
                break
            properties[key] = self.value(depth + 1)
        return properties

    def _items(self, count: int, depth: int) -> list[AmfValue]:
        # Checked before the loop, so that a wrong count costs nothing.
        if count > ELEMENTS_LIMIT:
            raise AmfError(f"AMF0 array claims {count} values, more than {ELEMENTS_LIMIT}")
        items: list[AmfValue] = []
        while len(items) < count and not self.has_ended:
            items.append(self.value(depth + 1))
        return items

    def _short_string(self) -> str:
        return self._text(_SHORT_LENGTH.unpack(self._read(2))[0])

    def _text(self, size_bytes: int) -> str:
        if size_bytes > STRING_LIMIT_BYTES:
            raise AmfError(f"AMF0 string of {size_bytes} bytes, more than {STRING_LIMIT_BYTES}")
        # A name in another encoding should be "not found", and not end the connection.
        return self._read(size_bytes).decode("utf-8", "replace")

    def _read(self, size_bytes: int) -> bytes:
        end = self.position + size_bytes
        piece = bytes(self._data[self.position : end])
        if len(piece) < size_bytes:
            raise AmfError("AMF0 message ends inside a value")
        self.position = end
        return piece


def _encode(out: bytearray, value: AmfValue) -> None:
    match value:
        case None:
            out.append(Marker.NULL)
        case Undefined.UNDEFINED:
            out.append(Marker.UNDEFINED)
        case bool():
            out += bytes((Marker.BOOLEAN, value))
        case float() | int():
            out.append(Marker.NUMBER)
            out += _number(value)
        case str():
            _encode_text(out, value)
        case Date():
            out.append(Marker.DATE)
            out += _DATE.pack(value.time_ms, value.timezone_minutes)
        case EcmaArray():
            out.append(Marker.ECMA_ARRAY)
            out += _LONG_LENGTH.pack(len(value))
            _encode_properties(out, value)
        case Mapping():
            out.append(Marker.OBJECT)
            _encode_properties(out, value)
        case Sequence():
            out.append(Marker.STRICT_ARRAY)
            out += _LONG_LENGTH.pack(len(value))
            for item in value:
                _encode(out, item)


def _number(value: float) -> bytes:
    try:
        return _NUMBER.pack(float(value))
    except OverflowError as exc:
        raise AmfError("integer beyond the range of an AMF0 number") from exc


def _encode_text(out: bytearray, text: str) -> None:
    text_bytes = text.encode("utf-8", "replace")
    if len(text_bytes) <= _SHORT_STRING_LIMIT_BYTES:
        out.append(Marker.STRING)
        out += _SHORT_LENGTH.pack(len(text_bytes))
    else:
        out.append(Marker.LONG_STRING)
        out += _LONG_LENGTH.pack(len(text_bytes))
    out += text_bytes


def _encode_properties(out: bytearray, properties: Mapping[str, AmfValue]) -> None:
    for key, value in properties.items():
        key_bytes = key.encode("utf-8", "replace")
        if len(key_bytes) > _SHORT_STRING_LIMIT_BYTES:
            raise AmfError(
                f"AMF0 key of {len(key_bytes)} bytes, more than {_SHORT_STRING_LIMIT_BYTES}"
            )
        out += _SHORT_LENGTH.pack(len(key_bytes))
        out += key_bytes
        _encode(out, value)
    out += _SHORT_LENGTH.pack(0)
    out.append(Marker.OBJECT_END)

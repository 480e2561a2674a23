"""AMF3 values, which AMF0 carries behind its marker 0x11: bytes to Python values.

Implements the AMF 3 Specification (January 2013), reading only: the edge answers in AMF0. Flash
starts new reference tables for each such value, so does ``decode``.

A reference costs as many elements as the value that it repeats, so a value is never larger than its
limits, however often it repeats itself. A value inside itself, a byte array and a key that is not
a string have no use in a command: the first two are UNDEFINED, the last is left out.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple, TypeVar

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
)

STRINGS_LIMIT_BYTES: Final = 4 * STRING_LIMIT_BYTES  # together, each time that they are repeated

_DOUBLE = struct.Struct(">d")
_INT = struct.Struct(">i")
_UINT = struct.Struct(">I")
_SIGN: Final = 1 << 28  # integers have 29 bits

_Entry = TypeVar("_Entry")


class Marker(IntEnum):
    """The byte before each value (§3.1)."""

    UNDEFINED = 0x00
    NULL = 0x01
    FALSE = 0x02
    TRUE = 0x03
    INTEGER = 0x04
    DOUBLE = 0x05
    STRING = 0x06
    XML_DOCUMENT = 0x07
    DATE = 0x08
    ARRAY = 0x09
    OBJECT = 0x0A
    XML = 0x0B
    BYTE_ARRAY = 0x0C
    VECTOR_INT = 0x0D
    VECTOR_UINT = 0x0E
    VECTOR_DOUBLE = 0x0F
    VECTOR_OBJECT = 0x10
    DICTIONARY = 0x11


_NUMBER_VECTORS: Final[dict[int, struct.Struct]] = {
    Marker.VECTOR_INT: _INT,
    Marker.VECTOR_UINT: _UINT,
    Marker.VECTOR_DOUBLE: _DOUBLE,
}
_CONSTANTS: Final[dict[int, AmfValue]] = {
    Marker.UNDEFINED: UNDEFINED,
    Marker.NULL: None,
    Marker.FALSE: False,
    Marker.TRUE: True,
}


class Decoded(NamedTuple):
    """A value, the position after it, and the elements in it, itself included."""

    value: AmfValue
    end: int
    elements: int


def decode(
    data: Buffer, position: int = 0, *, depth: int = 0, elements_max: int = ELEMENTS_LIMIT
) -> Decoded:
    """The value that begins at ``position``, inside ``depth`` others. Raises AmfError."""
    decoder = _Decoder(data, position, elements_max)
    value = decoder.value(depth)
    return Decoded(value, decoder.position, decoder.elements)


class _Traits(NamedTuple):
    """The description of a class (§3.12): the names of its sealed members."""

    names: tuple[str, ...]
    is_dynamic: bool


class _Shared(NamedTuple):
    """An entry of the object table; ``elements`` is the cost of a reference to it."""

    value: AmfValue
    elements: int


_UNFINISHED: Final = _Shared(UNDEFINED, 1)  # a value that is being read holds itself


class _Decoder:
    """A position in the bytes, the reference tables, and the number of elements so far."""

    __slots__ = (
        "_data",
        "_elements_max",
        "_objects",
        "_strings",
        "_strings_bytes",
        "_traits",
        "elements",
        "position",
    )

    def __init__(self, data: Buffer, position: int, elements_max: int) -> None:
        self._data = data
        self._elements_max = elements_max
        self._objects: list[_Shared] = []
        self._strings: list[tuple[str, int]] = []  # with their sizes in bytes
        self._strings_bytes = 0
        self._traits: list[_Traits] = []
        self.elements = 0
        self.position = position

    def value(self, depth: int) -> AmfValue:
        self._count(1)
        if depth > NESTING_LIMIT:
            raise AmfError(f"AMF3 values are nested deeper than {NESTING_LIMIT}")
        marker = self._read(1)[0]
        if marker in _CONSTANTS:
            return _CONSTANTS[marker]
        match marker:
            case Marker.INTEGER:
                number = self._u29()
                return float(number - 2 * _SIGN if number & _SIGN else number)
            case Marker.DOUBLE:
                return self._double()
            case Marker.STRING:
                return self._string()
            case _:
                return self._object(marker, depth)

    def _object(self, marker: int, depth: int) -> AmfValue:
        """A value that has a place in the object table, or a reference to one."""
        if marker > Marker.DICTIONARY:
            raise AmfError(f"AMF3 marker 0x{marker:02x} is unknown")
        head = self._u29()
        if not head & 1:
            shared = _entry(self._objects, head >> 1)
            self._count(shared.elements - 1)
            return shared.value
        index, elements_before = len(self._objects), self.elements
        self._objects.append(_UNFINISHED)
        value = self._new_object(marker, head >> 1, depth)
        self._objects[index] = _Shared(value, self.elements - elements_before + 1)
        return value

    def _new_object(self, marker: int, head: int, depth: int) -> AmfValue:
        """``head`` is what the U29 before the value says: a size, a count, flags of its traits."""
        match marker:
            case Marker.DATE:
                return Date(self._double())
            case Marker.XML | Marker.XML_DOCUMENT:
                return self._text(head)
            case Marker.BYTE_ARRAY:
                self._skip(head)
                return UNDEFINED
            case Marker.ARRAY:
                return self._array(head, depth)
            case Marker.OBJECT:
                return self._members(self._class(head), depth)
            case Marker.DICTIONARY:
                return self._dictionary(head, depth)
            case Marker.VECTOR_OBJECT:
                self._skip(1)  # whether its length is fixed
                self._string()  # the class of its items
                return self._items(head, depth)
            case _:
                return self._numbers(head, _NUMBER_VECTORS[marker])

    def _array(self, count: int, depth: int) -> AmfValue:
        named = EcmaArray()
        self._named(named, depth)
        items = self._items(count, depth)
        if not named:
            return items
        named.update((str(index), item) for index, item in enumerate(items))
        return named

    def _items(self, count: int, depth: int) -> list[AmfValue]:
        self._check(count)
        return [self.value(depth + 1) for _ in range(count)]

    def _numbers(self, count: int, number: struct.Struct) -> list[AmfValue]:
        self._count(count)
        self._skip(1)  # whether its length is fixed
        return [float(item) for (item,) in number.iter_unpack(self._read(count * number.size))]

    def _dictionary(self, count: int, depth: int) -> dict[str, AmfValue]:
        self._check(2 * count)
        self._skip(1)  # whether its keys are weak
        pairs = [(self.value(depth + 1), self.value(depth + 1)) for _ in range(count)]
        return {key: value for key, value in pairs if isinstance(key, str)}

    def _class(self, head: int) -> _Traits:
        if not head & 1:
            return _entry(self._traits, head >> 1)
        if head & 2:
            raise AmfError("AMF3 object writes itself, in a format of its class")
        count = head >> 3
        self._count(count)
        self._string()  # the class name: classes mean nothing outside Flash
        traits = _Traits(tuple(self._string() for _ in range(count)), bool(head & 4))
        self._traits.append(traits)
        return traits

    def _members(self, traits: _Traits, depth: int) -> dict[str, AmfValue]:
        members = {name: self.value(depth + 1) for name in traits.names}
        if traits.is_dynamic:
            self._named(members, depth)
        return members

    def _named(self, members: dict[str, AmfValue], depth: int) -> None:
        """Names and values up to the empty name."""
        while name := self._string():
            members[name] = self.value(depth + 1)

    def _string(self) -> str:
        head = self._u29()
        if head & 1:
            text = self._text(head >> 1)
            if head > 1:  # the empty string is never a reference
                self._strings.append((text, head >> 1))
            return text
        text, size_bytes = _entry(self._strings, head >> 1)
        self._count_bytes(size_bytes)
        return text

    def _text(self, size_bytes: int) -> str:
        if size_bytes > STRING_LIMIT_BYTES:
            raise AmfError(f"AMF3 string of {size_bytes} bytes, more than {STRING_LIMIT_BYTES}")
        self._count_bytes(size_bytes)
        return self._read(size_bytes).decode("utf-8", "replace")

    def _double(self) -> float:
        number: float = _DOUBLE.unpack(self._read(8))[0]
        return number

    def _u29(self) -> int:
        """§1.3.1: seven bits in each of up to three bytes, eight in a fourth one."""
        number = 0
        for _ in range(3):
            byte = self._read(1)[0]
            number = number << 7 | byte & 0x7F
            if not byte & 0x80:
                return number
        return number << 8 | self._read(1)[0]

    def _count(self, elements: int) -> None:
        self._check(elements)
        self.elements += elements

    def _check(self, elements: int) -> None:
        """Before they are read, so that a wrong count costs nothing."""
        if self.elements + elements > self._elements_max:
            raise AmfError(f"AMF3 value has more than {self._elements_max} values")

    def _count_bytes(self, size_bytes: int) -> None:
        self._strings_bytes += size_bytes
        if self._strings_bytes > STRINGS_LIMIT_BYTES:
            raise AmfError(f"AMF3 strings of more than {STRINGS_LIMIT_BYTES} bytes together")

    def _read(self, size_bytes: int) -> bytes:
        start = self.position
        self._skip(size_bytes)
        return bytes(self._data[start : self.position])

    def _skip(self, size_bytes: int) -> None:
        if len(self._data) - self.position < size_bytes:
            raise AmfError("AMF3 message ends inside a value")
        self.position += size_bytes


def _entry(table: list[_Entry], index: int) -> _Entry:
    if index >= len(table):
        raise AmfError(f"AMF3 reference to entry {index} of {len(table)}")
    return table[index]

"""AMF3: vectors from the specification, another library's encoder, limits, hostile references."""

from __future__ import annotations

import datetime
import struct
import warnings
from typing import Any

import pyamf
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamedge.delivery.rtmp.protocol import amf0
from streamedge.delivery.rtmp.protocol.amf3 import STRINGS_LIMIT_BYTES, decode
from streamedge.delivery.rtmp.protocol.amf_values import (
    ELEMENTS_LIMIT,
    NESTING_LIMIT,
    STRING_LIMIT_BYTES,
    UNDEFINED,
    AmfError,
    AmfValue,
    Date,
    EcmaArray,
)

# Written by hand from the named section of the AMF 3 Specification (January 2013).
SPECIFIED: list[tuple[str, AmfValue]] = [
    ("00", UNDEFINED),  # §3.2
    ("01", None),
    ("02", False),
    ("03", True),
    ("04 00", 0.0),  # §3.6, U29 of one to four bytes (§1.3.1)
    ("04 7f", 127.0),
    ("04 8100", 128.0),
    ("04 ff7f", 16_383.0),
    ("04 818000", 16_384.0),
    ("04 80c08000", 2_097_152.0),
    ("04 bfffffff", 268_435_455.0),
    ("04 c0808000", -268_435_456.0),
    ("04 ffffffff", -1.0),
    ("05 3ff8000000000000", 1.5),  # §3.7
    ("06 01", ""),  # §3.8
    ("06 09 706c6179", "play"),
    ("06 05 c3a9", "é"),
    ("06 05 ff68", "\ufffdh"),  # not UTF-8
    ("07 09 3c612f3e", "<a/>"),  # §3.9
    ("0b 09 3c612f3e", "<a/>"),  # §3.13
    ("08 01 4276345785d8a000", Date(struct.unpack(">d", bytes.fromhex("4276345785d8a000"))[0])),
    ("09 05 01 01 03", [None, True]),  # §3.11
    ("09 01 01", []),
    ("09 01 03 61 04 05 01", EcmaArray(a=5.0)),
    ("09 03 03 61 04 05 01 03", EcmaArray({"a": 5.0, "0": True})),
    ("09 05 01 06 03 61 06 00", ["a", "a"]),  # a string by reference
    ("0a 0b 01 01", {}),  # §3.12, dynamic
    ("0a 0b 01 03 61 04 05 01", {"a": 5.0}),
    ("0a 13 03 43 03 61 04 05", {"a": 5.0}),  # a class with one sealed member
    ("0a 1b 03 43 03 61 04 05 03 62 01 01", {"a": 5.0, "b": None}),  # and dynamic ones
    ("09 05 01 0a 13 01 03 61 04 05 0a 01 04 06", [{"a": 5.0}, {"a": 6.0}]),  # traits by reference
    ("09 05 01 0a 0b 01 03 61 04 05 01 0a 02", [{"a": 5.0}, {"a": 5.0}]),  # an object by reference
    ("0c 07 010203", UNDEFINED),  # §3.14
    ("0d 05 00 00000001 ffffffff", [1.0, -1.0]),  # §3.15
    ("0e 05 01 00000001 ffffffff", [1.0, 4_294_967_295.0]),
    ("0f 03 00 3ff8000000000000", [1.5]),
    ("10 05 00 03 43 01 03", [None, True]),
    ("11 05 00 06 03 61 04 05 04 07 03", {"a": 5.0}),  # §3.16; a key that is a number
]

LOOPS = [
    "09 03 01 09 00",  # an array inside itself
    "0a 0b 01 03 61 0a 00 01",
    "11 03 00 06 03 61 11 00",
    "09 03 01 09 03 01 09 00",
]

# Refused, with the words of the error.
HOSTILE = {
    "12": "marker 0x12",
    "ff": "marker 0xff",
    "06 02": "reference to entry 1",
    "06 00": "reference to entry 0",
    "09 fffffffe": "reference to entry",
    "0a 05": "reference to entry 1 of 0",  # traits
    "0a 07 01": "format of its class",  # externalizable
    "06 ffffffff": "string of",
    "06 ffffff7f": "string of",
    "07 ffffffff": "string of",
    "09 ffffffff 01": "more than",
    "0a ffffff7b 01": "more than",  # a class of 67 million members
    "0c ffffffff": "ends inside",
    "0d ffffffff 00": "more than",
    "0f ffffffff 00": "more than",
    "10 ffffffff 00 01": "more than",
    "11 ffffffff 00": "more than",
}


def size_of(value: AmfValue) -> int:
    """The elements of a value, as often as a reader meets them."""
    if isinstance(value, dict):
        return 1 + sum(size_of(item) for item in value.values())
    if isinstance(value, list):
        return 1 + sum(size_of(item) for item in value)
    return 1


@pytest.mark.parametrize(("hexadecimal", "value"), SPECIFIED)
def test_value_is_decoded(hexadecimal: str, value: AmfValue) -> None:
    data = bytes.fromhex(hexadecimal)
    decoded = decode(data)
    assert decoded.value == value
    assert type(decoded.value) is type(value)
    assert decoded.end == len(data)
    assert decode(b"\x05" + data + b"\xff garbage", 1)[:2] == (value, len(data) + 1)


@pytest.mark.parametrize(("hexadecimal", "value"), SPECIFIED)
def test_truncated_value_is_an_error(hexadecimal: str, value: AmfValue) -> None:
    data = bytes.fromhex(hexadecimal)
    for size in range(len(data)):
        with pytest.raises(AmfError, match="ends inside"):
            decode(data[:size])


@pytest.mark.parametrize("hexadecimal", HOSTILE)
def test_hostile_value_is_an_error(hexadecimal: str) -> None:
    with pytest.raises(AmfError, match=HOSTILE[hexadecimal]):
        decode(bytes.fromhex(hexadecimal) + bytes(8))


@pytest.mark.parametrize("hexadecimal", LOOPS)
def test_value_inside_itself_is_undefined(hexadecimal: str) -> None:
    decoded = decode(bytes.fromhex(hexadecimal))
    assert "UNDEFINED" in str(decoded.value)
    assert size_of(decoded.value) <= decoded.elements


def test_references_cost_what_they_repeat() -> None:
    # Each array holds the one before it twice: thirty of them would hold 2^30 values.
    def bomb(arrays: int) -> bytes:
        items = b"".join(
            b"\x09\x05\x01" + bytes((0x09, (index - 1) << 1)) * 2 for index in range(2, arrays + 1)
        )
        return bytes((0x09, (arrays << 1) | 1, 0x01)) + b"\x09\x05\x01\x01\x01" + items

    decoded = decode(bomb(7))
    assert decoded.elements == size_of(decoded.value) <= ELEMENTS_LIMIT
    with pytest.raises(AmfError, match="more than"):
        decode(bomb(30))


def test_nesting_is_limited() -> None:
    deepest = b"\x09\x03\x01" * NESTING_LIMIT + b"\x01"
    decode(deepest)
    for data in (
        b"\x09\x03\x01" + deepest,
        b"\x09\x03\x01" * 100_000,
        b"\x0a\x0b\x01\x03a" * 100_000,
    ):
        with pytest.raises(AmfError, match="nested"):
            decode(data)
    with pytest.raises(AmfError, match="nested"):
        decode(deepest, depth=1)


def test_elements_are_limited() -> None:
    head = b"\x09" + bytes((0x80 | (2 * ELEMENTS_LIMIT + 1) >> 7, (2 * ELEMENTS_LIMIT + 1) & 127))
    decode(head + b"\x01" + b"\x01" * ELEMENTS_LIMIT, elements_max=ELEMENTS_LIMIT + 1)
    with pytest.raises(AmfError, match="more than"):
        decode(head + b"\x01" + b"\x01" * ELEMENTS_LIMIT)
    with pytest.raises(AmfError, match="more than"):
        decode(b"\x0a\x0b\x01" + b"\x03a\x01" * ELEMENTS_LIMIT + b"\x01")


def test_strings_are_limited_each_and_together() -> None:
    size = STRING_LIMIT_BYTES
    head = (size << 1 | 1) >> 14 | 0x80, (size << 1 | 1) >> 7 & 127 | 0x80, (size << 1 | 1) & 127
    longest = b"\x06" + bytes(head) + b"x" * size
    assert decode(longest).value == "x" * size
    repeats = STRINGS_LIMIT_BYTES // size
    array = bytes((0x09, (repeats << 1) | 1, 0x01)) + longest + b"\x06\x00" * (repeats - 1)
    assert decode(array).value == ["x" * size] * repeats
    array = bytes((0x09, ((repeats + 1) << 1) | 1, 0x01)) + longest + b"\x06\x00" * repeats
    with pytest.raises(AmfError, match="bytes together"):
        decode(array)


def test_amf0_message_goes_on_after_an_amf3_value() -> None:
    data = bytes.fromhex("0101 11 09050106036103 00 4000000000000000 11 0a0b0103610405 01 05")
    assert amf0.decode_all(data) == [True, ["a", True], 2.0, {"a": 5.0}, None]


def test_each_amf3_value_has_its_own_reference_tables() -> None:
    with pytest.raises(AmfError, match="reference to entry 0 of 0"):
        amf0.decode_all(bytes.fromhex("11 060361 11 0600"))


def test_limits_hold_for_both_formats_together() -> None:
    array = b"\x11\x09" + bytes((0x81, 0x49)) + b"\x01" + b"\x01" * 100
    assert len(amf0.decode_all(array * 5)) == 5
    with pytest.raises(AmfError, match="more than"):
        amf0.decode_all(array * 6)
    nested = b"\x0a\0\0\0\x01" * NESTING_LIMIT + b"\x11\x09\x03\x01\x01"
    with pytest.raises(AmfError, match="nested"):
        amf0.decode_all(nested)
    values = amf0.decode_readable(b"\x01\x01\x11\x09\x05\x01\x01\xff")
    assert values == [True]


# Py3AMF writes, the reader reads. Its first object loads a module that is deprecated.

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    pyamf.encode({}, encoding=pyamf.AMF3)


def another_encoder(value: Any) -> bytes:
    encoded: bytes = pyamf.encode(value, encoding=pyamf.AMF3).read()
    return encoded


def in_eighths(time: datetime.datetime) -> datetime.datetime:
    """Py3AMF multiplies seconds, as a float, by 1000; that is exact for eighths of a second."""
    return time.replace(microsecond=time.microsecond // 125_000 * 125_000)


texts = st.text(st.characters(codec="utf-8"), max_size=20)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 40), 1 << 40)
    | st.floats(allow_nan=False)
    | texts
    | st.datetimes(datetime.datetime(1970, 1, 2), datetime.datetime(2100, 1, 1)).map(in_eighths),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


def as_read(value: Any) -> AmfValue:
    """A value of Py3AMF as this reader returns it."""
    match value:
        case bool() | None | str():
            return value
        case int() | float():
            return float(value)
        case datetime.datetime():
            epoch = datetime.datetime(1970, 1, 1)
            whole = (value - epoch) // datetime.timedelta(milliseconds=1)
            return Date(float(whole))
        case list():
            return [as_read(item) for item in value]
        case _:
            return {name: as_read(item) for name, item in value.items()}


@given(values)
def test_values_of_another_encoder_are_read(value: Any) -> None:
    data = another_encoder(value)
    decoded = decode(data)
    assert decoded.value == as_read(value)
    assert decoded.end == len(data)


def test_references_of_another_encoder_are_followed() -> None:
    inner = {"name": "name", "list": [1, "name"]}
    data = another_encoder([inner, inner, inner["list"]])
    assert len(data) < 40
    assert decode(data).value == [as_read(inner), as_read(inner), [1.0, "name"]]


# Garbage

markers = st.sampled_from([bytes.fromhex(each) for each, _ in SPECIFIED])
hostile = st.lists(markers | st.binary(max_size=4), max_size=12).map(b"".join)


@settings(max_examples=1000)
@given(hostile | st.binary(max_size=64))
@example(bytes.fromhex("11 03 00 11 00 01"))
def test_any_bytes_are_a_small_value_or_an_error(data: bytes) -> None:
    try:
        decoded = decode(data)
    except AmfError:
        return
    assert decoded.end <= len(data)
    assert size_of(decoded.value) <= decoded.elements <= ELEMENTS_LIMIT
    amf0.encode(decoded.value)  # has no loops


@given(values, st.data())
def test_changed_bytes_are_a_small_value_or_an_error(value: Any, data: st.DataObject) -> None:
    encoded = bytearray(another_encoder(value))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] = data.draw(st.integers(0, 255))
    test_any_bytes_are_a_small_value_or_an_error.hypothesis.inner_test(bytes(encoded))  # type: ignore[attr-defined]

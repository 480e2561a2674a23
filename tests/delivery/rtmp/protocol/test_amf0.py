"""AMF0: vectors from the specification and from recorded peers, limits, round trips, garbage."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.delivery.rtmp.protocol.amf0 import (
    decode,
    decode_all,
    decode_readable,
    encode,
)
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

# Written by hand from the named section of the AMF 0 Specification (December 2007).
SPECIFIED: list[tuple[str, AmfValue]] = [
    ("00 3ff0000000000000", 1.0),  # §2.2, IEEE 754
    ("00 c09f400000000000", -2000.0),
    ("01 00", False),  # §2.3
    ("01 01", True),
    ("02 0004 706c6179", "play"),  # §2.4
    ("02 0002 c3a9", "é"),  # §1.3.1: the length counts bytes
    ("02 0000", ""),
    ("03 0003 617070 02 0003 766f64 0000 09", {"app": "vod"}),  # §2.5
    ("03 0000 09", {}),
    ("03 0001 61 03 0001 62 05 0000 09 0001 63 01 01 0000 09", {"a": {"b": None}, "c": True}),
    ("05", None),  # §2.7
    ("06", UNDEFINED),  # §2.8
    ("08 00000001 0001 61 00 4000000000000000 0000 09", EcmaArray(a=2.0)),  # §2.10
    ("0a 00000002 05 01 01", [None, True]),  # §2.12
    ("0a 00000000", []),
    ("0b 4276345785d8a000 0000", Date(struct.unpack(">d", bytes.fromhex("4276345785d8a000"))[0])),
]

# Decoders must accept these; this encoder never writes them.
DECODED_ONLY: list[tuple[str, AmfValue]] = [
    ("01 07", True),  # §2.3: any byte but 0 is true
    ("08 00000000 0001 61 05 0000 09", EcmaArray(a=None)),  # a count of 0, as many encoders write
    ("08 ffffffff 0001 61 05 0000 09", EcmaArray(a=None)),  # a wrong count
    ("0c 00000002 6869", "hi"),  # §2.14, long string
    ("0d", UNDEFINED),  # §2.15, unsupported
    ("0f 00000004 3c612f3e", "<a/>"),  # §2.17, XML document
    ("10 0001 43 0001 61 05 0000 09", {"a": None}),  # §2.18, typed object of class "C"
    ("02 0002 ff68", "\ufffdh"),  # not UTF-8
    ("03 0000 05 0000 09", {"": None}),  # an empty key that is not the end
]

# From nginx-rtmp-module 1.2.2: its onStatus for a play.
NGINX_ON_STATUS = (
    "0200086f6e537461747573000000000000000000050300056c6576656c0200067374617475730004636f6465020014"
    "4e657453747265616d2e506c61792e5374617274000b6465736372697074696f6e0200155374617274207669646"
    "56f206f6e2064656d616e64000009"
)
# From FFmpeg 5.1.9: its play.
FFMPEG_PLAY = (
    "020004706c6179004014000000000000050200106d70343a6469722f66696c6d2e6d703400c09f400000000000"
)


@pytest.mark.parametrize(("hexadecimal", "value"), SPECIFIED + DECODED_ONLY)
def test_value_is_decoded(hexadecimal: str, value: AmfValue) -> None:
    data = bytes.fromhex(hexadecimal)
    decoded, end = decode(data)
    assert decoded == value
    assert type(decoded) is type(value)
    assert end == len(data)
    assert decode(data + b"\xff garbage") == (value, len(data))
    assert decode_all(memoryview(b"\x05" + data)) == [None, value]


@pytest.mark.parametrize(("hexadecimal", "value"), SPECIFIED)
def test_value_is_encoded(hexadecimal: str, value: AmfValue) -> None:
    assert encode(value) == bytes.fromhex(hexadecimal)


@pytest.mark.parametrize(("hexadecimal", "value"), SPECIFIED + DECODED_ONLY)
def test_truncated_message_is_an_error(hexadecimal: str, value: AmfValue) -> None:
    data = bytes.fromhex(hexadecimal)
    for size in range(len(data)):
        with pytest.raises(AmfError, match="ends inside"):
            decode(data[:size])


def test_recorded_commands_are_decoded() -> None:
    status = {
        "level": "status",
        "code": "NetStream.Play.Start",
        "description": "Start video on demand",
    }
    assert decode_all(bytes.fromhex(NGINX_ON_STATUS)) == ["onStatus", 0.0, None, status]
    assert encode("onStatus", 0, None, status) == bytes.fromhex(NGINX_ON_STATUS)
    play: list[AmfValue] = ["play", 5.0, None, "mp4:dir/film.mp4", -2000.0]
    assert decode_all(bytes.fromhex(FFMPEG_PLAY)) == play
    assert encode(*play) == bytes.fromhex(FFMPEG_PLAY)


@pytest.mark.parametrize(
    "marker",
    [
        0x09,  # object end outside an object
        0x12,
        0xFF,
    ],
)
def test_unsupported_marker_is_refused(marker: int) -> None:
    with pytest.raises(AmfError, match=f"0x{marker:02x}"):
        decode_all(bytes((marker,)) + bytes(20))


@pytest.mark.parametrize("value", ["04", "070000", "0e", "06", "0d"])
def test_unusable_value_is_undefined(value: str) -> None:
    assert decode_all(bytes.fromhex(value + "0101")) == [UNDEFINED, True]


@pytest.mark.parametrize(
    ("data", "values"),
    [
        ("", []),
        ("11", []),
        ("0101 11 ff", [True]),
        ("0101 02 0005 61", [True]),
        ("03 0001 61 0101 0001 62 11", [{"a": True, "b": UNDEFINED}]),
        ("03 0001 61 0101 0001", [{"a": True}]),
        ("08 00000000 0001 61 03 0001 62 0101 0001 63 ff", [{"a": {"b": True, "c": UNDEFINED}}]),
        ("0a 00000003 0101 05 ff", [[True, None, UNDEFINED]]),
        ("0a ffffffff 0101", []),
        ("09", []),
    ],
)
def test_readable_values_before_a_fault_are_returned(data: str, values: list[AmfValue]) -> None:
    assert decode_readable(bytes.fromhex(data)) == values


def test_value_over_a_limit_ends_the_decoding() -> None:
    assert decode_readable(b"\x05" * (2 * ELEMENTS_LIMIT)) == [None] * ELEMENTS_LIMIT
    assert decode_readable(b"\1\1" + b"\x03\0\x01a" * 100_000)[0] is True
    long = b"\x0c" + (STRING_LIMIT_BYTES + 1).to_bytes(4) + b"x" * (STRING_LIMIT_BYTES + 1)
    assert decode_readable(b"\1\1" + long) == [True]


def test_nesting_is_limited() -> None:
    deepest = b"\x0a\0\0\0\x01" * NESTING_LIMIT + b"\x05"
    decode_all(deepest)
    with pytest.raises(AmfError, match="nested"):
        decode_all(b"\x0a\0\0\0\x01" + deepest)
    with pytest.raises(AmfError, match="nested"):
        decode_all(b"\x03\0\x01a" * 100_000)


def test_elements_are_limited() -> None:
    decode_all(b"\x05" * ELEMENTS_LIMIT)
    with pytest.raises(AmfError, match="more than"):
        decode_all(b"\x05" * (ELEMENTS_LIMIT + 1))
    with pytest.raises(AmfError, match="more than"):
        decode_all(b"\x0a" + ELEMENTS_LIMIT.to_bytes(4) + b"\x05" * ELEMENTS_LIMIT)


def test_wrong_array_count_allocates_nothing() -> None:
    with pytest.raises(AmfError, match="claims 4294967295"):
        decode_all(b"\x0a\xff\xff\xff\xff")


def test_strings_are_limited() -> None:
    size = STRING_LIMIT_BYTES
    assert decode_all(b"\x0c" + size.to_bytes(4) + b"x" * size) == ["x" * size]
    with pytest.raises(AmfError, match="string of"):
        decode_all(b"\x0c" + (size + 1).to_bytes(4) + b"x" * (size + 1))


def test_long_strings_have_a_32_bit_length() -> None:
    assert encode("x" * 65_535)[:3] == b"\x02\xff\xff"
    assert encode("x" * 65_536)[:5] == b"\x0c\x00\x01\x00\x00"


def test_value_without_an_amf0_form_is_an_error() -> None:
    with pytest.raises(AmfError, match="range"):
        encode(10**400)
    with pytest.raises(AmfError, match="key"):
        encode({"k" * 65_536: None})


def test_integers_and_infinities_are_numbers() -> None:
    assert encode(1) == encode(1.0)
    assert decode_all(encode(math.inf, -0.0)) == [math.inf, 0.0]
    (number,) = decode_all(encode(math.nan))
    assert isinstance(number, float)
    assert math.isnan(number)


text = st.text(st.characters(codec="utf-8"), max_size=20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False)
    | text
    | st.just(UNDEFINED)
    | st.builds(Date, st.floats(allow_nan=False), st.integers(-720, 720)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(text, inner, max_size=4)
        | st.dictionaries(text, inner, max_size=4).map(EcmaArray)
    ),
    max_leaves=12,
)


def kinds(value: AmfValue) -> object:
    """The types at every depth, because an ECMA array equals an object with the same members."""
    if isinstance(value, dict):
        return type(value), [kinds(item) for item in value.values()]
    if isinstance(value, list):
        return list, [kinds(item) for item in value]
    return type(value)


@settings(deadline=None)
@given(st.lists(values, max_size=4))
def test_values_survive_encoding_and_decoding(written: list[AmfValue]) -> None:
    read = decode_all(encode(*written))
    assert read == written
    assert kinds(read) == kinds(written)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=12),
            st.sampled_from([b"\x03", b"\x08\0\0\0\0", b"\x0a\0\0\0\x02", b"\0\x01a", b"\0\0\x09"]),
            values.map(encode),
        ),
        max_size=20,
    ).map(b"".join)
)
def test_any_bytes_decode_or_raise_amf_error(data: bytes) -> None:
    try:
        decoded = decode_all(data)
    except AmfError:
        return
    assert len(decoded) <= len(data)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(values, max_size=4),
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([b"\x11\6\7abc", b"\4", b"\7\0\0", b"\x03\0\x01a\x11", b"\x0c\xff"]),
    ),
)
def test_values_before_any_unreadable_bytes_are_returned(
    written: list[AmfValue], garbage: bytes
) -> None:
    sent = encode(*written)
    assert decode_readable(sent) == decode_all(sent)
    assert decode_readable(sent + garbage)[: len(written)] == written

"""Heads that differ in some values only: each is read as the parser alone would read it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamedge.origin import VariedFields
from streamedge.origin.http_client.head_templates import TEMPLATE_MAX_BYTES, parse_repeated_head
from streamedge.origin.http_client.response_parser import ResponseError, ResponseHead, parse_head

NAMES = (b"Date", b"ETag", b"Content-Length", b"set-cookie", b"X-Id", b"Connection", b"Vary")
VALUES = (b"", b" 1", b" 22 ", b"\t007", b" close", b' "a"', b" a\r\n b", b" +5", b" \xe9", b" a\0")
LINE_ENDS = (b"\r\n", b"\r\n", b"\r\n", b"\n")


def read(data: bytes, method: str, *, repeated: bool) -> ResponseHead | None:
    try:
        return parse_repeated_head(data, method) if repeated else parse_head(data, method)
    except ResponseError:
        return None


@st.composite
def similar_heads(draw: st.DrawFn) -> list[bytes]:
    """Heads with the same names and line ends, and other values."""
    status = draw(st.sampled_from([b"200 OK", b"204 No", b"206 Part", b"304 No", b"103 Hints"]))
    names = draw(st.lists(st.sampled_from(NAMES), max_size=5))
    ends = [draw(st.sampled_from(LINE_ENDS)) for _name in names]
    heads = []
    for _head in range(draw(st.integers(2, 4))):
        values = [draw(st.sampled_from(VALUES) | st.binary(max_size=6)) for _name in names]
        lines = zip(names, values, ends, strict=True)
        fields = b"".join([b"%b:%b%b" % line for line in lines])
        heads.append(b"HTTP/1.1 %b\r\n%b\r\n" % (status, fields))
    return heads


@given(similar_heads(), st.sampled_from(["GET", "HEAD"]))
@example([b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\n" % n for n in (b"1", b"+1")], "GET")
@example([b"HTTP/1.1 200 OK\r\nETag: %b\r\n\r\n" % v for v in (b"a", b"a\r\n b", b"c")], "GET")
@example([b"HTTP/1.1 200 OK\r\nX-A: 1\nX-B: %b\r\n\r\n" % v for v in (b"2", b"3")], "GET")
def test_similar_heads_are_read_as_the_parser_reads_each(heads: list[bytes], method: str) -> None:
    for data in (*heads, *heads):
        parsed = read(data, method, repeated=False)
        assert read(data, method, repeated=True) == parsed


def test_heads_that_differ_in_these_values_share_a_template() -> None:
    head = (
        b"HTTP/1.1 200 OK\r\nServer: s\r\nContent-Length: %d\r\n"
        b"ETag: %b\r\nX-Request-Id: %b\r\n\r\n"
    )
    first = parse_repeated_head(head % (5, b'"a"', b"1"), "GET")
    second = parse_repeated_head(head % (70, b'"b"', b"2"), "GET")
    assert (first.size_bytes, second.size_bytes) == (5, 70)
    assert isinstance(first.fields, VariedFields)
    assert isinstance(second.fields, VariedFields)
    assert first.fields.template is second.fields.template
    assert second.fields.places == (1, 2, 3)
    assert second.fields[3] == ("X-Request-Id", "2")


@pytest.mark.parametrize(
    ("lines", "method"),
    [
        (b"Server: other\r\nContent-Length: 5\r\n", "GET"),
        (b"Server: s\r\nContent-Length: 5\r\n", "HEAD"),
        (b"Server: s\r\ncontent-length: 5\r\n", "GET"),
        (b"Content-Length: 5\r\nServer: s\r\n", "GET"),
    ],
)
def test_other_heads_have_another_template(lines: bytes, method: str) -> None:
    first = parse_repeated_head(b"HTTP/1.1 200 OK\r\nServer: s\r\nContent-Length: 5\r\n\r\n", "GET")
    other = parse_repeated_head(b"HTTP/1.1 200 OK\r\n%b\r\n" % lines, method)
    assert isinstance(first.fields, VariedFields)
    assert isinstance(other.fields, VariedFields)
    assert first.fields.template is not other.fields.template


def test_long_head_has_no_template() -> None:
    line = b"X-Long: " + b"a" * TEMPLATE_MAX_BYTES
    head = parse_repeated_head(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % line, "GET")
    assert not isinstance(head.fields, VariedFields)
    assert head.fields[0][0] == "X-Long"

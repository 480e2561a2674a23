"""multipart/byteranges bodies: their form, and that a MIME parser finds the same bytes."""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import HTTP

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.http.response.ranges import Multipart, multipart
from streamedge.spans import Span

OBJECT = bytes(index * 7 % 251 for index in range(8000))


def sent(several: Multipart) -> bytes:
    """The body as it is sent."""
    return b"".join(
        OBJECT[part.start : part.end] if isinstance(part, Span) else part for part in several.parts
    )


def parse(several: Multipart) -> list[tuple[dict[str, str], object]]:
    """The parts that a MIME parser finds: header fields and bytes."""
    raw = f"content-type: {several.content_type}\r\n\r\n".encode() + sent(several)
    message = BytesParser(policy=HTTP).parsebytes(raw)
    assert message.get_content_type() == "multipart/byteranges"
    assert not message.defects
    return [
        (
            {name.lower(): str(value) for name, value in part.raw_items()},
            part.get_payload(decode=True),
        )
        for part in message.iter_parts()
    ]


def test_multipart_body_has_the_form_of_the_rfc() -> None:
    """The form of the example in RFC 9110 §15.3.7.2."""
    several = multipart([Span(500, 503), Span(7000, 7002)], 8000, "application/pdf", "SEPARATOR")
    assert several.content_type == "multipart/byteranges; boundary=SEPARATOR"
    assert several.parts == (
        b"--SEPARATOR\r\n"
        b"content-type: application/pdf\r\n"
        b"content-range: bytes 500-502/8000\r\n\r\n",
        Span(500, 503),
        b"\r\n--SEPARATOR\r\n"
        b"content-type: application/pdf\r\n"
        b"content-range: bytes 7000-7001/8000\r\n\r\n",
        Span(7000, 7002),
        b"\r\n--SEPARATOR--\r\n",
    )
    assert several.size_bytes == len(sent(several))


def test_object_without_a_type_has_parts_without_a_type() -> None:
    ((fields, _data),) = parse(multipart([Span(0, 1)], 8000, "", "b"))
    assert fields == {"content-range": "bytes 0-0/8000"}


@pytest.mark.parametrize("content_type", ["text/plain; charset=utf-8", "text/\u4e2d", "a/\xe9"])
def test_size_is_right_for_any_content_type(content_type: str) -> None:
    several = multipart([Span(0, 10), Span(100, 120)], 8000, content_type, "b")
    assert several.size_bytes == len(sent(several))


SPANS = st.lists(
    st.tuples(st.integers(0, 7999), st.integers(1, 600)).map(
        lambda one: Span(one[0], min(8000, sum(one)))
    ),
    min_size=1,
    max_size=8,
)


@given(SPANS)
def test_mime_parser_finds_the_parts(spans: list[Span]) -> None:
    several = multipart(spans, 8000, "application/x-own", "0123456789abcdef")
    assert several.size_bytes == len(sent(several))
    assert parse(several) == [
        (
            {
                "content-type": "application/x-own",
                "content-range": f"bytes {span.start}-{span.end - 1}/8000",
            },
            OBJECT[span.start : span.end],
        )
        for span in spans
    ]

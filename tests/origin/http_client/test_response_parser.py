"""Responses of origins: heads, framing, and bodies in chunks, whatever the bytes are."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamedge.origin.http_client.response_parser import (
    HEAD_MAX_BYTES,
    ChunkedBody,
    Framing,
    ResponseError,
    parse_head,
)

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_head_is_parsed_with_fields_in_order() -> None:
    head = parse_head(
        b"HTTP/1.1 206 Part of\xe9\r\nX-A:  b \t\r\nx-a: \xe9\r\nEmpty:\r\n\r\n", "GET"
    )
    assert (head.status, head.reason, head.http_version) == (206, "Part of\xe9", "1.1")
    assert head.fields == [("X-A", "b"), ("x-a", "\xe9"), ("Empty", "")]
    assert not head.is_interim


@pytest.mark.parametrize(
    ("method", "head", "framing", "size_bytes"),
    [
        ("GET", b"200 OK\r\nContent-Length: 7\r\n", Framing.LENGTH, 7),
        ("HEAD", b"200 OK\r\nContent-Length: 7\r\n", Framing.LENGTH, 0),
        ("GET", b"204 No\r\nContent-Length: 7\r\n", Framing.LENGTH, 0),
        ("GET", b"304 No\r\nTransfer-Encoding: chunked\r\n", Framing.LENGTH, 0),
        ("GET", b"103 Hints\r\n", Framing.LENGTH, 0),
        ("GET", b"200 OK\r\nTransfer-Encoding: Chunked\r\n", Framing.CHUNKED, None),
        ("GET", b"200\r\n", Framing.CLOSE, None),
        ("GET", b"101 Go\r\nUpgrade: x\r\nConnection: upgrade\r\n", Framing.SWITCHED, None),
    ],
)
def test_framing_follows_from_method_status_and_fields(
    method: str, head: bytes, framing: Framing, size_bytes: int | None
) -> None:
    parsed = parse_head(b"HTTP/1.1 " + head + b"\r\n", method)
    assert (parsed.framing, parsed.size_bytes) == (framing, size_bytes)


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive, CLOSE\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: closed\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
def test_connection_closes_after_a_response_with_close_or_http_1_0(
    head: bytes, closes: bool
) -> None:
    assert parse_head(head, "GET").closes == closes


def test_folded_lines_and_lines_that_end_with_lf_are_read() -> None:
    folded = parse_head(b"HTTP/1.1 200 OK\r\nA: b\r\n \t c\r\nContent-Length: 1\r\n\r\n", "GET")
    assert folded.fields == [("A", "b c"), ("Content-Length", "1")]
    assert parse_head(b"HTTP/1.1 200 OK\nA: b\n\n", "GET").fields == [("A", "b")]


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n A: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/0.9 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
    ],
)
def test_ambiguous_or_malformed_head_is_refused(head: bytes) -> None:
    with pytest.raises(ResponseError):
        parse_head(head, "GET")


@given(st.binary(max_size=300))
@example(b"HTTP/1.1 200 OK\r\n\n")
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    for head in (data, b"HTTP/1.1 200 OK\r\n" + data + b"\r\n\r\n"):
        try:
            parsed = parse_head(head, "GET")
        except ResponseError:
            continue
        for name, value in parsed.fields:
            assert name
            assert not {"\r", "\n", "\0"} & {*name, *value}


def encode(chunks: list[bytes], trailers: bytes = b"") -> bytes:
    parts = [b"%x;a=b\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks]
    return b"".join(parts) + b"0\r\n" + trailers + b"\r\n"


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    st.lists(st.integers(1, 60), max_size=20),
    st.booleans(),
)
def test_chunks_are_decoded_however_they_are_received(
    chunks: list[bytes], steps: list[int], has_trailers: bool
) -> None:
    data = encode(chunks, b"X-Sum: 1\r\nX-Sum:  2 \r\n" if has_trailers else b"")
    body, received = ChunkedBody(), b""
    for step in [*steps, len(data)]:
        if data:
            body.feed(data[:step])
            data = data[step:]
            received += b"".join(body.pieces)
            body.pieces.clear()
    assert received == b"".join(chunks)
    assert body.is_complete
    assert not body.has_more
    assert body.trailers == ([("X-Sum", "1"), ("X-Sum", "2")] if has_trailers else [])


FRAMING_TRAILERS = [
    ("Content-Length", "1"),
    ("Transfer-Encoding", "gzip"),
    ("Transfer-Encoding", "chunked"),
    ("Connection", "close"),
    ("Connection", "upgrade"),
    ("Upgrade", "x"),
]


@pytest.mark.parametrize("count", range(1, len(FRAMING_TRAILERS) + 1))
def test_trailer_fields_do_not_change_the_framing(count: int) -> None:
    trailers = FRAMING_TRAILERS[:count]
    lines = "".join(f"{name}: {value}\r\n" for name, value in trailers).encode()
    body = ChunkedBody()
    body.feed(encode([b"abc"], lines))
    assert body.is_complete
    assert not body.has_more
    assert body.pieces == [b"abc"]
    assert body.trailers == trailers
    body.feed(b"HTTP/1.1 200 OK\r\n")
    assert body.has_more


@given(st.binary(max_size=200))
@example(b"3 \r\nabc\r\n0\r\n\r\n")
@example(b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
@example(b"-1\r\n\r\n")
@example(b"1\r\na0\r\n\r\n")
def test_no_other_bytes_are_decoded_than_by_h11(data: bytes) -> None:
    """Where both accept a body, they agree on it; h11 is stricter about extensions."""
    body = ChunkedBody()
    try:
        body.feed(data)
    except ResponseError:
        return
    oracle = h11.Connection(h11.CLIENT)
    oracle.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    oracle.send(h11.EndOfMessage())
    oracle.receive_data(CHUNKED_HEAD + data)
    expected = b""
    try:
        while not isinstance(event := oracle.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
            if event is h11.NEED_DATA or event is h11.PAUSED:
                break
            if isinstance(event, h11.Data):
                expected += event.data
    except h11.RemoteProtocolError:
        return
    assert b"".join(body.pieces) == expected


@pytest.mark.parametrize("behind", [b"!", b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 100_000])
def test_bytes_behind_a_body_are_noticed(behind: bytes) -> None:
    for data in ([encode([b"abc"]) + behind], [encode([b"abc"]), behind]):
        body = ChunkedBody()
        for piece in data:
            body.feed(piece)
        assert body.pieces == [b"abc"]
        assert body.is_complete
        assert body.has_more


@pytest.mark.parametrize(
    "endless",
    [
        b"3;" + b"x" * 2 * HEAD_MAX_BYTES,
        b"0\r\nX: " + b"x" * 2 * HEAD_MAX_BYTES,
        b"0\r\n" + b"X: y\r\n" * HEAD_MAX_BYTES,
        b"0" * 2 * HEAD_MAX_BYTES,
    ],
)
@pytest.mark.parametrize("step", [1000, 1 << 20])
def test_endless_chunk_line_or_trailer_section_is_refused(endless: bytes, step: int) -> None:
    body = ChunkedBody()

    def feed() -> None:
        for start in range(0, len(endless), step):
            body.feed(endless[start : start + step])

    with pytest.raises(ResponseError):
        feed()

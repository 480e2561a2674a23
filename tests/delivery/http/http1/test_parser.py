"""The request parser: any bytes in any pieces."""

from __future__ import annotations

from http import HTTPStatus
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.http.http1.parser import RequestHead, RequestParser
from streamedge.delivery.http.http1.states import Cause, Input
from streamedge.delivery.http.request.request import HEAD_BYTES_MAX, HEAD_MEMBERS_MAX

GET = b"GET /a HTTP/1.1\r\nHost: edge\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: edge\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"PUT /c HTTP/1.1\r\nHost: edge\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;x=y\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"
)
H2C = b"GET /d HTTP/1.1\r\nHost: edge\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
H2C_POST = (
    b"POST /e HTTP/1.1\r\nHost: edge\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n"
    b"Content-Length: 2\r\n\r\nhi"
)
WEBSOCKET = b"GET /w HTTP/1.1\r\nHost: edge\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Requests:
    """Receives what a parser calls, as text and bytes that do not depend on the pieces."""

    def __init__(self) -> None:
        self.heads: list[RequestHead] = []
        self.bodies: list[bytes] = []
        self.complete = 0
        self.refusals: list[HTTPStatus] = []

    def head_received(self, head: RequestHead) -> None:
        self.heads.append(head)
        self.bodies.append(b"")

    def body_received(self, data: bytes) -> None:
        self.bodies[-1] += data

    def request_received(self) -> None:
        self.complete += 1

    def input_refused(self, status: HTTPStatus) -> None:
        self.refusals.append(status)


def parse(*pieces: bytes) -> tuple[Requests, RequestParser]:
    requests = Requests()
    parser = RequestParser(requests)
    for piece in pieces:
        rest = parser.feed(piece)
        while rest and parser.state is not Input.WAITING:
            rest = parser.feed(rest)
    return requests, parser


@given(
    st.lists(st.sampled_from([GET, POST, CHUNKED, H2C, H2C_POST]), min_size=1, max_size=4),
    st.lists(st.integers(1, 400), max_size=8),
)
def test_requests_are_the_same_in_any_pieces(raw: list[bytes], cuts: list[int]) -> None:
    data = b"".join(raw)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in pairwise(places)]
    whole, _parser = parse(data)
    cut, parser = parse(*pieces)
    assert whole.complete == cut.complete == len(raw)
    assert (cut.heads, cut.bodies) == (whole.heads, whole.bodies)
    assert cut.refusals == []
    assert parser.state is Input.BETWEEN


@given(st.lists(st.binary(max_size=60) | st.sampled_from([GET, POST, CHUNKED, b"\r\n", b": "])))
def test_any_bytes_are_requests_or_one_refusal(pieces: list[bytes]) -> None:
    requests, parser = parse(*pieces)
    assert len(requests.refusals) == (parser.state is Input.REFUSED)
    assert requests.complete <= len(requests.heads)


def test_trailers_are_not_header_fields() -> None:
    requests, _parser = parse(CHUNKED)
    (head,) = requests.heads
    assert head.raw_trailers == [(b"x-sum", b"1")]
    assert (b"x-sum", b"1") not in head.fields
    assert requests.bodies == [b"abc"]


def test_bytes_behind_a_websocket_request_wait_for_the_origin() -> None:
    requests = Requests()
    parser = RequestParser(requests)
    assert parser.feed(WEBSOCKET + b"early") == b"early"
    assert parser.state is Input.WAITING
    parser.become(Cause.UPGRADE_DECLINED)
    assert parser.feed(GET) == b""
    assert [head.target for head in requests.heads] == [b"/w", b"/a"]


def test_bytes_behind_a_refusal_are_ignored() -> None:
    requests, parser = parse(b"not HTTP\r\n\r\n", GET)
    assert requests.refusals == [HTTPStatus.BAD_REQUEST]
    assert requests.heads == []
    assert parser.state is Input.REFUSED


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/2.0\r\nHost: edge\r\n\r\n", HTTPStatus.HTTP_VERSION_NOT_SUPPORTED),
        (b"CONNECT edge:80 HTTP/1.1\r\nHost: edge\r\n\r\n", HTTPStatus.BAD_REQUEST),
        (b"GET * HTTP/1.1\r\nHost: edge\r\n\r\n", HTTPStatus.BAD_REQUEST),
        (
            b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            HTTPStatus.BAD_REQUEST,
        ),
        (
            b"GET / HTTP/1.1\r\nX: " + b"a" * HEAD_BYTES_MAX + b"\r\n\r\n",
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        ),
        (b"GET /" + b"a" * HEAD_BYTES_MAX, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
        (
            b"GET / HTTP/1.1\r\nX: " + b",;" * (HEAD_MEMBERS_MAX // 2) + b"\r\n\r\n",
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        ),
        (
            b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * (HEAD_MEMBERS_MAX + 1) + b"\r\n",
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        ),
    ],
)
def test_bad_head_is_refused_with_its_status(raw: bytes, status: HTTPStatus) -> None:
    requests, _parser = parse(raw)
    assert requests.refusals == [status]
    assert requests.heads == []


def test_head_with_as_many_members_as_are_allowed_is_accepted() -> None:
    raw = b"GET / HTTP/1.1\r\nX: 1\r\nY: " + b"," * (HEAD_MEMBERS_MAX - 2) + b"\r\n\r\n"
    requests, _parser = parse(raw)
    assert len(requests.heads) == 1
    assert requests.refusals == []


def test_requests_that_came_alone_and_whole_are_recognized() -> None:
    assert parse(GET)[1].has_parsed_one
    assert not parse(GET + GET)[1].has_parsed_one
    assert not parse(GET[:5])[1].has_parsed_one

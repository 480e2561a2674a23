from __future__ import annotations

import pytest

from bench.loads.request_load import complete
from bench.servers.server import BenchError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"


@pytest.mark.parametrize("received", [b"", HEAD[:5], HEAD[:-1], HEAD, HEAD + b"abc"])
def test_part_of_a_response_is_incomplete(received: bytes) -> None:
    assert not complete(received, 200, 4)


def test_response_with_all_of_its_body_is_complete() -> None:
    assert complete(HEAD + b"abcd", 200, 4)


def test_response_to_head_is_complete_without_a_body() -> None:
    assert complete(HEAD, 200, 0)


@pytest.mark.parametrize(
    ("received", "status"), [(HEAD + b"abcd", 404), (HEAD + b"abcde", 200), (b"\r\n\r\n", 200)]
)
def test_other_response_is_an_error(received: bytes, status: int) -> None:
    with pytest.raises(BenchError):
        complete(received, status, 4)

"""Requests by their bytes: an entry matches with other range positions, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.http.fast_path.request_memo import (
    REQUEST_BYTES_MAX,
    BytesMemo,
    plain_range,
)
from streamedge.memo import MemoryBudget

BEGIN = b"GET /film.mp4 HTTP/1.1\r\nHost: edge\r\n"
END = b"\r\nAccept: */*\r\n\r\n"


def ranged_get(numbers: bytes, name: bytes = b"Range") -> bytes:
    return BEGIN + name + b": bytes=" + numbers + END


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"bytes=0-0", (b"0", b"0")),
        (b"bytes=7-", (b"7", b"")),
        (b"bytes=007-9", (b"007", b"9")),
        (b"bytes=" + b"9" * 18 + b"-" + b"9" * 18, (b"9" * 18, b"9" * 18)),
        (b"bytes=" + b"9" * 19 + b"-" + b"9" * 18, None),
        (b"bytes=-5", None),
        (b"bytes=5", None),
        (b"bytes=", None),
        (b"bytes=1-2,4-5", None),
        (b"bytes=1-2-3", None),
        (b"bytes= 1-2", None),
        (b"bytes=1-2 ", None),
        (b"bytes=+1-2", None),
        (b"bytes=1_0-2_0", None),
        (b"bytes=\xb2-\xb3", None),
        (b"Bytes=1-2", None),
        (b"lines=1-2", None),
    ],
)
def test_plain_range_is_recognized(value: bytes, expected: tuple[bytes, bytes] | None) -> None:
    assert plain_range(value) == expected


@pytest.mark.parametrize("name", [b"Range", b"range"])
def test_remembered_request_matches_every_range(name: bytes) -> None:
    memo: BytesMemo[str] = BytesMemo(MemoryBudget(1 << 20))
    memo.put(ranged_get(b"0-9", name), "film", (b"0", b"9"), 100)
    assert memo.get(ranged_get(b"0-9", name)) == ("film", (b"0", b"9"))
    assert memo.get(ranged_get(b"1000-", name)) == ("film", (b"1000", b""))
    for other in (b"-5", b"5", b"1-2,4-5", b""):
        assert memo.get(ranged_get(other, name)) is None


def test_request_without_a_range_has_its_own_entry() -> None:
    memo: BytesMemo[str] = BytesMemo(MemoryBudget(1 << 20))
    memo.put(BEGIN + b"\r\n", "whole", None, 100)
    assert memo.get(BEGIN + b"\r\n") == ("whole", None)
    assert memo.get(ranged_get(b"0-9")) is None
    memo.forget()
    assert memo.get(BEGIN + b"\r\n") is None


@pytest.mark.parametrize(
    "name", [b"RANGE", b"X-Range", b"Orange", b"Range: bytes=0-9\r\nX-Range", b"X: Range"]
)
def test_numbers_outside_of_the_range_must_match(name: bytes) -> None:
    """Each of these was parsed as "Range: bytes=0-9"; only its exact bytes match."""
    memo: BytesMemo[str] = BytesMemo(MemoryBudget(1 << 20))
    memo.put(ranged_get(b"0-9", name), "film", (b"0", b"9"), 100)
    assert memo.get(ranged_get(b"5-6", name)) is None


def test_only_the_first_range_line_may_vary() -> None:
    """With two lines that look like a range, only the numbers of the first may differ."""
    first = BEGIN + b"X-Range: bytes=0-9\r\nRange: bytes=0-9" + END
    memo: BytesMemo[str] = BytesMemo(MemoryBudget(1 << 20))
    memo.put(first, "film", (b"0", b"9"), 100)
    assert memo.get(first.replace(b"X-Range: bytes=0-9", b"X-Range: bytes=5-6")) is None


def test_only_a_complete_request_is_remembered() -> None:
    memo: BytesMemo[str] = BytesMemo(MemoryBudget(1 << 20))
    for data in (BEGIN, ranged_get(b"0-9") + b"G", BEGIN + b"X: " + b"x" * REQUEST_BYTES_MAX + END):
        memo.put(data, "film", None, 100)
        memo.put(data, "film", (b"0", b"9"), 100)
        assert memo.get(data) is None


def test_request_memo_is_bounded_in_bytes() -> None:
    budget = MemoryBudget(100_000)
    memo: BytesMemo[int] = BytesMemo(budget)
    for number in range(1000):
        memo.put(b"GET /%d HTTP/1.1\r\n\r\n" % number, number, None, 2000)
        assert budget.used_bytes <= 100_000
    assert memo.get(b"GET /0 HTTP/1.1\r\n\r\n") is None
    assert memo.get(b"GET /999 HTTP/1.1\r\n\r\n") == (999, None)


LINES = st.lists(
    st.sampled_from(
        [b"Range: bytes=", b"range: bytes=", b"X-Range: bytes=", b"\r\n", b"1-2", b"5-"]
    )
    | st.binary(max_size=6)
).map(b"".join)


@given(LINES, LINES)
def test_match_differs_from_the_parsed_request_only_in_the_range(
    parsed: bytes, data: bytes
) -> None:
    memo: BytesMemo[str] = BytesMemo(MemoryBudget(1 << 20))
    memo.put(parsed + b"\r\n\r\n", "film", (b"1", b"2"), 100)
    entry = memo.get(data)
    if entry is not None:
        _meaning, expected = entry
        assert expected is not None
        assert data.replace(b"-".join(expected), b"1-2", 1) == parsed + b"\r\n\r\n"

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.http_fields import (
    HOP_BY_HOP,
    ContentRange,
    connection_options,
    parse_connection,
    parse_content_range,
    parse_number,
)
from streamedge.spans import Span


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("bytes 0-0/1", ContentRange(Span(0, 1), 1)),
        ("bytes 5-9/10", ContentRange(Span(5, 10), 10)),
        ("BYTES 5-9/10", ContentRange(Span(5, 10), 10)),
        (" \tbytes 5-9/10\t ", ContentRange(Span(5, 10), 10)),
        ("bytes 5-9/*", ContentRange(Span(5, 10), None)),
    ],
)
def test_content_range_gives_the_part_and_the_size_of_the_whole(
    value: str, part: ContentRange
) -> None:
    assert parse_content_range(value) == part


@pytest.mark.parametrize(
    "value",
    [
        *("", "bytes", "bytes */10", "bytes 5-9", "bytes 5-9/", "bytes=5-9/10", "bytes 5-9/10/"),
        *("bytes 9-5/10", "bytes 5-10/10", "bytes 9-5/*", "bytes -5/10", "bytes 5-/10"),
        *("items 5-9/10", "bytes  5-9/10", "bytes 5-9/1e1", "bytes +5-9/10", "bytes 5-9/10, x"),
        *("bytes ٥-9/10", "\xa0bytes 5-9/10", "bytes 5-9/10\x0b", "bytes 5-9/10\n"),
        f"bytes 0-9/{10**18}",
    ],
)
def test_malformed_content_range_gives_none(value: str) -> None:
    assert parse_content_range(value) is None


@given(st.integers(0, 10**17), st.integers(1, 10**17), st.none() | st.integers(0, 10**17))
def test_written_content_range_is_read_back(start: int, size: int, behind: int | None) -> None:
    end = start + size
    whole = None if behind is None else end + behind
    value = f"bytes {start}-{end - 1}/{'*' if whole is None else whole}"
    assert parse_content_range(value) == ContentRange(Span(start, end), whole)


@given(st.text(st.sampled_from("bytes 0123456789-/*\t"), max_size=30) | st.text(max_size=30))
def test_any_text_gives_none_or_a_part_within_the_whole(value: str) -> None:
    part = parse_content_range(value)
    assert part is None or 0 <= part.span.start < part.span.end
    assert part is None or part.size_bytes is None or part.span.end <= part.size_bytes


def test_connection_gives_its_options_in_lower_case() -> None:
    assert parse_connection("Close, X-One ,\tx-two") == {"close", "x-one", "x-two"}


def test_hop_by_hop_fields_are_those_of_the_standards() -> None:
    rfc_9110_7_6_1 = {"proxy-connection", "keep-alive", "te", "transfer-encoding", "upgrade"}
    rfc_9111_3_1 = {"proxy-authenticate", "proxy-authentication-info", "proxy-authorization"}
    assert rfc_9110_7_6_1 | rfc_9111_3_1 | {"connection", "trailer"} <= HOP_BY_HOP


def test_connection_options_of_several_fields_are_joined() -> None:
    fields = [("connection", "Close"), ("X-One", "1"), ("Connection", "x-one")]
    assert connection_options(fields) == {"close", "x-one"}
    assert connection_options([]) == frozenset()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("007", 7),
        ("9" * 18, 10**18 - 1),
        ("9" * 19, None),
        ("", None),
        ("+1", None),
        ("-1", None),
        ("1_0", None),
        (" 1", None),
        ("1.0", None),
        ("٣", None),
        ("²", None),
    ],
)
def test_number_has_ascii_digits_only(text: str, number: int | None) -> None:
    assert parse_number(text) == number


def test_number_has_at_most_the_given_digits() -> None:
    assert parse_number("999", 3) == 999
    assert parse_number("1000", 3) is None

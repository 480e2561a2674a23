"""Sizes, durations, addresses and paths: parsing, formatting and errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamedge.config.schema.units import (
    DURATION_LIMIT_S,
    SIZE_LIMIT_BYTES,
    format_address,
    format_duration_s,
    format_size_bytes,
    parse_address,
    parse_duration_s,
    parse_path,
    parse_size_bytes,
)

NAN, INF = float("nan"), float("inf")

# Everything that TOML can hold (TOML 1.0), dates apart.
toml_values = st.recursive(
    st.text() | st.integers() | st.floats() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("20GiB", 20 * 2**30),
        ("500MB", 500 * 10**6),
        ("64KiB", 65_536),
        ("3kB", 3_000),
        ("3KB", 3_000),
        ("7B", 7),
        ("1 MiB", 2**20),
        ("1PiB", 2**50),
        (0, 0),
        (1_048_576, 2**20),
    ],
)
def test_size_is_parsed(text: object, size_bytes: int) -> None:
    assert parse_size_bytes(text) == size_bytes


@pytest.mark.parametrize(
    "value",
    ["", "20", "20 gib", "GiB", "1.5GiB", "-1B", "20GiBs", "٣GiB", True, 1.0, None, [], -1, "2PiB"],
)
def test_invalid_size_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ValueError, match=r"^expected a size (such as \"20GiB\"|from 0 to 1PiB)"):
        parse_size_bytes(value)


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [
        ("24h", 86_400.0),
        ("90s", 90.0),
        ("250ms", 0.25),
        ("1d", 86_400.0),
        ("1.5m", 90.0),
        ("0.1s", 0.1),
        (5, 5.0),
        (0.5, 0.5),
        (0, 0.0),
    ],
)
def test_duration_is_parsed(text: object, duration_s: float) -> None:
    assert parse_duration_s(text) == duration_s


@pytest.mark.parametrize(
    "value",
    ["", "24", "h", "-1s", "1 fortnight", "1e3s", "40000d", True, [], -1, 10**400, NAN, -NAN, INF],
    ids=lambda value: str(value)[:12],
)
def test_invalid_duration_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ValueError, match=r"^expected a duration (such as \"24h\"|from 0 to )"):
        parse_duration_s(value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("[::1]:8080", ("::1", 8080)),
        ("[0:0:0:0:0:0:0:1]:80", ("::1", 80)),
        (":8080", ("0.0.0.0", 8080)),
        ("localhost:0", ("localhost", 0)),
        ("Edge-1.example.com:65535", ("edge-1.example.com", 65_535)),
        (("127.0.0.1", 80), ("127.0.0.1", 80)),
    ],
)
def test_address_is_parsed(text: object, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "value",
    [
        "",
        "8080",
        "127.0.0.1",
        "::1:8080",
        "[::1]",
        "[127.0.0.1]:80",
        "1.2.3:80",
        "256.0.0.1:80",
        "a..b:80",
        "host:65536",
        "host:-1",
        "http://host:80",
        8080,
        True,
        None,
        ["127.0.0.1:80"],
    ],
)
def test_invalid_address_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ValueError, match=r"^expected (an address such as \"127|a port from 0)"):
        parse_address(value)


@pytest.mark.parametrize("value", ["", "a\0b", 1, None, []])
def test_invalid_path_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ValueError, match=r"^expected a path such as \"var/cache\", found "):
        parse_path(value)


def test_path_is_parsed() -> None:
    assert parse_path("var/cache") == parse_path(Path("var/cache")) == Path("var/cache")


@given(st.integers(0, SIZE_LIMIT_BYTES))
def test_size_survives_formatting_and_parsing(size_bytes: int) -> None:
    assert parse_size_bytes(format_size_bytes(size_bytes)) == size_bytes


@given(st.integers(0, DURATION_LIMIT_S * 1000))
def test_duration_of_whole_milliseconds_survives_formatting_and_parsing(duration_ms: int) -> None:
    duration_s = duration_ms / 1000
    assert parse_duration_s(format_duration_s(duration_s)) == duration_s


@given(st.ip_addresses(), st.integers(0, 65_535))
def test_address_survives_formatting_and_parsing(host: object, port: int) -> None:
    address = (str(host), port)
    assert parse_address(format_address(address)) == address


@given(toml_values)
@example("\U0001d54b" * 48)
def test_any_value_is_parsed_or_refused_with_a_message(value: object) -> None:
    for parse in (parse_size_bytes, parse_duration_s, parse_address, parse_path):
        try:
            parse(value)
        except ValueError as exc:
            message = str(exc)
            assert message.startswith("expected ")
            assert len(message) < 500
            assert message.isprintable()


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (86_400.0, "24h"),
        (172_800.0, "2d"),
        (3_600.0, "1h"),
        (60.0, "1m"),
        (90.0, "90s"),
        (0.25, "250ms"),
        (0.0, "0s"),
        (1.5, "1500ms"),
    ],
)
def test_duration_is_formatted_in_its_largest_whole_unit(duration_s: float, text: str) -> None:
    assert format_duration_s(duration_s) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(20 << 30, "20GiB"), (65_536, "64KiB"), (500_000_000, "500MB"), (0, "0B")],
)
def test_size_is_formatted_in_its_shortest_form(size_bytes: int, text: str) -> None:
    assert format_size_bytes(size_bytes) == text

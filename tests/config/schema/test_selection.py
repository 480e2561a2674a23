"""Selections and tables of headers: parsing, formatting, and errors without secrets."""

from __future__ import annotations

import tomllib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.config.schema.selection import (
    SELECT_ALL,
    SELECT_NONE,
    Selection,
    SelectionMode,
    format_header_selection,
    format_selection,
    parse_failover,
    parse_header_selection,
    parse_headers,
    parse_secret_headers,
    parse_selection,
)

SECRET = "hunter2-wJalrXUtnFEMI"
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just(SECRET),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["only", "except", "X-A", "Host", "a b"]), inner)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("value", "selection"),
    [
        ("none", SELECT_NONE),
        ("all", SELECT_ALL),
        ({"only": ["a", "b"]}, Selection(SelectionMode.ONLY, ("a", "b"))),
        ({"except": ["a"]}, Selection(SelectionMode.EXCEPT, ("a",))),
        (SELECT_ALL, SELECT_ALL),
    ],
)
def test_selection_survives_parsing_and_formatting(value: object, selection: Selection) -> None:
    assert parse_selection(value) == selection
    written = tomllib.loads(f"value = {format_selection(selection)}")["value"]
    assert parse_selection(written) == selection


def test_list_of_headers_is_a_selection() -> None:
    selection = parse_header_selection(["Accept"])
    assert selection == Selection(SelectionMode.ONLY, ("Accept",))
    assert format_header_selection(selection) == '["Accept"]'
    assert parse_header_selection({"except": ["A"]}) == Selection(SelectionMode.EXCEPT, ("A",))


@pytest.mark.parametrize(
    "value",
    ["some", [], 1, {}, {"only": []}, {"only": "a"}, {"only": [1]}, {"only": ["a"], "except": []}],
)
def test_invalid_selection_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_selection(value)


@pytest.mark.parametrize("value", [[""], ["a b"], ["a:"], {"only": ["a"]}, {"except": ["a\r\nb"]}])
def test_invalid_header_name_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_header_selection(value)


@pytest.mark.parametrize(
    "table",
    [
        {"X-A": f"{SECRET}\r\nX-B: c"},
        {"X-A": f" {SECRET}"},
        {"X-A": [SECRET]},
        {"X-A": SECRET * 1000},
        {"Host": SECRET},
        {"content-LENGTH": SECRET},
        {"x a": SECRET},
        {"X-A": SECRET, "x-a": SECRET},
        {f"X-{number}": SECRET for number in range(65)},
        SECRET,
    ],
)
def test_invalid_headers_are_refused_without_showing_their_value(table: object) -> None:
    for parse in (parse_headers, parse_secret_headers):
        with pytest.raises(ValueError, match=r"expected|own|twice") as caught:
            parse(table)
        assert SECRET not in str(caught.value)


def test_secret_headers_show_only_their_names() -> None:
    headers = parse_secret_headers({"X-A": SECRET})
    assert headers["X-A"].get_secret_value() == SECRET
    assert SECRET not in repr(headers)
    assert parse_secret_headers(headers) == headers


@pytest.mark.parametrize("value", [400, 599, "connect", "timeout"])
def test_failover_accepts_statuses_connect_and_timeout(value: object) -> None:
    assert parse_failover(value) == value


@pytest.mark.parametrize("value", [399, 600, True, "refused", 500.0, [500]])
def test_failover_refuses_other_values(value: object) -> None:
    with pytest.raises(ValueError, match="status"):
        parse_failover(value)


@given(anything)
def test_any_value_is_parsed_or_refused(value: object) -> None:
    for parse in (
        parse_selection,
        parse_header_selection,
        parse_headers,
        parse_secret_headers,
        parse_failover,
    ):
        with suppress(ValueError):
            parse(value)

"""Validation and updates of stored responses: RFC 9111 §3.2 and §4.3."""

from __future__ import annotations

import pytest

from streamedge.cache.rfc9111.validation import (
    conditional_fields,
    head_contradicts,
    head_freshens,
    is_selected,
    updated_fields,
)

MODIFIED = "Sun, 06 Nov 1994 08:49:37 GMT"
MODIFIED_OTHERWISE_SPELT = "Sunday, 06-Nov-94 08:49:37 GMT"
LATER = "Sun, 06 Nov 1994 08:49:38 GMT"


def test_both_validators_are_sent() -> None:
    stored = {"etag": 'W/"a"', "last-modified": MODIFIED, "date": LATER}
    assert conditional_fields(stored) == {
        "if-none-match": 'W/"a"',
        "if-modified-since": MODIFIED,
    }
    assert conditional_fields({"etag": "", "date": LATER}) == {}


@pytest.mark.parametrize(
    ("stored", "fresh", "selected"),
    [
        ({"etag": '"a"'}, {"etag": '"a"'}, True),
        ({"etag": '"a"'}, {"etag": '"b"'}, False),
        ({"etag": '"a"'}, {"etag": 'W/"a"'}, True),
        ({"etag": 'W/"a"'}, {"etag": 'W/"a"'}, True),
        ({"etag": 'W/"a"'}, {"etag": '"a"'}, False),  # a strong validator needs a strong match
        ({"etag": '"a"', "last-modified": MODIFIED}, {"etag": '"a"', "last-modified": LATER}, True),
        (
            {"etag": '"a"', "last-modified": MODIFIED},
            {"etag": '"b"', "last-modified": LATER},
            False,
        ),
        ({"last-modified": MODIFIED}, {"last-modified": MODIFIED}, True),
        ({"last-modified": MODIFIED}, {"last-modified": MODIFIED_OTHERWISE_SPELT}, True),
        ({"last-modified": MODIFIED}, {"last-modified": LATER}, False),
        ({"last-modified": "foo"}, {"last-modified": "foo"}, True),
        ({"last-modified": MODIFIED}, {"etag": '"a"', "last-modified": MODIFIED}, True),
        ({"last-modified": MODIFIED}, {"etag": '"a"'}, False),
        ({"etag": '"a"'}, {"last-modified": MODIFIED}, False),
        ({"etag": '"a"'}, {}, True),
        ({}, {}, True),
    ],
)
def test_304_selects_the_stored_response_by_its_validators(
    stored: dict[str, str], fresh: dict[str, str], selected: bool
) -> None:
    assert is_selected(stored, fresh) is selected


def test_304_updates_all_fields_but_those_of_the_stored_bytes() -> None:
    stored = {
        "a": "1",
        "b": "1",
        "cache-control": "max-age=1",
        "content-encoding": "gzip",
        "content-length": "36",
        "content-range": "bytes 0-9/10",
        "content-type": "text/plain",
        "etag": '"a"',
        "date": MODIFIED,
        "set-cookie": "a=1",
    }
    fresh = {
        "b": "2",
        "c": "2",
        "cache-control": "max-age=3600",
        "connection": "d",
        "content-encoding": "br",
        "content-length": "10",
        "content-range": "bytes 1-9/10",
        "content-type": "text/html",
        "d": "2",
        "date": LATER,
        "etag": 'W/"a"',
        "keep-alive": "x",
        "proxy-authorization": "x",
        "set-cookie": "a=2\nb=2",
        "transfer-encoding": "chunked",
    }
    assert updated_fields(stored, fresh) == stored | {
        "b": "2",
        "c": "2",
        "cache-control": "max-age=3600",
        "content-type": "text/html",
        "date": LATER,
        "set-cookie": "a=2\nb=2",
    }


def test_connection_fields_of_a_304_remove_no_stored_field() -> None:
    assert updated_fields({"a": "1"}, {"connection": "a", "a": "2"}) == {"a": "1"}


def test_validation_removes_the_old_age_and_date() -> None:
    assert updated_fields({"age": "50", "date": MODIFIED, "a": "1"}, {}) == {"a": "1"}


def test_fields_listed_by_no_cache_are_not_stored_from_a_304_either() -> None:
    stored = {"cache-control": 'no-cache="a"'}
    assert updated_fields(stored, {"a": "2", "b": "2"}) == stored | {"b": "2"}


@pytest.mark.parametrize(
    ("head", "freshens", "contradicts"),
    [
        ({}, False, False),
        ({"content-length": "36"}, False, False),
        ({"etag": '"a"', "last-modified": MODIFIED, "content-length": "36"}, True, False),
        ({"etag": '"a"'}, True, False),
        ({"last-modified": MODIFIED_OTHERWISE_SPELT}, True, False),
        ({"etag": '"b"'}, False, True),
        ({"etag": 'W/"a"'}, False, True),
        ({"last-modified": LATER}, False, True),
        ({"content-length": "35"}, False, True),
        ({"etag": '"a"', "content-length": "35"}, False, True),
    ],
)
def test_head_freshens_or_contradicts_a_stored_get(
    head: dict[str, str], freshens: bool, contradicts: bool
) -> None:
    stored = {"etag": '"a"', "last-modified": MODIFIED, "content-length": "36"}
    assert head_freshens(stored, head) is freshens
    assert head_contradicts(stored, head) is contradicts


@pytest.mark.parametrize("name", ["etag", "last-modified", "content-length"])
def test_head_with_a_validator_that_the_stored_get_lacks_contradicts_it(name: str) -> None:
    assert head_contradicts({}, {name: "1"})

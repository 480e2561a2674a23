"""Preconditions: RFC 9110 §13.1 and their order, §13.2.2."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.http.response.conditions import Condition, evaluate, range_applies
from streamedge.origin import Version

# The date of the examples of RFC 9110 §5.6.7.
MODIFIED_S = 784_111_777
MODIFIED = "Sun, 06 Nov 1994 08:49:37 GMT"
BEFORE = "Sun, 06 Nov 1994 08:49:36 GMT"
AFTER = "Sun, 06 Nov 1994 08:49:38 GMT"
STRONG = Version('"xyzzy"', 1000, MODIFIED_S)
WEAK = Version('W/"xyzzy"', 1000, MODIFIED_S)
BARE = Version("", 1000, None)

HOLDS, NOT_MODIFIED, FAILED = Condition.HOLDS, Condition.NOT_MODIFIED, Condition.FAILED


@pytest.mark.parametrize(
    ("headers", "version", "condition"),
    [
        ({}, STRONG, HOLDS),
        # If-Match: strong comparison (§13.1.1)
        ({"if-match": '"xyzzy"'}, STRONG, HOLDS),
        ({"if-match": '"other", "xyzzy"'}, STRONG, HOLDS),
        ({"if-match": '"other"'}, STRONG, FAILED),
        ({"if-match": 'W/"xyzzy"'}, STRONG, FAILED),
        ({"if-match": 'W/"xyzzy"'}, WEAK, FAILED),
        ({"if-match": "*"}, WEAK, HOLDS),
        ({"if-match": "*"}, BARE, HOLDS),
        ({"if-match": '"xyzzy"'}, BARE, FAILED),
        ({"if-match": ""}, BARE, FAILED),
        # If-None-Match: weak comparison (§13.1.2)
        ({"if-none-match": '"xyzzy"'}, STRONG, NOT_MODIFIED),
        ({"if-none-match": 'W/"xyzzy"'}, STRONG, NOT_MODIFIED),
        ({"if-none-match": '"xyzzy"'}, WEAK, NOT_MODIFIED),
        ({"if-none-match": '"r2d2", "xyzzy", "c3po"'}, STRONG, NOT_MODIFIED),
        ({"if-none-match": '"r2d2xxxx","c3piozzzz"'}, STRONG, HOLDS),
        ({"if-none-match": '"a,\\"xyzzy"'}, STRONG, HOLDS),
        ({"if-none-match": "xyzzy"}, STRONG, HOLDS),
        ({"if-none-match": '"xyz'}, STRONG, HOLDS),
        ({"if-none-match": "*"}, BARE, NOT_MODIFIED),
        ({"if-none-match": '""'}, BARE, HOLDS),
        # dates (§13.1.3, §13.1.4)
        ({"if-modified-since": MODIFIED}, STRONG, NOT_MODIFIED),
        ({"if-modified-since": AFTER}, STRONG, NOT_MODIFIED),
        ({"if-modified-since": BEFORE}, STRONG, HOLDS),
        ({"if-modified-since": "yesterday"}, STRONG, HOLDS),
        ({"if-modified-since": AFTER}, BARE, HOLDS),
        ({"if-unmodified-since": MODIFIED}, STRONG, HOLDS),
        ({"if-unmodified-since": AFTER}, STRONG, HOLDS),
        ({"if-unmodified-since": BEFORE}, STRONG, FAILED),
        ({"if-unmodified-since": "never"}, STRONG, HOLDS),
        ({"if-unmodified-since": BEFORE}, BARE, HOLDS),
        # the entity tag takes precedence over the date (§13.2.2)
        ({"if-none-match": '"other"', "if-modified-since": AFTER}, STRONG, HOLDS),
        ({"if-none-match": '"xyzzy"', "if-modified-since": BEFORE}, STRONG, NOT_MODIFIED),
        ({"if-match": '"xyzzy"', "if-unmodified-since": BEFORE}, STRONG, HOLDS),
        ({"if-match": '"other"', "if-none-match": '"xyzzy"'}, STRONG, FAILED),
        ({"if-match": '"xyzzy"', "if-none-match": '"xyzzy"'}, STRONG, NOT_MODIFIED),
    ],
)
def test_preconditions_are_evaluated_in_order(
    headers: dict[str, str], version: Version, condition: Condition
) -> None:
    assert evaluate(headers, version) is condition


@pytest.mark.parametrize(
    ("if_range", "version", "applies"),
    [
        (None, STRONG, True),
        ('"xyzzy"', STRONG, True),
        (' "xyzzy" ', STRONG, True),
        ('"other"', STRONG, False),
        ('W/"xyzzy"', STRONG, False),
        ('W/"xyzzy"', WEAK, False),
        ('"xyzzy"', WEAK, False),
        (MODIFIED, STRONG, True),
        (MODIFIED, WEAK, False),
        (AFTER, STRONG, False),
        (BEFORE, STRONG, False),
        (MODIFIED, BARE, False),
        ("", STRONG, False),
        ("nonsense", STRONG, False),
    ],
)
def test_if_range_decides_whether_the_range_applies(
    if_range: str | None, version: Version, applies: bool
) -> None:
    assert range_applies(if_range, version) is applies


@pytest.mark.parametrize(
    "date",
    [MODIFIED, "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"],
)
def test_three_date_formats_are_accepted(date: str) -> None:
    assert evaluate({"if-modified-since": date}, STRONG) is Condition.NOT_MODIFIED
    assert evaluate({"if-unmodified-since": date}, STRONG) is Condition.HOLDS
    assert range_applies(date, STRONG)


@given(
    st.dictionaries(
        st.sampled_from(
            ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range"]
        ),
        st.text(max_size=60) | st.from_regex(r'(W/)?"[a-z,"]{0,20}"?[, ]*', fullmatch=True),
    ),
    st.sampled_from([STRONG, WEAK, BARE]),
)
def test_any_header_value_gives_a_decision(headers: dict[str, str], version: Version) -> None:
    assert evaluate(headers, version) in Condition
    assert range_applies(headers.get("if-range"), version) in {True, False}

"""How often an address may try to log in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.admin.access.login_limit import (
    ADDRESSES_MAX,
    TRIES,
    WITHIN_S,
    LoginLimit,
    network_of,
)


def test_sixth_try_of_a_minute_waits() -> None:
    limit = LoginLimit()
    for second in range(TRIES):
        assert limit.wait_s("192.0.2.1", second) == 0
        limit.note("192.0.2.1", second)
    assert limit.wait_s("192.0.2.1", 10.0) == WITHIN_S - 10
    assert limit.wait_s("192.0.2.2", 10.0) == 0
    assert limit.wait_s("192.0.2.1", WITHIN_S) == 0


def test_right_password_does_not_count_and_wrong_ones_before_it_do() -> None:
    limit = LoginLimit()
    for _ in range(TRIES - 1):
        limit.note("192.0.2.1", 0.0)
    for _ in range(20):
        limit.note("192.0.2.1", 1.0)
        limit.forgive("192.0.2.1")
    assert limit.wait_s("192.0.2.1", 2.0) == 0
    limit.note("192.0.2.1", 2.0)
    assert limit.wait_s("192.0.2.1", 3.0) > 0


def test_addresses_are_bounded() -> None:
    limit = LoginLimit()
    for number in range(ADDRESSES_MAX + 10):
        limit.note(f"10.0.{number >> 8}.{number & 255}", 0.0)
    assert len(limit) == ADDRESSES_MAX
    limit.forgive("10.0.0.0")  # forgotten


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("2001:db8::1", "2001:db8::ffff:1:2:3", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "192.0.2.1", False),
    ],
)
def test_addresses_of_one_network_count_together(one: str, other: str, are_one: bool) -> None:
    assert (network_of(one) == network_of(other)) is are_one


@given(st.lists(st.floats(0, 30), max_size=80))
def test_no_minute_has_more_than_five_tries(pauses: list[float]) -> None:
    limit, now_s, tries = LoginLimit(), 0.0, list[float]()
    for pause_s in pauses:
        now_s += pause_s
        if limit.wait_s("192.0.2.1", now_s) == 0:
            limit.note("192.0.2.1", now_s)
            tries.append(now_s)
    for first, sixth in zip(tries, tries[TRIES:], strict=False):
        assert sixth - first >= WITHIN_S

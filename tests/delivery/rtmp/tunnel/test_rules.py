"""The rules of RTMPT: targets, the order of requests, and the poll byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.rtmp.tunnel.rules import (
    AHEAD_MAX,
    Kind,
    Order,
    Poll,
    RequestOrder,
    TunnelRequest,
    parse_target,
)


@pytest.mark.parametrize(
    ("target", "request_"),
    [
        (b"/open/1", TunnelRequest(Kind.OPEN, "", None)),
        (b"/send/0a1b/0", TunnelRequest(Kind.SEND, "0a1b", 0)),
        (b"/idle/0a1b/12", TunnelRequest(Kind.IDLE, "0a1b", 12)),
        (b"/close/0a1b/3", TunnelRequest(Kind.CLOSE, "0a1b", 3)),
        (b"/close/0a1b", TunnelRequest(Kind.CLOSE, "0a1b", None)),
        (b"/send/0a1b", None),
        (b"/send//1", None),
        (b"/send/0a1b/-1", None),
        (b"/send/0a1b/99999999999", None),
        (b"/send/0A1B/1", None),
        (b"/send/" + b"a" * 65 + b"/1", None),
        (b"/fcs/ident2", None),
        (b"/send/0a1b/1/2", None),
    ],
)
def test_target_names_the_kind_session_and_number_of_a_request(
    target: bytes, request_: TunnelRequest | None
) -> None:
    assert parse_target(target) == request_


@given(st.binary(max_size=100))
def test_any_target_is_a_request_or_none(target: bytes) -> None:
    request = parse_target(target)
    assert request is None or request.kind is Kind.OPEN or request.session


@given(st.lists(st.integers(-4, AHEAD_MAX + 2), max_size=60))
def test_every_number_is_served_once_and_in_order(offsets: list[int]) -> None:
    order, served, waiting = RequestOrder(), list[int](), set[int]()
    for offset in offsets:
        number = max(0, order.latest + offset)
        decision = order.decide(number)
        if decision is Order.WAIT:
            waiting.add(number)
        elif decision is Order.REPEAT:
            assert number == served[-1]
        elif decision is Order.REFUSE:
            assert number < order.latest or number > order.latest + AHEAD_MAX
        else:
            waiting.add(number)
            while (following := order.latest + 1) in waiting:
                waiting.discard(following)
                assert order.decide(following) is Order.SERVE
                order.begin(following)
                served.append(following)
        assert len(waiting) < AHEAD_MAX
    assert served == list(range(len(served)))


def test_first_request_has_number_0() -> None:
    order = RequestOrder()
    assert order.decide(1) is Order.WAIT
    assert order.decide(AHEAD_MAX) is Order.REFUSE
    assert order.decide(0) is Order.SERVE


def test_old_and_far_requests_are_refused() -> None:
    order = RequestOrder()
    for number in range(5):
        order.begin(number)
    decisions = {number: order.decide(number) for number in (3, 4, 5, 6, 4 + AHEAD_MAX, 13)}
    assert decisions == {
        3: Order.REFUSE,
        4: Order.REPEAT,
        5: Order.SERVE,
        6: Order.WAIT,
        4 + AHEAD_MAX: Order.WAIT,
        13: Order.REFUSE,
    }


def test_close_without_a_number_is_served_as_it_arrives() -> None:
    order = RequestOrder()
    order.begin(3)
    assert order.decide(None) is Order.SERVE
    order.begin(None)
    assert order.latest == 3


def test_poll_byte_grows_after_ten_responses_without_data() -> None:
    poll = Poll()
    assert poll.next(has_data=True) == 0x01
    sent = [poll.next(has_data=False) for _ in range(70)]
    assert [sent[9], sent[19], sent[29], sent[39], sent[49], sent[69]] == [
        0x03,
        0x05,
        0x09,
        0x11,
        0x21,
        0x21,
    ]
    assert sent[:9] == [0x01] * 9
    assert poll.next(has_data=True) == 0x01

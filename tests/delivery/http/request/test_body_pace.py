"""How fast a request's body comes, and when a socket is not read."""

from __future__ import annotations

from streamedge.delivery.http.request.body_pace import BodyPace

STALL_S = 60.0


def test_body_without_bytes_for_too_long_is_too_slow() -> None:
    pace = BodyPace(0.0)
    assert not pace.is_too_slow(59.0, STALL_S, 0)
    assert pace.is_too_slow(61.0, STALL_S, 0)


def test_body_below_the_rate_is_too_slow_even_if_bytes_come() -> None:
    pace = BodyPace(0.0)
    pace.received(1, 60.0)
    assert not pace.is_too_slow(60.0, STALL_S, 500)
    assert pace.is_too_slow(61.0, STALL_S, 500)


def test_rate_is_measured_again_after_each_check() -> None:
    pace = BodyPace(0.0)
    pace.received(500 * 61, 61.0)
    assert not pace.is_too_slow(61.0, STALL_S, 500)
    pace.received(1, 121.0)
    assert pace.is_too_slow(122.0, STALL_S, 500)


def test_time_in_which_the_socket_is_not_read_does_not_count() -> None:
    pace = BodyPace(0.0)
    pace.excuse(100.0)
    assert not pace.is_too_slow(159.0, STALL_S, 500)
    assert pace.is_too_slow(161.0, STALL_S, 500)

"""Which stream sends next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.http.http2.schedule import TURN_BYTES, Priority, Schedule

PIECE_BYTES = TURN_BYTES // 4


def turns(schedule: Schedule, count: int) -> list[int]:
    """The streams of the next ``count`` pieces."""
    order = []
    for _ in range(count):
        turn = schedule.next()
        assert turn is not None
        schedule.sent(turn[0], min(PIECE_BYTES, turn[1]))
        order.append(turn[0])
    return order


def test_urgent_streams_go_first() -> None:
    schedule = Schedule()
    schedule.add(1, Priority(3))
    schedule.add(3, Priority(0))
    assert turns(schedule, 2) == [3, 3]
    schedule.remove(3)
    assert turns(schedule, 1) == [1]
    schedule.remove(1)
    assert schedule.next() is None


def test_streams_go_one_after_the_other_in_the_order_of_their_requests() -> None:
    schedule = Schedule()
    for stream in (5, 1, 3):
        schedule.add(stream, Priority())
    assert turns(schedule, 20) == [1] * 20
    schedule.remove(1)
    assert turns(schedule, 1) == [3]


def test_incremental_streams_take_turns() -> None:
    schedule = Schedule()
    for stream in (1, 3):
        schedule.add(stream, Priority(3, incremental=True))
    assert turns(schedule, 12) == [1] * 4 + [3] * 4 + [1] * 4


def test_incremental_streams_share_with_the_first_of_the_others() -> None:
    schedule = Schedule()
    schedule.add(1, Priority())
    schedule.add(3, Priority())
    schedule.add(5, Priority(3, incremental=True))
    assert turns(schedule, 12) == [1] * 4 + [5] * 4 + [1] * 4


def test_changed_priority_applies_at_once() -> None:
    schedule = Schedule()
    schedule.add(1, Priority())
    schedule.add(3, Priority())
    schedule.add(3, Priority(1))
    assert turns(schedule, 1) == [3]


_operations = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "send"]),
        st.integers(1, 12),
        st.integers(0, 7),
        st.booleans(),
    ),
    max_size=60,
)


@given(_operations)
def test_next_stream_is_one_of_the_most_urgent(
    operations: list[tuple[str, int, int, bool]],
) -> None:
    schedule, expected = Schedule(), dict[int, Priority]()
    for operation, stream, urgency, incremental in operations:
        if operation == "add":
            schedule.add(stream, Priority(urgency, incremental))
            expected[stream] = Priority(urgency, incremental)
        elif operation == "remove":
            schedule.remove(stream)
            expected.pop(stream, None)
        turn = schedule.next()
        assert len(schedule) == len(expected)
        if turn is None:
            assert not expected
            continue
        chosen, room = turn
        assert room > 0
        assert expected[chosen].urgency == min(one.urgency for one in expected.values())
        schedule.sent(chosen, min(room, PIECE_BYTES))

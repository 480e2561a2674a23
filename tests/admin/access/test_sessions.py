"""Sessions: how they end, and how many there are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamedge.admin.access.sessions import IDLE_S, SESSIONS_MAX, Sessions


def test_session_lasts_until_it_is_idle() -> None:
    sessions = Sessions()
    identifier = sessions.start("anna", "hash", 0.0)
    for now_s in (IDLE_S - 1, 2 * IDLE_S - 2):
        session = sessions.use(identifier, now_s)
        assert session is not None
        assert (session.user, session.credential) == ("anna", "hash")
    assert sessions.use(identifier, 3 * IDLE_S) is None
    assert len(sessions) == 0


def test_least_recently_used_session_ends_where_there_are_too_many() -> None:
    sessions = Sessions()
    identifiers = [sessions.start("anna", "", float(n)) for n in range(SESSIONS_MAX)]
    assert sessions.use(identifiers[0], 100.0) is not None
    sessions.start("berta", "", 101.0)
    assert len(sessions) == SESSIONS_MAX
    assert sessions.use(identifiers[0], 102.0) is not None
    assert sessions.use(identifiers[1], 102.0) is None


def test_ended_session_is_gone_and_others_stay() -> None:
    sessions = Sessions()
    first, second = sessions.start("anna", "", 0.0), sessions.start("anna", "", 0.0)
    sessions.end(first)
    sessions.end("unknown")
    assert sessions.use(first, 1.0) is None
    assert sessions.use(second, 1.0) is not None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["start", "use", "end"]),
            st.integers(0, 5),
            st.floats(0, IDLE_S / 2),
        ),
        max_size=60,
    )
)
def test_sessions_are_those_of_a_model(steps: list[tuple[str, int, float]]) -> None:
    """The model is a dictionary of the time of each session's last use."""
    sessions, used_s, now_s = Sessions(), dict[str, float](), 0.0
    order: list[str] = []
    for action, number, pause_s in steps:
        now_s += pause_s
        used_s = {one: at_s for one, at_s in used_s.items() if now_s - at_s < IDLE_S}
        if action == "start":
            order.append(sessions.start("anna", "", now_s))
            used_s[order[-1]] = now_s
        elif order:
            identifier = order[number % len(order)]
            if action == "end":
                sessions.end(identifier)
                used_s.pop(identifier, None)
            else:
                assert (sessions.use(identifier, now_s) is not None) == (identifier in used_s)
                if identifier in used_s:
                    used_s[identifier] = now_s
    for identifier in order:
        assert (sessions.use(identifier, now_s) is not None) == (identifier in used_s)


@given(st.text(max_size=60))
def test_text_of_a_stranger_is_no_session(identifier: str) -> None:
    sessions = Sessions()
    sessions.start("anna", "", 0.0)
    assert sessions.use(identifier, 0.0) is None

"""A session with any requests and any losses: no byte twice, none out of order, no holes.

The client of the model records what it receives by the number of the request. Requests come in
another order, again, never, and after the end; responses are lost while they wait, while they are
sent and after others.
"""

from __future__ import annotations

import asyncio

from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamedge.delivery.rtmp.tunnel.exchange import Exchange
from streamedge.delivery.rtmp.tunnel.rules import AHEAD_MAX, Kind
from streamedge.delivery.rtmp.tunnel.session import (
    REPEATED_BYTES_MAX,
    SILENCE_S,
    WAIT_S,
    WAITING_BYTES_MAX,
)
from tests.delivery.rtmp.tunnel.test_session import Session, answer

KINDS = st.sampled_from([Kind.SEND, Kind.SEND, Kind.IDLE])
LOOP = st.just([("loop",)])
ROUND = st.tuples(
    st.tuples(st.just("post"), KINDS, st.just(1)),
    st.tuples(st.just("produce"), st.sampled_from([1, 10])),
    st.just(("loop",)),
    st.tuples(st.sampled_from(["sent", "sent", "lost"]), st.just(-1)),
).map(list)
"""The next request, its response, and what becomes of it."""

OTHERS = st.one_of(
    st.tuples(st.just("post"), KINDS, st.integers(-2, 3)),
    st.tuples(st.just("large"), st.integers(1, AHEAD_MAX)),
    st.tuples(st.just("produce"), st.sampled_from([1, 10, REPEATED_BYTES_MAX])),
    st.tuples(st.just("sent"), st.integers(0, 3)),
    st.tuples(st.just("lost"), st.integers(0, 3)),
    st.tuples(st.just("pause")),
    st.tuples(st.just("resume")),
    st.tuples(st.just("sweep"), st.sampled_from([0.0, WAIT_S + 1])),
).map(lambda action: [action])
ENDS: st.SearchStrategy[list[tuple[object, ...]]] = st.one_of(
    st.just([]),
    st.tuples(st.just("sweep"), st.just(SILENCE_S + 1)).map(lambda action: [action]),
    st.tuples(st.just("close"), st.booleans()).map(lambda action: [action]),
)
ACTIONS = st.tuples(st.lists(st.one_of(ROUND, ROUND, OTHERS, OTHERS, LOOP), max_size=12), ENDS).map(
    lambda parts: [action for group in (*parts[0], parts[1]) for action in group]
)


class Model:
    """The client, and what it and the session should have."""

    def __init__(self) -> None:
        self.session = Session()
        self.latest = -1  # served, as far as the client can know
        self.unfinished: list[tuple[int, Exchange]] = []
        self.received: dict[int, bytes] = {}  # by number
        self.unanswered: set[int] = set()  # lost before any response to them, so with no bytes
        self.produced = b""

    def post(self, kind: Kind, number: int, body: bytes) -> None:
        self.unfinished.append((number, self.session.post(kind, number, body)))

    def finish(self, index: int, *, is_sent: bool) -> None:
        """One of the exchanges ends; the client has the response only if there is one."""
        if not self.unfinished:
            return
        number, exchange = self.unfinished.pop(index % len(self.unfinished))
        if is_sent and not exchange.is_answered:
            self.unfinished.append((number, exchange))
            return
        body = answer(exchange) if is_sent else None
        if body is not None:
            assert self.received.setdefault(number, body[1:]) == body[1:]
        if not exchange.is_answered:
            self.unanswered.add(number)
        exchange.finish(is_sent=is_sent)

    def act(self, action: tuple[object, ...]) -> None:
        match action:
            case ("post", Kind() as kind, int(offset)):
                number = max(0, self.latest + offset)
                self.post(kind, number, b"<%d>" % number if kind is Kind.SEND else b"")
                self.latest = max(self.latest, number if offset == 1 else -1)
            case ("large", int(offset)):
                self.post(Kind.SEND, self.latest + 1 + offset, bytes(WAITING_BYTES_MAX // 2))
            case ("produce", int(size)):
                data = bytes((len(self.produced) % 251,)) * size
                try:
                    count = self.session.writer.send(data, more=False)
                except OSError:
                    count = 0  # the response is full, or the session has ended
                self.produced += data[:count]
            case ("sent" | "lost" as how, int(index)):
                self.finish(index, is_sent=how == "sent")
            case ("pause",):
                self.session.tunnel.transport.pause_reading()
            case ("resume",):
                self.session.tunnel.transport.resume_reading()
            case ("sweep", float(after_s)):
                self.session.tunnel.sweep(asyncio.get_running_loop().time() + after_s)
            case ("close", bool(is_numbered)):
                following = self.latest + 1
                exchange = self.session.post(Kind.CLOSE, following if is_numbered else None)
                self.unfinished.append((following, exchange))

    def check(self) -> None:
        """What the session and the client have received so far."""
        # A request that was lost is sent again, and its response has bytes.
        self.unanswered -= {n for n, exchange in self.unfinished if exchange.body is not None}
        parts = self.session.recorder.received.replace(b"\0", b"")
        numbers = [int(part) for part in parts.replace(b"<", b"").split(b">")[:-1]]
        assert numbers == sorted(set(numbers))
        whole = b""
        for number in range(max(self.received, default=-1) + 1):
            if number not in self.received and number not in self.unanswered:
                break
            whole += self.received.get(number, b"")
        assert self.produced.startswith(whole)
        if not self.session.ended:
            # What the client lacks is still to come, or can be repeated.
            in_flight = {number for number, _exchange in self.unfinished}
            for number in range(max(self.received, default=0)):
                assert number in self.received.keys() | in_flight | self.unanswered


@settings(max_examples=500, deadline=None)
@example(
    actions=[
        ("post", Kind.SEND, 0),
        ("produce", 1),
        ("lost", 0),  # the bytes go to the same request, sent again
        ("post", Kind.SEND, 1),
        ("post", Kind.SEND, 1),
        ("produce", 1),
        ("loop",),
        ("sent", -1),
    ]
)
@given(ACTIONS)
def test_no_byte_is_lost_repeated_or_out_of_order(actions: list[tuple[object, ...]]) -> None:
    async def run() -> None:
        model = Model()
        for action in actions:
            if action == ("loop",):
                for _iteration in range(4):
                    await asyncio.sleep(0)
            else:
                model.act(action)
            model.check()
        model.session.tunnel.end(None)
        assert all(exchange.is_answered for _number, exchange in model.unfinished)
        late = model.session.send(model.latest + 1, b"late")
        assert (late.is_answered, late.body) == (True, None)
        model.check()

    asyncio.run(run())

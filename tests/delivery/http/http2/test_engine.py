"""The engine alone: any bytes in any pieces, and valid traffic with h2 as its peer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import h2.config
import h2.connection
import h2.events
import ngh2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamedge.delivery.http.http2 import limits
from streamedge.delivery.http.http2.engine import (
    DataReceived,
    Engine,
    ErrorCode,
    PingAcknowledged,
    RequestReceived,
    StreamClosed,
    TrailersReceived,
    WindowUpdated,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GOAWAY = 7
HEAD = [(":method", "GET"), (":scheme", "https"), (":authority", "edge"), (":path", "/a")]
OK = [(b":status", b"200")]


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """The types and payloads of complete frames."""
    parsed = []
    while data:
        end = 9 + int.from_bytes(data[:3], "big")
        assert len(data) >= end
        parsed.append((data[3], data[9:end]))
        data = data[end:]
    return parsed


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    )


class Peer:
    """An engine and a client of h2 that speak with each other."""

    def __init__(self) -> None:
        self.engine = Engine()
        config = h2.config.H2Configuration(client_side=True)
        self.client = h2.connection.H2Connection(config)
        self.client.initiate_connection()
        self.exchange()
        self.exchange()

    def exchange(self) -> tuple[list[object], list[h2.events.Event]]:
        """Passes what each has to send; returns the events of both."""
        self.engine.receive(self.client.data_to_send())
        events = list(self.engine.events(0.0))
        received = self.client.receive_data(self.engine.to_send())
        return [*events, *self.engine.events(0.0)], received

    def request(self, *, ends: bool = True) -> int:
        stream = self.client.get_next_available_stream_id()
        self.client.send_headers(stream, HEAD, end_stream=ends)
        return stream


_kinds = st.integers(0, 10) | st.just(0x10) | st.integers(0, 255)
_payloads = st.binary(max_size=64) | st.sampled_from(
    [b"", bytes(4), bytes(8), b"\x82\x87\x84\x41\x01a", b"\x00\x04\x00\x00\x00\x00", b"\xff" * 40]
)
_frames = st.builds(
    frame, _kinds, st.integers(0, 255), st.integers(0, 9) | st.integers(0, 2**32 - 1), _payloads
)
_inputs = st.one_of(
    st.binary(max_size=200),
    st.lists(_frames, max_size=12).map(lambda parts: PREFACE + b"".join(parts)),
    st.lists(_frames, max_size=12).map(
        lambda parts: PREFACE + frame(4, 0, 0, b"") + b"".join(parts)
    ),
)


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


@settings(max_examples=600)
@example(PREFACE + frame(4, 0, 0, b"") + frame(GOAWAY, 0, 0, bytes(8)), [])
@given(_inputs, st.lists(st.integers(0, 10_000), max_size=5))
def test_any_bytes_give_events_or_one_goaway(data: bytes, cuts: list[int]) -> None:
    engine, output, is_ended_by_viewer = Engine(), b"", False
    for number, piece in enumerate(pieces(data, cuts)):
        engine.receive(piece)
        for event in engine.events(float(number)):
            is_ended_by_viewer |= isinstance(event, ngh2.GoAwayReceived)
            if isinstance(event, RequestReceived):
                engine.respond_whole(event.stream_id, OK, b"body")
            elif isinstance(event, DataReceived):
                engine.consumed(event.stream_id, len(event.data))
        output += engine.to_send()
        engine.events(float(number))
    was_ended = engine.ended
    engine.end(ErrorCode.NO_ERROR, "the test")
    output += engine.to_send()
    assert engine.ended is not None
    sent = frames(output)
    assert sent[0][0] == 4  # SETTINGS
    goaways = [payload for kind, payload in sent if kind == GOAWAY]
    # Behind the viewer's own GOAWAY, the connection may have ended already.
    assert len(goaways) == 1 or (is_ended_by_viewer and not goaways)
    if goaways:
        assert sent[-1][0] == GOAWAY
    if was_ended is not None and goaways:
        assert int.from_bytes(goaways[0][4:8], "big") == was_ended.code
    # Nothing more happens, whatever comes or is sent.
    engine.receive(PREFACE + data)
    engine.respond(1, OK, ends=True)
    engine.data(1, b"more", ends=True)
    engine.reset(1, ErrorCode.CANCEL)
    engine.announce_end()
    engine.refuse_new()
    assert engine.to_send() == b""
    assert not engine.room(1) or engine.room(1) >= 0


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.binary(max_size=100_000), st.booleans(), st.booleans()), min_size=1, max_size=5
    )
)
def test_valid_traffic_arrives_whole(exchanges: list[tuple[bytes, bool, bool]]) -> None:
    """Bodies and trailers in both directions, on streams that are open at once."""
    peer = Peer()
    engine, client = peer.engine, peer.client
    bodies: dict[int, bytes] = {}
    for body, trailers, _ in exchanges:
        stream = peer.request(ends=False)
        bodies[stream] = body
        sent = body[: client.local_flow_control_window(stream)]
        for at in range(0, len(sent), 16_384):
            client.send_data(stream, sent[at : at + 16_384])
        if trailers:
            client.send_headers(stream, [("x-sum", "1")], end_stream=True)
        else:
            client.end_stream(stream)
        bodies[stream] = sent
        received: dict[int, bytes] = {}
        ended = set()
        for event in peer.exchange()[0]:
            if isinstance(event, DataReceived):
                received[stream] = received.get(stream, b"") + event.data
                engine.consumed(stream, len(event.data))
                if event.end_stream:
                    ended.add(stream)
            elif isinstance(event, TrailersReceived):
                assert event.headers == ((b"x-sum", b"1"),)
                ended.add(stream)
        assert received.get(stream, b"") == sent
        assert ended == {stream}
    answers: dict[int, bytes] = dict.fromkeys(bodies, b"")
    for stream, (_body, _, trailers) in zip(bodies, exchanges, strict=True):
        body, at = bodies[stream], 0
        engine.respond(stream, OK, ends=False)
        while at < len(body):
            piece = body[at : at + max(0, engine.room(stream))]
            engine.data(stream, piece, ends=False)
            assert engine.room(stream) >= 0
            at += len(piece)
            for event in peer.exchange()[1]:
                if isinstance(event, h2.events.DataReceived):
                    answers[stream] += event.data or b""
                    client.acknowledge_received_data(event.flow_controlled_length or 0, stream)
        if trailers:
            engine.trailers(stream, [(b"x-sum", b"1")])
        else:
            engine.data(stream, b"", ends=True)
        kinds = {type(event) for event in peer.exchange()[1]}
        assert h2.events.StreamEnded in kinds
        assert (h2.events.TrailersReceived in kinds) is trailers
    assert answers == bodies
    assert engine.unsent_bytes() == 0


def test_windows_count_bytes_that_are_not_sent_yet() -> None:
    peer = Peer()
    first, second = peer.request(), peer.request()
    peer.exchange()
    for stream in (first, second):
        peer.engine.respond(stream, OK, ends=False)
    assert peer.engine.room(first) == 65_535
    peer.engine.data(first, bytes(60_000), ends=False)
    assert peer.engine.room(first) == 5_535
    assert peer.engine.room(second) == 5_535  # the connection's
    peer.exchange()
    assert peer.engine.room(first) == 5_535


def test_window_updates_are_reported() -> None:
    peer = Peer()
    stream = peer.request()
    peer.exchange()
    peer.client.increment_flow_control_window(1000, stream)
    events, _ = peer.exchange()
    assert [event.stream_id for event in events if isinstance(event, WindowUpdated)] == [stream]


def test_end_is_announced_and_then_new_streams_are_ignored() -> None:
    peer = Peer()
    engine, client = peer.engine, peer.client
    peer.request()
    engine.receive(client.data_to_send())
    engine.events(0.0)
    engine.announce_end()
    announced = frames(engine.to_send())
    assert (announced[0][0], announced[0][1][:4]) == (GOAWAY, b"\x7f\xff\xff\xff")
    assert announced[1][0] == 6  # PING
    engine.receive(frame(6, 1, 0, bytes(8)))
    assert any(isinstance(event, PingAcknowledged) for event in engine.events(0.0))
    peer.request()  # before the client knows
    engine.receive(client.data_to_send())
    assert [
        event.stream_id for event in engine.events(0.0) if isinstance(event, RequestReceived)
    ] == [3]
    engine.refuse_new()
    assert frames(engine.to_send()) == [(GOAWAY, b"\x00\x00\x00\x03" + bytes(4))]
    peer.request()
    engine.receive(client.data_to_send())
    assert not any(isinstance(event, RequestReceived) for event in engine.events(0.0))
    for stream in (1, 3):
        assert engine.respond(stream, OK, ends=True)
    engine.to_send()
    closed = [event for event in engine.events(0.0) if isinstance(event, StreamClosed)]
    assert {event.stream_id for event in closed} >= {1, 3}


def test_priority_is_that_of_the_request_and_its_updates() -> None:
    peer = Peer()
    client = peer.client
    client.send_headers(1, [*HEAD, ("priority", "u=1, i")], end_stream=True)
    client.send_headers(3, HEAD, end_stream=True)
    peer.exchange()
    assert peer.engine.priority(1) == (1, True)
    assert peer.engine.priority(3) == (3, False)
    peer.engine.receive(frame(0x10, 0, 0, (3).to_bytes(4, "big") + b"u=6"))
    peer.engine.events(0.0)
    assert peer.engine.priority(3) == (6, False)
    assert peer.engine.priority(99) == (3, False)


@pytest.mark.parametrize("waits_s", [0.0, 1.0])
def test_allowance_for_resets_grows_with_time(waits_s: float) -> None:
    peer = Peer()
    now_s = 100.0
    for number in range(limits.RESETS.at_once + limits.RESETS.per_s - 3):
        stream = peer.request()
        peer.client.reset_stream(stream)
        peer.engine.receive(peer.client.data_to_send())
        if number == limits.RESETS.at_once - 1:
            now_s += waits_s
        peer.engine.events(now_s)
        with contextlib.suppress(Exception):
            peer.engine.to_send()
    assert (peer.engine.ended is None) is bool(waits_s)

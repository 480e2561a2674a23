"""The HTTP/2 protocol engine of one viewer's connection: bytes in, events out (RFC 9113).

It does no I/O and knows no clock: bytes, the time and commands go in; events and bytes come out.
libnghttp2 (by ngh2) has the frames, HPACK, the states of streams and the windows; no other module
imports it. The engine adds the limits that libnghttp2 lacks (``limits``). It ends every connection
that breaks the protocol or exceeds a limit with one GOAWAY: after it, ``ended`` says why, nothing
is received any more, and commands do nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

import ngh2
from ngh2 import (
    DataReceived,
    Event,
    NeverIndexedHeader,
    PingAcknowledged,
    PriorityUpdateReceived,
    RequestReceived,
    SettingsReceived,
    StreamClosed,
    TrailersReceived,
    WindowUpdated,
)

from streamedge.delivery.http.http2.limits import (
    CONNECTION_WINDOW_BYTES,
    CONTINUATIONS_MAX,
    CONTROLS,
    GLITCHES,
    HEAD_FIELDS_MAX,
    HEAD_LIST_BYTES_MAX,
    RESETS,
    STREAM_WINDOW_BYTES,
    STREAMS_MAX,
    Allowance,
)

__all__ = [
    "DataReceived",
    "Ended",
    "Engine",
    "ErrorCode",
    "Event",
    "NeverIndexedHeader",
    "PingAcknowledged",
    "PriorityUpdateReceived",
    "RawField",
    "RequestReceived",
    "SentField",
    "SettingsReceived",
    "StreamClosed",
    "TrailersReceived",
    "WindowUpdated",
]

RawField = tuple[bytes, bytes]
SentField: TypeAlias = RawField | NeverIndexedHeader
ErrorCode = ngh2.ErrorCode

LAST_STREAM: Final = 2**31 - 1

_SETTINGS: Final = {
    ngh2.Setting.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
    ngh2.Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
    ngh2.Setting.NO_RFC7540_PRIORITIES: 1,
}
_CONFIGURATION: Final = ngh2.Configuration(
    auto_window_update=False,
    max_outbound_ack=CONTROLS.at_once,
    # The engine has its own limit for resets, with a better error code; this one is never reached.
    stream_reset_rate_limit=(20 * RESETS.at_once, RESETS.per_s),
    glitch_rate_limit=GLITCHES,
    max_continuations=CONTINUATIONS_MAX,
    max_inbound_header_list_size=HEAD_LIST_BYTES_MAX,
    max_inbound_header_count=HEAD_FIELDS_MAX,
)
_NO_EVENTS: Final[Sequence[Event]] = ()


class Ended(NamedTuple):
    """Why a connection ended: the code of its GOAWAY, and the reason for the log."""

    code: int
    reason: str


class Engine:
    """The server's end of a connection. ``now_s`` is the event loop's time everywhere."""

    __slots__ = (
        "_connection",
        "_controls",
        "_last_stream",
        "_output",
        "_own_resets",
        "_refused_streams",
        "_reset_streams",
        "_resets",
        "ended",
        "requests",
    )

    def __init__(self) -> None:
        self._connection = ngh2.Connection(ngh2.Role.SERVER, _CONFIGURATION)
        self._connection.initiate_connection(_SETTINGS)
        self._connection.set_local_window_size(CONNECTION_WINDOW_BYTES)
        # Taken at once: SETTINGS come first, even before a GOAWAY (RFC 9113 §3.4).
        self._output = self._connection.data_to_send()
        self._resets = Allowance(RESETS)
        self._controls = Allowance(CONTROLS)
        self._reset_streams: set[int] = set()  # that the peer has reset, until they are closed
        self._refused_streams: set[int] = set()  # for a request that breaks the protocol
        self._own_resets: set[int] = set()  # that ``reset`` has reset
        self._last_stream = 0
        self.requests = 0
        self.ended: Ended | None = None

    # --- input ------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Takes received bytes; ``events`` returns what they mean."""
        if self.ended is not None:
            return
        try:
            self._connection.receive_data(data)
        except ngh2.DenialOfServiceError as exc:
            self._fail(ErrorCode.ENHANCE_YOUR_CALM, str(exc))
        except ngh2.NGH2Error as exc:
            self._fail(ErrorCode.PROTOCOL_ERROR, str(exc))

    def events(self, now_s: float) -> Sequence[Event]:
        """What has happened since the last call, in order.

        Call it after ``receive`` and after ``to_send``. Closed streams are reported for both ends.
        """
        events = self._connection.events()
        if not events:
            return _NO_EVENTS
        controls = resets = 0
        for event in events:
            if isinstance(event, RequestReceived):
                self.requests += 1
                self._last_stream = event.stream_id
            elif isinstance(event, StreamClosed):
                resets += self._count_closed(event)
            elif isinstance(event, DataReceived):
                controls += not event.data and not event.end_stream
            elif isinstance(event, ngh2.StreamReset):
                self._reset_streams.add(event.stream_id)
            elif isinstance(event, _CONTROLS):
                controls += 1
            elif isinstance(event, ngh2.ConnectionClosed) and self.ended is None:
                self.ended = Ended(event.error_code, _reason_of(event))
        if controls and not self._controls.take(controls, now_s):
            self.end(ErrorCode.ENHANCE_YOUR_CALM, "too many frames without content")
        if resets and not self._resets.take(resets, now_s):
            self.end(ErrorCode.ENHANCE_YOUR_CALM, "too many streams were reset")
        return events

    def _count_closed(self, event: StreamClosed) -> bool:
        """Whether a closed stream counts as a reset by the peer, or one that it has caused."""
        stream_id = event.stream_id
        if self._reset_streams and stream_id in self._reset_streams:
            self._reset_streams.discard(stream_id)
            return True
        if not event.error_code:
            return False
        if stream_id in self._own_resets:
            self._own_resets.discard(stream_id)
            return False
        if event.local_error is not None:
            return False
        if event.error_code == ErrorCode.PROTOCOL_ERROR:
            self._refused_streams.add(stream_id)
        return True

    def was_refused(self, stream_id: int) -> bool:
        """Whether a closed stream was reset because its request breaks the protocol.

        Call it once for each ``StreamClosed``.
        """
        if stream_id not in self._refused_streams:
            return False
        self._refused_streams.discard(stream_id)
        return True

    # --- output -----------------------------------------------------------------------------

    def to_send(self) -> bytes:
        """The bytes to send now, but for bodies only what the windows allow."""
        output, self._output = self._output, b""
        if self.ended is not None:
            return output
        try:
            sent = self._connection.data_to_send()
        except ngh2.DenialOfServiceError as exc:
            self._fail(ErrorCode.ENHANCE_YOUR_CALM, str(exc))
            return output + self.to_send()
        return output + sent if output else sent

    def respond(self, stream_id: int, fields: Sequence[SentField], *, ends: bool) -> bool:
        """Sends the head of a final response. Returns False if the stream has ended."""
        try:
            self._connection.send_response(stream_id, fields, end_stream=ends)
        except ngh2.NGH2Error:
            return False
        return True

    def respond_whole(self, stream_id: int, fields: Sequence[SentField], body: bytes) -> bool:
        """Sends a response with a body that is not empty, as ``respond``."""
        try:
            self._connection.send_response(stream_id, fields)
            self._connection.send_data(stream_id, body, end_stream=True)
        except ngh2.NGH2Error:
            return False
        return True

    def interim(self, stream_id: int, fields: Sequence[SentField]) -> None:
        """Sends a 1xx response."""
        try:
            self._connection.send_informational_response(stream_id, fields)
        except ngh2.NGH2Error:
            return  # the stream has ended

    def data(self, stream_id: int, data: bytes, *, ends: bool) -> None:
        """Sends bytes of a body, at most ``room``."""
        try:
            self._connection.send_data(stream_id, data, end_stream=ends)
        except ngh2.NGH2Error:
            return  # the stream has ended

    def trailers(self, stream_id: int, fields: Iterable[SentField]) -> None:
        """Ends a response with trailer fields."""
        try:
            self._connection.send_trailers(stream_id, list(fields))
        except ngh2.NGH2Error:
            return  # the stream has ended

    def reset(self, stream_id: int, code: int) -> None:
        """Ends a stream in both directions."""
        try:
            self._connection.reset_stream(stream_id, code)
        except ngh2.NGH2Error:
            return  # it has ended
        if code:
            self._own_resets.add(stream_id)

    def consumed(self, stream_id: int, count: int) -> None:
        """``count`` bytes of a request's body were used; the peer may send as many again."""
        try:
            self._connection.acknowledge_received_data(count, stream_id)
        except (ngh2.NGH2Error, ValueError):
            return  # the connection has ended

    def room(self, stream_id: int) -> int:
        """How many more bytes the peer accepts for a stream now; none if the stream has ended.

        Bytes that ``to_send`` has not returned yet count as sent.
        """
        connection = self._connection
        try:
            stream = connection.stream_remote_window_size(stream_id)
            whole = connection.remote_window_size - connection.queued_body_size()
        except ngh2.NGH2Error:
            return 0
        stream -= connection.queued_body_size(stream_id)
        return stream if stream < whole else whole

    def connection_room(self) -> int:
        """How many more bytes the peer accepts for all streams together."""
        try:
            return self._connection.remote_window_size - self._connection.queued_body_size()
        except ngh2.NGH2Error:
            return 0

    def unsent_bytes(self) -> int:
        """Bytes of bodies that were given to ``data`` and are not in ``to_send`` yet."""
        return self._connection.queued_body_size()

    def priority(self, stream_id: int) -> tuple[int, bool]:
        """Urgency from 0 (first) to 7, and whether the response is useful in parts (RFC 9218)."""
        try:
            priority = self._connection.get_stream_priority(stream_id)
        except ngh2.NGH2Error:
            priority = None
        return (3, False) if priority is None else (priority.urgency, priority.incremental)

    # --- the end ----------------------------------------------------------------------------

    def announce_end(self) -> None:
        """Asks the peer to send no more requests here, and for a PING in return.

        Requests that are on their way are still accepted (RFC 9113 §6.8).
        """
        if self.ended is None:
            # Not by the library: without open streams, it would take the connection for ended.
            self._output += _goaway(LAST_STREAM, ErrorCode.NO_ERROR)
            self._connection.ping()

    def refuse_new(self) -> None:
        """Accepts no more streams; those that are open go on."""
        if self.ended is None:
            self._connection.send_goaway(ErrorCode.NO_ERROR)

    def end(self, code: int, reason: str) -> None:
        """Ends the connection with a GOAWAY."""
        if self.ended is not None:
            return
        try:
            self._connection.terminate_connection(code)
            self._output += self._connection.data_to_send()
        except ngh2.NGH2Error:
            self._output += _goaway(self._last_stream, code)
        self.ended = Ended(code, reason)

    def _fail(self, code: int, reason: str) -> None:
        """Ends a connection whose library state is lost."""
        self._output += _goaway(self._last_stream, code)
        self.ended = Ended(code, reason.removeprefix("HTTP/2 engine error: "))


_CONTROLS: Final = (SettingsReceived, ngh2.PingReceived, PriorityUpdateReceived)


def _reason_of(event: ngh2.ConnectionClosed) -> str:
    text = event.debug_data.decode("ascii", "replace")
    try:
        name = ErrorCode(event.error_code).name
    except ValueError:
        name = f"error {event.error_code}"
    return f"{name}: {text}" if text else name


def _goaway(last_stream: int, code: int) -> bytes:
    """A GOAWAY frame (RFC 9113 §6.8)."""
    payload = last_stream.to_bytes(4, "big") + int(code).to_bytes(4, "big")
    return len(payload).to_bytes(3, "big") + b"\x07\x00" + bytes(4) + payload

"""One request on a stream of HTTP/2 and its response, as the handler sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamedge.delivery.http.http2.encoding import encode_head
from streamedge.delivery.http.http2.engine import RawField
from streamedge.delivery.http.request.body import RequestBody
from streamedge.delivery.http.request.body_pace import BodyPace
from streamedge.delivery.http.request.dispatch import Outcome
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.response.response import ResponseHead
from streamedge.origin import Fields


class Http2Exchange:
    """A request from its head on.

    ``send`` sends the head of a 1xx response on a stream. ``consumed`` gets a stream and a count of
    bytes of the body that were read, or will not be.
    """

    __slots__ = (
        "_body",
        "_send",
        "_trailers",
        "has_response",
        "is_cut",
        "is_received",
        "outcome",
        "pace",
        "request",
        "stream_id",
        "waits_for_continue",
    )

    def __init__(
        self,
        stream_id: int,
        request: WebRequest,
        outcome: Outcome,
        send: Callable[[int, Sequence[RawField]], None],
        consumed: Callable[[int, int], None],
        *,
        is_received: bool,
    ) -> None:
        self.stream_id = stream_id
        self.request = request
        self.outcome = outcome
        self.is_received = is_received  # the whole request
        self.is_cut = False
        self.has_response = False  # a final one, at least its head
        self.pace = BodyPace(request.started_s)
        self._send = send
        self._trailers: Fields = []
        expectation = request.headers.get("expect", "").lower()
        self.waits_for_continue = not is_received and expectation == "100-continue"
        self._body = None
        if not is_received:
            self._body = RequestBody(self._needs_more, lambda count: consumed(stream_id, count))

    # What the handler calls (``Exchange``).

    def body(self) -> RequestBody | None:
        return self._body

    def trailers(self) -> Fields:
        return self._trailers

    def interim(self, status: int, fields: Fields) -> None:
        if not self.has_response and not self.is_cut:
            self._send(self.stream_id, encode_head(ResponseHead(status, fields)))

    # What the connection calls.

    def received(self, data: bytes, now_s: float) -> None:
        """More of the body."""
        self.pace.received(len(data), now_s)
        if self._body is not None:
            self._body.received(data)

    def received_trailers(self, fields: Sequence[RawField]) -> None:
        self._trailers = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in fields
        ]

    def end(self) -> None:
        """The request is complete."""
        self.is_received = True
        if self._body is not None:
            self._body.end()

    def cut(self) -> None:
        """The viewer has left, or the stream is closed: nothing more is sent or read."""
        self.is_cut = True
        if self._body is not None:
            self._body.cut()

    @property
    def owes_body(self) -> bool:
        """Whether the handler waits for more of the request."""
        return self._body is not None and self._body.is_waited_for and not self.waits_for_continue

    def _needs_more(self) -> None:
        if self.waits_for_continue:
            self.waits_for_continue = False
            if not self.is_received:
                self.interim(100, [])

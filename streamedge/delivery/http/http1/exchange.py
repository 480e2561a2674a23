"""One request on an HTTP/1.1 connection and its response, as the handler sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamedge.delivery.http.http1.encoding import encode_head
from streamedge.delivery.http.http1.states import EXCHANGE_TRANSITIONS, ExchangeState
from streamedge.delivery.http.read_control import ReadControl
from streamedge.delivery.http.request.body import RequestBody
from streamedge.delivery.http.request.dispatch import Outcome
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.response.response import ResponseHead
from streamedge.origin import Fields

UNREAD_BYTES_MAX = 64 << 10
"""Bytes of a body that wait for the handler; beyond it the socket is not read."""


class Http1Exchange:
    """A request from its head on. ``send`` sends an interim response.

    ``keep_alive``: whether another request may follow on the connection.
    """

    __slots__ = (
        "_body",
        "_control",
        "_raw_trailers",
        "_send",
        "is_received",
        "is_refused",
        "keep_alive",
        "outcome",
        "request",
        "state",
        "waits_for_continue",
    )

    def __init__(
        self,
        request: WebRequest,
        outcome: Outcome,
        control: ReadControl,
        raw_trailers: Sequence[tuple[bytes, bytes]],
        send: Callable[[bytes], None],
    ) -> None:
        self.request = request
        self.outcome = outcome
        self.state = ExchangeState.QUEUED
        self.keep_alive = request.keep_alive
        self.is_received = False  # the whole request
        self.is_refused = False  # its body was not HTTP: the connection answers it, not the handler
        self._control = control
        self._raw_trailers = raw_trailers
        self._send = send
        expectation = request.headers.get("expect", "").lower()
        self.waits_for_continue = request.has_body and expectation == "100-continue"
        self._body = RequestBody(self._needs_more, _consumed) if request.has_body else None

    # What the handler calls (``Exchange``).

    def body(self) -> RequestBody | None:
        return self._body

    def trailers(self) -> Fields:
        return [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in self._raw_trailers
        ]

    def interim(self, status: int, fields: Fields) -> None:
        if self.request.http_version == "1.1" and self.state is ExchangeState.HANDLING:
            self._send(encode_head(ResponseHead(status, fields)))

    # What the connection calls.

    def become(self, state: ExchangeState) -> None:
        if (self.state, state) not in EXCHANGE_TRANSITIONS:
            raise ValueError(f"an exchange cannot go from {self.state} to {state}")
        self.state = state

    @property
    def is_over(self) -> bool:
        """Whether its response is complete or will never be."""
        return self.state in {ExchangeState.COMPLETE, ExchangeState.CUT}

    def received(self, data: bytes) -> None:
        """More of the body."""
        if self._body is not None and not self.is_over:
            self._body.received(data)
            if self._body.unread_bytes > UNREAD_BYTES_MAX:
                self._control.pause()

    def end(self) -> None:
        """The request is complete."""
        self.is_received = True
        if self._body is not None:
            self._body.end()

    def cut(self) -> None:
        """The viewer has left, or the connection is closed: nothing more is sent or read."""
        if not self.is_over:
            self.become(ExchangeState.CUT)
        if self._body is not None:
            self._body.cut()

    def refuse(self) -> None:
        """Its body was not HTTP, or too long: the handler's response is not sent."""
        self.is_refused = True
        self.cut()

    @property
    def has_unread_body(self) -> bool:
        """Whether the viewer may or may not still send a body after Expect: 100-continue (RFC
        9110 §10.1.1)."""
        return self._body is not None and not self._body.is_begun and not self.is_received

    def _needs_more(self) -> None:
        self._control.resume()
        if self.waits_for_continue:
            self.waits_for_continue = False
            if not self.is_received:
                self.interim(100, [])


def _consumed(_count: int) -> None:
    """The socket is read again when the handler wants more than it has read."""

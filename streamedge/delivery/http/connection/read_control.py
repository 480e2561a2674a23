"""Limits how fast a viewer's bytes are parsed, and decides when its socket is not read.

There are two independent reasons not to read: uvicorn's (a body that the application does not
take, a response that the viewer does not read) and the connection's own (received bytes wait to be
parsed).
"""

from __future__ import annotations

from uvicorn.protocols.http.flow_control import FlowControl

PIECE_BYTES = 4096
"""Parsed before the clock is read again: 150 of the smallest requests, some milliseconds."""

AT_ONCE_LINES = 64
"""Lines that are parsed without a look at the clock: 20 of the smallest requests, or one with as
many header fields; at most half a millisecond."""


def is_parsed_at_once(data: bytes) -> bool:
    """Whether what one read returned is so little that it need not wait for its share of time."""
    return len(data) <= PIECE_BYTES and data.count(b"\n") <= AT_ONCE_LINES


class ReadControl(FlowControl):
    """uvicorn's flow control of a connection, and the connection's own hold."""

    _is_held = False

    def pause_reading(self) -> None:
        if not self.read_paused:
            self.read_paused = True
            if not self._is_held:
                self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            if not self._is_held:
                self._transport.resume_reading()

    def hold(self) -> None:
        """Stops reading until ``release``, whatever the application does."""
        if not self._is_held:
            self._is_held = True
            if not self.read_paused:
                self._transport.pause_reading()

    def release(self) -> None:
        """Reads again, unless the application has paused reading."""
        if self._is_held:
            self._is_held = False
            if not self.read_paused:
                self._transport.resume_reading()

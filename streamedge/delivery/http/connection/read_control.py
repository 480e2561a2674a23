"""How fast a viewer's bytes are taken in: the limits, and when its socket is not read.

Owns two reasons not to read, apart from each other: uvicorn's (a body that the application does not
take, an answer that is not read) and the connection's own (bytes that came wait to be parsed).
"""

from __future__ import annotations

from uvicorn.protocols.http.flow_control import FlowControl

PARSED_AT_ONCE_BYTES = 4096
"""What is parsed before the clock is looked at: 150 of the smallest requests, some milliseconds."""

TURN_S = 0.005  # of one connection's parsing, before others have their turn


class Intake(FlowControl):
    """uvicorn's flow control of a connection, and a hold of the connection's own beside it."""

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
        """Reads nothing until ``release``, whatever the application wants."""
        if not self._is_held:
            self._is_held = True
            if not self.read_paused:
                self._transport.pause_reading()

    def release(self) -> None:
        """Reads again, unless the application is why it does not."""
        if self._is_held:
            self._is_held = False
            if not self.read_paused:
                self._transport.resume_reading()

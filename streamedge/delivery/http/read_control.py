"""When the socket of a viewer's connection is read."""

from __future__ import annotations

import asyncio


class ReadControl:
    """Decides whether a socket is read. There are two independent reasons not to read it.

    ``pause``: the handler does not take a body, or a pipelined request waits (HTTP/1.1). ``hold``:
    received bytes wait to be parsed.
    """

    __slots__ = ("_is_held", "_transport", "is_paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._is_held = False
        self.is_paused = False

    def pause(self) -> None:
        if not self.is_paused:
            self.is_paused = True
            if not self._is_held:
                self._transport.pause_reading()

    def resume(self) -> None:
        if self.is_paused:
            self.is_paused = False
            if not self._is_held:
                self._transport.resume_reading()

    def hold(self) -> None:
        if not self._is_held:
            self._is_held = True
            if not self.is_paused:
                self._transport.pause_reading()

    def release(self) -> None:
        if self._is_held:
            self._is_held = False
            if not self.is_paused:
                self._transport.resume_reading()

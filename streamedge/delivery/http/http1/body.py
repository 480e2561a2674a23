"""The body of a viewer's request on its way to the handler, and when the socket is not read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

UNREAD_BYTES_MAX = 64 << 10
"""Bytes of a body that wait for the handler; beyond it the socket is not read."""


class ReadControl:
    """Decides whether a socket is read. There are two independent reasons not to read it.

    ``pause``: the handler does not take a body, or a pipelined request waits. ``hold``: received
    bytes wait to be parsed.
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


class RequestBody:
    """A request's body as it arrives. Raises ConnectionResetError if the viewer leaves early.

    Cancelling a read loses nothing. ``begin`` is called before the first read.
    """

    __slots__ = ("_arrived", "_begin", "_control", "_has_ended", "_is_cut", "_unread", "is_begun")

    def __init__(self, control: ReadControl, begin: Callable[[], None]) -> None:
        self._control = control
        self._begin = begin
        self._unread = bytearray()
        self._has_ended = False
        self._is_cut = False
        self._arrived = asyncio.Event()
        self.is_begun = False

    def received(self, data: bytes) -> None:
        self._unread += data
        if len(self._unread) > UNREAD_BYTES_MAX:
            self._control.pause()
        self._arrived.set()

    def end(self) -> None:
        """All of the body has been received."""
        self._has_ended = True
        self._arrived.set()

    def cut(self) -> None:
        """The rest of the body will not come, or is not needed."""
        self._is_cut = True
        self._arrived.set()

    def __aiter__(self) -> RequestBody:
        return self

    async def __anext__(self) -> bytes:
        if not self.is_begun:
            self.is_begun = True
            self._begin()
        while True:
            if self._is_cut:
                raise ConnectionResetError("the viewer left before its request was complete")
            if self._unread:
                data = bytes(self._unread)
                self._unread.clear()
                return data
            if self._has_ended:
                raise StopAsyncIteration
            self._control.resume()
            self._arrived.clear()
            await self._arrived.wait()

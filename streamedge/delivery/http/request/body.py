"""The body of a viewer's request on its way from the connection to the handler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streamedge.callbacks import do_nothing


class RequestBody:
    """A request's body as it arrives. Raises ConnectionResetError if the viewer leaves early.

    Cancelling a read loses nothing. The flow control is the connection's: ``needs_more()`` is
    called when the handler waits for bytes, ``consumed(count)`` when bytes were read or dropped.
    """

    __slots__ = (
        "_arrived",
        "_consumed",
        "_has_ended",
        "_is_cut",
        "_needs_more",
        "_unread",
        "is_begun",
    )

    def __init__(self, needs_more: Callable[[], None], consumed: Callable[[int], None]) -> None:
        self._needs_more = needs_more
        self._consumed = consumed
        self._unread = bytearray()
        self._has_ended = False
        self._is_cut = False
        self._arrived = asyncio.Event()
        self.is_begun = False  # the handler has begun to read

    @property
    def unread_bytes(self) -> int:
        """How many bytes wait for the handler."""
        return len(self._unread)

    @property
    def is_waited_for(self) -> bool:
        """Whether the handler has read all that has come, and wants more."""
        return self.is_begun and not self._unread and not self._has_ended

    def received(self, data: bytes) -> None:
        """More of the body has come."""
        if self._is_cut:
            self._consumed(len(data))
            return
        self._unread += data
        self._arrived.set()

    def end(self) -> None:
        """All of the body has been received."""
        self._has_ended = True
        self._needs_more = do_nothing  # not called from now on: the owner is free
        self._arrived.set()

    def cut(self) -> None:
        """The rest of the body will not come, or is not needed."""
        self._is_cut = True
        self._needs_more = do_nothing
        if self._unread:
            self._consumed(len(self._unread))
            self._unread.clear()
        self._arrived.set()

    def __aiter__(self) -> RequestBody:
        return self

    async def __anext__(self) -> bytes:
        self.is_begun = True
        while True:
            if self._is_cut:
                raise ConnectionResetError("the viewer left before its request was complete")
            if self._unread:
                data = bytes(self._unread)
                self._unread.clear()
                self._consumed(len(data))
                return data
            if self._has_ended:
                raise StopAsyncIteration
            self._needs_more()
            self._arrived.clear()
            await self._arrived.wait()

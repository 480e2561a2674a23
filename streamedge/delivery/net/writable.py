"""Waits until sockets that a transport owns can be written to.

Event loops let no other code watch a transport's descriptor, and a duplicate would cost one
more for each connection. So one epoll object holds all sockets whose peers are slow, and the loop
watches that object.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from weakref import WeakKeyDictionary


class WritableWatch:
    """The sockets of one event loop that are full."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._epoll = select.epoll()
        self._writable: dict[int, Callable[[], None]] = {}  # by descriptor
        loop.add_reader(self._epoll.fileno(), self._call_writable)

    def add(self, descriptor: int, writable: Callable[[], None]) -> None:
        """Calls ``writable`` in each iteration in which the socket accepts bytes or has failed.

        Until ``remove``, which must be called before the descriptor is closed. Raises OSError.
        """
        self._epoll.register(descriptor, select.EPOLLOUT)
        self._writable[descriptor] = writable

    def remove(self, descriptor: int) -> None:
        del self._writable[descriptor]
        self._epoll.unregister(descriptor)

    def _call_writable(self) -> None:
        for descriptor, _events in self._epoll.poll(0):
            # The call for another socket may have removed this one.
            writable = self._writable.get(descriptor)
            if writable is not None:
                writable()


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, WritableWatch] = WeakKeyDictionary()


def watch_of(loop: asyncio.AbstractEventLoop) -> WritableWatch:
    """The watch of an event loop; made when a first socket is full."""
    watch = _watches.get(loop)
    if watch is None:
        watch = _watches[loop] = WritableWatch(loop)
    return watch

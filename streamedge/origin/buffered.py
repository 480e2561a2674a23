"""Small bodies that a response buffers while they arrive, so that they can be stored in one write.

A response, or a read of one, may have ``buffered``; wrappers pass it on with ``buffered_body``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol


class BufferedBody(Protocol):
    """A body that may be there as a whole before it is read."""

    async def buffered(self, within_s: float) -> bytes | None:
        """The whole body, as soon as it was received; None if that takes longer than ``within_s``,
        or fails. It can still be read afterwards, or closed. Only for bodies up to 64 KiB.
        """
        ...


async def buffered_body(source: object, within_s: float) -> bytes | None:
    """The whole body of a response or read; None if it is not there or ``source`` buffers none."""
    # Not isinstance: for a protocol that takes longer than all the rest.
    buffered: Callable[[float], Awaitable[bytes | None]] | None = getattr(source, "buffered", None)
    return None if buffered is None else await buffered(within_s)

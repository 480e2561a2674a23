"""The state of an HTTP/1.1 connection, as tests and debuggers see it."""

from __future__ import annotations

from typing import NamedTuple

from streamedge.delivery.http.http1.states import Input


class Http1Stats(NamedTuple):
    """The state of a connection, for tests and debugging.

    ``queued``: requests behind the current one. ``held``: received bytes that wait for the batch
    or, if ``is_waiting``, for the response to another request. ``header_bytes``: of a head that is
    not complete. ``is_handling``: whether a request is being handled or answered. ``has_ended``:
    whether the viewer sends no more.
    ``blocked_since_s``: the loop's time since which the peer accepts nothing, or None.
    ``quiet_since_s``: since when it has been idle.
    """

    input: Input
    queued: int
    held: bytes
    is_waiting: bool
    is_paused: bool
    header_bytes: int
    is_handling: bool
    has_ended: bool
    blocked_since_s: float | None
    quiet_since_s: float

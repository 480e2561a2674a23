"""A request of a tunnel and its response, on the connection of a client."""

from __future__ import annotations

from collections.abc import Callable

from streamedge.callbacks import do_nothing
from streamedge.delivery.rtmp.tunnel.response_body import ResponseBody


class Exchange:
    """A request from its arrival until its response is sent or lost.

    The connection sets ``answered`` and calls ``finish``; a session may set ``on_finish``.
    """

    __slots__ = ("_answered", "body", "is_answered", "on_finish")

    def __init__(self, answered: Callable[[], None]) -> None:
        self.body: ResponseBody | None = None
        """The body of the response; None: 404."""
        self.is_answered = False
        self.on_finish: Callable[[Exchange, bool], None] | None = None
        """Called once, with whether the kernel has the whole response."""
        self._answered = answered

    def respond(self, body: ResponseBody | None) -> None:
        """Sends the response, behind those of earlier requests. None: 404."""
        if not self.is_answered:
            self.body, self.is_answered = body, True
            answered, self._answered = self._answered, do_nothing
            answered()

    def finish(self, *, is_sent: bool) -> None:
        """The response is sent, or the connection is lost."""
        self.is_answered = True
        self._answered = do_nothing  # a session may keep this object longer than the connection
        on_finish, self.on_finish = self.on_finish, None
        if on_finish is not None:
            on_finish(self, is_sent)

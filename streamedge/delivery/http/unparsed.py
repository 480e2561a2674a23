"""Received bytes that wait for their share of the loop's time, and are parsed in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streamedge.delivery.http.read_control import ReadControl
from streamedge.delivery.net.read_scheduler import ReadScheduler


class UnparsedBytes:
    """The unparsed bytes of a connection. The socket is not read while they wait.

    ``parse(data)`` parses one piece, of at most ``piece_bytes``, and does not raise.
    ``may_parse()``: whether the next bytes may be parsed now, or wait until ``resume``.
    """

    __slots__ = (
        "_control",
        "_data",
        "_is_due",
        "_may_parse",
        "_parse",
        "_piece_bytes",
        "_scheduler",
        "_transport",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        control: ReadControl,
        scheduler: ReadScheduler,
        piece_bytes: int,
        parse: Callable[[bytes], None],
        may_parse: Callable[[], bool],
    ) -> None:
        self._transport = transport
        self._control = control
        self._scheduler = scheduler
        self._piece_bytes = piece_bytes
        self._parse = parse
        self._may_parse = may_parse
        self._data = b""
        self._is_due = False  # whether the scheduler calls ``_parse_piece``

    def __len__(self) -> int:
        return len(self._data)

    def add(self, data: bytes) -> None:
        """Adds received bytes, and parses what it may now."""
        self._data += data
        if not self._is_due:
            self._is_due = True
            if self._scheduler.start(self._parse_piece):
                self._control.hold()

    def put_back(self, rest: bytes) -> None:
        """Puts the unparsed rest of a piece before the bytes that follow it."""
        self._data = rest + self._data

    def resume(self) -> None:
        """Parses the bytes in later iterations of the loop."""
        if not self._is_due:
            self._is_due = True
            self._scheduler.wait(self._parse_piece)

    def take(self) -> bytes:
        """Removes all bytes, and returns them."""
        data, self._data = self._data, b""
        return data

    def close(self) -> None:
        """Drops all bytes and the owner's functions: the transport is closed."""
        self._data = b""
        self._parse, self._may_parse = _drop, _never

    def _parse_piece(self) -> bool:
        """Parses one piece; returns whether another can follow."""
        if self._data and not self._transport.is_closing() and self._may_parse():
            data, self._data = self._data[: self._piece_bytes], self._data[self._piece_bytes :]
            self._parse(data)
        if self._transport.is_closing():
            self._data, self._is_due = b"", False
            return False
        may_parse = self._may_parse()
        if may_parse and self._data:
            return True
        self._is_due = False
        if may_parse:
            self._control.release()
        else:
            self._control.hold()
        return False


def _drop(_data: bytes) -> None:
    """Parses nothing."""


def _never() -> bool:
    return False

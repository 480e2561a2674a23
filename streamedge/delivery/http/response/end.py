"""The end of a response, as its log lines have it."""

from __future__ import annotations

from typing import NamedTuple


class ResponseEnd(NamedTuple):
    """When a response ended, complete or not, and what was sent until then.

    ``ended_s``: seconds since 1970. ``first_byte_s``: from the request to the first byte of the
    response. ``sent_bytes`` include the head of HTTP/1.1. ``cut``: why it ended early, or None.
    """

    ended_s: float
    sent_bytes: int
    duration_s: float
    first_byte_s: float
    cut: str | None

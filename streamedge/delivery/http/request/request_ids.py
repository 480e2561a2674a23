"""Ids of requests: in the field X-Amz-Cf-Id of each response, and in the logs.

An id is 56 characters of random text, as many as CloudFront's have. Its second half, 168 random
bits, makes it unique in all edges, and no one can guess it. The first half is the same for many
ids, so that they take less time to make and compress well in logs.
"""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from typing import Final

ID_CHARACTERS: Final = 56
IDS_AT_ONCE: Final = 512  # with the same first half; reading their bytes takes 0.05 us for each
_HALF_CHARACTERS: Final = ID_CHARACTERS // 2
_HALF_BYTES: Final = _HALF_CHARACTERS * 3 // 4


class RequestIds:
    """The ids of one process; not to be shared over a fork."""

    __slots__ = ("_at", "_first_half", "_second_halves")

    def __init__(self) -> None:
        self._first_half = b""
        self._second_halves = b""
        self._at = 0

    def next(self) -> bytes:
        """A new id."""
        at = self._at
        if at == len(self._second_halves):
            text = urlsafe_b64encode(os.urandom(_HALF_BYTES * (1 + IDS_AT_ONCE)))
            self._first_half, self._second_halves = text[:_HALF_CHARACTERS], text[_HALF_CHARACTERS:]
            at = 0
        self._at = end = at + _HALF_CHARACTERS
        return self._first_half + self._second_halves[at:end]


def no_id() -> bytes:
    """In place of ``RequestIds.next`` where responses have no id: between the edges of a fleet."""
    return b""

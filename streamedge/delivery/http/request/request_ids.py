"""Ids of requests: in the field X-Amz-Cf-Id of each response, and in the logs.

An id is 56 characters of random text, so that it is unique in all edges and cannot be guessed. The
random bytes of many ids are read at once.
"""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from typing import Final

ID_CHARACTERS: Final = 56  # as many as CloudFront's have
IDS_AT_ONCE: Final = 512  # 28 KiB; reading their bytes takes 0.1 us for each
_BYTES = ID_CHARACTERS * 3 // 4


class RequestIds:
    """The ids of one process; not to be shared over a fork."""

    __slots__ = ("_at", "_text")

    def __init__(self) -> None:
        self._text = b""
        self._at = 0

    def next(self) -> bytes:
        """A new id."""
        at = self._at
        if at == len(self._text):
            self._text = urlsafe_b64encode(os.urandom(_BYTES * IDS_AT_ONCE))
            at = 0
        self._at = end = at + ID_CHARACTERS
        return self._text[at:end]


def no_id() -> bytes:
    """In place of ``RequestIds.next`` where responses have no id: between the edges of a fleet."""
    return b""

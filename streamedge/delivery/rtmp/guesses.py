"""How many wrong signatures one client has shown, which is how guessing looks.

Owns the count and its limit; the session ends what is too much. Refusals that cost no verification,
such as an expired or an unknown key's signature, do not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from streamedge.delivery.rtmp.catalogue import WrongSignatureError

WRONG_SIGNATURES_MAX = 8  # of one client; each costs up to access.admission.RESOURCES_LIMIT


class Guesses:
    """Of one client; right signatures in between make up for none."""

    def __init__(self) -> None:
        self._wrong = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts the WrongSignatureError that comes by."""
        try:
            yield
        except WrongSignatureError:
            self._wrong += 1
            raise

    @property
    def are_too_many(self) -> bool:
        return self._wrong >= WRONG_SIGNATURES_MAX

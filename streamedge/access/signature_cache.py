"""Signatures that proved right, so that none is verified twice while it is remembered.

Owns how many are kept and which go first: those unused for longest. A signature is asked for by its
very spelling together with the key that is trusted now, so one whose key was removed or replaced is
not found. Only what a trusted signer has signed is kept, so no viewer can fill it. Belongs to one
thread.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from streamedge.access.grants import Grant
from streamedge.access.keys import PublicKey
from streamedge.access.signed_request import Signed
from streamedge.access.wildcards import ResourcePattern

REMEMBERED_LIMIT = 8192
REMEMBERED_BYTES = 16 << 20  # of their texts: a signature may be signed over a long URL


class VerifiedSignature(NamedTuple):
    """What a right signature allows; ``pattern``: what for, None where it is the resource by which
    it is remembered.
    """

    grant: Grant
    pattern: ResourcePattern | None


class SignatureCache:
    """The signatures that proved right lately, at most ``limit`` of them."""

    def __init__(self, limit: int = REMEMBERED_LIMIT) -> None:
        self._limit = limit
        self._known: OrderedDict[tuple[str, str, Signed], VerifiedSignature] = OrderedDict()
        self._used_bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def find(self, key: PublicKey, signed: Signed, resource: str) -> VerifiedSignature | None:
        """What ``keep`` was told of them; ``resource`` is "" for custom policies."""
        name = (key.fingerprint, resource, signed)
        known = self._known.get(name)
        if known is not None:
            self._known.move_to_end(name)
        return known

    def keep(self, key: PublicKey, signed: Signed, resource: str, known: VerifiedSignature) -> None:
        """Remembers a signature that ``key`` has verified."""
        name = (key.fingerprint, resource, signed)
        if name not in self._known:
            self._used_bytes += _size_bytes(resource, signed)
        self._known[name] = known
        while len(self._known) > self._limit or self._used_bytes > REMEMBERED_BYTES:
            (_key, old_resource, old_signed), _known = self._known.popitem(last=False)
            self._used_bytes -= _size_bytes(old_resource, old_signed)


def _size_bytes(resource: str, signed: Signed) -> int:
    return len(resource) + len(signed.signature_text) + 2 * len(signed.policy_text)

"""A cache of verified signatures, so that no signature is verified twice.

The key is the exact text of the signature with the trusted key, so entries of a removed or replaced
key are never used. Only valid signatures are stored, so viewers cannot fill the cache. The least
recently used entries are dropped first. For use in one thread.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from streamedge.access.grants import Grant
from streamedge.access.keys import PublicKey
from streamedge.access.signed_request import Signed
from streamedge.access.wildcards import ResourcePattern

ENTRIES_MAX = 8192
TEXT_BYTES_MAX = 16 << 20  # of the texts in entries, because a URL may be long


class VerifiedSignature(NamedTuple):
    """The grant of a valid signature.

    ``pattern`` is its Resource; None for a canned policy, which is valid for the resource in the
    cache key only.
    """

    grant: Grant
    pattern: ResourcePattern | None


class SignatureCache:
    """At most ``limit`` verified signatures."""

    def __init__(self, limit: int = ENTRIES_MAX) -> None:
        self._limit = limit
        self._entries: OrderedDict[tuple[str, str, Signed], VerifiedSignature] = OrderedDict()
        self._used_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: PublicKey, signed: Signed, resource: str) -> VerifiedSignature | None:
        """The entry that ``store`` stored, or None; ``resource`` is "" for custom policies."""
        name = (key.fingerprint, resource, signed)
        entry = self._entries.get(name)
        if entry is not None:
            self._entries.move_to_end(name)
        return entry

    def store(
        self, key: PublicKey, signed: Signed, resource: str, entry: VerifiedSignature
    ) -> None:
        """Stores a signature that ``key`` has verified."""
        name = (key.fingerprint, resource, signed)
        if name not in self._entries:
            self._used_bytes += _size_bytes(resource, signed)
        self._entries[name] = entry
        while len(self._entries) > self._limit or self._used_bytes > TEXT_BYTES_MAX:
            (_key, old_resource, old_signed), _entry = self._entries.popitem(last=False)
            self._used_bytes -= _size_bytes(old_resource, old_signed)


def _size_bytes(resource: str, signed: Signed) -> int:
    return len(resource) + len(signed.signature_text) + 2 * len(signed.policy_text)

"""Verification of the checksums that a viewer sends with an object.

Content-MD5, x-amz-checksum-* and x-amz-content-sha256 (Amazon S3 User Guide, "Checking object
integrity"). Pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from streamedge.origin.writing import HeaderFields, refuse

_SHA256_HEX_CHARS = 64


class Checksum(Protocol):
    """A running checksum, such as hashlib's objects."""

    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class Crc:
    """A running CRC of ``size_bytes`` bytes; ``extend`` takes more data and the value so far."""

    def __init__(self, size_bytes: int, extend: Callable[[bytes, int], int]) -> None:
        self._size_bytes = size_bytes
        self._extend = extend
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = self._extend(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size_bytes, "big")


def crc32() -> Crc:
    """CRC-32 (RFC 1952 §8)."""
    return Crc(4, zlib.crc32)


def crc32c() -> Crc:
    """CRC-32C (Castagnoli; RFC 3720 §12.1)."""
    # Takes 0.1 s to import, for a checksum that few clients send.
    from awscrt import checksums  # noqa: PLC0415

    return Crc(4, checksums.crc32c)


def crc64nvme() -> Crc:
    """CRC-64/NVME (NVM Express NVM Command Set Specification §5.2.1.3.4)."""
    from awscrt import checksums  # noqa: PLC0415

    return Crc(8, checksums.crc64nvme)


def _md5() -> Checksum:
    return hashlib.md5(usedforsecurity=False)


def _sha1() -> Checksum:
    return hashlib.sha1(usedforsecurity=False)


_ALGORITHMS: dict[str, Callable[[], Checksum]] = {
    "content-md5": _md5,
    "x-amz-checksum-crc32": crc32,
    "x-amz-checksum-crc32c": crc32c,
    "x-amz-checksum-crc64nvme": crc64nvme,
    "x-amz-checksum-sha1": _sha1,
    "x-amz-checksum-sha256": hashlib.sha256,
}
CHECKSUM_FIELDS = frozenset(_ALGORITHMS)
"""Header fields whose checksum the edge can verify."""


class Verifier:
    """Computes the checksums announced for one object, and verifies them at its end.

    ``trailers`` are the names of fields after the body. Raises WriteRefusedError 400
    InvalidDigest for a malformed checksum.
    """

    def __init__(self, fields: HeaderFields, trailers: Iterable[str] = ()) -> None:
        self._running: dict[str, Checksum] = {}
        self._expected: dict[str, bytes] = {}
        for name, value in fields:
            self._expect(name.lower(), value.strip())
        for name in trailers:
            if name in _ALGORITHMS:
                self._running[name] = _ALGORITHMS[name]()

    @property
    def is_needed(self) -> bool:
        """Whether a checksum was announced."""
        return bool(self._running)

    def update(self, data: bytes) -> None:
        """Adds the next bytes of the object."""
        for checksum in self._running.values():
            checksum.update(data)

    def verify(self, trailers: Mapping[str, str]) -> None:
        """Call at the end of the object. Raises WriteRefusedError 400 BadDigest."""
        for name, value in trailers.items():
            if name in self._running:
                self._expected[name] = _decode(name, value, self._running[name])
        for name, checksum in self._running.items():
            if name not in self._expected:
                raise refuse(400, "InvalidRequest", f"the trailer {name} is missing")
            if not hmac.compare_digest(checksum.digest(), self._expected[name]):
                raise refuse(400, "BadDigest", f"{name} does not match what was received")

    def _expect(self, name: str, value: str) -> None:
        if name in _ALGORITHMS:
            checksum = _ALGORITHMS[name]()
            self._expected[name] = _decode(name, value, checksum)
        elif name == "x-amz-content-sha256" and len(value) == _SHA256_HEX_CHARS:
            checksum = hashlib.sha256()
            try:
                self._expected[name] = bytes.fromhex(value)
            except ValueError as exc:
                raise refuse(400, "InvalidDigest", f"{name} is not a digest") from exc
        else:
            return
        self._running[name] = checksum


def _decode(name: str, value: str, checksum: Checksum) -> bytes:
    try:
        expected = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise refuse(400, "InvalidDigest", f"{name} is not base64") from exc
    if len(expected) != len(checksum.digest()):
        raise refuse(400, "InvalidDigest", f"{name} has the wrong length")
    return expected

"""Checksums that a viewer sends with an object, and whether they hold.

Owns the reading of Content-MD5, x-amz-checksum-* and x-amz-content-sha256 (Amazon S3 User Guide,
"Checking object integrity") and the CRCs that the standard library lacks. Pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from streamedge.origin.writing import HeaderFields, refuse

_SHA256_HEX_CHARS = 64
_Words = npt.NDArray[np.uint64]


class Checksum(Protocol):
    """A running checksum; hashlib's objects are some."""

    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc32:
    def __init__(self) -> None:
        self._state = 0

    def update(self, data: bytes) -> None:
        self._state = zlib.crc32(data, self._state)

    def digest(self) -> bytes:
        return self._state.to_bytes(4, "big")


class WideCrc:
    """A reflected CRC of ``bits`` with polynomial ``polynomial`` (bit-reversed), begun with and
    inverted by all ones.

    A CRC is linear, so a block is cut into lanes that numpy takes through the table side by side;
    their results are then joined by pairs.
    """

    def __init__(self, bits: int, polynomial: int) -> None:
        self._ones = (1 << bits) - 1
        self._size_bytes = bits // 8
        self._polynomial = polynomial
        self._state = self._ones
        self._rest = bytearray()

    def update(self, data: bytes) -> None:
        self._rest += data
        block_bytes = _LANE_COUNTS[0] * _LANE_BYTES
        whole = len(self._rest) // block_bytes * block_bytes
        if whole:
            self._state = self._take(self._state, bytes(self._rest[:whole]), _LANE_COUNTS[0])
            del self._rest[:whole]

    def digest(self) -> bytes:
        state, rest = self._state, bytes(self._rest)
        for lanes in _LANE_COUNTS:
            whole = len(rest) // (lanes * _LANE_BYTES) * (lanes * _LANE_BYTES)
            state, rest = self._take(state, rest[:whole], lanes), rest[whole:]
        table = _table(self._polynomial)
        for byte in rest:
            state = int(table[(state ^ byte) & 0xFF]) ^ (state >> 8)
        return (state ^ self._ones).to_bytes(self._size_bytes, "big")

    def _take(self, state: int, data: bytes, lanes: int) -> int:
        """The state after ``data``, whole blocks of ``lanes`` lanes."""
        for start in range(0, len(data), lanes * _LANE_BYTES):
            block = data[start : start + lanes * _LANE_BYTES]
            state = _join_lanes(self._polynomial, state, block, lanes)
        return state


_LANE_BYTES = 64  # a power of two
_LANE_COUNTS = (4096, 256, 16)  # powers of two: wide ones for speed, narrow ones for what is left


@cache
def _table(polynomial: int) -> _Words:
    """What a byte does to the state, for each byte."""
    state = np.arange(256, dtype=np.uint64)
    one = np.uint64(1)
    for _bit in range(8):
        state = (state >> one) ^ (np.uint64(polynomial) * (state & one))
    return state


@cache
def _past_zeros(polynomial: int, size_bytes: int) -> tuple[_Words, ...]:
    """What ``size_bytes`` (a power of two) zeros do to a state: by each of its 8 bytes, a table."""
    tables = tuple(np.arange(256, dtype=np.uint64) << np.uint64(8 * place) for place in range(8))
    if size_bytes == 1:
        table = _table(polynomial)
        return tuple(
            table[states & np.uint64(0xFF)] ^ (states >> np.uint64(8)) for states in tables
        )
    half = _past_zeros(polynomial, size_bytes // 2)
    return tuple(_apply(half, _apply(half, states)) for states in tables)


def _apply(tables: tuple[_Words, ...], states: _Words) -> _Words:
    result = np.zeros_like(states)
    for place, table in enumerate(tables):
        result ^= table[((states >> np.uint64(8 * place)) & np.uint64(0xFF)).astype(np.intp)]
    return result


def _join_lanes(polynomial: int, state: int, block: bytes, lanes: int) -> int:
    """The state after ``block``, which is ``lanes`` lanes of _LANE_BYTES."""
    table = _table(polynomial)
    columns = np.frombuffer(block, np.uint8).reshape(lanes, _LANE_BYTES).T.astype(np.intp)
    states = np.zeros(lanes, np.uint64)
    states[0] = state
    for column in columns:
        index = states.astype(np.uint8) ^ column  # the state's lowest byte
        states >>= np.uint64(8)
        states ^= table.take(index)
    size_bytes = _LANE_BYTES
    while len(states) > 1:
        states = _apply(_past_zeros(polynomial, size_bytes), states[0::2]) ^ states[1::2]
        size_bytes *= 2
    return int(states[0])


def crc32c() -> WideCrc:
    """CRC-32C (Castagnoli; RFC 3720 §12.1)."""
    return WideCrc(32, 0x82F63B78)


def crc64nvme() -> WideCrc:
    """CRC-64/NVME (NVM Express NVM Command Set Specification §5.2.1.3.4)."""
    return WideCrc(64, 0x9A6C9329AC4BC9B5)


def _md5() -> Checksum:
    return hashlib.md5(usedforsecurity=False)


def _sha1() -> Checksum:
    return hashlib.sha1(usedforsecurity=False)


_ALGORITHMS: dict[str, Callable[[], Checksum]] = {
    "content-md5": _md5,
    "x-amz-checksum-crc32": _Crc32,
    "x-amz-checksum-crc32c": crc32c,
    "x-amz-checksum-crc64nvme": crc64nvme,
    "x-amz-checksum-sha1": _sha1,
    "x-amz-checksum-sha256": hashlib.sha256,
}
CHECKSUM_FIELDS = frozenset(_ALGORITHMS)
"""HeaderFields whose checksum the edge can tell."""


class Verifier:
    """The checksums announced for one object, being told while its bytes pass.

    ``trailers`` names fields that follow the body. Raises WriteRefusedError 400 InvalidDigest for
    a checksum that is none.
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
        """Whether anything was announced."""
        return bool(self._running)

    def update(self, data: bytes) -> None:
        """Takes the next bytes; some milliseconds for a MiB under an uncommon CRC."""
        for checksum in self._running.values():
            checksum.update(data)

    def verify(self, trailers: Mapping[str, str]) -> None:
        """Says that the object is whole. Raises WriteRefusedError 400 BadDigest."""
        for name, value in trailers.items():
            if name in self._running:
                self._expected[name] = _decode(name, value, self._running[name])
        for name, checksum in self._running.items():
            if name not in self._expected:
                raise refuse(400, "InvalidRequest", f"the trailer {name} did not come")
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

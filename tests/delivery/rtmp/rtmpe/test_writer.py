"""A writer that encrypts: each byte is encrypted once and in order, whatever the peer accepts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.cache.storage.extent import Ready
from streamedge.delivery.net.writers import TLS_WRITE_BYTES
from streamedge.delivery.rtmp.rtmpe.writer import EncryptingWriter

DATA = bytes(index * 31 % 256 for index in range(3 * TLS_WRITE_BYTES))
BUFFER = memoryview(bytearray(TLS_WRITE_BYTES))


class Counting:
    """A stream cipher: the key stream is the position of each byte."""

    def __init__(self) -> None:
        self.position = 0

    def encrypt_into(self, data: bytes | memoryview, target: memoryview) -> None:
        target[: len(data)] = self.apply(bytes(data))

    def apply(self, data: bytes) -> bytes:
        stream = bytes(range(256)) * (len(data) // 256 + 2)
        first = self.position % 256
        self.position += len(data)
        number = int.from_bytes(data, "big") ^ int.from_bytes(
            stream[first : first + len(data)], "big"
        )
        return number.to_bytes(len(data), "big")


class Peer:
    """Accepts as many bytes as ``counts`` say; 0: it is not ready, None: it is gone."""

    piece_bytes = TLS_WRITE_BYTES

    def __init__(self, counts: Iterator[int | None]) -> None:
        self.received = b""
        self.writable: Callable[[], None] | None = None
        self._counts = counts

    def send(self, data: bytes | memoryview, *, more: bool) -> int:
        count = next(self._counts)
        if count is None:
            raise ConnectionResetError
        if not count:
            raise BlockingIOError
        self.received += bytes(data[:count])
        return min(count, len(data))

    def send_file(self, file: int, offset: int, count: int) -> int:
        raise NotImplementedError

    def send_together(self, head: bytes | memoryview, ready: Ready) -> int:
        raise NotImplementedError

    def unsent_bytes(self) -> int:
        return 0

    def watch(self, writable: Callable[[], None]) -> None:
        self.writable = writable

    def unwatch(self) -> None:
        self.writable = None

    def close(self) -> None:
        self.unwatch()


@given(
    counts=st.lists(st.sampled_from([0, 1, 1000, TLS_WRITE_BYTES]), max_size=40),
    calls=st.lists(st.sampled_from(["send", "file", "together"]), min_size=1, max_size=8),
)
def test_peer_receives_each_byte_encrypted_once(counts: list[int], calls: list[str]) -> None:
    peer = Peer(chain(counts, repeat(TLS_WRITE_BYTES)))
    writer = EncryptingWriter(peer, Counting().encrypt_into, BUFFER)
    pushed = 0
    with tempfile.TemporaryFile() as file:
        file.write(DATA)
        file.flush()
        for call in calls:
            if call == "send":
                sent = attempt(writer, partial(writer.send, DATA[pushed:], more=False))
            elif call == "file":
                size = len(DATA) - pushed
                sent = attempt(writer, partial(writer.send_file, file.fileno(), pushed, size))
            else:
                head = DATA[pushed : pushed + 100]
                ready = Ready(file.fileno(), pushed + 100, max(0, len(DATA) - pushed - 100))
                sent = writer.send_together(head, ready)
            pushed += sent
            assert len(peer.received) + writer.unsent_bytes() == pushed
    writable = 0

    def count_writable() -> None:
        nonlocal writable
        writable += 1

    for _attempt in range(len(counts) + 2):
        if writer.unsent_bytes():
            writer.watch(count_writable)
            assert peer.writable is not None
            peer.writable()
            assert bool(writable) == (not writer.unsent_bytes())
    assert Counting().apply(peer.received) == DATA[:pushed]


def attempt(writer: EncryptingWriter, call: Callable[[], int]) -> int:
    """The result of a call; 0 if the rest of an earlier piece is still waiting."""
    try:
        return call()
    except BlockingIOError:
        assert writer.unsent_bytes()
        return 0


def test_lost_peer_is_reported_by_the_next_call() -> None:
    peer = Peer(iter([0, None, None]))
    writer = EncryptingWriter(peer, Counting().encrypt_into, BUFFER)
    assert writer.send(b"data", more=False) == 4
    called = []
    writer.watch(lambda: called.append(True))
    assert peer.writable is not None
    peer.writable()
    assert called == [True]
    assert writer.unsent_bytes() == 0
    with pytest.raises(ConnectionResetError):
        writer.send(b"data", more=False)


def test_short_file_is_reported() -> None:
    writer = EncryptingWriter(Peer(repeat(TLS_WRITE_BYTES)), Counting().encrypt_into, BUFFER)
    with tempfile.TemporaryFile() as file:
        assert writer.send_file(file.fileno(), 0, 10) == 0

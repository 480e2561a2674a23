"""A value in shared memory is read whole while it is replaced."""

from __future__ import annotations

import os
import signal
import threading

from streamedge.ops.shared_buffer import SharedBuffer


def test_value_is_read_whole_during_writes() -> None:
    buffer = SharedBuffer("test")
    texts = [bytes([letter]) * size for letter, size in ((65, 50_000), (66, 1), (67, 200_000))]
    buffer.write(texts[0])
    ended = threading.Event()

    def write() -> None:
        for number in range(300):
            buffer.write(texts[number % len(texts)])
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not ended.is_set():
        assert buffer.read() in texts
    writer.join()
    buffer.close()


def test_buffer_is_empty_initially() -> None:
    buffer = SharedBuffer("test")
    assert buffer.read() == b""
    buffer.close()


def test_killed_writer_leaves_the_previous_value() -> None:
    buffer = SharedBuffer("test")
    buffer.write(b"first")
    child = os.fork()
    if child == 0:
        buffer.write(b"second")
        real = os.pwrite

        def write_a_part(half: int, text: bytes, at: int) -> int:
            real(half, text[:1], at)
            os.kill(os.getpid(), signal.SIGKILL)
            return 0

        os.pwrite = write_a_part  # type: ignore[assignment]
        buffer.write(b"third")
    os.waitpid(child, 0)
    assert buffer.read() == b"second"
    buffer.write(b"fourth")
    assert buffer.read() == b"fourth"
    buffer.close()

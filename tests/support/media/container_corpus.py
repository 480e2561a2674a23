"""Container files with random damage: changed, missing, repeated and foreign bytes."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from tests.support.media.container_samples import container_file

SEEDS = ("film.mkv", "film.ts", "film.webm", "hevc.ts", "song.aac", "languages.mkv")
MAGIC_BYTES = 1024  # left as they are by half of the edits, so that the kind of file is detected


def damaged(name: str, count: int) -> Iterator[bytes]:
    """``count`` files, the same for each run."""
    random = Random(name)
    for number in range(count):
        data = bytearray(container_file(name))
        start = MAGIC_BYTES if number % 2 else 4
        for _ in range(random.choice((1, 3, 30))):
            _EDITS[number % len(_EDITS)](random, data, start)
        yield bytes(data)


def _change(random: Random, data: bytearray, start: int) -> None:
    for _ in range(20):
        data[random.randrange(start, len(data))] = random.randrange(256)


def _change_head(random: Random, data: bytearray, start: int) -> None:
    for _ in range(4):
        data[random.randrange(start, min(len(data), 4 * MAGIC_BYTES))] = random.randrange(256)


def _zero(random: Random, data: bytearray, start: int) -> None:
    at = random.randrange(start, len(data))
    size = min(random.randrange(1, 5000), len(data) - at)
    data[at : at + size] = bytes(size)


def _remove(random: Random, data: bytearray, start: int) -> None:
    at = random.randrange(start, max(start + 1, len(data) - 5000))
    del data[at : at + random.randrange(1, 5000)]


def _repeat(random: Random, data: bytearray, start: int) -> None:
    at = random.randrange(start, len(data))
    data[at:at] = data[at : at + random.randrange(1, 5000)]


def _fill(random: Random, data: bytearray, start: int) -> None:
    at = random.randrange(start, len(data))
    size = min(random.randrange(1, 5000), len(data) - at)
    data[at : at + size] = b"\xff" * size


def _randomize(random: Random, data: bytearray, start: int) -> None:
    at = random.randrange(start, len(data))
    data[at:] = random.randbytes(len(data) - at)


_EDITS = (_change, _change_head, _zero, _remove, _repeat, _fill, _randomize)

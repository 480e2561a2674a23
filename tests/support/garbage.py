"""Which objects exist, without the help of the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Objects in reference circles stay while it runs; those of earlier tests are freed first."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def count_of(kind: type) -> int:
    """How many objects of exactly this type exist."""
    return sum(type(one) is kind for one in gc.get_objects())

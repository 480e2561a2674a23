"""Locks on byte numbers. Two open files of one path are two workers for the kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamedge.cache.storage.locks import holder, try_lock, unlock
from streamedge.spans import Span


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Two opens of an empty file."""
    path = tmp_path / "locks"
    path.touch()
    descriptors = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)


def test_number_is_locked_by_one_of_two(two: tuple[int, int]) -> None:
    one, other = two
    assert try_lock(one, Span(10, 20))
    assert not try_lock(other, Span(19, 30))
    assert not try_lock(other, Span(0, 11))
    assert try_lock(other, Span(20, 30))
    assert try_lock(other, Span(0, 10))


def test_lock_takes_all_numbers_or_none(two: tuple[int, int]) -> None:
    one, other = two
    assert try_lock(one, Span(5, 6))
    assert not try_lock(other, Span(0, 10))
    assert holder(one, Span(0, 10)) is None


def test_one_open_file_never_conflicts_with_itself(two: tuple[int, int]) -> None:
    one, _ = two
    assert try_lock(one, Span(0, 10))
    assert try_lock(one, Span(5, 15))
    assert holder(one, Span(0, 15)) is None


def test_holder_returns_the_numbers_of_the_other_file(two: tuple[int, int]) -> None:
    one, other = two
    assert holder(other, Span(0, 100)) is None
    assert try_lock(one, Span(7, 9))
    assert holder(other, Span(0, 100)) == Span(7, 9)
    assert holder(other, Span(0, 7)) is None
    assert holder(other, Span(9, 10)) is None


def test_unlock_releases_its_numbers_only(two: tuple[int, int]) -> None:
    one, other = two
    assert try_lock(one, Span(0, 10))
    unlock(one, Span(2, 8))
    assert try_lock(other, Span(2, 8))
    assert not try_lock(other, Span(0, 2))
    assert not try_lock(other, Span(8, 10))


def test_numbers_may_be_as_large_as_a_hash(two: tuple[int, int]) -> None:
    one, other = two
    number = 16**15 - 1
    assert try_lock(one, Span(number, number + 1))
    assert not try_lock(other, Span(number, number + 1))
    assert try_lock(other, Span(number - 1, number))


def test_last_close_releases_the_locks(tmp_path: Path, two: tuple[int, int]) -> None:
    one = os.open(tmp_path / "locks", os.O_RDWR)
    duplicate = os.dup(one)
    assert try_lock(one, Span(0, 1))
    os.close(one)
    assert not try_lock(two[0], Span(0, 1))
    os.close(duplicate)
    assert try_lock(two[0], Span(0, 1))


def test_errors_other_than_conflicts_are_raised(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    readable = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with pytest.raises(OSError) as caught:
            try_lock(readable, Span(0, 1))
        assert caught.value.errno == errno.EBADF
    finally:
        os.close(readable)

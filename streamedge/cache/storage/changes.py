"""The change counter and the write table: they tell all workers which cached data is invalid.

Both are in one preallocated file of the cache folder, ``changes``, which all processes map. The
counter grows with each write and each invalidation. The write table has a slot for each hash of a
key, with the counter's value as of the last write to such a key. A record has the counter's value
of the moment when its request was sent, and is refused if a slot of its keys has a higher one. Two
keys in one slot cost a miss, never a stale response.

The slots are the change counters of groups of keys: when the counter has moved, a reader of an
object compares the slots of that object's keys and the count of invalidations, and nothing else.
So a write makes no other object be looked up again.

The file also counts the lookups that have ended, by hash of the key: from these counts a worker
that waits for other workers' lookups sees how many it has waited for.

Nothing here depends on a clock, on free disk space (the file is allocated beforehand), on a
record's file or on the order in which processes write their records.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from array import array
from collections.abc import Iterator
from pathlib import Path

from streamedge.cache.storage.records import key_hash

WRITE_SLOTS = 1 << 18
_FIRST_SLOT = 512  # in words of 8 bytes: the slots begin on a page of their own
_LOOKUP_SLOTS = 1 << 13
_FIRST_LOOKUP = _FIRST_SLOT + WRITE_SLOTS
_FILE_BYTES = (_FIRST_LOOKUP + _LOOKUP_SLOTS) * 8
_ERA_SHIFT = 32  # the counter's upper half is the era in which it was last raised at a start
_NUMBER_END = 1 << 63
_WORD_END = 1 << 64
_NUMBER, _TRUSTED_FROM, _INVALIDATIONS = range(3)


class ChangeCounter:
    """The counter and the table of the cache folder ``root``, mapped.

    A process that cannot open the file tries again with each use. Until it has the file it does not
    see other processes' writes: every record counts as outdated.

    ``word[0]`` is the counter, for code that reads it very often. Until the file is open, it is
    memory of this process only, and always 0.
    """

    __slots__ = ("_fd", "_root", "_unknown", "word")

    def __init__(self, root: Path) -> None:
        self._root = root
        self._fd = -1
        self._unknown = -1
        self.word = memoryview(mmap.mmap(-1, _FILE_BYTES)).cast("Q")
        self._is_shared()

    @property
    def number(self) -> int:
        """The counter's value; it only grows. Unknown values are below 0 and all different."""
        if self._fd < 0 and not self._is_shared():
            self._unknown -= 1
            return self._unknown
        return self.word[_NUMBER]

    @property
    def trusted_from(self) -> int:
        """Records with a lower ``sent_change`` may have missed a write, because power failed."""
        return self.word[_TRUSTED_FROM]

    def _is_shared(self) -> bool:
        """Whether the file is open; opens it if it can."""
        if self._fd >= 0:
            return True
        try:
            fd = os.open(self._root / "changes", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            word = memoryview(mmap.mmap(fd, _FILE_BYTES)).cast("Q")
        except (OSError, ValueError):
            os.close(fd)
            return False
        self._fd, self.word = fd, word
        return True

    @property
    def invalidations(self) -> int:
        """How often ``announce_invalidation`` was called: what it covered is in the control log."""
        return self.word[_INVALIDATIONS]

    def announce(self, *written: str) -> None:
        """Increments the counter and refuses older records of the keys ``written``.

        Raises the slots before the counter: a process that sees the new value sees the slots too.
        """
        if not self._is_shared():
            return  # this process uses no record, and it cannot reach the others
        slots = write_slots(*written)
        with self._locked():
            number = self.word[_NUMBER] + 1
            for slot in slots:
                self.word[slot] = number
            self.word[_NUMBER] = number

    def announce_invalidation(self) -> None:
        """Increments the counter and makes all processes check open objects against the log.

        The count of invalidations goes first, as the slots do in ``announce``. It is a number of
        its own: if a process is killed in between, the next invalidation still changes it.
        """
        if not self._is_shared():
            return
        with self._locked():
            self.word[_INVALIDATIONS] = (self.word[_INVALIDATIONS] + 1) % _NUMBER_END
            self.word[_NUMBER] += 1

    def is_written_since(self, sent_change: int, *keys: str) -> bool:
        """Whether one of ``keys`` was written to after the counter was ``sent_change``."""
        return self.are_slots_raised_since(sent_change, write_slots(*keys))

    def are_slots_raised_since(self, sent_change: int, slots: tuple[int, ...]) -> bool:
        """As ``is_written_since``, for the ``write_slots`` of the keys."""
        if sent_change < 0 or not self._is_shared():
            return True
        word = self.word
        raised = max([word[slot] for slot in slots])
        if raised > word[_NUMBER]:
            self.announce()  # a process was killed between the slot and the counter
        # A higher value than the counter's is from another folder or a damaged record.
        return raised > sent_change or sent_change > word[_NUMBER]

    def lookup_ended(self, key: str) -> None:
        """Counts a lookup; a lost increment, in a race of two processes, is harmless."""
        slot = _lookup_slot(key)
        self.word[slot] = (self.word[slot] + 1) % _WORD_END

    def lookups_ended(self, key: str) -> int:
        """How many lookups of a key, or of others in its slot, have ended in all workers."""
        return self.word[_lookup_slot(key)]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)


def is_changes_file_whole(root: Path) -> bool:
    """Whether the folder has the file, in its full size."""
    try:
        return (root / "changes").stat().st_size == _FILE_BYTES
    except OSError:
        return False


def prepare_changes(root: Path, era: int, *, is_unsure: bool) -> list[str]:
    """Allocates the file; returns descriptions of repairs. Raises OSError if the disk is full.

    ``is_unsure``: power failed or the file was lost, so the counter may be lower than the values
    in records, and raised slots may be missing. Then the counter continues from the ``era``, above
    all its earlier values, and older records have to be validated.
    """
    fd = os.open(root / "changes", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, _FILE_BYTES)
        os.ftruncate(fd, _FILE_BYTES)
        words = memoryview(mmap.mmap(fd, _FILE_BYTES)).cast("Q")
        repairs = [] if _is_sound(words) else ["changes held impossible numbers"]
        if repairs:
            for word in range(len(words)):
                words[word] = 0
        if is_unsure or repairs:
            words[_NUMBER] = max(words[_NUMBER], era << _ERA_SHIFT)
            words[_TRUSTED_FROM] = words[_NUMBER]
        words.release()
        os.fsync(fd)
    finally:
        os.close(fd)
    return repairs


def _is_sound(words: memoryview) -> bool:
    """Whether the numbers are possible: no slot is above the counter."""
    number = words[_NUMBER]
    highest = max(array("Q", words[_FIRST_SLOT:_FIRST_LOOKUP].tobytes()))
    lookups = max(array("Q", words[_FIRST_LOOKUP:].tobytes()))
    # One more if a process was killed between the slot and the counter.
    are_slots_sound = words[_TRUSTED_FROM] <= number and highest <= number + 1
    return max(number, lookups, words[_INVALIDATIONS]) < _NUMBER_END and are_slots_sound


def _lookup_slot(key: str) -> int:
    return _FIRST_LOOKUP + key_hash(key).number % _LOOKUP_SLOTS


def write_slots(*keys: str) -> tuple[int, ...]:
    """The words of the write table that a write to one of ``keys`` raises."""
    return tuple([_FIRST_SLOT + key_hash(key).number % WRITE_SLOTS for key in keys])

"""After a write, no process uses a response that was requested before it, whatever the processes
and the disk do at the same time.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.cache.storage.changes import (
    WRITE_SLOTS,
    ChangeCounter,
    is_changes_file_whole,
    prepare_changes,
    write_slots,
)
from streamedge.cache.storage.store import BOOT_ID_FILE, close_folder, prepare_folder

KEYS = ("a", "b")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    prepare_changes(tmp_path, 1, is_unsure=True)
    return tmp_path


def test_write_refuses_responses_requested_before_it_in_every_process(root: Path) -> None:
    one, other = ChangeCounter(root), ChangeCounter(root)
    before = one.number
    assert not other.is_written_since(before, "a")
    one.announce("a", "b")
    assert other.number == before + 1
    assert other.is_written_since(before, "a")
    assert other.is_written_since(before, "none", "b")
    assert not other.is_written_since(other.number, "a")


def test_announcement_without_keys_refuses_nothing(root: Path) -> None:
    changes = ChangeCounter(root)
    before = changes.number
    changes.announce()
    assert changes.number == before + 1
    assert not changes.is_written_since(before, "a")


def test_invalidation_moves_counter_and_count_in_every_process_and_refuses_nothing(
    root: Path,
) -> None:
    one, other = ChangeCounter(root), ChangeCounter(root)
    number, invalidations = other.number, other.invalidations
    one.announce_invalidation()
    assert (other.number, other.invalidations) == (number + 1, invalidations + 1)
    assert not other.is_written_since(number, "a")
    one.announce("a")
    assert other.invalidations == invalidations + 1


def test_counter_value_of_another_folder_is_refused(root: Path) -> None:
    changes = ChangeCounter(root)
    assert changes.is_written_since(changes.number + 1, "a")


def test_process_that_cannot_open_the_file_uses_nothing_cached_until_it_can(
    tmp_path: Path,
) -> None:
    changes = ChangeCounter(tmp_path)
    assert changes.number < 0
    assert changes.number != changes.number
    assert changes.is_written_since(0, "a")
    sent_before = changes.number
    prepare_changes(tmp_path, 1, is_unsure=True)
    number = changes.number
    assert number >= 0
    assert not changes.is_written_since(number, "a")
    assert changes.is_written_since(sent_before, "a")
    write = (
        "import sys; from pathlib import Path;"
        "from streamedge.cache.storage.changes import ChangeCounter;"
        "ChangeCounter(Path(sys.argv[1])).announce('a')"
    )
    subprocess.run([sys.executable, "-c", write, str(tmp_path)], check=True)
    assert changes.is_written_since(number, "a")


def test_full_disk_does_not_stop_a_write(root: Path) -> None:
    """Every page is allocated beforehand: not even a limit of 0 bytes for files is met."""
    changes = ChangeCounter(root)
    assert (root / "changes").stat().st_blocks * 512 >= WRITE_SLOTS * 8
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        before = changes.number
        for number in range(1000):
            changes.announce(f"key {number}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert all(changes.is_written_since(before, f"key {number}") for number in range(1000))


def test_counter_after_a_power_failure_is_above_all_earlier_values(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    first = ChangeCounter(tmp_path)
    for _ in range(5):
        first.announce("a")
    last = first.number
    assert first.trusted_from <= last
    (tmp_path / "era").write_text('{"era": 1, "clean": false, "boot_id": "another boot"}')
    first.word[0] = 0  # as after a power failure
    prepare_folder(tmp_path)
    again = ChangeCounter(tmp_path)
    assert again.number > last
    assert again.trusted_from > last


def test_restart_keeps_numbers_and_slots(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    first = ChangeCounter(tmp_path)
    before = first.number
    first.announce("a")
    close_folder(tmp_path)
    prepare_folder(tmp_path)
    again = ChangeCounter(tmp_path)
    assert (again.number, again.trusted_from) == (before + 1, before)
    assert again.is_written_since(before, "a")


@pytest.mark.parametrize("size_bytes", [None, 0, 64])
def test_lost_or_short_file_counts_as_a_power_failure(
    tmp_path: Path, size_bytes: int | None
) -> None:
    prepare_folder(tmp_path)
    last = ChangeCounter(tmp_path)
    last.announce("a")
    boot_id = BOOT_ID_FILE.read_text().strip()
    (tmp_path / "era").write_text(f'{{"era": 1, "clean": true, "boot_id": "{boot_id}"}}')
    if size_bytes is None:
        (tmp_path / "changes").unlink()
    else:
        os.truncate(tmp_path / "changes", size_bytes)
    assert not is_changes_file_whole(tmp_path)
    number = last.word[0] if size_bytes is None else 0
    prepare_folder(tmp_path)
    again = ChangeCounter(tmp_path)
    assert again.number > number
    assert again.trusted_from == again.number


def test_repaired_file_counts_as_a_power_failure(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    changes = ChangeCounter(tmp_path)
    for _each in range(5):
        changes.announce("a")
    last = changes.number
    changes.word[1000] = last + 2  # more than a killed process leaves
    assert len(prepare_folder(tmp_path)) == 1
    again = ChangeCounter(tmp_path)
    assert again.number > last
    assert again.trusted_from == again.number


# --- one worker acts between any two stores of another ----------------------------------------


class Stepwise:
    """The mapped words; runs ``between`` before each of them is written."""

    def __init__(self, word: memoryview, between: Callable[[], None]) -> None:
        self._word = word
        self._between = between

    def __getitem__(self, at: int) -> int:
        value: int = self._word[at]
        return value

    def __setitem__(self, at: int, value: int) -> None:
        self._between()
        self._word[at] = value


class Model:
    """An origin's objects, the requests for them in flight, and the acknowledged writes.

    The record of a key is a file: the process that writes it last replaces it. ``writer`` is the
    counter of another folder, which gets the words of a worker: so its lock is another one, and the
    steps between its writes do not wait for it.
    """

    def __init__(self, workers: list[ChangeCounter], writer: ChangeCounter) -> None:
        self.workers = workers
        self.writer = writer
        self.at_origin = dict.fromkeys(KEYS, 0)
        self.acknowledged = dict.fromkeys(KEYS, 0)
        # Key, version, and the counter and the announced end of the log when it was sent.
        self.in_flight: list[tuple[str, int, int, int]] = []
        self.records: dict[str, tuple[int, int, int]] = {}  # version, counter, log position
        self.log_end = 0  # all rows of the log invalidate everything
        self.head = 0  # its announced end
        self.seen: list[dict[str, int]] = [{}, {}]  # the counter at each key's last check
        self.indexed: list[dict[str, int]] = [{}, {}]  # invalidations at its last look at the log

    def send(self, worker: int, key: str) -> None:
        number = self.workers[worker].number
        self.in_flight.append((key, self.at_origin[key], number, self.head))

    def store(self, which: int) -> None:
        if self.in_flight:
            key, *record = self.in_flight.pop(which % len(self.in_flight))
            self.records[key] = record[0], record[1], record[2]
            for cached in (*self.seen, *self.indexed):
                cached.pop(key, None)

    def hit(self, worker: int, key: str) -> None:
        """As ``InvalidationChecker.check_open``: checks again only what has moved."""
        if key not in self.records:
            return
        changes, seen, indexed = self.workers[worker], self.seen[worker], self.indexed[worker]
        version, sent_change, position = self.records[key]
        acknowledged = self.acknowledged[key]
        number = changes.number
        if seen.get(key) != number:
            if changes.are_slots_raised_since(sent_change, write_slots(key)):
                seen.pop(key, None)
                return
            invalidations = changes.invalidations
            if indexed.get(key) != invalidations:
                if position < self.head:
                    seen.pop(key, None)
                    return
                indexed[key] = invalidations
            seen[key] = number
        assert version >= acknowledged, "a response from before an acknowledged change was used"

    def write(self, worker: int, key: str, between: Iterator[tuple[str, int, str]]) -> None:
        self.at_origin[key] += 1
        version = self.at_origin[key]
        self.announce(worker, between, lambda writer: writer.announce(key))
        self.acknowledged[key] = max(self.acknowledged[key], version)

    def invalidate(self, worker: int, between: Iterator[tuple[str, int, str]]) -> None:
        for key in KEYS:
            self.at_origin[key] += 1
        versions = dict(self.at_origin)
        self.log_end += 1
        self.step(next(between, None))
        self.head = self.log_end
        self.announce(worker, between, lambda writer: writer.announce_invalidation())
        for key in KEYS:
            self.acknowledged[key] = max(self.acknowledged[key], versions[key])

    def announce(
        self,
        worker: int,
        between: Iterator[tuple[str, int, str]],
        action: Callable[[ChangeCounter], None],
    ) -> None:
        self.writer.word = Stepwise(  # type: ignore[assignment]
            self.workers[worker].word, lambda: self.step(next(between, None))
        )
        action(self.writer)

    def step(self, step: tuple[str, int, str] | None) -> None:
        if step is None:
            return
        kind, number, key = step
        if kind == "send":
            self.send(number % 2, key)
        elif kind == "store":
            self.store(number)
        else:
            self.hit(number % 2, key)


STEPS = st.tuples(
    st.sampled_from(["send", "store", "hit"]), st.integers(0, 3), st.sampled_from(KEYS)
)
ACTIONS = STEPS | st.tuples(
    st.sampled_from(["write", "invalidate"]),
    st.integers(0, 1),
    st.sampled_from(KEYS),
    st.lists(STEPS, max_size=2),
)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> list[ChangeCounter]:
    folder = tmp_path_factory.mktemp("two-workers")
    prepare_changes(folder, 1, is_unsure=True)
    return [ChangeCounter(folder), ChangeCounter(folder)]


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> ChangeCounter:
    folder = tmp_path_factory.mktemp("writer")
    prepare_changes(folder, 1, is_unsure=True)
    return ChangeCounter(folder)


@settings(deadline=None, max_examples=200)
@given(actions=st.lists(ACTIONS, max_size=40))
def test_no_interleaving_of_two_workers_uses_a_response_from_before_a_write_or_invalidation(
    two_workers: list[ChangeCounter],
    writer: ChangeCounter,
    actions: list[tuple[str, int, str, object]],
) -> None:
    model = Model(two_workers, writer)
    for action in actions:
        if action[0] == "write":
            assert isinstance(action[3], list)
            model.write(action[1], action[2], iter(action[3]))
        elif action[0] == "invalidate":
            assert isinstance(action[3], list)
            model.invalidate(action[1], iter(action[3]))
        else:
            model.step(action[:3])
    for worker in (0, 1):
        for key in KEYS:
            model.hit(worker, key)


def test_process_killed_between_slot_and_counter_leaves_no_key_refused_for_ever(root: Path) -> None:
    changes, other = ChangeCounter(root), ChangeCounter(root)
    before = changes.number

    class KilledError(Exception):
        pass

    written: list[int] = []

    def killed() -> None:
        if written:
            raise KilledError
        written.append(1)

    writer = ChangeCounter(root)
    writer.word = Stepwise(changes.word, killed)  # type: ignore[assignment]
    with pytest.raises(KilledError):
        writer.announce("a")
    assert changes.number == before
    assert other.is_written_since(before, "a")
    assert not other.is_written_since(other.number, "a")


def test_process_killed_in_an_invalidation_does_not_hide_the_next_one(root: Path) -> None:
    changes = ChangeCounter(root)
    number, invalidations = changes.number, changes.invalidations
    writer = ChangeCounter(root)

    class KilledError(Exception):
        pass

    written: list[int] = []

    def killed() -> None:
        if written:
            raise KilledError
        written.append(1)

    writer.word = Stepwise(changes.word, killed)  # type: ignore[assignment]
    with pytest.raises(KilledError):
        writer.announce_invalidation()
    assert changes.number == number
    assert changes.invalidations == invalidations + 1
    changes.announce_invalidation()
    assert changes.number == number + 1
    assert changes.invalidations == invalidations + 2


WRITER = """
import os, sys
from pathlib import Path
from streamedge.cache.storage.changes import ChangeCounter
changes = ChangeCounter(Path(sys.argv[1]))
while True:
    for number in range(50):
        changes.announce(f"key {number}")
        os.write(1, number.to_bytes(1, "big"))
"""


def test_processes_killed_in_the_middle_of_writing_lose_no_write(root: Path) -> None:
    changes = ChangeCounter(root)
    for _round in range(6):
        before = changes.number
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE)
            for _ in range(2)
        ]
        acknowledged: list[int] = []
        for writer in writers:
            assert writer.stdout is not None
            acknowledged += writer.stdout.read(20)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        for writer in writers:
            acknowledged += writer.communicate()[0]
        assert len(acknowledged) >= 40
        assert changes.number >= before + len(acknowledged)
        for number in set(acknowledged):
            assert changes.is_written_since(before, f"key {number}")
        for number in range(50):
            changes.is_written_since(before, f"key {number}")
            assert not changes.is_written_since(changes.number, f"key {number}")

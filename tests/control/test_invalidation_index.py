"""The invalidation index: verdicts in the smallest cases and for thousands of rows."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.control.database import ControlDatabase, ControlError
from streamedge.control.invalidation_index import RETRY_S, InvalidationIndex, Validity, Verdict
from streamedge.control.log import ControlLog, NewRows, Row, RowKind
from streamedge.control.position import UNKNOWN_POSITION, epoch_of, log_of, position_at
from streamedge.ops.log import open_log

FRESH = Validity(Verdict.FRESH)
REFUSED = Validity(Verdict.REFUSED)
SILENT = open_log(os.devnull, "test")


LOG_ID = 7


class Rows:
    """A log in memory. ``created_s`` of a row is its epoch, unless ``now_s`` is set."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.reads = 0
        self.fails = False
        self.log_id = LOG_ID
        self.now_s: float | None = None

    @property
    def head(self) -> int:
        return position_at(self.log_id, len(self.rows))

    def read_after(self, position: int) -> NewRows:
        self.reads += 1
        if self.fails:
            raise ControlError("the disk is on fire")
        epoch = epoch_of(position) if log_of(position) == self.log_id else 0
        return NewRows(self.head, self.rows[epoch:])

    def renew_if_older(self, seen: int) -> int:
        if log_of(seen) == self.log_id and self.head < seen:
            self.log_id += 1
        return self.head

    def add(self, *items: str, scope: str = "E", soft: bool = False, revoke: bool = False) -> Row:
        epoch = len(self.rows) + 1
        body = {"items": list(items), "soft": soft, "revoke": revoke}
        created_s = float(epoch) if self.now_s is None else self.now_s
        self.rows.append(Row(epoch, RowKind.INVALIDATION, scope, created_s, body))
        return self.rows[-1]


def index_of(rows: Rows, *, items_kept: int = 10_000) -> InvalidationIndex:
    index = InvalidationIndex(rows, SILENT, items_kept=items_kept)
    assert index.refresh(rows.head)
    return index


def validity_of(
    index: InvalidationIndex, target: str, epoch: float, *tags: str, scope: str = "E"
) -> Validity:
    """The validity of a record that was requested after row ``epoch`` and before the next one."""
    position = position_at(LOG_ID, int(epoch))
    return index.validity(scope, target, lambda: frozenset(tags), position)


def test_invalidation_refuses_older_records_only() -> None:
    rows = Rows()
    rows.add("/a")  # at 1
    index = index_of(rows)
    assert validity_of(index, "/a", 0.9) == REFUSED
    assert validity_of(index, "/a", 1.1) == FRESH
    assert validity_of(index, "/b", 0.9) == FRESH
    assert validity_of(index, "/a", 0.9, scope="F") == FRESH


def test_soft_invalidation_makes_stale_and_a_hard_one_takes_precedence() -> None:
    rows = Rows()
    rows.add("/a", soft=True)  # at 1
    rows.add("/*", soft=True)  # at 2
    rows.add("/b")  # at 3
    index = index_of(rows)
    assert validity_of(index, "/a", 0.5) == Validity(Verdict.STALE, 2.0)
    assert validity_of(index, "/a", 2.5) == FRESH
    assert validity_of(index, "/b", 1.5) == REFUSED


def test_record_past_the_end_of_the_log_is_refused() -> None:
    rows = Rows()
    rows.add("/a")
    index = index_of(rows)
    assert validity_of(index, "/b", 1) == FRESH
    assert validity_of(index, "/b", 2) == REFUSED
    index.refresh(position_at(LOG_ID, 1))
    assert validity_of(index, "/b", 2) == REFUSED


def test_record_of_another_log_or_of_none_is_refused() -> None:
    index = index_of(Rows())
    for position in (UNKNOWN_POSITION, 5, position_at(LOG_ID + 1, 0), position_at(LOG_ID - 1, 9)):
        assert index.validity("E", "/a", frozenset, position) == REFUSED
    assert index.validity("E", "/a", frozenset, position_at(LOG_ID, 0)) == FRESH


def test_every_record_is_refused_before_the_log_is_read() -> None:
    rows = Rows()
    rows.fails = True
    index = InvalidationIndex(rows, SILENT)
    assert not index.refresh(rows.head)
    assert validity_of(index, "/a", 0) == REFUSED
    rows.fails = False
    assert index.refresh(rows.head, again=True)
    assert validity_of(index, "/a", 0) == FRESH


def test_log_that_lost_rows_gets_another_id_and_refuses_older_records() -> None:
    rows = Rows()
    for _ in range(3):
        rows.add("/a")
    index = index_of(rows)
    announced = rows.head
    del rows.rows[1:]
    assert index.refresh(announced, again=True)
    assert log_of(index.position) == rows.log_id != LOG_ID
    rows.add("/x")
    rows.add("/y")
    rows.add("/z")
    index.refresh(rows.head)
    for epoch in range(5):
        assert validity_of(index, "/b", epoch) == REFUSED
        assert index.validity("E", "/b", frozenset, position_at(rows.log_id, epoch)) == FRESH


def test_stale_time_starts_no_later_than_the_read_of_the_row() -> None:
    rows = Rows()
    rows.now_s = 5e9  # the clock was ahead
    rows.add("/a", soft=True)
    index = InvalidationIndex(rows, SILENT, clock=lambda: 100.0)
    index.refresh(rows.head)
    assert validity_of(index, "/a", 0) == Validity(Verdict.STALE, 100.0)


def test_encoded_star_is_no_wildcard() -> None:
    rows = Rows()
    rows.add("/x*a%2Ab*")  # at 1
    rows.add("/x*a*b*")  # at 2
    index = index_of(rows)
    assert validity_of(index, "/x/a-b", 1.5) == REFUSED
    assert validity_of(index, "/x/a-b", 2.5) == FRESH


def test_tags_are_read_only_if_a_tag_was_invalidated() -> None:
    rows = Rows()
    rows.add("/a")

    def never() -> frozenset[str]:
        raise AssertionError("tags must not be read")

    assert index_of(rows).validity("E", "/b", never, position_at(LOG_ID, 0)) == FRESH
    rows.add("#News")
    index = index_of(rows)
    assert validity_of(index, "/b", 1.5, "news", "sport") == REFUSED
    assert validity_of(index, "/b", 1.5, "sport") == FRESH


def test_refresh_reads_only_new_rows_and_only_after_an_announcement() -> None:
    rows = Rows()
    rows.add("/a")
    index = InvalidationIndex(rows, SILENT)
    index.refresh(rows.head)
    index.refresh(rows.head)
    assert (rows.reads, epoch_of(index.position)) == (1, 1)
    before = rows.head
    rows.add("/b")
    index.refresh(before)
    assert validity_of(index, "/b", 0.0) == FRESH
    index.refresh(rows.head)
    assert (rows.reads, epoch_of(index.position)) == (2, 2)
    assert validity_of(index, "/b", 0.0) == REFUSED


def test_scope_position_changes_only_with_rows_of_its_distribution() -> None:
    rows = Rows()
    rows.add("/a")
    index = index_of(rows)
    before = index.scope_position("E")
    rows.add("/a", scope="F")
    rows.rows.append(Row(3, RowKind.CONFIGURATION, "E", 3.0))
    index.refresh(rows.head)
    assert (index.scope_position("E"), epoch_of(index.position)) == (before, 3)
    rows.add("/b")
    index.refresh(rows.head)
    assert epoch_of(index.scope_position("E")) == 4
    assert epoch_of(index.scope_position("G")) == 0


def test_unreadable_log_refuses_older_records(tmp_path: Path) -> None:
    rows = Rows()
    rows.add("/b")
    path = tmp_path / "log"
    log = open_log(str(path), "test")
    now_s = 0.0
    index = InvalidationIndex(rows, log, monotonic=lambda: now_s)
    index.refresh(rows.head)
    rows.add("/a", soft=True)
    rows.fails = True
    assert not index.refresh(rows.head)
    assert not index.refresh(rows.head)
    assert rows.reads == 2  # not at each hit
    now_s = RETRY_S
    assert not index.refresh(rows.head)
    assert rows.reads == 3
    assert validity_of(index, "/other", 1) == REFUSED  # the new row may be about anything
    assert validity_of(index, "/other", 2) == FRESH  # requested after it
    rows.fails = False
    assert index.refresh(rows.head, again=True)
    assert validity_of(index, "/other", 1) == FRESH
    assert validity_of(index, "/a", 1).verdict is Verdict.STALE
    log.flush()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["control_log_unreadable", "control_log_readable"]


def broken_rows() -> list[Row]:
    """Rows that a later version or a damaged disk may leave."""
    body = {"items": ["/a"], "soft": True, "revoke": True}
    bodies: list[Any] = [
        {**body, "items": ["no path"]},
        {**body, "items": None},
        {"items": ["/a"]},
        {},
        [],
        7,
    ]
    broken = [Row(2, RowKind.INVALIDATION, "E", 2.0, body) for body in bodies]
    return [*broken, Row(2, RowKind.UNREADABLE, "E", 2.0), Row(2, RowKind.UNREADABLE, "", 2.0)]


@pytest.mark.parametrize("broken", broken_rows())
def test_unreadable_row_invalidates_its_scope_and_hides_no_other_row(broken: Row) -> None:
    rows = Rows()
    rows.add("/a")
    rows.rows.append(broken)
    rows.add("/b")
    index = index_of(rows)
    assert validity_of(index, "/other", 1) == REFUSED
    assert validity_of(index, "/b", 2) == REFUSED
    assert validity_of(index, "/other", 2) == FRESH
    assert validity_of(index, "/other", 1, scope="F") == (FRESH if broken.scope else REFUSED)


def test_revocation_is_returned_once_and_none_from_before_the_start() -> None:
    rows = Rows()
    rows.add("/a", revoke=True)
    index = index_of(rows)
    assert index.take_revocations() == []
    rows.add("/b")
    rows.add("/film*", "#news", revoke=True, soft=True)  # at 3
    index.refresh(rows.head)
    (revocation,) = index.take_revocations()
    assert index.take_revocations() == []

    def covers(target: str, epoch: float, *tags: str, scope: str = "E") -> bool:
        position = position_at(LOG_ID, int(epoch))
        return revocation.covers(scope, target, lambda: frozenset(tags), position)

    assert covers("/film.mp4", 2.0)
    assert covers("/other", 2.0, "news")
    assert not covers("/other", 2.0)
    assert not covers("/film.mp4", 3.5)
    assert not covers("/film.mp4", 2.0, scope="F")
    assert not covers("/b", 2.0)
    assert revocation.covers("E", "/film.mp4", frozenset, position_at(LOG_ID + 1, 9))
    assert revocation.covers("E", "/film.mp4", frozenset, UNKNOWN_POSITION)


def test_oldest_items_beyond_the_limit_invalidate_everything() -> None:
    rows = Rows()
    rows.add("/1")
    rows.add("/2*", soft=True)
    rows.add("#3")
    rows.add("/1")  # repeated, so it is the newest now
    index = index_of(rows, items_kept=2)
    assert validity_of(index, "/other", 1) == Validity(Verdict.STALE, 2.0)
    assert validity_of(index, "/other", 2.5) == FRESH
    assert validity_of(index, "/1", 3.5) == REFUSED
    assert validity_of(index, "/other", 2.5, "3") == REFUSED
    rows.add("/5")
    index.refresh(rows.head)
    assert validity_of(index, "/other", 2.9) == REFUSED  # by the tag, at 3


def test_repeated_item_counts_once() -> None:
    rows = Rows()
    for _ in range(50):
        rows.add("/index.html", "/b*")
    index = index_of(rows, items_kept=2)
    assert validity_of(index, "/other", 0.0) == FRESH
    assert validity_of(index, "/index.html", 49.5) == REFUSED
    assert validity_of(index, "/bb", 50.5) == FRESH


# Compared with a check of all rows one by one

TARGETS = ("/", "/a", "/a/b", "/a/b.jpg", "/ab?c=1", "/b", "/b/a.jpg?x=a")
ITEMS = st.sampled_from(
    ["/a", "/a/b", "/b", "/ab?c=1", "/a*", "/*b*", "/*.jpg", "/b/*", "/*?*", "/*", "#x", "#y"]
)
REQUESTED = st.lists(
    st.tuples(st.lists(ITEMS, min_size=1, max_size=3), st.booleans(), st.sampled_from(["E", "F"])),
    max_size=30,
)


def expected(rows: Rows, target: str, validated_s: float, tags: set[str], scope: str) -> Validity:
    soft_s = None
    for row in rows.rows:
        requested = row.invalidation
        if row.scope != scope or row.epoch <= validated_s:
            continue
        if not any(matches(item, target, tags) for item in requested.items):
            continue
        if not requested.soft:
            return REFUSED
        soft_s = requested.at_s
    return FRESH if soft_s is None else Validity(Verdict.STALE, soft_s)


def matches(item: str, target: str, tags: set[str]) -> bool:
    if item.startswith("#"):
        return item[1:] in tags
    return bool(re.fullmatch(re.escape(item).replace(r"\*", ".*"), target))


@given(REQUESTED, st.sampled_from(TARGETS), st.integers(0, 31), st.sets(st.sampled_from("xy")))
def test_verdicts_equal_those_of_all_rows_one_by_one(
    requested: list[tuple[list[str], bool, str]], target: str, validated: int, tags: set[str]
) -> None:
    rows = Rows()
    for items, soft, scope in requested:
        rows.add(*items, soft=soft, scope=scope)
    index = index_of(rows)
    for scope in ("E", "F"):
        epoch = min(validated, len(requested))
        actual = validity_of(index, target, epoch, *tags, scope=scope)
        assert actual == expected(rows, target, epoch, tags, scope)


SEVERITY = {Verdict.FRESH: 0, Verdict.STALE: 1, Verdict.REFUSED: 2}


@given(REQUESTED, st.sampled_from(TARGETS), st.integers(0, 31), st.integers(1, 4), st.data())
def test_compaction_never_weakens_an_invalidation(
    requested: list[tuple[list[str], bool, str]],
    target: str,
    validated: int,
    items_kept: int,
    data: st.DataObject,
) -> None:
    rows = Rows()
    index = InvalidationIndex(rows, SILENT, items_kept=items_kept)
    for items, soft, scope in requested:
        rows.add(*items, soft=soft, scope=scope)
        if data.draw(st.booleans()):
            index.refresh(rows.head)
    index.refresh(rows.head)
    epoch = min(validated, len(requested))
    actual = validity_of(index, target, epoch, "x")
    minimum = expected(rows, target, epoch, {"x"}, "E")
    assert SEVERITY[actual.verdict] >= SEVERITY[minimum.verdict]
    # Other distributions and later records are not affected.
    assert validity_of(index, target, 0.5, "x", scope="G") == FRESH
    assert validity_of(index, target, len(requested) + 0.5, "x") == FRESH


@pytest.fixture
def database(tmp_path: Path) -> Iterator[ControlDatabase]:
    control_database = ControlDatabase(tmp_path)
    yield control_database
    control_database.close()


def test_index_of_thousands_of_rows_compacts_those_beyond_the_limit(
    database: ControlDatabase,
) -> None:
    items_kept, total = 4000, 6000
    log = ControlLog(database, items_kept=items_kept, clock=count(1.0).__next__)
    updated = InvalidationIndex(log, SILENT, items_kept=items_kept)
    rng = random.Random(7)
    for batch in range(total // 100):
        with database.transaction() as connection:
            for number in range(batch * 100, batch * 100 + 100):
                kind = ("/{}", "/dir{}/*", "/*/{}.jpg", "#tag{}")[number % 4]
                body = {"items": [kind.format(number)], "soft": False, "revoke": False}
                log.append_within(connection, RowKind.INVALIDATION, "E", body)
        if rng.random() < 0.5:
            updated.refresh(log.position())
    updated.refresh(log.position())
    fresh_index = InvalidationIndex(log, SILENT, items_kept=items_kept)
    fresh_index.refresh(log.position())

    def validity_of(index: InvalidationIndex, target: str, epoch: int, *tags: str) -> Validity:
        position = position_at(log_of(log.position()), epoch)
        return index.validity("E", target, lambda: frozenset(tags), position)

    for index in (updated, fresh_index):
        assert epoch_of(index.position) == total
        assert (
            validity_of(index, "/nothing", total - items_kept - 1) == REFUSED
        )  # compacted: everything
        assert validity_of(index, "/nothing", total - items_kept) == FRESH
        for number in rng.sample(range(total - items_kept, total), 200):
            target = (f"/{number}", f"/dir{number}/x?y=1", f"/deep/{number}.jpg", "/x")[number % 4]
            tags = (f"tag{number}",) if number % 4 == 3 else ()
            assert validity_of(index, target, number, *tags) == REFUSED
            assert validity_of(index, target, number + 1, *tags) == FRESH


# Clocks that jump by years

CLOCKS = st.sampled_from([-4e9, -1.0, 0.0, 1.0, 1e9, 4e9])
STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "hard", "soft", "look"]), CLOCKS), min_size=1, max_size=25
)


@given(STEPS)
def test_order_does_not_depend_on_clocks(steps: list[tuple[str, float]]) -> None:
    """The order of the steps decides, whatever the clock is at each step."""
    now_s = 2e9
    rows = Rows()
    index = InvalidationIndex(rows, SILENT, clock=lambda: now_s)
    requested: list[int] = []
    for step, jump_s in steps:
        now_s += jump_s
        if step == "ask":
            requested.append(rows.head)
        elif step == "look":
            index.refresh(rows.head)
        else:
            rows.now_s = now_s
            rows.add("/a", soft=step == "soft")
    index.refresh(rows.head)
    for position in requested:
        after = rows.rows[epoch_of(position) :]
        verdict = index.validity("E", "/a", frozenset, position).verdict
        if any(not row.invalidation.soft for row in after):
            assert verdict is Verdict.REFUSED
        else:
            assert verdict is (Verdict.STALE if after else Verdict.FRESH)
        assert index.validity("E", "/b", frozenset, position).verdict is Verdict.FRESH

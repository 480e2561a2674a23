"""streamedge/control/in_force.py: verdicts, in the smallest cases and against thousands of rows."""

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
from streamedge.control.position import UNKNOWN, epoch_of, log_of, position_at
from streamedge.ops.log import open_log

FRESH = Validity(Verdict.FRESH)
REFUSED = Validity(Verdict.REFUSED)
SILENT = open_log(os.devnull, "test")


LOG_ID = 7


class Rows:
    """A log in memory. ``created_s`` of a row is its epoch, unless ``now_s`` says otherwise."""

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


def indexed(rows: Rows, *, items_kept: int = 10_000) -> InvalidationIndex:
    in_force = InvalidationIndex(rows, SILENT, items_kept=items_kept)
    assert in_force.refresh(rows.head)
    return in_force


def ruling(
    in_force: InvalidationIndex, target: str, asked_at: float, *tags: str, scope: str = "E"
) -> Validity:
    """Of what was asked for after the row ``asked_at`` and before the next."""
    position = position_at(LOG_ID, int(asked_at))
    return in_force.validity(scope, target, lambda: frozenset(tags), position)


def test_what_was_asked_for_before_is_refused_and_after_is_not() -> None:
    rows = Rows()
    rows.add("/a")  # at 1
    in_force = indexed(rows)
    assert ruling(in_force, "/a", 0.9) == REFUSED
    assert ruling(in_force, "/a", 1.1) == FRESH
    assert ruling(in_force, "/b", 0.9) == FRESH
    assert ruling(in_force, "/a", 0.9, scope="F") == FRESH


def test_soft_is_stale_from_then_on_and_hard_outranks_it() -> None:
    rows = Rows()
    rows.add("/a", soft=True)  # at 1
    rows.add("/*", soft=True)  # at 2
    rows.add("/b")  # at 3
    in_force = indexed(rows)
    assert ruling(in_force, "/a", 0.5) == Validity(Verdict.STALE, 2.0)
    assert ruling(in_force, "/a", 2.5) == FRESH
    assert ruling(in_force, "/b", 1.5) == REFUSED


def test_a_record_of_a_position_that_the_log_has_not_reached_is_refused() -> None:
    rows = Rows()
    rows.add("/a")
    in_force = indexed(rows)
    assert ruling(in_force, "/b", 1) == FRESH
    assert ruling(in_force, "/b", 2) == REFUSED
    in_force.refresh(position_at(LOG_ID, 1))
    assert ruling(in_force, "/b", 2) == REFUSED


def test_a_record_of_another_log_or_of_none_is_refused() -> None:
    in_force = indexed(Rows())
    for position in (UNKNOWN, 5, position_at(LOG_ID + 1, 0), position_at(LOG_ID - 1, 9)):
        assert in_force.validity("E", "/a", frozenset, position) == REFUSED
    assert in_force.validity("E", "/a", frozenset, position_at(LOG_ID, 0)) == FRESH


def test_everything_is_refused_before_the_log_was_read() -> None:
    rows = Rows()
    rows.fails = True
    in_force = InvalidationIndex(rows, SILENT)
    assert not in_force.refresh(rows.head)
    assert ruling(in_force, "/a", 0) == REFUSED
    rows.fails = False
    assert in_force.refresh(rows.head, again=True)
    assert ruling(in_force, "/a", 0) == FRESH


def test_a_log_that_lost_rows_gets_another_id_and_refuses_what_was_asked_for_before() -> None:
    rows = Rows()
    for _ in range(3):
        rows.add("/a")
    in_force = indexed(rows)
    lost = rows.head
    del rows.rows[1:]
    assert in_force.refresh(lost, again=True)
    assert log_of(in_force.position) == rows.log_id != LOG_ID
    rows.add("/x")
    rows.add("/y")
    rows.add("/z")
    in_force.refresh(rows.head)
    for epoch in range(5):
        assert ruling(in_force, "/b", epoch) == REFUSED
        assert in_force.validity("E", "/b", frozenset, position_at(rows.log_id, epoch)) == FRESH


def test_staleness_is_counted_from_no_later_than_when_the_row_was_read() -> None:
    rows = Rows()
    rows.now_s = 5e9  # the clock was ahead
    rows.add("/a", soft=True)
    in_force = InvalidationIndex(rows, SILENT, clock=lambda: 100.0)
    in_force.refresh(rows.head)
    assert ruling(in_force, "/a", 0) == Validity(Verdict.STALE, 100.0)


def test_a_star_of_a_name_is_no_wildcard_beside_one() -> None:
    rows = Rows()
    rows.add("/x*a%2Ab*")  # at 1
    rows.add("/x*a*b*")  # at 2
    in_force = indexed(rows)
    assert ruling(in_force, "/x/a-b", 1.5) == REFUSED
    assert ruling(in_force, "/x/a-b", 2.5) == FRESH


def test_tags_are_asked_for_only_where_some_were_invalidated() -> None:
    rows = Rows()
    rows.add("/a")

    def never() -> frozenset[str]:
        raise AssertionError("nobody asked for tags")

    assert indexed(rows).validity("E", "/b", never, position_at(LOG_ID, 0)) == FRESH
    rows.add("#News")
    in_force = indexed(rows)
    assert ruling(in_force, "/b", 1.5, "news", "sport") == REFUSED
    assert ruling(in_force, "/b", 1.5, "sport") == FRESH


def test_an_index_reads_only_when_the_number_has_moved_and_only_what_is_new() -> None:
    rows = Rows()
    rows.add("/a")
    in_force = InvalidationIndex(rows, SILENT)
    in_force.refresh(rows.head)
    in_force.refresh(rows.head)
    assert (rows.reads, epoch_of(in_force.position)) == (1, 1)
    before = rows.head
    rows.add("/b")
    in_force.refresh(before)
    assert ruling(in_force, "/b", 0.0) == FRESH
    in_force.refresh(rows.head)
    assert (rows.reads, epoch_of(in_force.position)) == (2, 2)
    assert ruling(in_force, "/b", 0.0) == REFUSED


def test_rulings_hold_until_their_distribution_is_told_something() -> None:
    rows = Rows()
    rows.add("/a")
    in_force = indexed(rows)
    before = in_force.scope_position("E")
    rows.add("/a", scope="F")
    rows.rows.append(Row(3, RowKind.CONFIGURATION, "E", 3.0))
    in_force.refresh(rows.head)
    assert (in_force.scope_position("E"), epoch_of(in_force.position)) == (before, 3)
    rows.add("/b")
    in_force.refresh(rows.head)
    assert epoch_of(in_force.scope_position("E")) == 4
    assert epoch_of(in_force.scope_position("G")) == 0


def test_what_is_older_than_rows_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    rows = Rows()
    rows.add("/b")
    path = tmp_path / "log"
    log = open_log(str(path), "test")
    now_s = 0.0
    in_force = InvalidationIndex(rows, log, monotonic=lambda: now_s)
    in_force.refresh(rows.head)
    rows.add("/a", soft=True)
    rows.fails = True
    assert not in_force.refresh(rows.head)
    assert not in_force.refresh(rows.head)
    assert rows.reads == 2  # not at each hit
    now_s = RETRY_S
    assert not in_force.refresh(rows.head)
    assert rows.reads == 3
    assert ruling(in_force, "/other", 1) == REFUSED  # nobody knows what the new row is about
    assert ruling(in_force, "/other", 2) == FRESH  # asked for after it
    rows.fails = False
    assert in_force.refresh(rows.head, again=True)
    assert ruling(in_force, "/other", 1) == FRESH
    assert ruling(in_force, "/a", 1).verdict is Verdict.STALE
    log.flush()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["control_log_unreadable", "control_log_readable"]


def broken_rows() -> list[Row]:
    """Rows as a later version, or a damaged disk, may leave them."""
    whole = {"items": ["/a"], "soft": True, "revoke": True}
    bodies: list[Any] = [
        {**whole, "items": ["no path"]},
        {**whole, "items": None},
        {"items": ["/a"]},
        {},
        [],
        7,
    ]
    broken = [Row(2, RowKind.INVALIDATION, "E", 2.0, body) for body in bodies]
    return [*broken, Row(2, RowKind.UNREADABLE, "E", 2.0), Row(2, RowKind.UNREADABLE, "", 2.0)]


@pytest.mark.parametrize("broken", broken_rows())
def test_an_unreadable_row_stands_for_all_of_its_scope_and_hides_no_other(broken: Row) -> None:
    rows = Rows()
    rows.add("/a")
    rows.rows.append(broken)
    rows.add("/b")
    in_force = indexed(rows)
    assert ruling(in_force, "/other", 1) == REFUSED
    assert ruling(in_force, "/b", 2) == REFUSED
    assert ruling(in_force, "/other", 2) == FRESH
    assert ruling(in_force, "/other", 1, scope="F") == (FRESH if broken.scope else REFUSED)


def test_what_is_revoked_is_told_once_and_not_of_before_the_start() -> None:
    rows = Rows()
    rows.add("/a", revoke=True)
    in_force = indexed(rows)
    assert in_force.take_revocations() == []
    rows.add("/b")
    rows.add("/film*", "#news", revoke=True, soft=True)  # at 3
    in_force.refresh(rows.head)
    (revocation,) = in_force.take_revocations()
    assert in_force.take_revocations() == []

    def covers(target: str, asked_at: float, *tags: str, scope: str = "E") -> bool:
        position = position_at(LOG_ID, int(asked_at))
        return revocation.covers(scope, target, lambda: frozenset(tags), position)

    assert covers("/film.mp4", 2.0)
    assert covers("/other", 2.0, "news")
    assert not covers("/other", 2.0)
    assert not covers("/film.mp4", 3.5)
    assert not covers("/film.mp4", 2.0, scope="F")
    assert not covers("/b", 2.0)
    assert revocation.covers("E", "/film.mp4", frozenset, position_at(LOG_ID + 1, 9))
    assert revocation.covers("E", "/film.mp4", frozenset, UNKNOWN)


def test_beyond_what_is_kept_the_oldest_stand_for_everything() -> None:
    rows = Rows()
    rows.add("/1")
    rows.add("/2*", soft=True)
    rows.add("#3")
    rows.add("/1")  # asked for anew: the youngest by now
    in_force = indexed(rows, items_kept=2)
    assert ruling(in_force, "/other", 1) == Validity(Verdict.STALE, 2.0)
    assert ruling(in_force, "/other", 2.5) == FRESH
    assert ruling(in_force, "/1", 3.5) == REFUSED
    assert ruling(in_force, "/other", 2.5, "3") == REFUSED
    rows.add("/5")
    in_force.refresh(rows.head)
    assert ruling(in_force, "/other", 2.9) == REFUSED  # the tag's, at 3


def test_one_item_asked_for_again_and_again_is_one_item() -> None:
    rows = Rows()
    for _ in range(50):
        rows.add("/index.html", "/b*")
    in_force = indexed(rows, items_kept=2)
    assert ruling(in_force, "/other", 0.0) == FRESH
    assert ruling(in_force, "/index.html", 49.5) == REFUSED
    assert ruling(in_force, "/bb", 50.5) == FRESH


# Against a reading of all rows one by one

TARGETS = ("/", "/a", "/a/b", "/a/b.jpg", "/ab?c=1", "/b", "/b/a.jpg?x=a")
ITEMS = st.sampled_from(
    ["/a", "/a/b", "/b", "/ab?c=1", "/a*", "/*b*", "/*.jpg", "/b/*", "/*?*", "/*", "#x", "#y"]
)
ASKED = st.lists(
    st.tuples(st.lists(ITEMS, min_size=1, max_size=3), st.booleans(), st.sampled_from(["E", "F"])),
    max_size=30,
)


def expected(rows: Rows, target: str, validated_s: float, tags: set[str], scope: str) -> Validity:
    soft_s = None
    for row in rows.rows:
        asked = row.invalidation
        if row.scope != scope or row.epoch <= validated_s:
            continue
        if not any(is_about(item, target, tags) for item in asked.items):
            continue
        if not asked.soft:
            return REFUSED
        soft_s = asked.at_s
    return FRESH if soft_s is None else Validity(Verdict.STALE, soft_s)


def is_about(item: str, target: str, tags: set[str]) -> bool:
    if item.startswith("#"):
        return item[1:] in tags
    return bool(re.fullmatch(re.escape(item).replace(r"\*", ".*"), target))


@given(ASKED, st.sampled_from(TARGETS), st.integers(0, 31), st.sets(st.sampled_from("xy")))
def test_verdicts_are_those_of_all_rows_one_by_one(
    asked: list[tuple[list[str], bool, str]], target: str, validated: int, tags: set[str]
) -> None:
    rows = Rows()
    for items, soft, scope in asked:
        rows.add(*items, soft=soft, scope=scope)
    in_force = indexed(rows)
    for scope in ("E", "F"):
        asked_at = min(validated, len(asked))
        told = ruling(in_force, target, asked_at, *tags, scope=scope)
        assert told == expected(rows, target, asked_at, tags, scope)


SEVERITY = {Verdict.FRESH: 0, Verdict.STALE: 1, Verdict.REFUSED: 2}


@given(ASKED, st.sampled_from(TARGETS), st.integers(0, 31), st.integers(1, 4), st.data())
def test_folding_never_makes_less_of_what_was_asked(
    asked: list[tuple[list[str], bool, str]],
    target: str,
    validated: int,
    kept: int,
    data: st.DataObject,
) -> None:
    rows = Rows()
    in_force = InvalidationIndex(rows, SILENT, items_kept=kept)
    for items, soft, scope in asked:
        rows.add(*items, soft=soft, scope=scope)
        if data.draw(st.booleans()):
            in_force.refresh(rows.head)
    in_force.refresh(rows.head)
    asked_at = min(validated, len(asked))
    told = ruling(in_force, target, asked_at, "x")
    least = expected(rows, target, asked_at, {"x"}, "E")
    assert SEVERITY[told.verdict] >= SEVERITY[least.verdict]
    # … nor anything of another distribution, nor of what came after all of it.
    assert ruling(in_force, target, 0.5, "x", scope="G") == FRESH
    assert ruling(in_force, target, len(asked) + 0.5, "x") == FRESH


@pytest.fixture
def database(tmp_path: Path) -> Iterator[ControlDatabase]:
    opened = ControlDatabase(tmp_path)
    yield opened
    opened.close()


def test_thousands_of_rows_are_told_apart_and_those_beyond_are_folded(
    database: ControlDatabase,
) -> None:
    kept, total = 4000, 6000
    log = ControlLog(database, items_kept=kept, clock=count(1.0).__next__)
    watching = InvalidationIndex(log, SILENT, items_kept=kept)
    chance = random.Random(7)
    for batch in range(total // 100):
        with database.transaction() as connection:
            for number in range(batch * 100, batch * 100 + 100):
                kind = ("/{}", "/dir{}/*", "/*/{}.jpg", "#tag{}")[number % 4]
                body = {"items": [kind.format(number)], "soft": False, "revoke": False}
                log.append_within(connection, RowKind.INVALIDATION, "E", body)
        if chance.random() < 0.5:
            watching.refresh(log.position())
    watching.refresh(log.position())
    begun_now = InvalidationIndex(log, SILENT, items_kept=kept)
    begun_now.refresh(log.position())

    def ruling(in_force: InvalidationIndex, target: str, epoch: int, *tags: str) -> Validity:
        position = position_at(log_of(log.position()), epoch)
        return in_force.validity("E", target, lambda: frozenset(tags), position)

    for in_force in (watching, begun_now):
        assert epoch_of(in_force.position) == total
        assert ruling(in_force, "/nothing", total - kept - 1) == REFUSED  # folded: everything
        assert ruling(in_force, "/nothing", total - kept) == FRESH
        for number in chance.sample(range(total - kept, total), 200):
            target = (f"/{number}", f"/dir{number}/x?y=1", f"/deep/{number}.jpg", "/x")[number % 4]
            tags = (f"tag{number}",) if number % 4 == 3 else ()
            assert ruling(in_force, target, number, *tags) == REFUSED
            assert ruling(in_force, target, number + 1, *tags) == FRESH


# Clocks that jump by years

CLOCKS = st.sampled_from([-4e9, -1.0, 0.0, 1.0, 1e9, 4e9])
STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "hard", "soft", "look"]), CLOCKS), min_size=1, max_size=25
)


@given(STEPS)
def test_no_clock_decides_what_came_first(steps: list[tuple[str, float]]) -> None:
    """Whatever the clock says at each step, each record is judged by the order of the steps."""
    now_s = 2e9
    rows = Rows()
    in_force = InvalidationIndex(rows, SILENT, clock=lambda: now_s)
    asked: list[int] = []
    for step, jump_s in steps:
        now_s += jump_s
        if step == "ask":
            asked.append(rows.head)
        elif step == "look":
            in_force.refresh(rows.head)
        else:
            rows.now_s = now_s
            rows.add("/a", soft=step == "soft")
    in_force.refresh(rows.head)
    for position in asked:
        after = rows.rows[epoch_of(position) :]
        verdict = in_force.validity("E", "/a", frozenset, position).verdict
        if any(not row.invalidation.soft for row in after):
            assert verdict is Verdict.REFUSED
        else:
            assert verdict is (Verdict.STALE if after else Verdict.FRESH)
        assert in_force.validity("E", "/b", frozenset, position).verdict is Verdict.FRESH

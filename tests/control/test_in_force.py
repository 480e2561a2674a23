"""streamedge/control/in_force.py: verdicts, in the smallest cases and against thousands of rows."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.control.database import ControlDatabase, ControlError
from streamedge.control.in_force import InForce, Ruling, Verdict
from streamedge.control.log import ControlLog, Row, RowKind
from streamedge.ops.log import open_log

FRESH = Ruling(Verdict.FRESH)
REFUSED = Ruling(Verdict.REFUSED)
SILENT = open_log(os.devnull, "test")


class Rows:
    """A log in memory; what is appended is asked for at its epoch."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.reads = 0
        self.fails = False

    def rows_after(self, epoch: int) -> list[Row]:
        self.reads += 1
        if self.fails:
            raise ControlError("the disk is on fire")
        return self.rows[epoch:]

    def add(self, *items: str, scope: str = "E", soft: bool = False, revoke: bool = False) -> Row:
        epoch = len(self.rows) + 1
        body = {"items": list(items), "soft": soft, "revoke": revoke}
        self.rows.append(Row(epoch, RowKind.INVALIDATION, scope, float(epoch), body))
        return self.rows[-1]


def indexed(rows: Rows, *, items_kept: int = 10_000) -> InForce:
    in_force = InForce(rows, SILENT, items_kept=items_kept)
    assert in_force.look(len(rows.rows))
    return in_force


def ruling(
    in_force: InForce, target: str, validated_s: float, *tags: str, scope: str = "E"
) -> Ruling:
    return in_force.rule(scope, target, lambda: frozenset(tags), validated_s)


def test_what_was_asked_for_before_is_refused_and_after_is_not() -> None:
    rows = Rows()
    rows.add("/a")  # at 1
    in_force = indexed(rows)
    assert ruling(in_force, "/a", 0.9) == REFUSED
    assert ruling(in_force, "/a", 1.0) == REFUSED  # in the same moment: who knows
    assert ruling(in_force, "/a", 1.1) == FRESH
    assert ruling(in_force, "/b", 0.9) == FRESH
    assert ruling(in_force, "/a", 0.9, scope="F") == FRESH


def test_soft_is_stale_from_then_on_and_hard_outranks_it() -> None:
    rows = Rows()
    rows.add("/a", soft=True)  # at 1
    rows.add("/*", soft=True)  # at 2
    rows.add("/b")  # at 3
    in_force = indexed(rows)
    assert ruling(in_force, "/a", 0.5) == Ruling(Verdict.STALE, 2.0)
    assert ruling(in_force, "/a", 2.5) == FRESH
    assert ruling(in_force, "/b", 1.5) == REFUSED


def test_what_seems_to_come_from_the_future_is_older_than_any_matching_item() -> None:
    rows = Rows()
    rows.add("/a")  # at 1
    rows.add("/b", soft=True)  # at 2
    in_force = InForce(rows, SILENT, clock=lambda: 10.0)
    in_force.look(1)
    assert ruling(in_force, "/a", 10.0) == FRESH
    assert ruling(in_force, "/a", 10.1) == REFUSED
    assert ruling(in_force, "/b", 10.1) == Ruling(Verdict.STALE, 2.0)
    assert ruling(in_force, "/c", 10.1) == FRESH


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

    assert indexed(rows).rule("E", "/b", never, 0.0) == FRESH
    rows.add("#News")
    in_force = indexed(rows)
    assert ruling(in_force, "/b", 1.5, "news", "sport") == REFUSED
    assert ruling(in_force, "/b", 1.5, "sport") == FRESH


def test_an_index_reads_only_when_the_number_has_moved_and_only_what_is_new() -> None:
    rows = Rows()
    rows.add("/a")
    in_force = InForce(rows, SILENT)
    in_force.look(7)
    in_force.look(7)
    assert (rows.reads, in_force.epoch) == (1, 1)
    rows.add("/b")
    assert ruling(in_force, "/b", 0.0) == FRESH
    in_force.look(8)
    assert (rows.reads, in_force.epoch) == (2, 2)
    assert ruling(in_force, "/b", 0.0) == REFUSED


def test_rulings_hold_until_their_distribution_is_told_something() -> None:
    rows = Rows()
    rows.add("/a")
    in_force = indexed(rows)
    before = in_force.scope_epoch("E")
    rows.add("/a", scope="F")
    rows.rows.append(Row(3, RowKind.CONFIGURATION, "E", 3.0))
    in_force.look(-1)
    assert (in_force.scope_epoch("E"), in_force.epoch) == (before, 3)
    rows.add("/b")
    in_force.look(-2)
    assert in_force.scope_epoch("E") == 4
    assert in_force.scope_epoch("G") == 0


def test_a_log_that_cannot_be_read_makes_stale_what_is_older(tmp_path: Path) -> None:
    rows = Rows()
    rows.add("/b")
    said = tmp_path / "log"
    log = open_log(str(said), "test")
    now_s = 2.0
    in_force = InForce(rows, log, clock=lambda: now_s)
    in_force.look(0)
    rows.fails = True
    assert not in_force.look(1)
    assert not in_force.look(1)
    now_s = 3.0
    assert rows.reads == 3
    assert ruling(in_force, "/a", 1.5).verdict is Verdict.STALE
    assert ruling(in_force, "/b", 0.5) == REFUSED
    assert ruling(in_force, "/a", 2.5) == FRESH
    rows.fails = False
    assert in_force.look(1)
    assert ruling(in_force, "/a", 1.5) == FRESH
    log.flush()
    lines = [json.loads(line) for line in said.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["control_log_unreadable"]


def test_what_is_revoked_is_told_once_and_not_of_before_the_start() -> None:
    rows = Rows()
    rows.add("/a", revoke=True)
    in_force = indexed(rows)
    assert in_force.take_revocations() == []
    rows.add("/b")
    rows.add("/film*", "#news", revoke=True, soft=True)  # at 3
    in_force.look(-1)
    (revocation,) = in_force.take_revocations()
    assert in_force.take_revocations() == []

    def covers(target: str, asked_s: float, *tags: str, scope: str = "E") -> bool:
        return revocation.covers(scope, target, lambda: frozenset(tags), asked_s)

    assert covers("/film.mp4", 2.0)
    assert covers("/other", 2.0, "news")
    assert not covers("/other", 2.0)
    assert not covers("/film.mp4", 3.5)
    assert not covers("/film.mp4", 2.0, scope="F")
    assert not covers("/b", 2.0)


def test_beyond_what_is_kept_the_oldest_stand_for_everything() -> None:
    rows = Rows()
    rows.add("/1")
    rows.add("/2*", soft=True)
    rows.add("#3")
    rows.add("/1")  # asked for anew: the youngest by now
    in_force = indexed(rows, items_kept=2)
    assert ruling(in_force, "/other", 2.0) == Ruling(Verdict.STALE, 2.0)
    assert ruling(in_force, "/other", 2.5) == FRESH
    assert ruling(in_force, "/1", 3.5) == REFUSED
    assert ruling(in_force, "/other", 2.5, "3") == REFUSED
    rows.add("/5")
    in_force.look(-1)
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


def expected(rows: Rows, target: str, validated_s: float, tags: set[str], scope: str) -> Ruling:
    soft_s = None
    for row in rows.rows:
        asked = row.invalidation
        if row.scope != scope or asked.at_s < validated_s:
            continue
        if not any(is_about(item, target, tags) for item in asked.items):
            continue
        if not asked.soft:
            return REFUSED
        soft_s = asked.at_s
    return FRESH if soft_s is None else Ruling(Verdict.STALE, soft_s)


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
        told = ruling(in_force, target, validated + 0.5, *tags, scope=scope)
        assert told == expected(rows, target, validated + 0.5, tags, scope)


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
    in_force = InForce(rows, SILENT, items_kept=kept)
    for items, soft, scope in asked:
        rows.add(*items, soft=soft, scope=scope)
        if data.draw(st.booleans()):
            in_force.look(len(rows.rows))
    in_force.look(-1)
    told = ruling(in_force, target, validated + 0.5, "x")
    least = expected(rows, target, validated + 0.5, {"x"}, "E")
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
    watching = InForce(log, SILENT, items_kept=kept)
    chance = random.Random(7)
    for batch in range(total // 100):
        with database.transaction() as connection:
            for number in range(batch * 100, batch * 100 + 100):
                kind = ("/{}", "/dir{}/*", "/*/{}.jpg", "#tag{}")[number % 4]
                body = {"items": [kind.format(number)], "soft": False, "revoke": False}
                log.append_within(connection, RowKind.INVALIDATION, "E", body)
        if chance.random() < 0.5:
            watching.look(batch)
    watching.look(-1)
    begun_now = InForce(log, SILENT, items_kept=kept)
    begun_now.look(0)
    for in_force in (watching, begun_now):
        assert in_force.epoch == total
        assert ruling(in_force, "/nothing", total - kept) == REFUSED  # folded: everything
        assert ruling(in_force, "/nothing", total - kept + 0.5) == FRESH
        for number in chance.sample(range(total - kept, total), 200):
            target = (f"/{number}", f"/dir{number}/x?y=1", f"/deep/{number}.jpg", "/x")[number % 4]
            tags = (f"tag{number}",) if number % 4 == 3 else ()
            at_s = number + 1.0
            assert ruling(in_force, target, at_s, *tags) == REFUSED
            assert ruling(in_force, target, at_s + 0.5, *tags) == FRESH

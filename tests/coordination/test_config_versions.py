"""Configs go from the supervisor to its children whole, and wishes and outcomes come and go."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from streamedge.config.schema.config import Config
from streamedge.coordination.config_versions import Generations, Outcome

SECRET = "hunter2-wJalrXUtnFEMI"


def named(name: str) -> Config:
    return Config.model_validate({"edge": {"name": name}, "api": {"keys": {"AKIA": SECRET}}})


@pytest.fixture
def generations() -> Iterator[Generations]:
    made = Generations(named("g0"), 2)
    yield made
    made.close()


def in_child(look: Callable[[], bool]) -> bool:
    """What a process that is forked now finds."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if look() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_first_generation_is_what_the_edge_was_started_with(generations: Generations) -> None:
    assert generations.read() == (0, named("g0"))


def test_who_is_forked_later_has_the_newest(generations: Generations) -> None:
    assert generations.accept(named("g1")) == 1
    assert in_child(lambda: generations.config == named("g1"))
    assert in_child(lambda: generations.read() == (1, named("g1")))


def test_who_runs_already_reads_each(generations: Generations) -> None:
    asked, told = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for number in range(1, 4):
                os.read(asked[0], 1)
                found, config = generations.read()
                if (found, config.edge.name) != (number, f"g{number}"):
                    break
                assert config.api.keys["AKIA"].get_secret_value() == SECRET
                os.write(told[1], b"y")
            else:
                code = 0
        finally:
            os._exit(code)
    os.close(told[1])
    for number in range(1, 4):
        generations.accept(named(f"g{number}"))
        os.write(asked[1], b"?")
        assert os.read(told[0], 1) == b"y"
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for descriptor in (*asked, told[0]):
        os.close(descriptor)


def test_a_wish_has_the_outcome_of_a_reading_that_began_after_it(generations: Generations) -> None:
    first = generations.ask()
    seen = generations.asked
    second = generations.ask()  # while the file is being read
    outcome = Outcome(1, (), ("limits.url",), ("edge.workers",))
    generations.answer(seen, outcome)
    assert generations.outcome(first) == outcome
    assert generations.outcome(second) is None
    generations.answer(generations.asked, Outcome(1, ("a:1: b: c",)))
    assert generations.outcome(second) == Outcome(1, ("a:1: b: c",))


def test_workers_note_what_they_have_come_to(generations: Generations) -> None:
    generations.applied(1, 7)
    assert (generations.applied_by(0), generations.applied_by(1)) == (0, 7)
    assert generations.number == 0

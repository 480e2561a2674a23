"""Children read published configs; reload requests get the result of a later reload."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from streamedge.config.schema.config import Config
from streamedge.coordination.config_versions import ConfigVersions, ReloadResult

SECRET = "hunter2-wJalrXUtnFEMI"


def named(name: str) -> Config:
    return Config.model_validate({"edge": {"name": name}, "api": {"keys": {"AKIA": SECRET}}})


@pytest.fixture
def config_versions() -> Iterator[ConfigVersions]:
    versions = ConfigVersions(named("g0"), 2)
    yield versions
    versions.close()


def in_child(condition: Callable[[], bool]) -> bool:
    """Whether the condition holds in a process that is forked now."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if condition() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_generation_0_is_the_config_at_start(
    config_versions: ConfigVersions,
) -> None:
    assert config_versions.read() == (0, named("g0"))


def test_child_forked_later_has_the_newest_config(config_versions: ConfigVersions) -> None:
    assert config_versions.publish(named("g1")) == 1
    assert in_child(lambda: config_versions.config == named("g1"))
    assert in_child(lambda: config_versions.read() == (1, named("g1")))


def test_running_child_reads_each_generation(config_versions: ConfigVersions) -> None:
    requests, replies = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for number in range(1, 4):
                os.read(requests[0], 1)
                generation, config = config_versions.read()
                if (generation, config.edge.name) != (number, f"g{number}"):
                    break
                assert config.api.keys["AKIA"].get_secret_value() == SECRET
                os.write(replies[1], b"y")
            else:
                code = 0
        finally:
            os._exit(code)
    os.close(replies[1])
    for number in range(1, 4):
        config_versions.publish(named(f"g{number}"))
        os.write(requests[1], b"?")
        assert os.read(replies[0], 1) == b"y"
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for descriptor in (*requests, replies[0]):
        os.close(descriptor)


def test_reload_request_gets_the_result_of_a_reload_that_began_after_it(
    config_versions: ConfigVersions,
) -> None:
    first = config_versions.request_reload()
    count = config_versions.reload_requests
    second = config_versions.request_reload()  # while the file is being read
    result = ReloadResult(1, (), ("limits.url",), ("edge.workers",))
    config_versions.publish_result(count, result)
    assert config_versions.reload_result(first) == result
    assert config_versions.reload_result(second) is None
    config_versions.publish_result(config_versions.reload_requests, ReloadResult(1, ("a:1: b: c",)))
    assert config_versions.reload_result(second) == ReloadResult(1, ("a:1: b: c",))


def test_applied_generation_is_noted_for_each_worker(config_versions: ConfigVersions) -> None:
    config_versions.note_applied(1, 7)
    assert (config_versions.applied_generation(0), config_versions.applied_generation(1)) == (0, 7)
    assert config_versions.generation == 0

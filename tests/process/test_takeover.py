"""What of a new config a running edge takes over, and what it names as needing a restart."""

from __future__ import annotations

from typing import Any

import pytest

from streamedge.config.schema.config import Config
from streamedge.process.reload import changes, take_over

FOLDER = {"type": "directory", "path": "media"}
WEB = {"id": "EWEB", "type": "web", "origin": "main"}


def config(**tables: Any) -> Config:
    whole = {"origins": {"main": FOLDER}, "distributions": [WEB], **tables}
    return Config.model_validate(whole)


@pytest.mark.parametrize(
    ("tables", "changed"),
    [
        ({}, ()),
        ({"limits": {"url": 4096, "http_stall": "5s"}}, ("limits.http_stall", "limits.url")),
        ({"edge": {"cache_size": "1GiB"}}, ("edge.cache_size",)),
        ({"api": {"keys": {"AKIA": "secret"}}}, ("api.keys",)),
        ({"origins": {"main": {**FOLDER, "prefix": "a/"}}}, ("origins.main",)),
        ({"origins": {"main": FOLDER, "new": FOLDER}}, ("origins.new",)),
        ({"distributions": []}, ("distributions.EWEB",)),
        (
            {"distributions": [{**WEB, "enabled": False}, {**WEB, "id": "E2"}]},
            ("distributions.EWEB", "distributions.E2"),
        ),
        (
            {"public_keys": {"K": {"pem": "x"}}, "key_groups": {"g": {"keys": ["K"]}}},
            ("public_keys.K", "key_groups.g"),
        ),
        ({"certificates": [{"certificate": "a", "key": "b"}]}, ("certificates",)),
    ],
)
def test_what_is_live_is_taken_over_and_named(
    tables: dict[str, Any], changed: tuple[str, ...]
) -> None:
    wanted = config(**tables)
    taken = take_over(config(), config(), wanted)
    assert taken.config == wanted
    assert taken.changed == changed
    assert taken.needs_restart == ()


@pytest.mark.parametrize(
    ("tables", "keys"),
    [
        ({"edge": {"workers": 3, "cache": "else"}}, ("edge.cache", "edge.workers")),
        ({"edge": {"name": "fra-1", "log": "stderr"}}, ("edge.log", "edge.name")),
        ({"listen": {"http": [":80"], "proxies": ["10.0.0.1"]}}, ("listen.http", "listen.proxies")),
        ({"listen": {"admin": ":9"}}, ("listen.admin",)),
        ({"limits": {"titles": "1GiB", "moov": "1MiB"}}, ("limits.moov", "limits.titles")),
    ],
)
def test_what_is_read_at_the_start_alone_keeps_its_value(
    tables: dict[str, Any], keys: tuple[str, ...]
) -> None:
    taken = take_over(config(), config(), config(**tables))
    assert taken.needs_restart == keys
    assert taken.config == config()
    assert taken.changed == ()


def test_a_restart_is_needed_until_it_comes_or_the_file_is_as_it_was() -> None:
    started, wanted = config(), config(edge={"workers": 3})
    running = take_over(started, started, wanted).config
    assert take_over(started, running, wanted).needs_restart == ("edge.workers",)
    assert take_over(started, running, config()).needs_restart == ()


def test_the_rest_of_such_a_file_is_taken_over() -> None:
    taken = take_over(config(), config(), config(edge={"workers": 3}, distributions=[]))
    assert taken.config == config(distributions=[])
    assert taken.changed == ("distributions.EWEB",)


def test_the_first_who_writes_back_needs_a_restart() -> None:
    back = {**WEB, "behaviors": [{"path": "in/*", "write": "back"}]}
    wanted = config(distributions=[back, {**WEB, "id": "E2"}])
    assert take_over(config(), config(), wanted).needs_restart == ("distributions.EWEB.write",)
    assert take_over(wanted, config(), wanted).needs_restart == ()
    assert take_over(wanted, wanted, config()).needs_restart == ()


def test_another_order_of_distributions_is_a_change() -> None:
    two = [WEB, {**WEB, "id": "E2"}]
    assert list(changes(config(distributions=two), config(distributions=two[::-1]))) == [
        "distributions"
    ]

"""Which keys of a new config a running edge applies, and which need a restart."""

from __future__ import annotations

from typing import Any

import pytest

from streamedge.config.schema.config import Config
from streamedge.process.reload import changes, plan_reload

FOLDER = {"type": "directory", "path": "media"}
WEB = {"id": "EWEB", "type": "web", "origin": "main"}


def config(**tables: Any) -> Config:
    document = {"origins": {"main": FOLDER}, "distributions": [WEB], **tables}
    return Config.model_validate(document)


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
        (
            {"fleet": {"tiers": {"eu": ["fra-1"]}, "when_lost": "serve"}},
            ("fleet.when_lost", "fleet.tiers"),
        ),
    ],
)
def test_live_keys_are_applied_and_named(tables: dict[str, Any], changed: tuple[str, ...]) -> None:
    new = config(**tables)
    plan = plan_reload(config(), config(), new)
    assert plan.config == new
    assert plan.changed == changed
    assert plan.needs_restart == ()


@pytest.mark.parametrize(
    ("tables", "keys"),
    [
        ({"edge": {"workers": 3, "cache": "else"}}, ("edge.cache", "edge.workers")),
        ({"edge": {"name": "fra-1", "log": "stderr"}}, ("edge.log", "edge.name")),
        ({"listen": {"http": [":80"], "proxies": ["10.0.0.1"]}}, ("listen.http", "listen.proxies")),
        ({"listen": {"admin": ":9"}}, ("listen.admin",)),
        ({"limits": {"titles": "1GiB", "moov": "1MiB"}}, ("limits.moov", "limits.titles")),
        (
            {"fleet": {"engine": "redis://127.0.0.1", "lease": "5s"}},
            ("fleet.engine", "fleet.lease"),
        ),
    ],
)
def test_start_keys_keep_their_values_and_are_named(
    tables: dict[str, Any], keys: tuple[str, ...]
) -> None:
    plan = plan_reload(config(), config(), config(**tables))
    assert plan.needs_restart == keys
    assert plan.config == config()
    assert plan.changed == ()


def test_restart_is_needed_until_the_file_has_the_old_value_again() -> None:
    started, new = config(), config(edge={"workers": 3})
    running = plan_reload(started, started, new).config
    assert plan_reload(started, running, new).needs_restart == ("edge.workers",)
    assert plan_reload(started, running, config()).needs_restart == ()


def test_live_keys_beside_start_keys_are_applied() -> None:
    plan = plan_reload(config(), config(), config(edge={"workers": 3}, distributions=[]))
    assert plan.config == config(distributions=[])
    assert plan.changed == ("distributions.EWEB",)


def test_first_write_back_behavior_needs_a_restart() -> None:
    back = {**WEB, "behaviors": [{"path": "in/*", "write": "back"}]}
    new = config(distributions=[back, {**WEB, "id": "E2"}])
    assert plan_reload(config(), config(), new).needs_restart == ("distributions.EWEB.write",)
    assert plan_reload(new, config(), new).needs_restart == ()
    assert plan_reload(new, new, config()).needs_restart == ()


def test_new_order_of_distributions_is_a_change() -> None:
    two = [WEB, {**WEB, "id": "E2"}]
    assert list(changes(config(distributions=two), config(distributions=two[::-1]))) == [
        "distributions"
    ]

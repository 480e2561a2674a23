"""Rules of web distributions built from a config, with inherited and default values."""

from __future__ import annotations

import pytest

from streamedge.build.web_rules import error_pages, origin_names, web_behaviors
from streamedge.config.managed import CACHE_POLICIES
from streamedge.config.schema.config import Config, WebDistributionConfig
from streamedge.config.schema.selection import SELECT_ALL, SELECT_NONE, Selection, SelectionMode
from streamedge.delivery.http.policy.behaviors import (
    Behavior,
    CachePolicy,
    ErrorPage,
    OriginRequestPolicy,
    ViewerProtocol,
    WriteMode,
    choose_behavior,
)
from streamedge.delivery.http.policy.response_headers import (
    NO_POLICY,
    CorsPolicy,
    ResponseHeadersPolicy,
)


def behaviors_of(distribution: dict[str, object], **sections: object) -> tuple[Behavior, ...]:
    config = config_of(distribution, **sections)
    (web,) = config.distributions
    assert isinstance(web, WebDistributionConfig)
    return web_behaviors(config, web)


def config_of(distribution: dict[str, object], **sections: object) -> Config:
    origins = {
        "site": {"type": "http", "url": "https://a.example"},
        "hosts": {"type": "http", "url": "https://b.example", "host": "viewer"},
    }
    web = {"id": "E", "type": "web", "origin": "site", **distribution}
    return Config.model_validate({"origins": origins, "distributions": [web], **sections})


def test_distribution_without_behaviors_has_one_with_the_default_rules() -> None:
    (behavior,) = behaviors_of({"default_ttl": "1h"})
    assert behavior == Behavior("*", "site", cache=CachePolicy(default_ttl_s=3600.0))
    assert behavior.methods == {"GET", "HEAD"}
    assert behavior.cache.query_strings == SELECT_NONE
    assert behavior.response_headers is NO_POLICY


def test_behaviors_precede_the_default_and_inherit() -> None:
    behaviors = behaviors_of(
        {
            "methods": ["GET", "PUT"],
            "viewer_protocol": "https-only",
            "write": "back",
            "behaviors": [{"path": "a/*", "compress": True}, {"path": "b", "methods": ["POST"]}],
        }
    )
    assert [behavior.pattern for behavior in behaviors] == ["a/*", "b", "*"]
    first = choose_behavior(behaviors, "/a/x")
    assert first.compress
    assert first.methods == {"GET", "HEAD", "PUT"}
    assert first.viewer_protocol is ViewerProtocol.HTTPS_ONLY
    assert first.write is WriteMode.BACK
    assert choose_behavior(behaviors, "b").methods == {"GET", "HEAD", "POST"}
    assert not choose_behavior(behaviors, "c").compress


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, CachePolicy("mine", query_strings=SELECT_ALL)),
        (
            {"strict": True},
            CachePolicy("mine", True, True, default_ttl_s=0.0, query_strings=SELECT_ALL),
        ),
        (
            {"strict": True, "viewer_directives": False, "default_ttl": "1h"},
            CachePolicy("mine", True, False, default_ttl_s=3600.0, query_strings=SELECT_ALL),
        ),
        (
            {
                "min_ttl": "1s",
                "max_ttl": "1m",
                "error_ttl": "2s",
                "headers": ["Accept-Language", "ACCEPT-language"],
                "cookies": {"only": ["sid"]},
                "query_strings": "none",
            },
            CachePolicy(
                "mine",
                min_ttl_s=1.0,
                max_ttl_s=60.0,
                error_ttl_s=2.0,
                headers=("accept-language",),
                cookies=Selection(SelectionMode.ONLY, ("sid",)),
            ),
        ),
    ],
)
def test_cache_policy_has_defaults_for_omitted_keys(
    policy: dict[str, object], expected: CachePolicy
) -> None:
    (behavior,) = behaviors_of({"cache_policy": "mine"}, cache_policies={"mine": policy})
    assert behavior.cache == expected


def test_managed_policies_are_selected_by_name_and_by_id() -> None:
    by_id, by_name = (
        behaviors_of({"cache_policy": name, "origin_request_policy": "CORS-S3Origin"})[0]
        for name in ("658327ea-f89d-4fab-a63d-7e88639e58f6", "CachingOptimized")
    )
    assert by_id == by_name
    assert by_id.cache == CachePolicy("CachingOptimized", min_ttl_s=1.0)
    assert by_id.origin_request == OriginRequestPolicy(
        "CORS-S3Origin",
        headers=Selection(
            SelectionMode.ONLY,
            ("origin", "access-control-request-headers", "access-control-request-method"),
        ),
    )
    (disabled,) = behaviors_of({"cache_policy": "CachingDisabled"})
    assert disabled.cache.max_ttl_s == disabled.cache.default_ttl_s == 0
    assert CACHE_POLICIES["CachingDisabled"].query_strings == SELECT_NONE


def test_viewers_host_is_in_the_cache_key_if_the_origin_gets_it() -> None:
    """Else one host's pages would be another's hits."""
    groups = {"main": {"origins": ["site", "hosts"]}}
    assert behaviors_of({"origin": "hosts"})[0].cache.headers == ("host",)
    (grouped,) = behaviors_of(
        {"origin": "main", "cache_policy": "CachingOptimized"}, origin_groups=groups
    )
    assert grouped.cache.headers == ("host",)
    assert behaviors_of({"origin": "site"})[0].cache.headers == ()


def test_origin_names_has_the_members_of_a_group_in_order() -> None:
    config = config_of({}, origin_groups={"main": {"origins": ["hosts", "site"]}})
    assert origin_names(config, "main") == ("hosts", "site")
    assert origin_names(config, "site") == ("site",)


def test_response_headers_policy_has_all_its_settings() -> None:
    policy = {
        "remove": ["X-Powered-By"],
        "set": {"X-A": "1"},
        "add": {"X-B": "2"},
        "hsts": "max-age=1",
        "server_timing": 50,
        "cors": {"origins": ["*"], "headers": ["X-C"], "max_age": "1m", "override": False},
    }
    (behavior,) = behaviors_of(
        {"response_headers_policy": "mine"}, response_headers_policies={"mine": policy}
    )
    assert behavior.response_headers == ResponseHeadersPolicy(
        "mine",
        removed=frozenset({"x-powered-by"}),
        replaced=(("X-A", "1"),),
        added=(("X-B", "2"),),
        hsts="max-age=1",
        cors=CorsPolicy(("*",), headers=("X-C",), max_age_s=60, overrides=False),
        server_timing_percent=50,
    )
    (secure,) = behaviors_of({"response_headers_policy": "67f7725c-6f97-4210-82d7-5512b31e9d03"})
    assert secure.response_headers.name == "SecurityHeadersPolicy"
    assert secure.response_headers.cors is None
    assert secure.response_headers.hsts == "max-age=31536000"


def test_error_page_keeps_the_status_by_default() -> None:
    config = config_of(
        {
            "error_pages": [
                {"status": 404, "path": "/a.html", "response_status": 200, "ttl": "1m"},
                {"status": 503},
            ]
        }
    )
    (web,) = config.distributions
    assert isinstance(web, WebDistributionConfig)
    assert error_pages(web) == {
        404: ErrorPage(404, "/a.html", 200, 60.0),
        503: ErrorPage(503, "", 503, 10.0),
    }

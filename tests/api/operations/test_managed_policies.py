"""CloudFront's managed policies, with its ids and settings.

Source: Amazon CloudFront Developer Guide, "Use managed cache policies", "… origin request
policies", "… response headers policies".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamedge.api.to_config.translation import combine
from streamedge.config.schema.config import HttpOriginConfig
from tests.support.api.cloudfront_api import Api, behavior, listing, server, web

YEAR_S, DAY_S = 31_536_000, 86_400
METHOD_OVERRIDES = ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
CORS_REQUEST = ("Origin", "Access-Control-Request-Headers", "Access-Control-Request-Method")
NONE = {"QueryStringBehavior": "none"}
ALL = {"QueryStringBehavior": "all"}
MEDIA_PACKAGE = {
    "QueryStringBehavior": "whitelist",
    "QueryStrings": listing("aws.manifestfilter", "start", "end", "m"),
}
BY_ORIGIN = ("Host", "Origin", *METHOD_OVERRIDES)


@pytest.fixture(name="api")
def _api(tmp_path: Path) -> Api:
    return Api(tmp_path)


def headers(*names: str) -> dict[str, Any]:
    return {"HeaderBehavior": "whitelist", "Headers": listing(*names)}


@pytest.mark.parametrize(
    ("identifier", "name", "ttls", "names", "cookies", "query", "codings"),
    [
        (
            "08627262-05a9-4f76-9ded-b50ca2e3a84f",
            "Elemental-MediaPackage",
            (0, DAY_S, YEAR_S),
            ("Origin",),
            "none",
            MEDIA_PACKAGE,
            (True, False),
        ),
        (
            "83da9c7e-98b4-4e11-a168-04f0df8e2c65",
            "UseOriginCacheControlHeaders",
            (0, 0, YEAR_S),
            BY_ORIGIN,
            "all",
            NONE,
            (True, True),
        ),
        (
            "4cc15a8a-d715-48a4-82b8-cc0b614638fe",
            "UseOriginCacheControlHeaders-QueryStrings",
            (0, 0, YEAR_S),
            BY_ORIGIN,
            "all",
            ALL,
            (True, True),
        ),
    ],
)
def test_managed_cache_policy_has_the_settings_of_cloudfront(
    api: Api,
    identifier: str,
    name: str,
    ttls: tuple[int, int, int],
    names: tuple[str, ...],
    cookies: str,
    query: dict[str, Any],
    codings: tuple[bool, bool],
) -> None:
    config = api("GetCachePolicy", Id=identifier)["CachePolicy"]["CachePolicyConfig"]
    assert config["Name"] == f"Managed-{name}"
    assert (config["MinTTL"], config["DefaultTTL"], config["MaxTTL"]) == ttls
    key_parameters = config["ParametersInCacheKeyAndForwardedToOrigin"]
    assert key_parameters["HeadersConfig"] == headers(*names)
    assert key_parameters["CookiesConfig"] == {"CookieBehavior": cookies}
    assert key_parameters["QueryStringsConfig"] == query
    members = (
        key_parameters["EnableAcceptEncodingGzip"],
        key_parameters["EnableAcceptEncodingBrotli"],
    )
    assert members == codings


@pytest.mark.parametrize(
    ("identifier", "name", "names", "query"),
    [
        ("59781a5b-3903-41f3-afcb-af62929ccde1", "CORS-CustomOrigin", ("Origin",), NONE),
        (
            "775133bc-15f2-49f9-abea-afb2e0bf67d2",
            "Elemental-MediaTailor-PersonalizedManifests",
            (*CORS_REQUEST, "User-Agent", "X-Forwarded-For"),
            ALL,
        ),
        ("bf0718e1-ba1e-49d1-88b1-f726733018ae", "HostHeaderOnly", ("Host",), NONE),
        (
            "acba4595-bd28-49b8-b9fe-13317c0390fa",
            "UserAgentRefererHeaders",
            ("User-Agent", "Referer"),
            NONE,
        ),
    ],
)
def test_managed_origin_request_policy_has_the_settings_of_cloudfront(
    api: Api, identifier: str, name: str, names: tuple[str, ...], query: dict[str, Any]
) -> None:
    policy = api("GetOriginRequestPolicy", Id=identifier)["OriginRequestPolicy"]
    config = policy["OriginRequestPolicyConfig"]
    assert config["Name"] == f"Managed-{name}"
    assert config["HeadersConfig"] == headers(*names)
    assert config["CookiesConfig"] == {"CookieBehavior": "none"}
    assert config["QueryStringsConfig"] == query


@pytest.mark.parametrize(
    ("identifier", "name", "preflight", "security"),
    [
        ("5cc3b908-e619-4b99-88e5-2cf7f45965bd", "CORS-With-Preflight", True, False),
        ("e61eb60c-9c35-4d20-a928-2b84e02af89c", "CORS-and-SecurityHeadersPolicy", False, True),
        (
            "eaab4381-ed33-4a86-88ca-d9558dc6cd63",
            "CORS-with-preflight-and-SecurityHeadersPolicy",
            True,
            True,
        ),
    ],
)
def test_managed_response_headers_policy_has_the_settings_of_cloudfront(
    api: Api, identifier: str, name: str, preflight: bool, security: bool
) -> None:
    policy = api("GetResponseHeadersPolicy", Id=identifier)["ResponseHeadersPolicy"]
    config = policy["ResponseHeadersPolicyConfig"]
    assert config["Name"] == f"Managed-{name}"
    cors = config["CorsConfig"]
    assert cors["AccessControlAllowOrigins"] == listing("*")
    assert not cors["OriginOverride"]
    if preflight:
        methods = {"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"}
        assert set(cors["AccessControlAllowMethods"]["Items"]) == methods
        assert cors["AccessControlExposeHeaders"] == listing("*")
    assert ("SecurityHeadersConfig" in config) == security
    if security:
        members = config["SecurityHeadersConfig"]
        assert members["ContentTypeOptions"] == {"Override": True}
        assert members["FrameOptions"] == {"Override": False, "FrameOption": "SAMEORIGIN"}
        assert members["StrictTransportSecurity"]["AccessControlMaxAgeSec"] == YEAR_S


@pytest.mark.parametrize(
    ("policies", "host"),
    [
        ({"CachePolicyId": "83da9c7e-98b4-4e11-a168-04f0df8e2c65"}, "viewer"),
        ({"OriginRequestPolicyId": "bf0718e1-ba1e-49d1-88b1-f726733018ae"}, "viewer"),
        ({"OriginRequestPolicyId": "59781a5b-3903-41f3-afcb-af62929ccde1"}, "origin"),
    ],
)
def test_policy_that_forwards_host_sends_the_host_of_the_viewer(
    api: Api, policies: dict[str, str], host: str
) -> None:
    document = web(Origins=listing(server()), DefaultCacheBehavior=behavior("server", **policies))
    api("CreateDistribution", DistributionConfig=document)
    config = combine(api.from_file, api.store.resources()).config
    origin = config.origins[config.distributions[-1].origin]
    assert isinstance(origin, HttpOriginConfig)
    assert origin.host == host


@pytest.mark.parametrize(
    ("member", "identifier", "name"),
    [
        ("CachePolicyId", "2e54312d-136d-493c-8eb9-b001f22f67d2", "Amplify"),
        (
            "OriginRequestPolicyId",
            "33f36d7e-f396-46d9-90e0-52428a34d9dc",
            "AllViewerAndCloudFrontHeaders-2022-06",
        ),
    ],
)
def test_policy_with_computed_headers_is_refused_by_name(
    api: Api, member: str, identifier: str, name: str
) -> None:
    document = web(DefaultCacheBehavior=behavior(**{member: identifier}))
    error = api.error("CreateDistribution", DistributionConfig=document)
    assert error.code == "InvalidArgument"
    assert name in error.message
    assert "CloudFront-*" in error.message

"""The effective config that documents of the API are converted to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from streamedge.api.to_config.translation import combine
from streamedge.build.web_rules import error_pages, web_behaviors
from streamedge.config.managed import MANAGED_POLICIES, find
from streamedge.config.schema.config import (
    CachePolicyConfig,
    Config,
    DirectoryOriginConfig,
    HttpOriginConfig,
    RtmpDistributionConfig,
    S3OriginConfig,
    WebDistributionConfig,
)
from streamedge.config.schema.selection import SELECT_ALL, SELECT_NONE, Selection, SelectionMode
from streamedge.control.resources import Kind, Resource
from tests.support.api.cloudfront_api import (
    DISABLED,
    FILE_CONFIG,
    NOW_S,
    OPTIMIZED,
    Api,
    behavior,
    bucket,
    countries,
    ec_pem,
    forwarded,
    listing,
    rsa_pem,
    server,
    streaming,
    web,
)


@pytest.fixture(name="api")
def _api(tmp_path: Path) -> Api:
    return Api(tmp_path)


def effective_config(api: Api) -> Config:
    config = combine(api.from_file, api.store.resources()).config
    for distribution in config.distributions:  # a worker can apply all of it
        if isinstance(distribution, WebDistributionConfig):
            assert web_behaviors(config, distribution)
            error_pages(distribution)
        names = {distribution.origin, *(b.origin for b in getattr(distribution, "behaviors", ()))}
        assert names - {""} <= config.origins.keys() | config.origin_groups.keys()
        for rules in (distribution, *getattr(distribution, "behaviors", ())):
            for group in rules.trusted_key_groups:
                assert config.public_keys.keys() >= set(config.key_groups[group].keys)
    for group in config.origin_groups.values():
        assert config.origins.keys() >= set(group.origins)
    return config


def create_web(api: Api, **document: Any) -> tuple[Config, WebDistributionConfig]:
    """A distribution of ``document``, and the config that it is then part of."""
    identifier = api("CreateDistribution", DistributionConfig=web(**document))["Distribution"]["Id"]
    config = effective_config(api)
    (result,) = (one for one in config.distributions if one.id == identifier)
    assert isinstance(result, WebDistributionConfig)
    return config, result


def test_config_without_resources_is_that_of_the_file(api: Api) -> None:
    assert combine(api.from_file, ()).config == api.from_file


def test_resources_of_the_file_do_not_change(api: Api) -> None:
    config, distribution = create_web(api, Aliases=listing("CDN.example.com", "*.example.net"))
    assert config.distributions[:2] == api.from_file.distributions
    assert config.model_copy(update={"origins": api.from_file.origins, "distributions": ()}) == (
        api.from_file.model_copy(update={"distributions": ()})
    )
    assert distribution.enabled
    assert distribution.aliases == (
        f"{distribution.id.lower()}.fra-1.streamedge",
        "cdn.example.com",
        "*.example.net",
    )


# --- origins ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "name"),
    [
        (bucket("bucket", "whatever.example.org"), "bucket"),
        (bucket("media", "x.example.org"), "media"),
        (server("both", "x.example.org"), "both"),
        (bucket("other", "videos.s3.amazonaws.com"), "bucket"),
        (bucket("other", "videos.s3.eu-central-1.amazonaws.com"), "bucket"),
        (bucket("other", "videos.s3-eu-west-1.amazonaws.com"), "bucket"),
    ],
)
def test_origin_of_the_file_is_used_by_name_or_bucket(api: Api, origin: Any, name: str) -> None:
    config, distribution = create_web(
        api, Origins=listing(origin), DefaultCacheBehavior=behavior(origin["Id"])
    )
    assert distribution.origin == name
    assert config.origins == api.from_file.origins
    assert config.origin_groups == api.from_file.origin_groups


def test_bucket_that_is_not_in_the_file_is_created(api: Api) -> None:
    origin = bucket(domain="my.films.s3.eu-west-1.amazonaws.com", ConnectionTimeout=3)
    config, distribution = create_web(api, Origins=listing(origin))
    assert distribution.origin == f"made:{distribution.id}:films"
    assert config.origins[distribution.origin] == S3OriginConfig(
        type="s3",
        bucket="my.films",
        region="eu-west-1",
        anonymous=True,
        connect_timeout=3.0,
        read_timeout=30.0,
    )


@pytest.mark.parametrize(
    ("signing_behavior", "is_anonymous"),
    [("always", False), ("no-override", False), ("never", True)],
)
def test_access_control_decides_whether_requests_are_signed(
    api: Api, signing_behavior: str, is_anonymous: bool
) -> None:
    control = {
        "Name": "films",
        "SigningProtocol": "sigv4",
        "SigningBehavior": signing_behavior,
        "OriginAccessControlOriginType": "s3",
    }
    output = api("CreateOriginAccessControl", OriginAccessControlConfig=control)
    identifier = output["OriginAccessControl"]["Id"]
    config, distribution = create_web(
        api, Origins=listing(bucket(OriginAccessControlId=identifier))
    )
    origin = config.origins[distribution.origin]
    assert isinstance(origin, S3OriginConfig)
    assert origin.anonymous is is_anonymous


def test_access_identity_makes_requests_signed(api: Api) -> None:
    identity = api(
        "CreateCloudFrontOriginAccessIdentity",
        CloudFrontOriginAccessIdentityConfig={"CallerReference": "one", "Comment": ""},
    )
    identifier = identity["CloudFrontOriginAccessIdentity"]["Id"]
    reference = f"origin-access-identity/cloudfront/{identifier}"
    origin = bucket(S3OriginConfig={"OriginAccessIdentity": reference})
    config, distribution = create_web(api, Origins=listing(origin))
    result = config.origins[distribution.origin]
    assert isinstance(result, S3OriginConfig)
    assert not result.anonymous


@pytest.mark.parametrize(
    ("custom", "url"),
    [
        ({"OriginProtocolPolicy": "https-only"}, "https://origin.example.org"),
        (
            {"OriginProtocolPolicy": "https-only", "HTTPSPort": 8443},
            "https://origin.example.org:8443",
        ),
        ({"OriginProtocolPolicy": "http-only"}, "http://origin.example.org"),
        ({"OriginProtocolPolicy": "http-only", "HTTPPort": 8080}, "http://origin.example.org:8080"),
        # The edge listens for HTTPS: nothing that came sealed is sent on open.
        ({"OriginProtocolPolicy": "match-viewer"}, "https://origin.example.org"),
    ],
)
def test_http_origin_has_scheme_port_and_headers(api: Api, custom: Any, url: str) -> None:
    headers = listing({"HeaderName": "X-Secret", "HeaderValue": SECRET_VALUE})
    origin = server(custom=custom, OriginPath="/a/b", CustomHeaders=headers)
    config, distribution = create_web(
        api, Origins=listing(origin), DefaultCacheBehavior=behavior("server")
    )
    result = config.origins[distribution.origin]
    assert isinstance(result, HttpOriginConfig)
    assert (result.url, result.prefix, result.host) == (url, "a/b/", "origin")
    assert result.headers == {"X-Secret": SecretStr(SECRET_VALUE)}


SECRET_VALUE = "open sesame"


def test_match_viewer_is_http_if_the_edge_listens_for_http_only(tmp_path: Path) -> None:
    api = Api(tmp_path, {**FILE_CONFIG, "listen": {}, "certificates": []})
    origin = server(custom={"OriginProtocolPolicy": "match-viewer"})
    config, distribution = create_web(
        api, Origins=listing(origin), DefaultCacheBehavior=behavior("server")
    )
    result = config.origins[distribution.origin]
    assert isinstance(result, HttpOriginConfig)
    assert result.url == "http://origin.example.org"


def test_additions_to_an_origin_of_the_file_create_a_copy(api: Api) -> None:
    headers = listing({"HeaderName": "X-New", "HeaderValue": "1"})
    origins = listing(
        server("site", OriginPath="/more", CustomHeaders=headers),
        bucket("media", OriginPath="/more"),
    )
    config, distribution = create_web(
        api,
        Origins=origins,
        DefaultCacheBehavior=behavior("site"),
        CacheBehaviors=listing(behavior("media", PathPattern="m/*")),
    )
    site, media = (
        config.origins[distribution.origin],
        config.origins[distribution.behaviors[0].origin],
    )
    assert isinstance(site, HttpOriginConfig)
    assert (site.url, site.prefix) == ("https://www.example.org/base", "more/")
    assert site.headers.keys() == {"X-Key", "X-New"}
    assert isinstance(media, DirectoryOriginConfig)
    assert media.prefix == "films/more/"
    assert config.origins.keys() - api.from_file.origins.keys() == {
        distribution.origin,
        distribution.behaviors[0].origin,
    }


def test_forwarded_host_creates_a_variant_of_an_origin(api: Api) -> None:
    config, distribution = create_web(
        api,
        Origins=listing(server()),
        DefaultCacheBehavior=behavior("server"),
        CacheBehaviors=listing(
            behavior(
                "server",
                PathPattern="host/*",
                OriginRequestPolicyId="216adef6-5c7f-47e4-b989-5492eafa07d3",
            ),
            behavior(
                "server",
                PathPattern="old/*",
                ForwardedValues=forwarded(Headers=listing("Host", "Accept")),
            ),
            behavior(
                "server",
                PathPattern="except/*",
                OriginRequestPolicyId="b689b0a8-53d0-40ab-baf2-68738e2966ac",
            ),
        ),
    )
    hosts = [
        getattr(config.origins[rules.origin], "host")  # noqa: B009
        for rules in (distribution, *distribution.behaviors)
    ]
    assert hosts == ["origin", "viewer", "viewer", "origin"]


def test_origin_group_is_converted(api: Api) -> None:
    group = {
        "Id": "group",
        "FailoverCriteria": {"StatusCodes": listing(500, 404)},
        "Members": listing({"OriginId": "server"}, {"OriginId": "bucket"}),
    }
    config, distribution = create_web(
        api,
        Origins=listing(server(), bucket("bucket")),
        OriginGroups=listing(group),
        DefaultCacheBehavior=behavior("group"),
    )
    result = config.origin_groups[distribution.origin]
    assert result.origins == (f"made:{distribution.id}:server", "bucket")
    assert result.failover == (500, 404, "connect", "timeout")


def test_ids_that_look_like_variants_have_their_own_origins(api: Api) -> None:
    ids = ("a", "viewer-host+a", "a:viewer-host", "https+a", "made:a", "a:")
    origins = [server(one, f"o{number}.example.org") for number, one in enumerate(ids)]
    origins[0] = server("a", "o0.example.org", custom={"OriginProtocolPolicy": "match-viewer"})
    all_viewer = "216adef6-5c7f-47e4-b989-5492eafa07d3"
    behaviors = [
        behavior(
            one,
            PathPattern=f"{host}/{number}",
            **({"OriginRequestPolicyId": all_viewer} if host else {}),
        )
        for number, one in enumerate(ids)
        for host in ("", "host")
    ]
    config, distribution = create_web(
        api,
        Origins=listing(*origins),
        DefaultCacheBehavior=behavior("a"),
        CacheBehaviors=listing(*behaviors),
    )
    for number, (plain, hosted) in enumerate(
        zip(distribution.behaviors[::2], distribution.behaviors[1::2], strict=True)
    ):
        for rules, host in ((plain, "origin"), (hosted, "viewer")):
            result = config.origins[rules.origin]
            assert isinstance(result, HttpOriginConfig)
            assert (result.url, result.host) == (f"https://o{number}.example.org", host)


# --- behaviors ----------------------------------------------------------------------------


def test_behaviors_keep_their_order_and_inherit_nothing(api: Api) -> None:
    config, distribution = create_web(
        api,
        Origins=listing(server(), bucket()),
        DefaultCacheBehavior=behavior(
            "server",
            Compress=True,
            AllowedMethods=listing("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"),
            TrustedKeyGroups={"Enabled": True, **listing("trusted")},
            ViewerProtocolPolicy="redirect-to-https",
            ResponseHeadersPolicyId="67f7725c-6f97-4210-82d7-5512b31e9d03",
        ),
        CacheBehaviors=listing(
            behavior(PathPattern="/b/*", CachePolicyId=DISABLED, Compress=True),
            behavior(
                PathPattern="a/*",
                AllowedMethods=listing("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"),
            ),
        ),
    )
    all_methods = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
    assert distribution.methods == all_methods
    assert distribution.compress
    assert distribution.trusted_key_groups == ("trusted",)
    assert distribution.viewer_protocol == "redirect-to-https"
    assert distribution.response_headers_policy == "SecurityHeadersPolicy"
    first, second = distribution.behaviors
    assert [first.path, second.path] == ["/b/*", "a/*"]
    assert distribution.rules_for(first).trusted_key_groups == ()
    assert distribution.rules_for(first).viewer_protocol == "allow-all"
    assert distribution.rules_for(first).response_headers_policy == ""
    assert not distribution.rules_for(first).compress  # CachingDisabled has no Accept-Encoding
    # An object has no parts to change.
    assert distribution.rules_for(second).methods == tuple(m for m in all_methods if m != "PATCH")
    assert config.cache_policies == api.from_file.cache_policies


def legacy(api: Api, **more: Any) -> tuple[CachePolicyConfig, Any, WebDistributionConfig]:
    """The policies of a behavior that was written the old way."""
    config, distribution = create_web(api, DefaultCacheBehavior=behavior(**more))
    request = config.origin_request_policies.get(distribution.origin_request_policy)
    return config.cache_policies[distribution.cache_policy], request, distribution


def test_forwarded_values_become_a_policy(api: Api) -> None:
    policy, request, distribution = legacy(
        api,
        MinTTL=5,
        DefaultTTL=10,
        MaxTTL=20,
        Compress=True,
        ForwardedValues={
            "QueryString": True,
            "Cookies": {"Forward": "whitelist", "WhitelistedNames": listing("session")},
            "Headers": listing("Accept-Language"),
        },
    )
    assert policy == CachePolicyConfig(
        min_ttl=5.0,
        default_ttl=10.0,
        max_ttl=20.0,
        query_strings=SELECT_ALL,
        cookies=Selection(SelectionMode.ONLY, ("session",)),
        headers=("Accept-Language",),
    )
    assert request is None
    assert distribution.compress


def test_query_string_keys_are_a_part_of_the_forwarded_ones(api: Api) -> None:
    policy, request, _from_api = legacy(
        api, ForwardedValues=forwarded(QueryString=True, QueryStringCacheKeys=listing("page"))
    )
    assert policy.query_strings == Selection(SelectionMode.ONLY, ("page",))
    assert request.query_strings == SELECT_ALL


def test_forwarding_all_headers_disables_caching(api: Api) -> None:
    policy, request, _from_api = legacy(api, ForwardedValues=forwarded(Headers=listing("*")))
    assert (policy.min_ttl, policy.default_ttl, policy.max_ttl) == (0.0, 0.0, 0.0)
    assert policy.query_strings == SELECT_NONE
    assert request.headers == SELECT_ALL


def test_countries_belong_to_the_distribution(api: Api) -> None:
    _config, allowed = create_web(api, Restrictions=countries("whitelist", "DE", "FR"))
    assert (allowed.countries.codes, allowed.countries.is_allow_list) == (("DE", "FR"), True)
    _config, denied = create_web(
        api, CallerReference="two", Restrictions=countries("blacklist", "US")
    )
    assert (denied.countries.codes, denied.countries.is_allow_list) == (("US",), False)
    _config, opened = create_web(api, CallerReference="three", Restrictions=countries("none"))
    assert opened.countries.is_open


def test_error_pages_root_object_and_tag_header_are_converted(api: Api) -> None:
    pages = listing(
        {"ErrorCode": 404, "ResponsePagePath": "/404.html", "ResponseCode": "200"},
        {"ErrorCode": 500, "ErrorCachingMinTTL": 0},
    )
    _config, distribution = create_web(
        api,
        Enabled=False,
        DefaultRootObject="index.html",
        CustomErrorResponses=pages,
        CacheTagConfig={"HeaderName": "Cache-Tag"},
    )
    assert not distribution.enabled
    assert distribution.default_root_object == "index.html"
    assert distribution.cache_tag_header == "Cache-Tag"
    converted = [
        (page.status, page.path, page.response_status, page.ttl)
        for page in distribution.error_pages
    ]
    assert converted == [(404, "/404.html", 200, 10.0), (500, "", 0, 0.0)]


@pytest.mark.parametrize(
    ("version", "http2"),
    [("http1.1", False), ("http2", True), ("http3", True), ("http2and3", True)],
)
def test_http_version_offers_http2(api: Api, version: str, http2: bool) -> None:
    _config, distribution = create_web(api, HttpVersion=version)
    assert distribution.http2 is http2


# --- trust --------------------------------------------------------------------------------


def make_key(api: Api, name: str, pem: str) -> str:
    config = {"CallerReference": name, "Name": name, "EncodedKey": pem}
    return str(api("CreatePublicKey", PublicKeyConfig=config)["PublicKey"]["Id"])


def test_key_groups_of_the_api_are_trusted_by_id(api: Api) -> None:
    keys = [make_key(api, "rsa", rsa_pem()), make_key(api, "ec", ec_pem(ec.SECP256R1()))]
    group = api("CreateKeyGroup", KeyGroupConfig={"Name": "g", "Items": [*keys, "KDECLARED"]})
    identifier = group["KeyGroup"]["Id"]
    trusted = {"Enabled": True, **listing(identifier)}
    config, distribution = create_web(api, DefaultCacheBehavior=behavior(TrustedKeyGroups=trusted))
    (name,) = distribution.trusted_key_groups
    assert name == f"made-{identifier}"
    assert config.key_groups[name].keys == (*keys, "KDECLARED")
    assert config.public_keys.keys() == {*keys, "KDECLARED"}


def test_trusted_signer_self_is_all_keys_of_the_edge(api: Api) -> None:
    key = make_key(api, "rsa", rsa_pem())
    signers = {"Enabled": True, **listing("self")}
    api(
        "CreateStreamingDistribution", StreamingDistributionConfig=streaming(TrustedSigners=signers)
    )
    config = effective_config(api)
    distribution = config.distributions[-1]
    assert isinstance(distribution, RtmpDistributionConfig)
    (name,) = distribution.trusted_key_groups
    assert config.key_groups[name].keys == ("KDECLARED", key)


def test_trusted_signer_self_without_keys_refuses_everyone(tmp_path: Path) -> None:
    file_config = {**FILE_CONFIG, "public_keys": {}, "key_groups": {}}
    file_config["distributions"] = file_config["distributions"][1:]
    api = Api(tmp_path, file_config)
    signers = {"Enabled": True, **listing("self")}
    config, distribution = create_web(api, DefaultCacheBehavior=behavior(TrustedSigners=signers))
    (name,) = distribution.trusted_key_groups
    assert config.key_groups[name].keys == ()


def test_key_group_of_the_file_is_not_confused_with_one_of_the_api(tmp_path: Path) -> None:
    groups = {"made-self": {"keys": []}, "made-self-": {"keys": []}, **FILE_CONFIG["key_groups"]}
    api = Api(tmp_path, {**FILE_CONFIG, "key_groups": groups})
    signers = {"Enabled": True, **listing("self")}
    config, distribution = create_web(api, DefaultCacheBehavior=behavior(TrustedSigners=signers))
    assert distribution.trusted_key_groups == ("made-self--",)
    assert config.key_groups["made-self"] == api.from_file.key_groups["made-self"]


# --- streaming ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        ("videos.s3.amazonaws.com", "bucket"),
        ("media", "media"),
        ("both", "both"),
        ("films.s3.amazonaws.com", None),
    ],
)
def test_streaming_distribution_serves_a_bucket(api: Api, domain: str, name: str | None) -> None:
    document = streaming(
        S3Origin={"DomainName": domain, "OriginAccessIdentity": ""},
        Aliases=listing("rtmp.example.com"),
    )
    distribution = api("CreateStreamingDistribution", StreamingDistributionConfig=document)
    identifier = distribution["StreamingDistribution"]["Id"]
    config = effective_config(api)
    result = config.distributions[-1]
    assert result == RtmpDistributionConfig(
        id=identifier,
        type="rtmp",
        aliases=(f"{identifier.lower()}.fra-1.streamedge", "rtmp.example.com"),
        origin=name or f"made:{identifier}",
        application=("cfx/st",),
    )


# --- what changes below -------------------------------------------------------------------


def resource(identifier: str, document: dict[str, Any], kind: Kind = Kind.DISTRIBUTION) -> Resource:
    return Resource(kind, identifier, "E1", identifier, document, NOW_S, NOW_S)


def test_file_has_priority_for_ids_and_aliases(api: Api) -> None:
    resources = (
        resource("EWEB", web()),
        resource("EMADE", web(Aliases=listing("www.example.com", "free.example.com"))),
    )
    result = combine(api.from_file, resources)
    assert [problem.id for problem in result.problems] == ["EWEB"]
    assert result.config.distributions[:2] == api.from_file.distributions
    (distribution,) = result.config.distributions[2:]
    assert distribution.aliases == ("emade.fra-1.streamedge", "free.example.com")


def test_invalid_resource_and_those_that_refer_to_it_are_not_applied(api: Api) -> None:
    bad_key = {"CallerReference": "k", "Name": "k", "EncodedKey": "no key"}
    trusted = {"Enabled": True, **listing("group")}
    resources = (
        resource("K1", bad_key, Kind.PUBLIC_KEY),
        resource("group", {"Name": "group", "Items": ["K1"]}, Kind.KEY_GROUP),
        resource("ESIGNED", web(DefaultCacheBehavior=behavior(TrustedKeyGroups=trusted))),
        resource("EGONE", web(Origins=listing(bucket("gone", "gone.example.org")))),
        resource("EGOOD", web()),
    )
    result = combine(api.from_file, resources)
    assert {problem.id for problem in result.problems} == {"K1", "group", "ESIGNED", "EGONE"}
    assert [one.id for one in result.config.distributions] == ["EWEB", "ESTREAM", "EGOOD"]
    assert result.config.key_groups == api.from_file.key_groups


def test_policy_of_the_api_is_used_by_id(api: Api) -> None:
    document = {
        "Name": "keyed",
        "MinTTL": 1,
        "ParametersInCacheKeyAndForwardedToOrigin": {
            "EnableAcceptEncodingGzip": False,
            "EnableAcceptEncodingBrotli": True,
            "HeadersConfig": {"HeaderBehavior": "whitelist", "Headers": listing("Accept", "Host")},
            "CookiesConfig": {"CookieBehavior": "allExcept", "Cookies": listing("a")},
            "QueryStringsConfig": {"QueryStringBehavior": "all"},
        },
    }
    identifier = api("CreateCachePolicy", CachePolicyConfig=document)["CachePolicy"]["Id"]
    config, distribution = create_web(
        api,
        Origins=listing(server()),
        DefaultCacheBehavior=behavior("server", CachePolicyId=identifier, Compress=True),
    )
    policy = find(
        distribution.cache_policy, config.cache_policies, MANAGED_POLICIES["cache_policies"]
    )
    assert policy == CachePolicyConfig(
        min_ttl=1.0,
        headers=("Accept", "Host"),
        cookies=Selection(SelectionMode.EXCEPT, ("a",)),
        query_strings=SELECT_ALL,
    )
    assert distribution.compress
    origin = config.origins[distribution.origin]
    assert isinstance(origin, HttpOriginConfig)
    assert origin.host == "viewer"
    assert OPTIMIZED not in distribution.cache_policy


@pytest.mark.parametrize(
    ("named", "origin"),
    [("videos.s3.amazonaws.com", "bucket"), ("bucket", "bucket"), ("media", "media")],
)
def test_logging_becomes_a_log_in_a_declared_bucket_or_folder(
    api: Api, named: str, origin: str
) -> None:
    logging = {"Enabled": True, "IncludeCookies": True, "Bucket": named, "Prefix": "cdn"}
    _config, distribution = create_web(api, Logging=logging)
    log = distribution.log
    assert (log.origin, log.file_prefix, log.cookies) == (origin, "cdn/", True)
    assert (log.interval, log.format) == (300.0, "standard")


def test_logging_that_is_off_is_no_log(api: Api) -> None:
    logging = {"Enabled": False, "IncludeCookies": True, "Bucket": "gone", "Prefix": "x"}
    _config, distribution = create_web(api, Logging=logging)
    assert distribution.log.origin == ""


def test_logging_of_a_streaming_distribution_becomes_its_log(api: Api) -> None:
    logging = {"Enabled": True, "Bucket": "videos.s3.amazonaws.com", "Prefix": ""}
    api(
        "CreateStreamingDistribution",
        StreamingDistributionConfig=streaming(Logging=logging),
    )
    distribution = effective_config(api).distributions[-1]
    assert (distribution.log.origin, distribution.log.file_prefix) == ("bucket", "")

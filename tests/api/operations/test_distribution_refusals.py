"""Invalid documents of distributions: the error code, the reason, and that nothing changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.api.cloudfront_api import (
    FILE_CONFIG,
    Api,
    behavior,
    bucket,
    countries,
    forwarded,
    listing,
    server,
    streaming,
    web,
)


@pytest.fixture(name="api")
def _api(tmp_path: Path) -> Api:
    return Api(tmp_path)


GROUP = {
    "Id": "group",
    "FailoverCriteria": {"StatusCodes": listing(500)},
    "Members": listing({"OriginId": "films"}, {"OriginId": "server"}),
}
TWO = listing(bucket(), server())
FUNCTION = {"FunctionARN": "arn:aws:cloudfront::1:function/f", "EventType": "viewer-request"}
LAMBDA = {"LambdaFunctionARN": "arn:aws:lambda:f:1", "EventType": "viewer-request"}


@pytest.mark.parametrize(
    ("more", "code", "reason"),
    [
        # what an edge cannot do
        ({"WebACLId": "acl"}, "InvalidArgument", "WebACLId"),
        ({"Staging": True}, "InvalidArgument", "Staging"),
        ({"ContinuousDeploymentPolicyId": "x"}, "InvalidArgument", "ContinuousDeployment"),
        ({"AnycastIpListId": "x"}, "InvalidArgument", "AnycastIpListId"),
        ({"ConnectionMode": "tenant-only"}, "InvalidArgument", "ConnectionMode"),
        ({"TenantConfig": {"ParameterDefinitions": [{}]}}, "InvalidArgument", "TenantConfig"),
        ({"ViewerMtlsConfig": {"Mode": "required"}}, "InvalidArgument", "ViewerMtlsConfig"),
        ({"Logging": {"Enabled": True, "Bucket": "b"}}, "InvalidArgument", "Logging: Bucket"),
        (
            {"Logging": {"Enabled": True, "Bucket": "other.s3.amazonaws.com"}},
            "InvalidArgument",
            "Logging: Bucket",
        ),
        (
            {"Logging": {"Enabled": True, "Bucket": "site"}},
            "InvalidArgument",
            "Logging: Bucket",
        ),
        (
            {"Logging": {"Enabled": True, "Bucket": "media", "Prefix": "/a"}},
            "InvalidArgument",
            "Logging: prefix",
        ),
        ({"ViewerCertificate": {"ACMCertificateArn": "arn"}}, "InvalidArgument", "ACMCertificate"),
        ({"ViewerCertificate": {"IAMCertificateId": "id"}}, "InvalidArgument", "IAMCertificateId"),
        (
            {"DefaultCacheBehavior": behavior(LambdaFunctionAssociations=listing(LAMBDA))},
            "InvalidArgument",
            "LambdaFunctionAssociations",
        ),
        (
            {"DefaultCacheBehavior": behavior(FunctionAssociations=listing(FUNCTION))},
            "InvalidArgument",
            "FunctionAssociations",
        ),
        (
            {"DefaultCacheBehavior": behavior(FieldLevelEncryptionId="x")},
            "InvalidArgument",
            "FieldLevelEncryptionId",
        ),
        (
            {"CacheBehaviors": listing(behavior(PathPattern="a", RealtimeLogConfigArn="arn"))},
            "InvalidArgument",
            "cache behavior a: RealtimeLogConfigArn",
        ),
        (
            {"DefaultCacheBehavior": behavior(GrpcConfig={"Enabled": True})},
            "InvalidArgument",
            "Grpc",
        ),
        # quantities
        ({"Aliases": {"Quantity": 2, "Items": ["a.org"]}}, "InconsistentQuantities", "Aliases"),
        ({"Origins": {"Quantity": 0, "Items": [bucket()]}}, "InconsistentQuantities", "Origins"),
        # aliases
        ({"Aliases": listing("a.org", "A.org")}, "InvalidArgument", "Aliases"),
        ({"Aliases": listing("a_b c")}, "InvalidArgument", "aliases"),
        # origins
        ({"Origins": listing()}, "TooManyOrigins", "origins"),
        ({"Origins": listing(bucket(), bucket())}, "InvalidArgument", "films"),
        ({"DefaultCacheBehavior": behavior("none")}, "NoSuchOrigin", "none"),
        ({"Origins": listing(bucket(domain="a.example.org"))}, "InvalidOrigin", "films"),
        ({"Origins": listing({"Id": "films", "DomainName": "a.org"})}, "InvalidOrigin", "films"),
        ({"Origins": listing(bucket(), server(domain="a b"))}, "InvalidOrigin", "server"),
        ({"Origins": listing(bucket(), server(domain="h/../x"))}, "InvalidOrigin", "server"),
        ({"Origins": listing(bucket(OriginPath="films"))}, "InvalidArgument", "OriginPath"),
        ({"Origins": listing(bucket(OriginPath="/films/"))}, "InvalidArgument", "OriginPath"),
        ({"Origins": listing(bucket(OriginPath="/../x"))}, "InvalidArgument", "OriginPath"),
        ({"Origins": listing(bucket("media", OriginPath="/.."))}, "InvalidArgument", "OriginPath"),
        (
            {"Origins": listing(bucket(OriginAccessControlId="ENONE"))},
            "InvalidOriginAccessControl",
            "ENONE",
        ),
        (
            {"Origins": listing(bucket(S3OriginConfig={"OriginAccessIdentity": "me"}))},
            "InvalidOriginAccessIdentity",
            "OriginAccessIdentity",
        ),
        (
            {"Origins": listing(bucket(), server(OriginAccessControlId="E"))},
            "InvalidOriginAccessControl",
            "server",
        ),
        (
            {"Origins": listing(bucket(), server(custom={"OriginMtlsConfig": {"x": "y"}}))},
            "InvalidArgument",
            "OriginMtlsConfig",
        ),
        (
            {
                "Origins": listing(
                    bucket(), server(custom={"OriginSslProtocols": listing("SSLv3", "TLSv1")})
                )
            },
            "InvalidProtocolSettings",
            "OriginSslProtocols",
        ),
        (
            {"Origins": listing(bucket(), server(VpcOriginConfig={"a": 1}))},
            "InvalidArgument",
            "Vpc",
        ),
        (
            {"Origins": listing(bucket(), server(custom={"HTTPSPort": 70_000}))},
            "InvalidArgument",
            "port",
        ),
        (
            {"Origins": listing(bucket(), server(custom={"OriginReadTimeout": 0}))},
            "InvalidOriginReadTimeout",
            "OriginReadTimeout",
        ),
        ({"Origins": listing(bucket(ConnectionAttempts=9))}, "InvalidArgument", "Connection"),
        (
            {
                "Origins": listing(
                    bucket(CustomHeaders=listing({"HeaderName": "Host", "HeaderValue": "sesame"}))
                )
            },
            "InvalidArgument",
            "headers",
        ),
        (
            {
                "Origins": listing(
                    bucket(
                        CustomHeaders=listing(
                            {"HeaderName": "X", "HeaderValue": "1"},
                            {"HeaderName": "x", "HeaderValue": "2"},
                        )
                    )
                )
            },
            "InvalidArgument",
            "CustomHeaders",
        ),
        # groups
        (
            {"Origins": TWO, "OriginGroups": listing({**GROUP, "SelectionCriteria": "media"})},
            "InvalidArgument",
            "SelectionCriteria",
        ),
        (
            {"Origins": TWO, "OriginGroups": listing({**GROUP, "Id": "films"})},
            "InvalidArgument",
            "films",
        ),
        ({"OriginGroups": listing(GROUP)}, "NoSuchOrigin", "server"),
        (
            {
                "Origins": TWO,
                "OriginGroups": listing(
                    {**GROUP, "FailoverCriteria": {"StatusCodes": listing(200)}}
                ),
            },
            "InvalidArgument",
            "StatusCodes",
        ),
        (
            {
                "Origins": TWO,
                "OriginGroups": listing({**GROUP, "Members": listing({"OriginId": "films"})}),
            },
            "InvalidArgument",
            "Members",
        ),
        # behaviors and policies
        ({"DefaultCacheBehavior": behavior(CachePolicyId="none")}, "NoSuchCachePolicy", "none"),
        (
            {"DefaultCacheBehavior": behavior(OriginRequestPolicyId="none")},
            "NoSuchOriginRequestPolicy",
            "none",
        ),
        (
            {"DefaultCacheBehavior": behavior(ResponseHeadersPolicyId="none")},
            "NoSuchResponseHeadersPolicy",
            "none",
        ),
        (
            {"DefaultCacheBehavior": behavior(CachePolicyId="")},
            "InvalidArgument",
            "CachePolicyId or ForwardedValues",
        ),
        (
            {"DefaultCacheBehavior": behavior(ForwardedValues=forwarded(), CachePolicyId="x")},
            "InvalidArgument",
            "CachePolicyId or ForwardedValues",
        ),
        (
            {
                "DefaultCacheBehavior": behavior(
                    ForwardedValues=forwarded(), MinTTL=10, DefaultTTL=5
                )
            },
            "InvalidTTLOrder",
            "MinTTL",
        ),
        (
            {
                "DefaultCacheBehavior": behavior(
                    ForwardedValues=forwarded(Headers=listing("*")), MinTTL=1
                )
            },
            "InvalidArgument",
            "MinTTL",
        ),
        (
            {
                "DefaultCacheBehavior": behavior(
                    ForwardedValues=forwarded(Headers=listing("CloudFront-Viewer-Country"))
                )
            },
            "InvalidArgument",
            "CloudFront-Viewer-Country",
        ),
        (
            {
                "DefaultCacheBehavior": behavior(
                    ForwardedValues=forwarded(Headers=listing("x-amz-acl"))
                )
            },
            "InvalidArgument",
            "x-amz-acl",
        ),
        (
            {"DefaultCacheBehavior": behavior(ForwardedValues=forwarded(Headers=listing("Range")))},
            "InvalidArgument",
            "Range",
        ),
        (
            {
                "DefaultCacheBehavior": behavior(
                    ForwardedValues=forwarded(QueryStringCacheKeys=listing("a"))
                )
            },
            "InvalidQueryStringParameters",
            "QueryString",
        ),
        (
            {
                "DefaultCacheBehavior": behavior(
                    ForwardedValues=forwarded(Cookies={"Forward": "whitelist"})
                )
            },
            "InvalidForwardCookies",
            "cookie",
        ),
        (
            {"DefaultCacheBehavior": behavior(AllowedMethods=listing("GET", "PUT"))},
            "InvalidArgument",
            "AllowedMethods",
        ),
        (
            {"CacheBehaviors": listing(behavior(PathPattern="a/*"), behavior(PathPattern="/a/*"))},
            "InvalidArgument",
            "PathPattern",
        ),
        ({"CacheBehaviors": listing(behavior(PathPattern="a b"))}, "InvalidArgument", "path"),
        # trust
        (
            {
                "DefaultCacheBehavior": behavior(
                    TrustedKeyGroups={"Enabled": True, **listing("none")}
                )
            },
            "TrustedKeyGroupDoesNotExist",
            "none",
        ),
        (
            {"DefaultCacheBehavior": behavior(TrustedKeyGroups={"Enabled": True, "Quantity": 0})},
            "InvalidArgument",
            "TrustedKeyGroups",
        ),
        (
            {
                "DefaultCacheBehavior": behavior(
                    TrustedKeyGroups={"Enabled": False, **listing("trusted")}
                )
            },
            "InvalidArgument",
            "TrustedKeyGroups",
        ),
        (
            {
                "DefaultCacheBehavior": behavior(
                    TrustedSigners={"Enabled": True, **listing("123456789012")}
                )
            },
            "TrustedSignerDoesNotExist",
            "123456789012",
        ),
        # the rest
        ({"Restrictions": countries("whitelist")}, "InvalidGeoRestrictionParameter", "countries"),
        ({"Restrictions": countries("none", "DE")}, "InvalidGeoRestrictionParameter", "none"),
        ({"Restrictions": countries("blacklist", "Germany")}, "InvalidArgument", "countries"),
        ({"DefaultRootObject": "/index.html"}, "InvalidDefaultRootObject", "DefaultRootObject"),
        ({"CustomErrorResponses": listing({"ErrorCode": 200})}, "InvalidErrorCode", "200"),
        (
            {"CustomErrorResponses": listing({"ErrorCode": 404}, {"ErrorCode": 404})},
            "InvalidErrorCode",
            "404",
        ),
        (
            {"CustomErrorResponses": listing({"ErrorCode": 404, "ResponsePagePath": "/a"})},
            "InvalidArgument",
            "ResponseCode",
        ),
        (
            {
                "CustomErrorResponses": listing(
                    {"ErrorCode": 404, "ResponsePagePath": "/a", "ResponseCode": "99"}
                )
            },
            "InvalidResponseCode",
            "404",
        ),
        ({"CacheTagConfig": {"HeaderName": "a b"}}, "InvalidArgument", "cache_tag_header"),
    ],
)
def test_invalid_document_is_refused_and_changes_nothing(
    api: Api, more: dict[str, Any], code: str, reason: str
) -> None:
    error = api.error("CreateDistribution", DistributionConfig=web(**more))
    assert error.code == code
    assert reason in error.message
    assert "sesame" not in error.message
    created = api("CreateDistribution", DistributionConfig=web())
    update_error = api.error(
        "UpdateDistribution",
        Id=created["Distribution"]["Id"],
        IfMatch=created["ETag"],
        DistributionConfig=web(**more),
    )
    assert update_error.code == code


@pytest.mark.parametrize(
    "member", ["CallerReference", "Origins", "DefaultCacheBehavior", "Enabled"]
)
def test_missing_member_is_named(api: Api, member: str) -> None:
    members = web()
    del members[member]
    error = api.error("CreateDistribution", DistributionConfig=members)
    assert (error.code, error.message) == ("InvalidArgument", f"{member} is missing")


def test_settings_without_an_effect_are_accepted(api: Api) -> None:
    members = web(
        PriceClass="PriceClass_100",
        HttpVersion="http3",
        IsIPV6Enabled=True,
        Logging={"Enabled": False, "IncludeCookies": False, "Bucket": "", "Prefix": ""},
        ViewerCertificate={"CloudFrontDefaultCertificate": True},
        WebACLId="",
        Origins=listing(bucket(OriginShield={"Enabled": True, "OriginShieldRegion": "us-east-1"})),
    )
    api("CreateDistribution", DistributionConfig=members)


@pytest.mark.parametrize("policy", ["https-only", "redirect-to-https"])
def test_https_only_behavior_needs_an_https_listener_or_a_proxy(
    tmp_path: Path, policy: str
) -> None:
    members = web(DefaultCacheBehavior=behavior(ViewerProtocolPolicy=policy))
    listen: dict[str, Any] = {"http": ["127.0.0.1:0"]}
    api = Api(tmp_path / "a", {**FILE_CONFIG, "listen": listen})
    error = api.error("CreateDistribution", DistributionConfig=members)
    assert "ViewerProtocolPolicy" in error.message
    behind_proxy = Api(
        tmp_path / "b", {**FILE_CONFIG, "listen": {**listen, "proxies": ["10.0.0.0/8"]}}
    )
    behind_proxy("CreateDistribution", DistributionConfig=members)


def test_geo_restriction_needs_a_country_database(tmp_path: Path) -> None:
    api = Api(tmp_path, {**FILE_CONFIG, "countries": {}})
    members = web(Restrictions=countries("whitelist", "DE"))
    error = api.error("CreateDistribution", DistributionConfig=members)
    assert "GeoRestriction" in error.message


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"S3Origin": {"DomainName": "a.org", "OriginAccessIdentity": ""}}, "InvalidOrigin"),
        (
            {"S3Origin": {"DomainName": "b.s3.amazonaws.com", "OriginAccessIdentity": "x"}},
            "InvalidOriginAccessIdentity",
        ),
        ({"TrustedSigners": {"Enabled": True, **listing("1")}}, "TrustedSignerDoesNotExist"),
        ({"TrustedSigners": {"Enabled": True, "Quantity": 0}}, "InvalidArgument"),
        ({"Aliases": {"Quantity": 1}}, "InconsistentQuantities"),
        ({"Logging": {"Enabled": True, "Bucket": "b", "Prefix": ""}}, "InvalidArgument"),
    ],
)
def test_invalid_streaming_document_is_refused(api: Api, more: dict[str, Any], code: str) -> None:
    members = streaming(**more)
    error = api.error("CreateStreamingDistribution", StreamingDistributionConfig=members)
    assert error.code == code

"""What a distribution's document may not say: the code, what is named, and that nothing changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.cloudfront_api import (
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
    ("more", "code", "named"),
    [
        # what an edge cannot do
        ({"WebACLId": "acl"}, "InvalidArgument", "WebACLId"),
        ({"Staging": True}, "InvalidArgument", "Staging"),
        ({"ContinuousDeploymentPolicyId": "x"}, "InvalidArgument", "ContinuousDeployment"),
        ({"AnycastIpListId": "x"}, "InvalidArgument", "AnycastIpListId"),
        ({"ConnectionMode": "tenant-only"}, "InvalidArgument", "ConnectionMode"),
        ({"TenantConfig": {"ParameterDefinitions": [{}]}}, "InvalidArgument", "TenantConfig"),
        ({"ViewerMtlsConfig": {"Mode": "required"}}, "InvalidArgument", "ViewerMtlsConfig"),
        ({"Logging": {"Enabled": True, "Bucket": "b"}}, "InvalidArgument", "Logging"),
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
def test_a_document_that_will_not_do_changes_nothing(
    api: Api, more: dict[str, Any], code: str, named: str
) -> None:
    refused = api.error("CreateDistribution", DistributionConfig=web(**more))
    assert refused.code == code
    assert named in refused.message
    assert "sesame" not in refused.message
    made = api("CreateDistribution", DistributionConfig=web())
    again = api.error(
        "UpdateDistribution",
        Id=made["Distribution"]["Id"],
        IfMatch=made["ETag"],
        DistributionConfig=web(**more),
    )
    assert again.code == code


@pytest.mark.parametrize(
    "member", ["CallerReference", "Origins", "DefaultCacheBehavior", "Enabled"]
)
def test_what_cannot_be_left_out_is_named(api: Api, member: str) -> None:
    said = web()
    del said[member]
    refused = api.error("CreateDistribution", DistributionConfig=said)
    assert (refused.code, refused.message) == ("InvalidArgument", f"{member} is missing")


def test_what_has_nothing_to_act_on_is_passed_over(api: Api) -> None:
    said = web(
        PriceClass="PriceClass_100",
        HttpVersion="http3",
        IsIPV6Enabled=True,
        Logging={"Enabled": False, "IncludeCookies": False, "Bucket": "", "Prefix": ""},
        ViewerCertificate={"CloudFrontDefaultCertificate": True},
        WebACLId="",
        Origins=listing(bucket(OriginShield={"Enabled": True, "OriginShieldRegion": "us-east-1"})),
    )
    api("CreateDistribution", DistributionConfig=said)


@pytest.mark.parametrize("policy", ["https-only", "redirect-to-https"])
def test_https_alone_needs_somebody_who_listens_for_it(tmp_path: Path, policy: str) -> None:
    said = web(DefaultCacheBehavior=behavior(ViewerProtocolPolicy=policy))
    listen: dict[str, Any] = {"http": ["127.0.0.1:0"]}
    api = Api(tmp_path / "a", {**FILE_CONFIG, "listen": listen})
    refused = api.error("CreateDistribution", DistributionConfig=said)
    assert "ViewerProtocolPolicy" in refused.message
    behind = Api(tmp_path / "b", {**FILE_CONFIG, "listen": {**listen, "proxies": ["10.0.0.0/8"]}})
    behind("CreateDistribution", DistributionConfig=said)


def test_without_a_database_of_countries_none_are_named(tmp_path: Path) -> None:
    api = Api(tmp_path, {**FILE_CONFIG, "countries": {}})
    said = web(Restrictions=countries("whitelist", "DE"))
    refused = api.error("CreateDistribution", DistributionConfig=said)
    assert "GeoRestriction" in refused.message


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
def test_a_streaming_document_that_will_not_do(api: Api, more: dict[str, Any], code: str) -> None:
    said = streaming(**more)
    refused = api.error("CreateStreamingDistribution", StreamingDistributionConfig=said)
    assert refused.code == code

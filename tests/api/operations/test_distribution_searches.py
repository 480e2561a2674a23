"""ListDistributionsBy…: what uses a policy or a key group, and what nothing can use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.cloudfront_api import (
    DISABLED,
    OPTIMIZED,
    Api,
    behavior,
    forwarded,
    listing,
    rsa_pem,
    web,
)

CORS_S3 = "88a5eaf4-2fd4-4709-b370-b4c650ea3fcf"
SECURITY = "67f7725c-6f97-4210-82d7-5512b31e9d03"


@pytest.fixture(name="api")
def _api(tmp_path: Path) -> Api:
    return Api(tmp_path)


def made(api: Api, reference: str, **more: Any) -> str:
    config = web(reference, **more)
    identifier: str = api("CreateDistribution", DistributionConfig=config)["Distribution"]["Id"]
    return identifier


@pytest.mark.parametrize(
    ("what", "identifier"),
    [
        ("OriginRequestPolicyId", CORS_S3),
        ("ResponseHeadersPolicyId", SECURITY),
        ("CachePolicyId", DISABLED),
    ],
)
def test_those_that_name_a_policy_are_listed(api: Api, what: str, identifier: str) -> None:
    by_default = made(api, "1", DefaultCacheBehavior=behavior(**{what: identifier}))
    made(api, "2", DefaultCacheBehavior=behavior())
    path = behavior(PathPattern="/a/*", **{what: identifier})
    by_path = made(api, "3", CacheBehaviors=listing(path))
    listed = api(f"ListDistributionsBy{what}", **{what: identifier})["DistributionIdList"]
    assert listed["Items"] == [by_default, by_path]
    assert (listed["Quantity"], listed["IsTruncated"]) == (2, False)
    first = api(f"ListDistributionsBy{what}", MaxItems="1", **{what: identifier})
    assert first["DistributionIdList"]["NextMarker"] == by_default
    refused = api.error(f"ListDistributionsBy{what}", **{what: "unknown"})
    assert refused.code == f"NoSuch{what.removesuffix('Id')}"


def test_those_that_the_file_declares_are_listed_too(api: Api) -> None:
    listed = api("ListDistributionsByCachePolicyId", CachePolicyId=OPTIMIZED)
    assert listed["DistributionIdList"]["Items"] == ["EWEB"]
    listed = api("ListDistributionsByKeyGroup", KeyGroupId="trusted")
    assert listed["DistributionIdList"]["Items"] == ["EWEB"]


def test_those_that_trust_a_key_group_are_listed(api: Api) -> None:
    key = {"CallerReference": "k", "Name": "k", "EncodedKey": rsa_pem()}
    key_id = api("CreatePublicKey", PublicKeyConfig=key)["PublicKey"]["Id"]
    group = api("CreateKeyGroup", KeyGroupConfig={"Name": "g", "Items": [key_id]})
    group_id = group["KeyGroup"]["Id"]
    trusted = {"Enabled": True, **listing(group_id)}
    identifier = made(api, "1", DefaultCacheBehavior=behavior(TrustedKeyGroups=trusted))
    listed = api("ListDistributionsByKeyGroup", KeyGroupId=group_id)
    assert listed["DistributionIdList"]["Items"] == [identifier]
    refused = api.error("ListDistributionsByKeyGroup", KeyGroupId="unknown")
    assert refused.code == "NoSuchResource"


def test_nothing_uses_what_there_is_not(api: Api) -> None:
    made(api, "1", DefaultCacheBehavior=behavior(ForwardedValues=forwarded(), MinTTL=0))
    log = {"RealtimeLogConfigName": "log"}
    for what, member, members in (
        ("RealtimeLogConfig", "DistributionList", log),
        ("WebACLId", "DistributionList", {"WebACLId": "arn:aws:wafv2:x"}),
        ("VpcOriginId", "DistributionIdList", {"VpcOriginId": "vo_1"}),
        ("ConnectionMode", "DistributionList", {"ConnectionMode": "tenant-only"}),
        ("AnycastIpListId", "DistributionList", {"AnycastIpListId": "aip_1"}),
    ):
        listed = api(f"ListDistributionsBy{what}", **members)[member]
        assert (listed["Quantity"], listed["IsTruncated"]) == (0, False), what
    all_of_them = api("ListDistributionsByWebACLId", WebACLId="null")["DistributionList"]
    assert all_of_them["Quantity"] == 2
    direct = api("ListDistributionsByConnectionMode", ConnectionMode="direct")["DistributionList"]
    assert direct["Items"] == all_of_them["Items"]
    assert api.error("ListDistributionsByRealtimeLogConfig").code == "InvalidArgument"

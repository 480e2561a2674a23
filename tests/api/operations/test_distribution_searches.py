"""ListDistributionsBy…: distributions by policy or key group, and by unsupported features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.api.cloudfront_api import (
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


def create(api: Api, reference: str, **more: Any) -> str:
    config = web(reference, **more)
    identifier: str = api("CreateDistribution", DistributionConfig=config)["Distribution"]["Id"]
    return identifier


@pytest.mark.parametrize(
    ("search", "identifier"),
    [
        ("OriginRequestPolicyId", CORS_S3),
        ("ResponseHeadersPolicyId", SECURITY),
        ("CachePolicyId", DISABLED),
    ],
)
def test_search_lists_distributions_with_a_policy(api: Api, search: str, identifier: str) -> None:
    by_default = create(api, "1", DefaultCacheBehavior=behavior(**{search: identifier}))
    create(api, "2", DefaultCacheBehavior=behavior())
    path = behavior(PathPattern="/a/*", **{search: identifier})
    by_path = create(api, "3", CacheBehaviors=listing(path))
    listed = api(f"ListDistributionsBy{search}", **{search: identifier})["DistributionIdList"]
    assert listed["Items"] == [by_default, by_path]
    assert (listed["Quantity"], listed["IsTruncated"]) == (2, False)
    first = api(f"ListDistributionsBy{search}", MaxItems="1", **{search: identifier})
    assert first["DistributionIdList"]["NextMarker"] == by_default
    error = api.error(f"ListDistributionsBy{search}", **{search: "unknown"})
    assert error.code == f"NoSuch{search.removesuffix('Id')}"


def test_search_lists_distributions_of_the_file(api: Api) -> None:
    listed = api("ListDistributionsByCachePolicyId", CachePolicyId=OPTIMIZED)
    assert listed["DistributionIdList"]["Items"] == ["EWEB"]
    listed = api("ListDistributionsByKeyGroup", KeyGroupId="trusted")
    assert listed["DistributionIdList"]["Items"] == ["EWEB"]


def test_search_lists_distributions_that_trust_a_key_group(api: Api) -> None:
    key = {"CallerReference": "k", "Name": "k", "EncodedKey": rsa_pem()}
    key_id = api("CreatePublicKey", PublicKeyConfig=key)["PublicKey"]["Id"]
    group = api("CreateKeyGroup", KeyGroupConfig={"Name": "g", "Items": [key_id]})
    group_id = group["KeyGroup"]["Id"]
    trusted = {"Enabled": True, **listing(group_id)}
    identifier = create(api, "1", DefaultCacheBehavior=behavior(TrustedKeyGroups=trusted))
    listed = api("ListDistributionsByKeyGroup", KeyGroupId=group_id)
    assert listed["DistributionIdList"]["Items"] == [identifier]
    error = api.error("ListDistributionsByKeyGroup", KeyGroupId="unknown")
    assert error.code == "NoSuchResource"


def test_search_for_an_unsupported_feature_is_empty(api: Api) -> None:
    create(api, "1", DefaultCacheBehavior=behavior(ForwardedValues=forwarded(), MinTTL=0))
    log = {"RealtimeLogConfigName": "log"}
    for search, member, members in (
        ("RealtimeLogConfig", "DistributionList", log),
        ("WebACLId", "DistributionList", {"WebACLId": "arn:aws:wafv2:x"}),
        ("VpcOriginId", "DistributionIdList", {"VpcOriginId": "vo_1"}),
        ("ConnectionMode", "DistributionList", {"ConnectionMode": "tenant-only"}),
        ("AnycastIpListId", "DistributionList", {"AnycastIpListId": "aip_1"}),
    ):
        listed = api(f"ListDistributionsBy{search}", **members)[member]
        assert (listed["Quantity"], listed["IsTruncated"]) == (0, False), search
    all_of_them = api("ListDistributionsByWebACLId", WebACLId="null")["DistributionList"]
    assert all_of_them["Quantity"] == 2
    direct = api("ListDistributionsByConnectionMode", ConnectionMode="direct")["DistributionList"]
    assert direct["Items"] == all_of_them["Items"]
    assert api.error("ListDistributionsByRealtimeLogConfig").code == "InvalidArgument"

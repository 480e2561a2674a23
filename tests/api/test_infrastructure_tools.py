"""The calls of Ansible's and Terraform's CloudFront resources, sent by boto3.

Sources: community.aws ``cloudfront_origin_access_identity`` and ``cloudfront_distribution``;
hashicorp/terraform-provider-aws ``internal/service/cloudfront``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.api.api_server import ApiServer, run_api
from tests.support.api.cloudfront_api import Api, listing

FIRST_POLL = {"MaxAttempts": 1}


@pytest.fixture(name="running", scope="module")
def _running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    api = Api(tmp_path_factory.mktemp("control"))
    with run_api(tmp_path_factory.mktemp("api"), api.handlers) as running:
        yield running


@pytest.fixture(name="client")
def _client(running: ApiServer) -> Iterator[Any]:
    with running.client() as client:
        yield client


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def is_part_of(sent: Any, received: Any) -> bool:
    """Whether ``received`` has everything of ``sent``; CloudFront adds defaults."""
    if isinstance(sent, dict):
        return all(is_part_of(value, received.get(name)) for name, value in sent.items())
    if isinstance(sent, list):
        return len(sent) == len(received) and all(map(is_part_of, sent, received))
    return bool(sent == received)


def test_ansible_creates_changes_and_removes_a_distribution_with_an_identity(client: Any) -> None:
    # cloudfront_origin_access_identity: state=present, twice
    identities = client.get_paginator("list_cloud_front_origin_access_identities").paginate()
    existing = identities.build_full_result().get("CloudFrontOriginAccessIdentityList", {})
    assert not existing.get("Items")
    config = {"CallerReference": "ansible-oai", "Comment": "made by Ansible"}
    created = client.create_cloud_front_origin_access_identity(
        CloudFrontOriginAccessIdentityConfig=config
    )
    identity = created["CloudFrontOriginAccessIdentity"]["Id"]
    received = client.get_cloud_front_origin_access_identity_config(Id=identity)
    assert received["CloudFrontOriginAccessIdentityConfig"] == config
    etag = client.get_cloud_front_origin_access_identity(Id=identity)["ETag"]
    updated = client.update_cloud_front_origin_access_identity(
        Id=identity, IfMatch=etag, CloudFrontOriginAccessIdentityConfig=config
    )

    # cloudfront_distribution: state=present
    named = f"origin-access-identity/cloudfront/{identity}"
    methods = ["GET", "HEAD"]
    document: dict[str, Any] = {
        "CallerReference": "ansible-distribution",
        "Comment": "Distribution created by Ansible",
        "Enabled": True,
        "IsIPV6Enabled": False,
        "HttpVersion": "http2",
        "PriceClass": "PriceClass_100",
        "DefaultRootObject": "index.html",
        "Aliases": listing("ansible.example.org"),
        "CustomErrorResponses": listing(),
        "CacheBehaviors": listing(),
        "Origins": listing(
            {
                "Id": "bucket",
                "DomainName": "ansible.s3.amazonaws.com",
                "OriginPath": "",
                "CustomHeaders": listing(),
                "S3OriginConfig": {"OriginAccessIdentity": named},
            },
            {
                "Id": "site",
                "DomainName": "www.example.org",
                "OriginPath": "",
                "CustomHeaders": listing(),
                "CustomOriginConfig": {
                    "HTTPPort": 80,
                    "HTTPSPort": 443,
                    "OriginProtocolPolicy": "http-only",
                    "OriginSslProtocols": listing("SSLv3", "TLSv1"),
                    "OriginReadTimeout": 30,
                    "OriginKeepaliveTimeout": 5,
                },
            },
        ),
        "DefaultCacheBehavior": {
            "TargetOriginId": "bucket",
            "ViewerProtocolPolicy": "allow-all",
            "AllowedMethods": {**listing(*methods), "CachedMethods": listing(*methods)},
            "ForwardedValues": {
                "QueryString": True,
                "Cookies": {"Forward": "none"},
                "Headers": listing(),
                "QueryStringCacheKeys": listing(),
            },
            "LambdaFunctionAssociations": listing(),
            "TrustedSigners": {"Enabled": False, "Quantity": 0},
            "FieldLevelEncryptionId": "",
            "SmoothStreaming": True,
            "Compress": False,
            "MinTTL": 0,
            "DefaultTTL": 86_400,
            "MaxTTL": 31_536_000,
        },
        "ViewerCertificate": {
            "CloudFrontDefaultCertificate": True,
            "MinimumProtocolVersion": "TLSv1",
        },
        "Restrictions": {"GeoRestriction": {"RestrictionType": "none", "Quantity": 0}},
        "WebACLId": "",
    }
    distributions = client.get_paginator("list_distributions").paginate().build_full_result()
    for existing in distributions["DistributionList"]["Items"]:  # by caller reference
        assert "DistributionConfig" in client.get_distribution(Id=existing["Id"])["Distribution"]
    tagged = {"DistributionConfig": document, "Tags": {"Items": [{"Key": "a", "Value": "b"}]}}
    created = client.create_distribution_with_tags(DistributionConfigWithTags=tagged)
    identifier = created["Distribution"]["Id"]
    client.get_waiter("distribution_deployed").wait(Id=identifier, WaiterConfig=FIRST_POLL)
    with pytest.raises(client.exceptions.DistributionAlreadyExists):
        client.create_distribution(DistributionConfig=document)

    # The second run reads the same values, so it changes nothing.
    received = client.get_distribution_config(Id=identifier)
    assert is_part_of(document, plain(received["DistributionConfig"]))
    changed = {**received["DistributionConfig"], "Comment": "changed"}
    client.update_distribution(Id=identifier, IfMatch=received["ETag"], DistributionConfig=changed)
    arn = created["Distribution"]["ARN"]
    assert client.list_tags_for_resource(Resource=arn)["Tags"]["Items"] == tagged["Tags"]["Items"]

    # state=absent
    received = client.get_distribution_config(Id=identifier)
    disabled = {**received["DistributionConfig"], "Enabled": False}
    updated_distribution = client.update_distribution(
        Id=identifier, IfMatch=received["ETag"], DistributionConfig=disabled
    )
    with pytest.raises(client.exceptions.CloudFrontOriginAccessIdentityInUse):
        client.delete_cloud_front_origin_access_identity(Id=identity, IfMatch=updated["ETag"])
    client.delete_distribution(Id=identifier, IfMatch=updated_distribution["ETag"])
    client.delete_cloud_front_origin_access_identity(Id=identity, IfMatch=updated["ETag"])


def managed_policy(client: Any, plural: str, member: str, name: str) -> str:
    """Finds a policy by its name, page by page, like Terraform's data sources."""
    marker: dict[str, str] = {}
    while True:
        listed = getattr(client, f"list_{plural}")(MaxItems="2", **marker)[f"{member}List"]
        for item in listed.get("Items", ()):
            output = item[member]
            if output[f"{member}Config"]["Name"] == name:
                identifier: str = output["Id"]
                return identifier
        marker = {"Marker": listed["NextMarker"]}


def test_terraform_creates_changes_and_removes_a_distribution(client: Any) -> None:
    cache = managed_policy(
        client, "cache_policies", "CachePolicy", "Managed-UseOriginCacheControlHeaders"
    )
    request = managed_policy(
        client, "origin_request_policies", "OriginRequestPolicy", "Managed-CORS-CustomOrigin"
    )
    response = managed_policy(
        client,
        "response_headers_policies",
        "ResponseHeadersPolicy",
        "Managed-CORS-and-SecurityHeadersPolicy",
    )
    assert client.get_cache_policy(Id=cache)["CachePolicy"]["Id"] == cache
    methods = ["GET", "HEAD"]
    document = {
        "CallerReference": "terraform-20261129000000000000000001",
        "Comment": "",
        "Enabled": True,
        "IsIPV6Enabled": True,
        "HttpVersion": "http2and3",
        "PriceClass": "PriceClass_All",
        "DefaultRootObject": "",
        "Staging": False,
        "WebACLId": "",
        "Aliases": listing(),
        "CacheBehaviors": listing(),
        "CustomErrorResponses": listing(),
        "OriginGroups": listing(),
        "Logging": {"Enabled": False, "IncludeCookies": False, "Bucket": "", "Prefix": ""},
        "Origins": listing(
            {
                "Id": "site",
                "DomainName": "www.example.org",
                "OriginPath": "",
                "ConnectionAttempts": 3,
                "ConnectionTimeout": 10,
                "OriginAccessControlId": "",
                "CustomHeaders": listing(),
                "CustomOriginConfig": {
                    "HTTPPort": 80,
                    "HTTPSPort": 443,
                    "OriginProtocolPolicy": "https-only",
                    "OriginSslProtocols": listing("TLSv1", "TLSv1.1", "TLSv1.2"),
                    "OriginReadTimeout": 30,
                    "OriginKeepaliveTimeout": 5,
                },
            }
        ),
        "DefaultCacheBehavior": {
            "TargetOriginId": "site",
            "ViewerProtocolPolicy": "redirect-to-https",
            "CachePolicyId": cache,
            "OriginRequestPolicyId": request,
            "ResponseHeadersPolicyId": response,
            "AllowedMethods": {**listing(*methods), "CachedMethods": listing(*methods)},
            "Compress": True,
            "FieldLevelEncryptionId": "",
            "FunctionAssociations": listing(),
            "LambdaFunctionAssociations": listing(),
            "GrpcConfig": {"Enabled": False},
            "SmoothStreaming": False,
            "TrustedKeyGroups": {"Enabled": False, "Quantity": 0},
            "TrustedSigners": {"Enabled": False, "Quantity": 0},
        },
        "Restrictions": {"GeoRestriction": {"RestrictionType": "none", "Quantity": 0}},
        "ViewerCertificate": {
            "CloudFrontDefaultCertificate": True,
            "MinimumProtocolVersion": "TLSv1",
        },
    }
    created = client.create_distribution_with_tags(
        DistributionConfigWithTags={"DistributionConfig": document, "Tags": {"Items": []}}
    )
    identifier = created["Distribution"]["Id"]
    received = client.get_distribution(Id=identifier)
    assert received["Distribution"]["Status"] == "Deployed"
    assert received["Distribution"]["InProgressInvalidationBatches"] == 0
    client.list_tags_for_resource(Resource=received["Distribution"]["ARN"])
    output = client.list_distributions_by_cache_policy_id(CachePolicyId=cache)
    assert output["DistributionIdList"]["Items"] == [identifier]

    changed = {**document, "Comment": "changed"}
    client.update_distribution(Id=identifier, IfMatch=received["ETag"], DistributionConfig=changed)
    with pytest.raises(
        client.exceptions.PreconditionFailed
    ):  # Terraform reads the new ETag after this
        client.update_distribution(
            Id=identifier, IfMatch=received["ETag"], DistributionConfig=changed
        )
    etag = client.get_distribution(Id=identifier)["ETag"]
    disabled = {**changed, "Enabled": False}
    client.update_distribution(Id=identifier, IfMatch=etag, DistributionConfig=disabled)
    etag = client.get_distribution(Id=identifier)["ETag"]
    client.delete_distribution(Id=identifier, IfMatch=etag)
    with pytest.raises(client.exceptions.NoSuchDistribution):
        client.get_distribution(Id=identifier)


def test_endpoint_with_a_trailing_slash_works(running: ApiServer) -> None:
    import boto3

    from tests.support.api.api_server import KEYS

    key, secret = next(iter(KEYS.items()))
    client = boto3.client(
        "cloudfront",
        region_name="us-east-1",
        endpoint_url=f"{running.address}/",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
    )
    assert client.list_distributions()["DistributionList"]["Quantity"]
    client.close()

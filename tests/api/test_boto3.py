"""The handlers with an unmodified boto3: calls, pages, waiters and errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.api.api_operations import OFFERED_OPERATIONS
from tests.support.api.api_server import ApiServer, run_api
from tests.support.api.cloudfront_api import (
    Api,
    behavior,
    bucket,
    forwarded,
    listing,
    rsa_pem,
    server,
    streaming,
    web,
)

FIRST_POLL = {"MaxAttempts": 1}


@pytest.fixture(name="api", scope="module")
def _api(tmp_path_factory: pytest.TempPathFactory) -> Api:
    return Api(tmp_path_factory.mktemp("control"))


@pytest.fixture(name="api_server", scope="module")
def _api_server(api: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with run_api(tmp_path_factory.mktemp("api"), api.handlers) as api_server:
        yield api_server


@pytest.fixture(name="client", scope="module")
def _client(api_server: ApiServer) -> Iterator[Any]:
    with api_server.client() as client:
        yield client


def plain(value: Any) -> Any:
    """A value as it was sent, in plain JSON types."""
    return json.loads(json.dumps(value, default=str))


def test_handlers_are_those_of_the_offered_operations(api: Api) -> None:
    assert set(api.handlers) == set(OFFERED_OPERATIONS)


@pytest.mark.parametrize("kind", ["distribution", "streaming_distribution"])
def test_distribution_is_created_updated_tagged_and_deleted(
    client: Any, api_server: ApiServer, kind: str
) -> None:
    member = "Distribution" if kind == "distribution" else "StreamingDistribution"
    make = web if kind == "distribution" else streaming

    def call(operation: str, /, **members: Any) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(client, operation.format(kind))(**members)
        return answer

    document = make(f"boto3 {kind}", Aliases=listing(f"{member}.boto3.example.org"))
    created = call("create_{}", **{f"{member}Config": document})
    identifier = created[member]["Id"]
    path = kind.replace("_", "-")
    assert created["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert created["Location"] == f"{api_server.address}/2020-05-31/{path}/{identifier}"
    client.get_waiter(f"{kind}_deployed").wait(Id=identifier, WaiterConfig=FIRST_POLL)

    exists = getattr(client.exceptions, f"{member}AlreadyExists")
    with pytest.raises(exists):  # even for the same document, as in CloudFront
        call("create_{}", **{f"{member}Config": document})
    with pytest.raises(exists):
        call("create_{}", **{f"{member}Config": {**document, "Comment": "other"}})
    with pytest.raises(client.exceptions.CNAMEAlreadyExists):
        call("create_{}", **{f"{member}Config": {**document, "CallerReference": "other"}})

    read_back = call("get_{}_config", Id=identifier)
    assert plain(read_back[f"{member}Config"]) == plain(created[member][f"{member}Config"])
    shown = call("get_{}", Id=identifier)
    assert shown["ETag"] == read_back["ETag"] == created["ETag"]
    assert shown[member]["Status"] == "Deployed"
    with pytest.raises(getattr(client.exceptions, f"{member}NotDisabled")):
        call("delete_{}", Id=identifier, IfMatch=read_back["ETag"])
    changed = {**read_back[f"{member}Config"], "Enabled": False, "Comment": "äé <&>"}
    with pytest.raises(client.exceptions.InvalidIfMatchVersion):
        call("update_{}", Id=identifier, **{f"{member}Config": changed})
    updated = call(
        "update_{}", Id=identifier, IfMatch=read_back["ETag"], **{f"{member}Config": changed}
    )
    assert plain(updated[member][f"{member}Config"]) == plain(changed)
    with pytest.raises(client.exceptions.PreconditionFailed):
        call("update_{}", Id=identifier, IfMatch=read_back["ETag"], **{f"{member}Config": changed})

    pages = client.get_paginator(f"list_{kind}s").paginate(PaginationConfig={"PageSize": 1})
    listed = {
        item["Id"]: item for answer in pages for item in answer[f"{member}List"].get("Items", ())
    }
    assert listed[identifier]["Comment"] == "äé <&>"
    file_id = "EWEB" if kind == "distribution" else "ESTREAM"
    assert file_id in listed
    file_config = call("get_{}_config", Id=file_id)
    with pytest.raises(client.exceptions.AccessDenied, match=r"config\.toml declares"):
        call(
            "update_{}",
            Id=file_id,
            IfMatch=file_config["ETag"],
            **{f"{member}Config": file_config[f"{member}Config"]},
        )

    arn = created[member]["ARN"]
    client.tag_resource(Resource=arn, Tags={"Items": [{"Key": "a", "Value": "b"}, {"Key": "c"}]})
    client.untag_resource(Resource=arn, TagKeys={"Items": ["c"]})
    tags = client.list_tags_for_resource(Resource=arn)["Tags"]["Items"]
    assert tags == [{"Key": "a", "Value": "b"}]

    call("delete_{}", Id=identifier, IfMatch=updated["ETag"])
    with pytest.raises(getattr(client.exceptions, f"NoSuch{member}")):
        call("get_{}", Id=identifier)


@pytest.mark.parametrize("kind", ["distribution", "streaming_distribution"])
def test_distribution_is_created_with_tags(client: Any, kind: str) -> None:
    member = "Distribution" if kind == "distribution" else "StreamingDistribution"
    make = web if kind == "distribution" else streaming
    tags = [{"Key": "team", "Value": "media"}]
    members = {f"{member}Config": make(f"tagged {kind}"), "Tags": {"Items": tags}}
    create = getattr(client, f"create_{kind}_with_tags")
    created = create(**{f"{member}ConfigWithTags": members})
    listed = client.list_tags_for_resource(Resource=created[member]["ARN"])
    assert listed["Tags"]["Items"] == tags


def test_distribution_with_every_kind_of_resource(client: Any) -> None:
    """A distribution that refers by id to one resource of each kind, all of the API."""
    control = client.create_origin_access_control(
        OriginAccessControlConfig={
            "Name": "films",
            "Description": "",
            "SigningProtocol": "sigv4",
            "SigningBehavior": "always",
            "OriginAccessControlOriginType": "s3",
        }
    )
    key = client.create_public_key(
        PublicKeyConfig={"CallerReference": "all", "Name": "all", "EncodedKey": rsa_pem()}
    )
    group = client.create_key_group(
        KeyGroupConfig={"Name": "all", "Items": [key["PublicKey"]["Id"]]}
    )
    cache = client.create_cache_policy(
        CachePolicyConfig={
            "Name": "all",
            "MinTTL": 0,
            "ParametersInCacheKeyAndForwardedToOrigin": {
                "EnableAcceptEncodingGzip": True,
                "EnableAcceptEncodingBrotli": True,
                "HeadersConfig": {"HeaderBehavior": "whitelist", "Headers": listing("Accept")},
                "CookiesConfig": {"CookieBehavior": "none"},
                "QueryStringsConfig": {
                    "QueryStringBehavior": "allExcept",
                    "QueryStrings": listing("utm"),
                },
            },
        }
    )
    request = client.create_origin_request_policy(
        OriginRequestPolicyConfig={
            "Name": "all",
            "HeadersConfig": {"HeaderBehavior": "allViewer"},
            "CookiesConfig": {"CookieBehavior": "all"},
            "QueryStringsConfig": {"QueryStringBehavior": "all"},
        }
    )
    response = client.create_response_headers_policy(
        ResponseHeadersPolicyConfig={
            "Name": "all",
            "CustomHeadersConfig": listing({"Header": "X-A", "Value": "b", "Override": True}),
        }
    )
    document = web(
        "everything",
        Aliases=listing("everything.example.org"),
        DefaultRootObject="index.html",
        Origins=listing(
            bucket(OriginAccessControlId=control["OriginAccessControl"]["Id"], OriginPath="/v1"),
            server(
                CustomHeaders=listing({"HeaderName": "X-Secret", "HeaderValue": "sesame"}),
                custom={"OriginSslProtocols": listing("TLSv1.2")},
            ),
        ),
        OriginGroups=listing(
            {
                "Id": "group",
                "FailoverCriteria": {"StatusCodes": listing(403, 500)},
                "Members": listing({"OriginId": "films"}, {"OriginId": "server"}),
            }
        ),
        DefaultCacheBehavior=behavior(
            "group",
            Compress=True,
            ViewerProtocolPolicy="redirect-to-https",
            CachePolicyId=cache["CachePolicy"]["Id"],
            OriginRequestPolicyId=request["OriginRequestPolicy"]["Id"],
            ResponseHeadersPolicyId=response["ResponseHeadersPolicy"]["Id"],
            TrustedKeyGroups={"Enabled": True, **listing(group["KeyGroup"]["Id"])},
        ),
        CacheBehaviors=listing(
            behavior(
                PathPattern="old/*",
                ForwardedValues=forwarded(QueryString=True, Headers=listing("Accept-Language")),
                MinTTL=0,
            )
        ),
        CustomErrorResponses=listing(
            {"ErrorCode": 404, "ResponsePagePath": "/404.html", "ResponseCode": "404"}
        ),
        Restrictions={"GeoRestriction": {"RestrictionType": "whitelist", **listing("DE")}},
        CacheTagConfig={"HeaderName": "Cache-Tag"},
    )
    created = client.create_distribution(DistributionConfig=document)
    (active,) = created["Distribution"]["ActiveTrustedKeyGroups"]["Items"]
    assert active["KeyPairIds"]["Items"] == [key["PublicKey"]["Id"]]
    read_back = client.get_distribution_config(Id=created["Distribution"]["Id"])[
        "DistributionConfig"
    ]
    for name, value in document.items():
        if name not in {"Origins", "DefaultCacheBehavior", "CacheBehaviors"}:
            assert read_back[name] == value, name
    assert read_back["DefaultCacheBehavior"].items() >= document["DefaultCacheBehavior"].items()

    for name, member, output in (
        ("cache_policy", "CachePolicy", cache),
        ("origin_request_policy", "OriginRequestPolicy", request),
        ("response_headers_policy", "ResponseHeadersPolicy", response),
        ("origin_access_control", "OriginAccessControl", control),
        ("key_group", "KeyGroup", group),
        ("public_key", "PublicKey", key),
    ):
        identifier, etag = output[member]["Id"], output["ETag"]
        config = getattr(client, f"get_{name}_config")(Id=identifier)
        assert config["ETag"] == getattr(client, f"get_{name}")(Id=identifier)["ETag"] == etag
        in_use = {"key_group": "ResourceInUse"}.get(name, f"{member}InUse")
        with pytest.raises(getattr(client.exceptions, in_use)):
            getattr(client, f"delete_{name}")(Id=identifier, IfMatch=etag)
        updated = getattr(client, f"update_{name}")(
            Id=identifier, IfMatch=etag, **{f"{member}Config": config[f"{member}Config"]}
        )
        assert updated["ETag"] != etag


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("cache_policies", "CachePolicy"),
        ("origin_request_policies", "OriginRequestPolicy"),
        ("response_headers_policies", "ResponseHeadersPolicy"),
    ],
)
def test_policies_are_listed_by_type(client: Any, name: str, member: str) -> None:
    managed = getattr(client, f"list_{name}")(Type="managed")[f"{member}List"]
    names = [item[member][f"{member}Config"]["Name"] for item in managed["Items"]]
    assert managed["Quantity"] == len(names) > 0
    assert all(name.startswith("Managed-") for name in names)


def test_keys_groups_and_controls_are_listed(client: Any) -> None:
    keys = client.list_public_keys()["PublicKeyList"]["Items"]
    assert "KDECLARED" in [key["Id"] for key in keys]
    groups = client.list_key_groups()["KeyGroupList"]["Items"]
    assert "trusted" in [group["KeyGroup"]["Id"] for group in groups]
    controls = client.list_origin_access_controls()["OriginAccessControlList"]
    assert controls["Quantity"] == len(controls.get("Items", ()))


def test_invalidation_is_completed_at_the_first_poll(client: Any) -> None:
    batch = {"CallerReference": "boto3", "Paths": listing("/films/*", "#news")}
    members = {"DistributionId": "EWEB", "InvalidationBatch": batch}
    created = client.create_invalidation(**members)
    identifier = created["Invalidation"]["Id"]
    place = {"DistributionId": "EWEB", "Id": identifier}
    client.get_waiter("invalidation_completed").wait(**place, WaiterConfig=FIRST_POLL)
    assert client.create_invalidation(**members)["Invalidation"]["Id"] == identifier
    assert client.get_invalidation(**place)["Invalidation"]["InvalidationBatch"] == batch
    pages = client.get_paginator("list_invalidations").paginate(DistributionId="EWEB")
    listed = [item for answer in pages for item in answer["InvalidationList"]["Items"]]
    assert [(item["Id"], item["Status"]) for item in listed] == [(identifier, "Completed")]
    with pytest.raises(client.exceptions.NoSuchInvalidation):
        client.get_invalidation(DistributionId="EWEB", Id="INONE")
    with pytest.raises(client.exceptions.NoSuchDistribution):
        client.list_invalidations(DistributionId="ENONE")
    batch = {"CallerReference": "2", "Paths": {"Quantity": 2, "Items": ["/a"]}}
    with pytest.raises(client.exceptions.InconsistentQuantities):
        client.create_invalidation(DistributionId="EWEB", InvalidationBatch=batch)
    with pytest.raises(client.exceptions.InvalidArgument):
        client.create_invalidation(
            DistributionId="EWEB", InvalidationBatch={**batch, "Paths": listing("no-slash")}
        )

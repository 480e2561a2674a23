"""Policies, access controls, keys and key groups, call by call, and what their documents mean."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from streamedge.api.operations.policy_documents import (
    cache_policy_document,
    origin_request_policy_document,
    response_headers_policy_document,
)
from streamedge.api.to_config import policy_sections
from streamedge.config.managed import (
    CACHE_POLICIES,
    IDS,
    MANAGED,
    ORIGIN_REQUEST_POLICIES,
    RESPONSE_HEADERS_POLICIES,
)
from streamedge.config.schema.config import (
    CachePolicyConfig,
    CorsConfig,
    OriginRequestPolicyConfig,
    ResponseHeadersPolicyConfig,
)
from streamedge.config.schema.selection import ALL, Selection, SelectionMode
from tests.support.cloudfront_api import Api, behavior, bucket, ec_pem, listing, rsa_pem, web

CACHE = {
    "Name": "mine",
    "MinTTL": 1,
    "ParametersInCacheKeyAndForwardedToOrigin": {
        "EnableAcceptEncodingGzip": True,
        "HeadersConfig": {"HeaderBehavior": "none"},
        "CookiesConfig": {"CookieBehavior": "none"},
        "QueryStringsConfig": {"QueryStringBehavior": "none"},
    },
}
REQUEST = {
    "Name": "mine",
    "HeadersConfig": {"HeaderBehavior": "none"},
    "CookiesConfig": {"CookieBehavior": "none"},
    "QueryStringsConfig": {"QueryStringBehavior": "all"},
}
CONTROL = {
    "Name": "mine",
    "SigningProtocol": "sigv4",
    "SigningBehavior": "always",
    "OriginAccessControlOriginType": "s3",
}
PEM, OTHER_PEM = rsa_pem(), ec_pem(ec.SECP256R1())
KEY = {"CallerReference": "mine", "Name": "mine", "EncodedKey": PEM}

# member, document, list operation, NoSuch…, …InUse, how a distribution uses it
KINDS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "CachePolicy": (CACHE, "CachePolicies", "NoSuchCachePolicy", "CachePolicyInUse"),
    "OriginRequestPolicy": (
        REQUEST,
        "OriginRequestPolicies",
        "NoSuchOriginRequestPolicy",
        "OriginRequestPolicyInUse",
    ),
    "ResponseHeadersPolicy": (
        {"Name": "mine"},
        "ResponseHeadersPolicies",
        "NoSuchResponseHeadersPolicy",
        "ResponseHeadersPolicyInUse",
    ),
    "OriginAccessControl": (
        CONTROL,
        "OriginAccessControls",
        "NoSuchOriginAccessControl",
        "OriginAccessControlInUse",
    ),
    "KeyGroup": (
        {"Name": "mine", "Items": ["KDECLARED"]},
        "KeyGroups",
        "NoSuchResource",
        "ResourceInUse",
    ),
    "PublicKey": (KEY, "PublicKeys", "NoSuchPublicKey", "PublicKeyInUse"),
}
each_kind = pytest.mark.parametrize("member", KINDS)


@pytest.fixture(name="api")
def _api(tmp_path: Path) -> Api:
    return Api(tmp_path)


def create(api: Api, member: str, **more: Any) -> dict[str, Any]:
    return api(f"Create{member}", **{f"{member}Config": {**KINDS[member][0], **more}})


def use(api: Api, member: str, identifier: str) -> None:
    """Has something use it."""
    if member == "PublicKey":
        api("CreateKeyGroup", KeyGroupConfig={"Name": "user", "Items": [identifier]})
        return
    said: dict[str, Any] = {f"{member}Id": identifier}
    origin = bucket()
    if member == "OriginAccessControl":
        origin, said = bucket(OriginAccessControlId=identifier), {}
    if member == "KeyGroup":
        said = {"TrustedKeyGroups": {"Enabled": True, **listing(identifier)}}
    document = web(Origins=listing(origin), DefaultCacheBehavior=behavior(**said))
    api("CreateDistribution", DistributionConfig=document)


@each_kind
def test_it_lives_and_ends(api: Api, member: str) -> None:
    _document, plural, missing, _in_use = KINDS[member]
    made = create(api, member)
    identifier, etag = made[member]["Id"], made["ETag"]
    assert made["Location"].endswith(f"/{identifier}")
    assert api(f"Get{member}", Id=identifier) == {member: made[member], "ETag": etag}
    config = api(f"Get{member}Config", Id=identifier)[f"{member}Config"]
    assert config == made[member][f"{member}Config"]
    words = "Description" if member == "OriginAccessControl" else "Comment"
    changed = {f"{member}Config": {**config, words: "changed"}}
    for if_match, code in ((None, "InvalidIfMatchVersion"), ("E1", "PreconditionFailed")):
        refused = api.error(f"Update{member}", Id=identifier, IfMatch=if_match, **changed)
        assert refused.code == code
    updated = api(f"Update{member}", Id=identifier, IfMatch=etag, **changed)
    assert updated[member][f"{member}Config"] == changed[f"{member}Config"]
    assert "changed" in str(api(f"List{plural}"))
    assert api.error(f"Delete{member}", Id=identifier, IfMatch=etag).code == "PreconditionFailed"
    assert api(f"Delete{member}", Id=identifier, IfMatch=updated["ETag"]) == {}
    for verb in ("Get", "Delete"):
        refused = api.error(f"{verb}{member}", Id=identifier, IfMatch="E1")
        assert (refused.code, refused.status) == (missing, 404)


@each_kind
def test_what_is_in_use_is_not_deleted(api: Api, member: str) -> None:
    made = create(api, member)
    use(api, member, made[member]["Id"])
    refused = api.error(f"Delete{member}", Id=made[member]["Id"], IfMatch=made["ETag"])
    assert (refused.code, refused.status) == (KINDS[member][3], 409)


@each_kind
def test_a_name_is_had_by_one(api: Api, member: str) -> None:
    first = create(api, member)
    more = {} if member != "PublicKey" else {"EncodedKey": OTHER_PEM}
    refused = api.error(f"Create{member}", **{f"{member}Config": {**KINDS[member][0], **more}})
    assert (refused.code, refused.status) == (f"{member}AlreadyExists", 409)
    second = create(api, member, Name="second", **({"CallerReference": "second"} if more else {}))
    config = {**second[member][f"{member}Config"], "Name": "mine"}
    refused = api.error(
        f"Update{member}",
        Id=second[member]["Id"],
        IfMatch=second["ETag"],
        **{f"{member}Config": config},
    )
    assert refused.code == f"{member}AlreadyExists"
    assert first[member]["Id"] != second[member]["Id"]


# --- managed and declared -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("member", "plural", "table"),
    [
        ("CachePolicy", "CachePolicies", "cache_policies"),
        ("OriginRequestPolicy", "OriginRequestPolicies", "origin_request_policies"),
        ("ResponseHeadersPolicy", "ResponseHeadersPolicies", "response_headers_policies"),
    ],
)
def test_managed_policies_are_there_and_stay(
    api: Api, member: str, plural: str, table: str
) -> None:
    ids = {identifier for identifier, name in IDS.items() if name in MANAGED[table]}
    listed = api(f"List{plural}", Type="managed")[f"{member}List"]
    assert {item[member]["Id"] for item in listed["Items"]} == ids
    assert {item["Type"] for item in listed["Items"]} == {"managed"}
    create(api, member)
    custom = api(f"List{plural}", Type="custom")[f"{member}List"]["Items"]
    assert {item["Type"] for item in custom} == {"custom"}
    assert "mine" in [item[member][f"{member}Config"]["Name"] for item in custom]
    both = api(f"List{plural}")[f"{member}List"]["Items"]
    assert len(both) == len(ids) + len(custom)
    for identifier in ids:
        got = api(f"Get{member}", Id=identifier)
        config = got[member][f"{member}Config"]
        assert config["Name"] == f"Managed-{IDS[identifier]}"
        for verb, said in (("Update", {f"{member}Config": config}), ("Delete", {})):
            refused = api.error(f"{verb}{member}", Id=identifier, IfMatch=got["ETag"], **said)
            assert refused.code == f"Illegal{verb}"
    assert api.error(f"List{plural}", Type="other").code == "InvalidArgument"


@pytest.mark.parametrize(
    ("member", "identifier"),
    [("CachePolicy", "declared"), ("PublicKey", "KDECLARED"), ("KeyGroup", "trusted")],
)
def test_declared_ones_are_read_only(api: Api, member: str, identifier: str) -> None:
    got = api(f"Get{member}", Id=identifier)
    config = got[member][f"{member}Config"]
    for verb, said in (("Update", {f"{member}Config": config}), ("Delete", {})):
        refused = api.error(f"{verb}{member}", Id=identifier, IfMatch=got["ETag"], **said)
        assert (refused.code, refused.status) == ("AccessDenied", 403)


# --- what documents mean ------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy",
    [
        *CACHE_POLICIES.values(),
        CachePolicyConfig(
            min_ttl=1.0,
            default_ttl=2.0,
            max_ttl=3.0,
            headers=("Accept", "Host"),
            cookies=ALL,
            query_strings=Selection(SelectionMode.EXCEPT, ("utm",)),
        ),
    ],
)
def test_a_cache_policy_there_and_back(policy: CachePolicyConfig) -> None:
    back = policy_sections.cache_policy(cache_policy_document("name", policy))
    assert back.model_copy(update={"error_ttl": policy.error_ttl}) == policy


@pytest.mark.parametrize(
    "policy",
    [
        *ORIGIN_REQUEST_POLICIES.values(),
        OriginRequestPolicyConfig(
            headers=Selection(SelectionMode.ONLY, ("Accept",)),
            cookies=Selection(SelectionMode.ONLY, ("a", "b")),
        ),
    ],
)
def test_an_origin_request_policy_there_and_back(policy: OriginRequestPolicyConfig) -> None:
    document = origin_request_policy_document("name", policy)
    assert policy_sections.origin_request_policy(document) == policy


@pytest.mark.parametrize(
    "policy",
    [
        *RESPONSE_HEADERS_POLICIES.values(),
        ResponseHeadersPolicyConfig(
            remove=("X-Powered-By", "Strict-Transport-Security"),
            set={"Content-Security-Policy": "default-src 'self'", "X-XSS-Protection": "0"},
            add={"X-XSS-Protection": "1; report=https://a.example/r", "X-Frame-Options": "odd"},
            hsts="max-age=1; includeSubDomains; preload",
            cors=CorsConfig(
                origins=("https://*.example.org",),
                methods=("GET", "PUT"),
                headers=("X-A",),
                expose=("ETag",),
                max_age=5.0,
                credentials=True,
            ),
            server_timing=12.5,
        ),
    ],
)
def test_a_response_headers_policy_there_and_back(policy: ResponseHeadersPolicyConfig) -> None:
    document = response_headers_policy_document("name", policy)
    assert policy_sections.response_headers_policy(document) == policy


def test_security_headers_are_spelled_as_browsers_read_them() -> None:
    made = policy_sections.response_headers_policy(
        {
            "Name": "all",
            "SecurityHeadersConfig": {
                "XSSProtection": {"Override": True, "Protection": True, "ModeBlock": True},
                "FrameOptions": {"Override": False, "FrameOption": "DENY"},
                "ReferrerPolicy": {"Override": True, "ReferrerPolicy": "origin"},
                "ContentSecurityPolicy": {
                    "Override": True,
                    "ContentSecurityPolicy": "default-src https:",
                },
                "ContentTypeOptions": {"Override": False},
                "StrictTransportSecurity": {
                    "Override": True,
                    "AccessControlMaxAgeSec": 10,
                    "IncludeSubdomains": True,
                },
            },
            "CorsConfig": {
                "AccessControlAllowOrigins": listing("a.example.org"),
                "AccessControlAllowHeaders": listing("*"),
                "AccessControlAllowMethods": listing("ALL"),
                "AccessControlAllowCredentials": False,
                "OriginOverride": True,
            },
        }
    )
    assert made.set == {
        "X-XSS-Protection": "1; mode=block",
        "Referrer-Policy": "origin",
        "Content-Security-Policy": "default-src https:",
    }
    assert made.add == {"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff"}
    assert made.hsts == "max-age=10; includeSubDomains"
    assert made.remove == ("Strict-Transport-Security",)  # so that the edge's own counts
    assert made.cors.origins == ("https://a.example.org", "http://a.example.org")
    assert len(made.cors.methods) == 7


def key_of(behavior_said: str, *names: str, what: str = "Header") -> dict[str, Any]:
    config: dict[str, Any] = {f"{what}Behavior": behavior_said}
    plural = {"Header": "Headers", "Cookie": "Cookies", "QueryString": "QueryStrings"}[what]
    return config | ({plural: listing(*names)} if names else {})


@pytest.mark.parametrize(
    ("member", "more", "code", "named"),
    [
        ("CachePolicy", {"MinTTL": 9, "MaxTTL": 5}, "InvalidArgument", "MinTTL"),
        ("CachePolicy", {"MinTTL": -1}, "InvalidArgument", "min_ttl"),
        ("CachePolicy", {"headers": key_of("whitelist", "Range")}, "InvalidArgument", "Range"),
        (
            "CachePolicy",
            {"headers": key_of("whitelist", "CloudFront-Is-Mobile-Viewer")},
            "InvalidArgument",
            "CloudFront-Is-Mobile-Viewer",
        ),
        ("CachePolicy", {"headers": key_of("whitelist", "a b")}, "InvalidArgument", "headers"),
        (
            "OriginRequestPolicy",
            {"CookiesConfig": key_of("whitelist", "a*", what="Cookie")},
            "InvalidArgument",
            "a*",
        ),
        (
            "OriginRequestPolicy",
            {"CookiesConfig": key_of("whitelist", what="Cookie")},
            "InvalidArgument",
            "CookieBehavior",
        ),
        (
            "OriginRequestPolicy",
            {"HeadersConfig": key_of("whitelist", "Accept-Encoding")},
            "InvalidArgument",
            "Accept-Encoding",
        ),
        (
            "OriginRequestPolicy",
            {"HeadersConfig": key_of("allViewerAndWhitelistCloudFront", "CloudFront-Viewer-TLS")},
            "InvalidArgument",
            "CloudFront-Viewer-TLS",
        ),
        (
            "OriginRequestPolicy",
            {
                "QueryStringsConfig": {
                    "QueryStringBehavior": "whitelist",
                    "QueryStrings": {"Quantity": 1},
                }
            },
            "InconsistentQuantities",
            "QueryStrings",
        ),
        (
            "ResponseHeadersPolicy",
            {"RemoveHeadersConfig": listing({"Header": "Content-Length"})},
            "InvalidArgument",
            "Content-Length",
        ),
        (
            "ResponseHeadersPolicy",
            {
                "CorsConfig": {
                    "AccessControlAllowOrigins": listing("*"),
                    "AccessControlAllowHeaders": listing("X"),
                    "AccessControlAllowMethods": listing("GET"),
                    "AccessControlAllowCredentials": True,
                    "OriginOverride": True,
                }
            },
            "InvalidArgument",
            "credentials",
        ),
        (
            "ResponseHeadersPolicy",
            {
                "CustomHeadersConfig": listing(
                    {"Header": "X", "Value": "two\nlines", "Override": True}
                )
            },
            "InvalidArgument",
            "ResponseHeadersPolicyConfig: set",
        ),
        ("OriginAccessControl", {"SigningProtocol": "sigv4a"}, "InvalidArgument", "sigv4a"),
        (
            "OriginAccessControl",
            {"OriginAccessControlOriginType": "lambda"},
            "InvalidArgument",
            "lambda",
        ),
        ("PublicKey", {"EncodedKey": "no key"}, "InvalidArgument", "EncodedKey"),
        ("PublicKey", {"EncodedKey": rsa_pem(1024)}, "InvalidArgument", "EncodedKey"),
        ("PublicKey", {"EncodedKey": ec_pem(ec.SECP384R1())}, "InvalidArgument", "EncodedKey"),
        ("KeyGroup", {"Items": []}, "InvalidArgument", "Items"),
        ("KeyGroup", {"Items": ["KNONE"]}, "InvalidArgument", "KNONE"),
        ("KeyGroup", {"Items": ["KDECLARED", "KDECLARED"]}, "InvalidArgument", "Items"),
        (
            "KeyGroup",
            {"Items": [f"K{number}" for number in range(101)]},
            "TooManyPublicKeysInKeyGroup",
            "keys",
        ),
    ],
)
def test_a_document_that_will_not_do_changes_nothing(
    api: Api, member: str, more: dict[str, Any], code: str, named: str
) -> None:
    document = {**KINDS[member][0], **more}
    if headers := document.pop("headers", None):
        key = document["ParametersInCacheKeyAndForwardedToOrigin"]
        document["ParametersInCacheKeyAndForwardedToOrigin"] = {**key, "HeadersConfig": headers}
    refused = api.error(f"Create{member}", **{f"{member}Config": document})
    assert refused.code == code
    assert named in refused.message


# --- keys ---------------------------------------------------------------------------------


def test_a_key_made_twice_is_one_and_stays_the_same(api: Api) -> None:
    first, second = create(api, "PublicKey"), create(api, "PublicKey")
    assert second["PublicKey"]["Id"] == first["PublicKey"]["Id"]
    assert re.fullmatch(r"K[A-Z0-9]{13}", first["PublicKey"]["Id"])
    for more in ({"EncodedKey": OTHER_PEM}, {"CallerReference": "other"}):
        refused = api.error(
            "UpdatePublicKey",
            Id=first["PublicKey"]["Id"],
            IfMatch=first["ETag"],
            PublicKeyConfig={**KEY, **more},
        )
        assert refused.code == "CannotChangeImmutablePublicKeyFields"


def test_a_distribution_shows_whose_keys_it_trusts(api: Api) -> None:
    key = create(api, "PublicKey")["PublicKey"]["Id"]
    group = create(api, "KeyGroup", Items=[key])["KeyGroup"]["Id"]
    trusted = {"Enabled": True, **listing(group, "trusted")}
    signers = {"Enabled": True, **listing("self")}
    said = web(DefaultCacheBehavior=behavior(TrustedKeyGroups=trusted, TrustedSigners=signers))
    shown = api("CreateDistribution", DistributionConfig=said)["Distribution"]
    groups = shown["ActiveTrustedKeyGroups"]
    assert groups["Enabled"]
    assert {item["KeyGroupId"]: item["KeyPairIds"] for item in groups["Items"]} == {
        group: listing(key),
        "trusted": listing("KDECLARED"),
    }
    assert shown["ActiveTrustedSigners"] == {
        "Enabled": True,
        **listing({"AwsAccountNumber": "self", "KeyPairIds": listing("KDECLARED", key)}),
    }

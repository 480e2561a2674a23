"""Operations on policies, access controls, keys and key groups, and their documents."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from streamedge.api.documents.lengths import CHARACTERS_MAX, COMMENT_CHARACTERS_MAX
from streamedge.api.operations.policy_documents import (
    cache_policy_document,
    origin_request_policy_document,
    response_headers_policy_document,
)
from streamedge.api.to_config import policy_sections
from streamedge.config.managed import (
    CACHE_POLICIES,
    MANAGED_IDS,
    MANAGED_POLICIES,
    ORIGIN_REQUEST_POLICIES,
    RESPONSE_HEADERS_POLICIES,
)
from streamedge.config.schema.config import (
    CachePolicyConfig,
    CorsConfig,
    OriginRequestPolicyConfig,
    ResponseHeadersPolicyConfig,
)
from streamedge.config.schema.selection import SELECT_ALL, Selection, SelectionMode
from tests.support.api.cloudfront_api import Api, behavior, bucket, ec_pem, listing, rsa_pem, web

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
    members: dict[str, Any] = {f"{member}Id": identifier}
    origin = bucket()
    if member == "OriginAccessControl":
        origin, members = bucket(OriginAccessControlId=identifier), {}
    if member == "KeyGroup":
        members = {"TrustedKeyGroups": {"Enabled": True, **listing(identifier)}}
    document = web(Origins=listing(origin), DefaultCacheBehavior=behavior(**members))
    api("CreateDistribution", DistributionConfig=document)


@each_kind
def test_resource_is_created_read_updated_listed_and_deleted(api: Api, member: str) -> None:
    _document, plural, missing_code, _in_use = KINDS[member]
    created = create(api, member)
    identifier, etag = created[member]["Id"], created["ETag"]
    assert created["Location"].endswith(f"/{identifier}")
    assert api(f"Get{member}", Id=identifier) == {member: created[member], "ETag": etag}
    config = api(f"Get{member}Config", Id=identifier)[f"{member}Config"]
    assert config == created[member][f"{member}Config"]
    text_member = "Description" if member == "OriginAccessControl" else "Comment"
    changed = {f"{member}Config": {**config, text_member: "changed"}}
    for if_match, code in ((None, "InvalidIfMatchVersion"), ("E1", "PreconditionFailed")):
        error = api.error(f"Update{member}", Id=identifier, IfMatch=if_match, **changed)
        assert error.code == code
    updated = api(f"Update{member}", Id=identifier, IfMatch=etag, **changed)
    assert updated[member][f"{member}Config"] == changed[f"{member}Config"]
    assert "changed" in str(api(f"List{plural}"))
    assert api.error(f"Delete{member}", Id=identifier, IfMatch=etag).code == "PreconditionFailed"
    assert api(f"Delete{member}", Id=identifier, IfMatch=updated["ETag"]) == {}
    for verb in ("Get", "Delete"):
        error = api.error(f"{verb}{member}", Id=identifier, IfMatch="E1")
        assert (error.code, error.status) == (missing_code, 404)


@each_kind
def test_resource_in_use_is_not_deleted(api: Api, member: str) -> None:
    created = create(api, member)
    use(api, member, created[member]["Id"])
    error = api.error(f"Delete{member}", Id=created[member]["Id"], IfMatch=created["ETag"])
    assert (error.code, error.status) == (KINDS[member][3], 409)


@each_kind
def test_name_is_unique(api: Api, member: str) -> None:
    first = create(api, member)
    more = {} if member != "PublicKey" else {"EncodedKey": OTHER_PEM}
    error = api.error(f"Create{member}", **{f"{member}Config": {**KINDS[member][0], **more}})
    assert (error.code, error.status) == (f"{member}AlreadyExists", 409)
    second = create(api, member, Name="second", **({"CallerReference": "second"} if more else {}))
    config = {**second[member][f"{member}Config"], "Name": "mine"}
    error = api.error(
        f"Update{member}",
        Id=second[member]["Id"],
        IfMatch=second["ETag"],
        **{f"{member}Config": config},
    )
    assert error.code == f"{member}AlreadyExists"
    assert first[member]["Id"] != second[member]["Id"]


# --- managed policies and those of the file -----------------------------------------------


@pytest.mark.parametrize(
    ("member", "plural", "table"),
    [
        ("CachePolicy", "CachePolicies", "cache_policies"),
        ("OriginRequestPolicy", "OriginRequestPolicies", "origin_request_policies"),
        ("ResponseHeadersPolicy", "ResponseHeadersPolicies", "response_headers_policies"),
    ],
)
def test_managed_policies_are_listed_and_read_only(
    api: Api, member: str, plural: str, table: str
) -> None:
    ids = {
        identifier for identifier, name in MANAGED_IDS.items() if name in MANAGED_POLICIES[table]
    }
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
        read_back = api(f"Get{member}", Id=identifier)
        config = read_back[member][f"{member}Config"]
        assert config["Name"] == f"Managed-{MANAGED_IDS[identifier]}"
        for verb, members in (("Update", {f"{member}Config": config}), ("Delete", {})):
            error = api.error(
                f"{verb}{member}", Id=identifier, IfMatch=read_back["ETag"], **members
            )
            assert error.code == f"Illegal{verb}"
    assert api.error(f"List{plural}", Type="other").code == "InvalidArgument"


@pytest.mark.parametrize(
    ("member", "identifier"),
    [("CachePolicy", "declared"), ("PublicKey", "KDECLARED"), ("KeyGroup", "trusted")],
)
def test_resources_of_the_file_are_read_only(api: Api, member: str, identifier: str) -> None:
    read_back = api(f"Get{member}", Id=identifier)
    config = read_back[member][f"{member}Config"]
    for verb, members in (("Update", {f"{member}Config": config}), ("Delete", {})):
        error = api.error(f"{verb}{member}", Id=identifier, IfMatch=read_back["ETag"], **members)
        assert (error.code, error.status) == ("AccessDenied", 403)


# --- documents and sections ---------------------------------------------------------------


@pytest.mark.parametrize(
    "policy",
    [
        *CACHE_POLICIES.values(),
        CachePolicyConfig(
            min_ttl=1.0,
            default_ttl=2.0,
            max_ttl=3.0,
            headers=("Accept", "Host"),
            cookies=SELECT_ALL,
            query_strings=Selection(SelectionMode.EXCEPT, ("utm",)),
        ),
    ],
)
def test_cache_policy_round_trips(policy: CachePolicyConfig) -> None:
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
def test_origin_request_policy_round_trips(policy: OriginRequestPolicyConfig) -> None:
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
def test_response_headers_policy_round_trips(policy: ResponseHeadersPolicyConfig) -> None:
    document = response_headers_policy_document("name", policy)
    assert policy_sections.response_headers_policy(document) == policy


def test_security_headers_have_the_syntax_of_browsers() -> None:
    created = policy_sections.response_headers_policy(
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
    assert created.set == {
        "X-XSS-Protection": "1; mode=block",
        "Referrer-Policy": "origin",
        "Content-Security-Policy": "default-src https:",
    }
    assert created.add == {"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff"}
    assert created.hsts == "max-age=10; includeSubDomains"
    assert created.remove == ("Strict-Transport-Security",)  # so that the edge's own counts
    assert created.cors.origins == ("https://a.example.org", "http://a.example.org")
    assert len(created.cors.methods) == 7


def key_of(behavior: str, *names: str, what: str = "Header") -> dict[str, Any]:
    config: dict[str, Any] = {f"{what}Behavior": behavior}
    plural = {"Header": "Headers", "Cookie": "Cookies", "QueryString": "QueryStrings"}[what]
    return config | ({plural: listing(*names)} if names else {})


@pytest.mark.parametrize(
    ("member", "more", "code", "reason"),
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
def test_invalid_document_is_refused(
    api: Api, member: str, more: dict[str, Any], code: str, reason: str
) -> None:
    document = {**KINDS[member][0], **more}
    if headers := document.pop("headers", None):
        key = document["ParametersInCacheKeyAndForwardedToOrigin"]
        document["ParametersInCacheKeyAndForwardedToOrigin"] = {**key, "HeadersConfig": headers}
    error = api.error(f"Create{member}", **{f"{member}Config": document})
    assert error.code == code
    assert reason in error.message


def documents_with_limits() -> dict[str, tuple[dict[str, Any], str, int]]:
    """By kind a valid document, the member with a limit, and how many characters it may have."""
    documents: dict[str, dict[str, Any]] = {member: kind[0] for member, kind in KINDS.items()}
    documents["Distribution"] = web()
    documents["CloudFrontOriginAccessIdentity"] = {"CallerReference": "1", "Comment": ""}
    limited = {
        member: (document, "Comment", COMMENT_CHARACTERS_MAX)
        for member, document in documents.items()
    }
    limited["OriginAccessControl"] = (CONTROL, "Name", 64)
    return limited


LIMITED = documents_with_limits()


def test_every_kind_with_a_limit_is_checked() -> None:
    assert {f"{member}Config" for member in LIMITED} == set(CHARACTERS_MAX)


@pytest.mark.parametrize("member", LIMITED)
def test_text_that_is_longer_than_in_cloudfront_is_refused(api: Api, member: str) -> None:
    document, text_member, characters_max = LIMITED[member]
    longest = {**document, text_member: "é" * characters_max}
    too_long = {f"{member}Config": {**document, text_member: "é" * (characters_max + 1)}}
    error = api.error(f"Create{member}", **too_long)
    reason = f"{text_member} is longer than {characters_max} characters"
    assert (error.code, error.message) == ("InvalidArgument", reason)
    created = api(f"Create{member}", **{f"{member}Config": longest})
    identifier = created[member]["Id"]
    error = api.error(f"Update{member}", Id=identifier, IfMatch=created["ETag"], **too_long)
    assert (error.code, error.message) == ("InvalidArgument", reason)


# --- keys ---------------------------------------------------------------------------------


def test_repeated_creation_returns_the_same_key_and_a_key_cannot_change(api: Api) -> None:
    first, second = create(api, "PublicKey"), create(api, "PublicKey")
    assert second["PublicKey"]["Id"] == first["PublicKey"]["Id"]
    assert re.fullmatch(r"K[A-Z0-9]{13}", first["PublicKey"]["Id"])
    for more in ({"EncodedKey": OTHER_PEM}, {"CallerReference": "other"}):
        error = api.error(
            "UpdatePublicKey",
            Id=first["PublicKey"]["Id"],
            IfMatch=first["ETag"],
            PublicKeyConfig={**KEY, **more},
        )
        assert error.code == "CannotChangeImmutablePublicKeyFields"


def test_distribution_lists_its_trusted_keys(api: Api) -> None:
    key = create(api, "PublicKey")["PublicKey"]["Id"]
    group = create(api, "KeyGroup", Items=[key])["KeyGroup"]["Id"]
    trusted = {"Enabled": True, **listing(group, "trusted")}
    signers = {"Enabled": True, **listing("self")}
    members = web(DefaultCacheBehavior=behavior(TrustedKeyGroups=trusted, TrustedSigners=signers))
    distribution = api("CreateDistribution", DistributionConfig=members)["Distribution"]
    groups = distribution["ActiveTrustedKeyGroups"]
    assert groups["Enabled"]
    assert {item["KeyGroupId"]: item["KeyPairIds"] for item in groups["Items"]} == {
        group: listing(key),
        "trusted": listing("KDECLARED"),
    }
    assert distribution["ActiveTrustedSigners"] == {
        "Enabled": True,
        **listing({"AwsAccountNumber": "self", "KeyPairIds": listing("KDECLARED", key)}),
    }

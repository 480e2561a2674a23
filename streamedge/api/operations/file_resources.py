"""Resources of config.toml as CloudFront documents, to read, list and refer to.

The id of such a resource is its name in the file, so a distribution of the API may use an origin,
policy or key group of the file by its name. Headers sent to origins are secrets and are in no
document. Settings that CloudFront does not have are left out. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from streamedge.api.documents.completion import (
    complete_distribution,
    complete_streaming_distribution,
)
from streamedge.api.documents.documents import listing
from streamedge.api.operations import policy_documents
from streamedge.api.operations.resource_calls import read_only_resource
from streamedge.config.managed import MANAGED_IDS, POLICY_TABLES
from streamedge.config.schema.config import (
    AnyOriginConfig,
    BehaviorConfig,
    BehaviorRules,
    Config,
    DirectoryOriginConfig,
    HttpOriginConfig,
    OriginGroupConfig,
    RtmpDistributionConfig,
    S3OriginConfig,
    WebDistributionConfig,
)
from streamedge.control.resources import Kind, Resource

_MANAGED_IDS = {name: identifier for identifier, name in MANAGED_IDS.items()}
_POLICY_MEMBERS = {
    key: "".join(word.capitalize() for word in key.split("_")) + "Id" for key in POLICY_TABLES
}
"""The member of a behavior's document for each policy key of the config: ``CachePolicyId``."""


def distributions(config: Config) -> Iterator[Resource]:
    """The web distributions of the file."""
    for distribution in config.distributions:
        if isinstance(distribution, WebDistributionConfig):
            document = distribution_document(config, distribution)
            yield read_only_resource(Kind.DISTRIBUTION, distribution.id, document)


def streaming_distributions(config: Config) -> Iterator[Resource]:
    """The rtmp distributions of the file."""
    for distribution in config.distributions:
        if isinstance(distribution, RtmpDistributionConfig):
            document = streaming_document(config, distribution)
            yield read_only_resource(Kind.STREAMING_DISTRIBUTION, distribution.id, document)


def cache_policies(config: Config) -> Iterator[Resource]:
    """The cache policies of the file."""
    for name, policy in config.cache_policies.items():
        document = policy_documents.cache_policy_document(name, policy)
        yield read_only_resource(Kind.CACHE_POLICY, name, document)


def origin_request_policies(config: Config) -> Iterator[Resource]:
    """The origin request policies of the file."""
    for name, policy in config.origin_request_policies.items():
        document = policy_documents.origin_request_policy_document(name, policy)
        yield read_only_resource(Kind.ORIGIN_REQUEST_POLICY, name, document)


def response_headers_policies(config: Config) -> Iterator[Resource]:
    """The response headers policies of the file."""
    for name, policy in config.response_headers_policies.items():
        document = policy_documents.response_headers_policy_document(name, policy)
        yield read_only_resource(Kind.RESPONSE_HEADERS_POLICY, name, document)


def public_keys(config: Config) -> Iterator[Resource]:
    """The public keys of the file; of a key in a PEM file, only the name of that file is shown."""
    for name, key in config.public_keys.items():
        document = {
            "CallerReference": name,
            "Name": name,
            "EncodedKey": key.pem,
            "Comment": "" if key.file is None else f"in the file {key.file.name}",
        }
        yield read_only_resource(Kind.PUBLIC_KEY, name, document)


def key_groups(config: Config) -> Iterator[Resource]:
    """The key groups of the file."""
    for name, group in config.key_groups.items():
        document = {"Name": name, "Items": list(group.keys), "Comment": ""}
        yield read_only_resource(Kind.KEY_GROUP, name, document)


def distribution_document(config: Config, distribution: WebDistributionConfig) -> dict[str, Any]:
    """The DistributionConfig of a web distribution of the file."""
    all_rules = (distribution.rules_for(), *map(distribution.rules_for, distribution.behaviors))
    names = dict.fromkeys(rules.origin for rules in all_rules)
    groups = {name: config.origin_groups[name] for name in names if name in config.origin_groups}
    origins = dict.fromkeys(
        member for name in names for member in (groups[name].origins if name in groups else (name,))
    )
    document: dict[str, Any] = {
        "CallerReference": distribution.id,
        "Aliases": listing(distribution.aliases),
        "DefaultRootObject": distribution.default_root_object,
        "Origins": listing([origin_document(name, config.origins[name]) for name in origins]),
        "OriginGroups": listing([_group(name, group) for name, group in groups.items()]),
        "DefaultCacheBehavior": _behavior(distribution.rules_for()),
        "CacheBehaviors": listing(
            [
                {"PathPattern": behavior.path, **_behavior(distribution.rules_for(behavior))}
                for behavior in distribution.behaviors
            ]
        ),
        "CustomErrorResponses": listing(
            [
                {
                    "ErrorCode": page.status,
                    "ResponsePagePath": page.path,
                    "ResponseCode": str(page.response_status or page.status) if page.path else "",
                    "ErrorCachingMinTTL": round(page.ttl),
                }
                for page in distribution.error_pages
            ]
        ),
        "Comment": "declared in config.toml",
        "Enabled": distribution.enabled,
        "Restrictions": {"GeoRestriction": _countries(distribution)},
    }
    if distribution.cache_tag_header:
        document["CacheTagConfig"] = {"HeaderName": distribution.cache_tag_header}
    return complete_distribution(document)


def streaming_document(config: Config, distribution: RtmpDistributionConfig) -> dict[str, Any]:
    """The StreamingDistributionConfig of an rtmp distribution of the file."""
    name = distribution.origin
    if name in config.origin_groups:
        name = config.origin_groups[name].origins[0]
    return complete_streaming_distribution(
        {
            "CallerReference": distribution.id,
            "S3Origin": {
                "DomainName": _domain_name(name, config.origins[name]),
                "OriginAccessIdentity": "",
            },
            "Aliases": listing(distribution.aliases),
            "Comment": "declared in config.toml",
            "Enabled": distribution.enabled,
        }
    )


def origin_document(name: str, origin: AnyOriginConfig) -> dict[str, Any]:
    """An entry of Origins, whose Id is the name of the file's origin and so identifies it.

    There is no OriginPath, because it would be added to the file's prefix if the document is sent
    back.
    """
    document: dict[str, Any] = {"Id": name, "DomainName": _domain_name(name, origin)}
    if isinstance(origin, HttpOriginConfig):
        parts = urlsplit(origin.url)
        is_https = parts.scheme == "https"
        document["CustomOriginConfig"] = {
            "HTTPPort": 80 if is_https else parts.port or 80,
            "HTTPSPort": parts.port or 443 if is_https else 443,
            "OriginProtocolPolicy": "https-only" if is_https else "http-only",
        }
    else:
        document["S3OriginConfig"] = {"OriginAccessIdentity": ""}
    return document


def _domain_name(name: str, origin: AnyOriginConfig) -> str:
    if isinstance(origin, S3OriginConfig):
        return f"{origin.bucket}.s3.{origin.region}.amazonaws.com"
    if isinstance(origin, DirectoryOriginConfig):
        return name
    return urlsplit(origin.url).hostname or name


def _group(name: str, group: OriginGroupConfig) -> dict[str, Any]:
    statuses = [status for status in group.failover if isinstance(status, int)]
    return {
        "Id": name,
        "FailoverCriteria": {"StatusCodes": listing(statuses)},
        "Members": listing([{"OriginId": origin} for origin in group.origins]),
    }


def _behavior(rules: BehaviorRules) -> dict[str, Any]:
    methods = {"Quantity": len(rules.methods), "Items": list(rules.methods)}
    document: dict[str, Any] = {
        "TargetOriginId": rules.origin,
        "TrustedKeyGroups": {
            "Enabled": bool(rules.trusted_key_groups),
            **listing(rules.trusted_key_groups),
        },
        "ViewerProtocolPolicy": rules.viewer_protocol,
        "AllowedMethods": methods | {"CachedMethods": listing(("GET", "HEAD"))},
        "Compress": rules.compress,
    }
    for key, member in _POLICY_MEMBERS.items():
        if name := getattr(rules, key):
            document[member] = _MANAGED_IDS.get(name, name)
    if not rules.cache_policy:
        document |= {
            "ForwardedValues": {"QueryString": False, "Cookies": {"Forward": "none"}},
            "MinTTL": 0,
            "DefaultTTL": round(rules.default_ttl),
            "MaxTTL": max(31_536_000, round(rules.default_ttl)),
        }
    return document


def _countries(distribution: WebDistributionConfig | BehaviorConfig) -> dict[str, Any]:
    countries = distribution.countries
    if countries.is_open or not countries.codes:
        return {"RestrictionType": "none", "Quantity": 0}
    kind = "whitelist" if countries.is_allow_list else "blacklist"
    return {"RestrictionType": kind, **listing(countries.codes)}

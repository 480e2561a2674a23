"""CloudFront's defaults for members that a distribution's document leaves out.

CloudFront stores and returns documents whole. Clients that read, change and send one again, or
compare it with the one they sent, need every member. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamedge.api.documents.documents import Document, entries_of, required, with_defaults

_EMPTY = {"Quantity": 0}
_DISABLED = {"Enabled": False, "Quantity": 0}
_DISTRIBUTION: Document = {
    "Aliases": _EMPTY,
    "DefaultRootObject": "",
    "OriginGroups": _EMPTY,
    "CacheBehaviors": _EMPTY,
    "CustomErrorResponses": _EMPTY,
    "Comment": "",
    "Logging": {"Enabled": False, "IncludeCookies": False, "Bucket": "", "Prefix": ""},
    "PriceClass": "PriceClass_All",
    "ViewerCertificate": {
        "CloudFrontDefaultCertificate": True,
        "SSLSupportMethod": "vip",
        "MinimumProtocolVersion": "TLSv1",
        "CertificateSource": "cloudfront",
    },
    "Restrictions": {"GeoRestriction": {"RestrictionType": "none", "Quantity": 0}},
    "WebACLId": "",
    "HttpVersion": "http2",
    "IsIPV6Enabled": False,
    "ContinuousDeploymentPolicyId": "",
    "Staging": False,
}
_ORIGIN: Document = {
    "OriginPath": "",
    "CustomHeaders": _EMPTY,
    "ConnectionAttempts": 3,
    "ConnectionTimeout": 10,
    "OriginShield": {"Enabled": False},
    "OriginAccessControlId": "",
}
_SERVER: Document = {
    "OriginSslProtocols": {"Quantity": 1, "Items": ["TLSv1.2"]},
    "OriginReadTimeout": 30,
    "OriginKeepaliveTimeout": 5,
}
_BEHAVIOR: Document = {
    "TrustedSigners": _DISABLED,
    "TrustedKeyGroups": _DISABLED,
    "AllowedMethods": {"Quantity": 2, "Items": ["HEAD", "GET"]},
    "SmoothStreaming": False,
    "Compress": False,
    "LambdaFunctionAssociations": _EMPTY,
    "FunctionAssociations": _EMPTY,
    "FieldLevelEncryptionId": "",
    "GrpcConfig": {"Enabled": False},
}
_CACHED_METHODS = {"Quantity": 2, "Items": ["HEAD", "GET"]}
_LEGACY_TIMES: Document = {"MinTTL": 0, "DefaultTTL": 86_400, "MaxTTL": 31_536_000}
_FORWARDED: Document = {
    "Cookies": {"Forward": "none"},
    "Headers": _EMPTY,
    "QueryStringCacheKeys": _EMPTY,
}
_STREAMING: Document = {
    "Aliases": _EMPTY,
    "Comment": "",
    "Logging": {"Enabled": False, "Bucket": "", "Prefix": ""},
    "TrustedSigners": _DISABLED,
    "PriceClass": "PriceClass_All",
}


def complete_distribution(document: Document) -> dict[str, Any]:
    """A DistributionConfig with all its members. Raises ApiError if a required one is missing."""
    for member in ("CallerReference", "Origins", "DefaultCacheBehavior", "Enabled"):
        required(document, member)
    completed = with_defaults(document, _DISTRIBUTION)
    completed["Origins"] = _each(completed, "Origins", _origin)
    completed["CacheBehaviors"] = _each(completed, "CacheBehaviors", _behavior)
    completed["DefaultCacheBehavior"] = _behavior(completed["DefaultCacheBehavior"])
    return completed


def complete_streaming_distribution(document: Document) -> dict[str, Any]:
    """Adds the defaults to a StreamingDistributionConfig."""
    for member in ("CallerReference", "S3Origin", "Enabled"):
        required(document, member)
    return with_defaults(document, _STREAMING)


def _each(
    document: Document, member: str, complete: Callable[[Document], dict[str, Any]]
) -> dict[str, Any]:
    completed = [complete(entry) for entry in entries_of(document, member)]
    return {"Quantity": len(completed)} | ({"Items": completed} if completed else {})


def _origin(document: Document) -> dict[str, Any]:
    completed = with_defaults(document, _ORIGIN)
    if completed.get("CustomOriginConfig") is not None:
        completed["CustomOriginConfig"] = with_defaults(completed["CustomOriginConfig"], _SERVER)
    return completed


def _behavior(document: Document) -> dict[str, Any]:
    completed = with_defaults(document, _BEHAVIOR)
    completed["AllowedMethods"] = with_defaults(
        completed["AllowedMethods"], {"CachedMethods": _CACHED_METHODS}
    )
    if completed.get("ForwardedValues") is not None:
        completed = with_defaults(completed, _LEGACY_TIMES)
        completed["ForwardedValues"] = with_defaults(completed["ForwardedValues"], _FORWARDED)
    return completed

"""CloudFront's defaults for members that a distribution's document leaves out.

CloudFront stores and returns documents whole. Clients that read, change and send one again, or
compare it with the one they sent, rely on every member being present. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamedge.api.documents.documents import Document, entries_of, required, with_defaults

_NONE = {"Quantity": 0}
_NOBODY = {"Enabled": False, "Quantity": 0}
_DISTRIBUTION: Document = {
    "Aliases": _NONE,
    "DefaultRootObject": "",
    "OriginGroups": _NONE,
    "CacheBehaviors": _NONE,
    "CustomErrorResponses": _NONE,
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
    "CustomHeaders": _NONE,
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
    "TrustedSigners": _NOBODY,
    "TrustedKeyGroups": _NOBODY,
    "AllowedMethods": {"Quantity": 2, "Items": ["HEAD", "GET"]},
    "SmoothStreaming": False,
    "Compress": False,
    "LambdaFunctionAssociations": _NONE,
    "FunctionAssociations": _NONE,
    "FieldLevelEncryptionId": "",
    "GrpcConfig": {"Enabled": False},
}
_CACHED_METHODS = {"Quantity": 2, "Items": ["HEAD", "GET"]}
_LEGACY_TIMES: Document = {"MinTTL": 0, "DefaultTTL": 86_400, "MaxTTL": 31_536_000}
_FORWARDED: Document = {
    "Cookies": {"Forward": "none"},
    "Headers": _NONE,
    "QueryStringCacheKeys": _NONE,
}
_STREAMING: Document = {
    "Aliases": _NONE,
    "Comment": "",
    "Logging": {"Enabled": False, "Bucket": "", "Prefix": ""},
    "TrustedSigners": _NOBODY,
    "PriceClass": "PriceClass_All",
}


def complete_distribution(document: Document) -> dict[str, Any]:
    """A whole DistributionConfig. Raises ApiError where what cannot be left out is."""
    for member in ("CallerReference", "Origins", "DefaultCacheBehavior", "Enabled"):
        required(document, member)
    completed = with_defaults(document, _DISTRIBUTION)
    completed["Origins"] = _each(completed, "Origins", _origin)
    completed["CacheBehaviors"] = _each(completed, "CacheBehaviors", _behavior)
    completed["DefaultCacheBehavior"] = _behavior(completed["DefaultCacheBehavior"])
    return completed


def complete_streaming_distribution(document: Document) -> dict[str, Any]:
    """A whole StreamingDistributionConfig. Raises ApiError as above."""
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

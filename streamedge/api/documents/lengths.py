"""How long texts of a document may be, where the API reference of CloudFront says so."""

from __future__ import annotations

from streamedge.api.documents.documents import Document, invalid

COMMENT_CHARACTERS_MAX = 128
_COMMENT = {"Comment": COMMENT_CHARACTERS_MAX}

# The reference has no limit for the comment of a StreamingDistributionConfig, nor for the
# description of an OriginAccessControlConfig.
CHARACTERS_MAX = {
    "CachePolicyConfig": _COMMENT,
    "CloudFrontOriginAccessIdentityConfig": _COMMENT,
    "DistributionConfig": _COMMENT,
    "KeyGroupConfig": _COMMENT,
    "OriginAccessControlConfig": {"Name": 64},
    "OriginRequestPolicyConfig": _COMMENT,
    "PublicKeyConfig": _COMMENT,
    "ResponseHeadersPolicyConfig": _COMMENT,
}
"""By the name of the document and the member."""


def require_lengths(config_member: str, document: Document) -> None:
    """Raises ApiError InvalidArgument for a text that is too long."""
    for member, characters_max in CHARACTERS_MAX.get(config_member, {}).items():
        if len(str(document.get(member) or "")) > characters_max:
            raise invalid(f"{member} is longer than {characters_max} characters")

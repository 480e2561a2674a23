"""API errors with CloudFront's codes.

The HTTP status of a code is 400 unless the table below has another. The codes come from
CloudFront's service model (2020-05-31; a test compares the table with it) and AWS's common errors.
Clients act on codes, so a CloudFront code is used wherever there is one.
"""

from __future__ import annotations

from collections.abc import Mapping

from streamedge.errors import StreamEdgeError

_CODES_BY_STATUS: Mapping[int, tuple[str, ...]] = {
    403: (
        "AccessDenied",
        "InvalidClientTokenId",
        "MissingAuthenticationToken",
        "SignatureDoesNotMatch",
    ),
    404: (
        "EntityNotFound",
        "NoSuchCachePolicy",
        "NoSuchCloudFrontOriginAccessIdentity",
        "NoSuchDistribution",
        "NoSuchInvalidation",
        "NoSuchOrigin",
        "NoSuchOriginAccessControl",
        "NoSuchOriginRequestPolicy",
        "NoSuchPublicKey",
        "NoSuchResource",
        "NoSuchResponseHeadersPolicy",
        "NoSuchStreamingDistribution",
    ),
    408: ("RequestTimeout",),
    409: (
        "CNAMEAlreadyExists",
        "CachePolicyAlreadyExists",
        "CachePolicyInUse",
        "CannotDeleteEntityWhileInUse",
        "CannotUpdateEntityWhileInUse",
        "CloudFrontOriginAccessIdentityAlreadyExists",
        "CloudFrontOriginAccessIdentityInUse",
        "DistributionAlreadyExists",
        "DistributionNotDisabled",
        "EntityAlreadyExists",
        "KeyGroupAlreadyExists",
        "OriginAccessControlAlreadyExists",
        "OriginAccessControlInUse",
        "OriginRequestPolicyAlreadyExists",
        "OriginRequestPolicyInUse",
        "PublicKeyAlreadyExists",
        "PublicKeyInUse",
        "ResourceInUse",
        "ResourceNotDisabled",
        "ResponseHeadersPolicyAlreadyExists",
        "ResponseHeadersPolicyInUse",
        "StreamingDistributionAlreadyExists",
        "StreamingDistributionNotDisabled",
    ),
    412: ("PreconditionFailed",),
    413: ("BatchTooLarge", "EntitySizeLimitExceeded"),
    500: ("InternalError",),
    501: ("NotImplemented",),
    503: ("ServiceUnavailable",),
}
STATUS_BY_CODE: Mapping[str, int] = {
    code: status for status, codes in _CODES_BY_STATUS.items() for code in codes
}


class ApiError(StreamEdgeError):
    """A call was refused and changed nothing.

    ``code`` is CloudFront's (``NoSuchDistribution``). ``message`` is sent to the caller, so it has
    no secrets. ``status`` follows from the code.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = STATUS_BY_CODE.get(code, 400)

    @property
    def is_sender_fault(self) -> bool:
        """Whether the caller made the error, so the same call would fail again."""
        return self.status < 500

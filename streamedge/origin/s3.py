"""An origin that is a bucket of Amazon S3 or of a server that speaks its protocol.

Owns the way from a name to the bucket's URL and the choice of who signs; signatures are
``s3_signing``'s, the rest is ``exchange``'s. Only ever reads objects: never lists a bucket.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin import OriginHead, OriginRead, Version
from streamedge.origin.exchange import (
    CONNECT_TIMEOUT_S,
    CONNECTIONS_MAX,
    READ_TIMEOUT_S,
    Exchange,
    Sign,
    parse_base_url,
)
from streamedge.origin.names import object_path
from streamedge.spans import Span

# A bucket whose name is one DNS label; with dots in it, AWS's wildcard certificate would not do.
_HOST_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")


class S3Origin:
    """Objects at ``prefix``/name in ``bucket``.

    ``endpoint`` is the URL of another server than AWS. Requests are signed with
    ``access_key_id`` and ``secret_access_key``, or when they are "" with what AWS's credential
    chain finds (environment, profile, container or instance role), or not at all when
    ``anonymous``. Raises ValueError for an endpoint that is no URL.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        region: str = "us-east-1",
        endpoint: str = "",
        access_key_id: str = "",
        secret_access_key: str = "",
        anonymous: bool = False,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self._label = f"s3://{bucket}"
        self._base = bucket_url(bucket, region, endpoint)
        self._prefix = prefix
        self._exchange = Exchange(
            self._label,
            self._address,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            connections_max=connections_max,
            sign=None if anonymous else _signer(region, access_key_id, secret_access_key),
        )

    async def head(self, name: str) -> OriginHead:
        return await self._exchange.head(name)

    async def read(
        self,
        name: str,
        span: Span | None = None,
        *,
        if_match: Version | None = None,
        if_none_match: Version | None = None,
    ) -> OriginRead | None:
        return await self._exchange.read(name, span, if_match=if_match, if_none_match=if_none_match)

    async def close(self) -> None:
        await self._exchange.close()

    def _address(self, name: str) -> str:
        path = object_path(self._prefix, name)
        if not path:
            # GET of the bucket itself would list it.
            raise OriginError(OriginFailure.NOT_FOUND, f"{self._label}: an object needs a name")
        return f"{self._base}/{path}"


def bucket_url(bucket: str, region: str, endpoint: str = "") -> str:
    """Base URL of a bucket: its own host on AWS, a path at any other ``endpoint`` (Amazon S3
    User Guide, "Virtual hosting of general purpose buckets"). Raises ValueError.
    """
    if endpoint:
        return f"{parse_base_url(endpoint)}/{quote(bucket, safe='~')}"
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    if _HOST_LABEL.fullmatch(bucket):
        return parse_base_url(f"https://{bucket}.s3.{region}.{domain}")
    return f"{parse_base_url(f'https://s3.{region}.{domain}')}/{quote(bucket, safe='~')}"


def _signer(region: str, access_key_id: str, secret_access_key: str) -> Sign:
    # botocore takes a tenth of a second and 20 MB to import: only an origin that signs pays it.
    from streamedge.origin.s3_signing import (  # noqa: PLC0415
        CredentialChain,
        GivenCredentials,
        Signer,
    )

    if access_key_id:
        return Signer(region, GivenCredentials(access_key_id, secret_access_key)).sign
    return Signer(region, CredentialChain()).sign

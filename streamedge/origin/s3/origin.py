"""An origin that is a bucket of Amazon S3 or of a server that speaks its protocol.

Owns the way from a name to the bucket's URL and the choice of who signs; signatures are
``s3_signing``'s, reading is ``exchange``'s, writing and listing ``writer``'s.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin import Origin, OriginHead, OriginRead, Version
from streamedge.origin.http.exchange import (
    CONNECT_TIMEOUT_S,
    CONNECTIONS_MAX,
    READ_TIMEOUT_S,
    Exchange,
    parse_base_url,
)
from streamedge.origin.names import object_path
from streamedge.origin.s3.requests import S3Requests
from streamedge.origin.s3.writing import S3Writer
from streamedge.origin.upload_records import UploadRecords
from streamedge.origin.writing import HeaderFields
from streamedge.spans import Span

if TYPE_CHECKING:
    from streamedge.origin.s3.signing import Signer

# A bucket whose name is one DNS label; with dots in it, AWS's wildcard certificate would not do.
_HOST_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_HOST_LABELS = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class S3Origin:
    """Objects at ``prefix``/name in ``bucket``.

    ``endpoint`` is the URL of another server than AWS, ``path_style`` as in ``bucket_url``;
    ``headers`` are sent, and signed, with every request. Requests are signed with
    ``access_key_id`` and ``secret_access_key``, or when they are "" with what AWS's credential
    chain finds (environment, profile, container or instance role), or not at all when
    ``anonymous``. ``uploads`` are the records of its multipart uploads. Raises ValueError as
    ``bucket_url``.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        region: str = "us-east-1",
        endpoint: str = "",
        path_style: bool | None = None,
        access_key_id: str = "",
        secret_access_key: str = "",
        anonymous: bool = False,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        connections_max: int = CONNECTIONS_MAX,
        headers: Sequence[tuple[str, str]] = (),
        uploads: UploadRecords | None = None,
    ) -> None:
        signer = None if anonymous else _signer(region, access_key_id, secret_access_key)
        self._label = f"s3://{bucket}"
        self._base = bucket_url(bucket, region, endpoint, path_style)
        self._prefix = prefix
        self._exchange = Exchange(
            self._label,
            self._address,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            connections_max=connections_max,
            headers=headers,
            sign=None if signer is None else signer.sign,
        )
        self.bucket = bucket
        self.writer = S3Writer(
            S3Requests(
                self._label,
                self._address,
                self._exchange.client,
                None if signer is None else signer.sign_write,
                headers,
                bucket_url=f"{self._base}/",
            ),
            bucket,
            prefix,
            read_timeout_s=read_timeout_s,
            uploads=uploads,
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

    def requesting(self, query: str, fields: HeaderFields) -> Origin:
        """The same objects as they are answered with ``query``, percent-encoded, and ``fields``."""
        return _Requesting(self._exchange, query, fields)

    def retire(self) -> None:
        """As ``Client.retire``."""
        self._exchange.retire()

    async def close(self) -> None:
        await self._exchange.close()

    def _address(self, name: str) -> str:
        path = object_path(self._prefix, name)
        if not path:
            # GET of the bucket itself would list it.
            raise OriginError(OriginFailure.NOT_FOUND, f"{self._label}: an object needs a name")
        return f"{self._base}/{path}"


class _Requesting:
    """``S3Origin.requesting``; its connections are the origin's."""

    def __init__(self, exchange: Exchange, query: str, fields: HeaderFields) -> None:
        self._exchange = exchange
        self._query = query
        self._fields = fields

    async def head(self, name: str) -> OriginHead:
        return await self._exchange.head(name, query=self._query, fields=self._fields)

    async def read(
        self,
        name: str,
        span: Span | None = None,
        *,
        if_match: Version | None = None,
        if_none_match: Version | None = None,
    ) -> OriginRead | None:
        return await self._exchange.read(
            name,
            span,
            if_match=if_match,
            if_none_match=if_none_match,
            query=self._query,
            fields=self._fields,
        )

    async def close(self) -> None:
        """Nothing is its own."""


def bucket_url(bucket: str, region: str, endpoint: str = "", path_style: bool | None = None) -> str:
    """Base URL of a bucket: a path of the server with ``path_style``, else a host of its own
    (Amazon S3 User Guide, "Virtual hosting of general purpose buckets").

    None: a path at any ``endpoint``, a host on AWS. Raises ValueError for an endpoint that is no
    URL and a bucket that is no host's name.
    """
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    server = parse_base_url(endpoint or f"https://s3.{region}.{domain}")
    if path_style is None:
        path_style = bool(endpoint) or not _HOST_LABEL.fullmatch(bucket)
    if path_style:
        return f"{server}/{quote(bucket, safe='~')}"
    if not _HOST_LABELS.fullmatch(bucket):
        raise ValueError("the bucket's name is no host name, so it has to stand in the path")
    scheme, _, rest = server.partition("://")
    return parse_base_url(f"{scheme}://{bucket}.{rest}")


def _signer(region: str, access_key_id: str, secret_access_key: str) -> Signer:
    # botocore takes a tenth of a second and 20 MB to import: only an origin that signs pays it.
    from streamedge.origin.s3.signing import CredentialChain, GivenCredentials, Signer  # noqa: PLC0415

    if access_key_id:
        return Signer(region, GivenCredentials(access_key_id, secret_access_key))
    return Signer(region, CredentialChain())

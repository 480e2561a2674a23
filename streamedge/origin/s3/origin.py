"""An origin that is a bucket of Amazon S3 or of a server with its protocol.

Maps names to URLs of the bucket and selects the signer. ``signing`` signs, ``exchange`` reads
objects, ``writer`` writes and lists.
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
    HttpObjects,
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

# A bucket name of one DNS label; AWS's wildcard certificate does not match names with dots.
_HOST_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_HOST_LABELS = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class S3Origin(HttpObjects):
    """Objects at ``prefix``/name in ``bucket``.

    ``endpoint`` is the URL of a server other than AWS, ``path_style`` as in ``bucket_url``;
    ``headers`` are sent, and signed, with every request. Requests are signed with
    ``access_key_id`` and ``secret_access_key``, or if they are "" with credentials of AWS's
    chain (environment, profile, container or instance role), or not at all when
    ``anonymous``. ``uploads`` records its multipart uploads. Raises ValueError as
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
        label = f"s3://{bucket}"
        self._base = bucket_url(bucket, region, endpoint, path_style)
        self._prefix = prefix
        super().__init__(
            label,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            connections_max=connections_max,
            headers=headers,
            sign=None if signer is None else signer.sign,
        )
        self.bucket = bucket
        self.writer = S3Writer(
            S3Requests(
                label,
                self._address,
                self.client,
                None if signer is None else signer.sign_write,
                headers,
                bucket_url=f"{self._base}/",
            ),
            bucket,
            prefix,
            read_timeout_s=read_timeout_s,
            uploads=uploads,
        )

    def requesting(self, query: str, fields: HeaderFields) -> Origin:
        """The same objects, read with ``query``, percent-encoded, and ``fields``."""
        return _ParametrizedOrigin(self, query, fields)

    def _address(self, name: str) -> str:
        path = object_path(self._prefix, name)
        if not path:
            # A GET of the bucket itself would list it.
            raise OriginError(OriginFailure.NOT_FOUND, f"{self._label}: an object needs a name")
        return f"{self._base}/{path}"


class _ParametrizedOrigin:
    """The result of ``S3Origin.requesting``; it uses the origin's connections."""

    def __init__(self, origin: S3Origin, query: str, fields: HeaderFields) -> None:
        self._origin = origin
        self._query = query
        self._fields = fields

    async def head(self, name: str) -> OriginHead:
        return await self._origin.head(name, query=self._query, fields=self._fields)

    async def read(
        self,
        name: str,
        span: Span | None = None,
        *,
        if_match: Version | None = None,
        if_none_match: Version | None = None,
    ) -> OriginRead | None:
        return await self._origin.read(
            name,
            span,
            if_match=if_match,
            if_none_match=if_none_match,
            query=self._query,
            fields=self._fields,
        )

    async def close(self) -> None:
        """Does nothing: the connections belong to the origin."""


def bucket_url(bucket: str, region: str, endpoint: str = "", path_style: bool | None = None) -> str:
    """Base URL of a bucket: a path of the server with ``path_style``, else its own host
    (Amazon S3 User Guide, "Virtual hosting of general purpose buckets").

    None: a path at any ``endpoint``, a host on AWS. Raises ValueError for an invalid endpoint, or
    a bucket whose name is not a host name.
    """
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    server = parse_base_url(endpoint or f"https://s3.{region}.{domain}")
    if path_style is None:
        path_style = bool(endpoint) or not _HOST_LABEL.fullmatch(bucket)
    if path_style:
        return f"{server}/{quote(bucket, safe='~')}"
    if not _HOST_LABELS.fullmatch(bucket):
        raise ValueError("the bucket's name is not a host name, so it needs path_style")
    scheme, _, rest = server.partition("://")
    return parse_base_url(f"{scheme}://{bucket}.{rest}")


def _signer(region: str, access_key_id: str, secret_access_key: str) -> Signer:
    # The import of botocore takes 0.1 s and 20 MB, so only an origin that signs does it.
    from streamedge.origin.s3.signing import CredentialChain, GivenCredentials, Signer  # noqa: PLC0415

    if access_key_id:
        return Signer(region, GivenCredentials(access_key_id, secret_access_key))
    return Signer(region, CredentialChain())

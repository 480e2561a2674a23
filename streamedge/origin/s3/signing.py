"""AWS Signature Version 4, and the credentials to sign with.

Owns when credentials are looked up and renewed: never on the event loop's thread, and never in
the way of a request while the old ones still hold. The arithmetic is botocore's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, ReadOnlyCredentials, RefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from streamedge.errors import OriginError, OriginFailure

RENEWAL_URGENT_S = 600  # with less life than this left, requests wait for the renewal


class CredentialSource(Protocol):
    """Where a signer gets its keys."""

    async def current(self) -> ReadOnlyCredentials:
        """Keys that are valid now. Raises OriginError."""
        ...


class GivenCredentials:
    """Keys from the configuration."""

    def __init__(self, access_key_id: str, secret_access_key: str) -> None:
        self._keys = ReadOnlyCredentials(access_key_id, secret_access_key, None)

    async def current(self) -> ReadOnlyCredentials:
        return self._keys


def _search_chain() -> Credentials | None:
    return Session().get_credentials()


class CredentialChain:
    """Keys from AWS's chain, renewed by one thread at a time when their end comes near.

    ``search`` finds them; it may block and is run in a thread.
    """

    def __init__(self, search: Callable[[], Credentials | None] = _search_chain) -> None:
        self._search = search
        self._credentials: Credentials | None = None
        self._keys: ReadOnlyCredentials | None = None
        self._renewal: asyncio.Task[ReadOnlyCredentials] | None = None

    async def current(self) -> ReadOnlyCredentials:
        if self._keys is None or self._ends_within(RENEWAL_URGENT_S):
            # Shielded: one waiter that leaves must not take the keys from the others.
            return await asyncio.shield(self._renew())
        if self._ends_within(None):
            self._renew()
        return self._keys

    def _ends_within(self, time_s: int | None) -> bool:
        """Whether renewal is due ``time_s`` before the end (None: botocore's 15 minutes)."""
        return isinstance(
            self._credentials, RefreshableCredentials
        ) and self._credentials.refresh_needed(time_s)

    def _renew(self) -> asyncio.Task[ReadOnlyCredentials]:
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._fetch(), name="s3-credentials")
            self._renewal.add_done_callback(self._renewed)
        return self._renewal

    def _renewed(self, renewal: asyncio.Task[ReadOnlyCredentials]) -> None:
        self._renewal = None
        if not renewal.cancelled() and renewal.exception() is None:
            self._keys = renewal.result()
        # A failure reaches whoever waits. With nobody waiting the old keys still hold, and the
        # next request tries again.

    async def _fetch(self) -> ReadOnlyCredentials:
        try:
            if self._credentials is None:
                self._credentials = await asyncio.to_thread(self._search)
            if self._credentials is None:
                raise OriginError(
                    OriginFailure.FORBIDDEN, "the AWS credential chain holds no credentials"
                )
            return await asyncio.to_thread(self._credentials.get_frozen_credentials)
        except (BotoCoreError, ClientError, RuntimeError, OSError) as exc:
            # botocore raises RuntimeError for keys that have expired by the time they come.
            raise OriginError(
                OriginFailure.UNAVAILABLE,
                f"the AWS credential chain gave no credentials ({type(exc).__name__})",
            ) from exc


class _StreamedPayloadAuth(S3SigV4Auth):
    """Signs with a hash of the body that is told, not computed."""

    def __init__(self, keys: ReadOnlyCredentials, region: str, payload_sha256: str) -> None:
        super().__init__(keys, "s3", region)
        self._payload_sha256 = payload_sha256

    def payload(self, request: AWSRequest) -> str:
        return self._payload_sha256


class Signer:
    """Signs requests for one region."""

    def __init__(self, region: str, source: CredentialSource) -> None:
        self._region = region
        self._source = source

    async def sign(self, method: str, url: str, fields: Mapping[str, str]) -> dict[str, str]:
        """``fields`` and those that authorise ``method`` without a body on ``url``.

        Beside ``fields`` only Host and x-amz-* are signed: a proxy before the server may then
        rewrite Accept-Encoding and the like without breaking the signature. Raises OriginError.
        """
        keys = await self._source.current()
        return _signed(S3SigV4Auth(keys, "s3", self._region), method, url, fields)

    async def sign_write(
        self, method: str, url: str, fields: Mapping[str, str], payload_sha256: str
    ) -> dict[str, str]:
        """``fields``, which all begin with x-amz-, and those that authorise the request.

        ``payload_sha256`` is the body's SHA-256 in hex, or what S3 takes in its place
        (UNSIGNED-PAYLOAD, …). Raises OriginError.
        """
        keys = await self._source.current()
        auth = _StreamedPayloadAuth(keys, self._region, payload_sha256)
        return _signed(auth, method, url, fields)


def _signed(auth: S3SigV4Auth, method: str, url: str, fields: Mapping[str, str]) -> dict[str, str]:
    request = AWSRequest(method=method, url=url, headers=dict(fields))
    auth.add_auth(request)
    return {name: str(value) for name, value in request.headers.items()}

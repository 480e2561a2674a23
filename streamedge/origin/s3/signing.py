"""AWS Signature Version 4, and the credentials to sign with.

Credentials are looked up and renewed in threads, and no request waits for a renewal while the old
ones are valid. botocore computes the signatures.
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

RENEWAL_URGENT_S = 600  # requests wait for a renewal that is less than this before the expiry


class CredentialSource(Protocol):
    """A source of keys for a signer."""

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
    """Keys from AWS's credential chain, renewed by one thread at a time before they expire.

    ``search`` returns the credentials; it may block and runs in a thread.
    """

    def __init__(self, search: Callable[[], Credentials | None] = _search_chain) -> None:
        self._search = search
        self._credentials: Credentials | None = None
        self._keys: ReadOnlyCredentials | None = None
        self._renewal: asyncio.Task[ReadOnlyCredentials] | None = None

    async def current(self) -> ReadOnlyCredentials:
        if self._keys is None or self._expires_within(RENEWAL_URGENT_S):
            # Shielded: cancelling one waiter must not cancel the renewal for the others.
            return await asyncio.shield(self._renew())
        if self._expires_within(None):
            self._renew()
        return self._keys

    def _expires_within(self, time_s: int | None) -> bool:
        """Whether the keys expire within ``time_s`` (None: botocore's 15 minutes)."""
        return isinstance(
            self._credentials, RefreshableCredentials
        ) and self._credentials.refresh_needed(time_s)

    def _renew(self) -> asyncio.Task[ReadOnlyCredentials]:
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._fetch(), name="s3-credentials")
            self._renewal.add_done_callback(self._on_renewal_done)
        return self._renewal

    def _on_renewal_done(self, renewal: asyncio.Task[ReadOnlyCredentials]) -> None:
        self._renewal = None
        if not renewal.cancelled() and renewal.exception() is None:
            self._keys = renewal.result()
        # Waiters get a failure. Without waiters the old keys are still valid, and the next
        # request tries again.

    async def _fetch(self) -> ReadOnlyCredentials:
        try:
            if self._credentials is None:
                self._credentials = await asyncio.to_thread(self._search)
            if self._credentials is None:
                raise OriginError(
                    OriginFailure.FORBIDDEN, "the AWS credential chain has no credentials"
                )
            return await asyncio.to_thread(self._credentials.get_frozen_credentials)
        except (BotoCoreError, ClientError, RuntimeError, OSError) as exc:
            # botocore raises RuntimeError for new keys that have expired already.
            raise OriginError(
                OriginFailure.UNAVAILABLE,
                f"the AWS credential chain gave no credentials ({type(exc).__name__})",
            ) from exc


class _StreamedPayloadAuth(S3SigV4Auth):
    """Signs with a given hash of the body instead of computing it."""

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
        """``fields`` and those that authorise ``method`` on ``url`` without a body.

        Besides ``fields`` only Host and x-amz-* are signed, so that a proxy in front of the server
        may rewrite Accept-Encoding and the like. Raises OriginError.
        """
        keys = await self._source.current()
        return _signed(S3SigV4Auth(keys, "s3", self._region), method, url, fields)

    async def sign_write(
        self, method: str, url: str, fields: Mapping[str, str], payload_sha256: str
    ) -> dict[str, str]:
        """``fields``, which all begin with x-amz-, and those that authorise the request.

        ``payload_sha256`` is the body's SHA-256 in hex, or a value that S3 accepts instead
        (UNSIGNED-PAYLOAD, …). Raises OriginError.
        """
        keys = await self._source.current()
        auth = _StreamedPayloadAuth(keys, self._region, payload_sha256)
        return _signed(auth, method, url, fields)


def _signed(auth: S3SigV4Auth, method: str, url: str, fields: Mapping[str, str]) -> dict[str, str]:
    request = AWSRequest(method=method, url=url, headers=dict(fields))
    auth.add_auth(request)
    return {name: str(value) for name, value in request.headers.items()}

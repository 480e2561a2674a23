"""Signatures, and credentials that are renewed in the background."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from threading import Event

import pytest
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import CredentialRetrievalError

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin.s3.signing import CredentialChain, GivenCredentials, Signer
from tests.support.patience import PATIENCE_S


class Renewals:
    """A credential service that returns k1, k2, …, each valid for ``life``."""

    def __init__(self, life: timedelta) -> None:
        self.life = life
        self.count = 0
        self.requested = Event()
        self.go_on = Event()
        self.go_on.set()
        self.fails = False

    def search(self) -> Credentials:
        return RefreshableCredentials.create_from_metadata(
            self.renew(), refresh_using=self.renew, method="test"
        )

    def renew(self) -> dict[str, str]:
        self.requested.set()
        assert self.go_on.wait(PATIENCE_S)
        if self.fails:
            raise CredentialRetrievalError(provider="test", error_msg="secret inside")
        self.count += 1
        return {
            "access_key": f"k{self.count}",
            "secret_key": "secret",
            "token": "token",
            "expiry_time": (datetime.now(UTC) + self.life).isoformat(),
        }


async def key_of(chain: CredentialChain) -> str | None:
    return (await chain.current()).access_key


async def test_session_token_is_sent_and_signed() -> None:
    renewals = Renewals(timedelta(hours=1))
    fields = await Signer("us-east-1", CredentialChain(renewals.search)).sign(
        "GET", "https://videos.s3.us-east-1.amazonaws.com/a", {}
    )
    assert fields["X-Amz-Security-Token"] == "token"
    assert "x-amz-security-token" in fields["Authorization"]


async def test_configured_keys_sign_without_a_token() -> None:
    fields = await Signer("us-east-1", GivenCredentials("AKID", "secret")).sign(
        "HEAD", "http://127.0.0.1:9000/videos/a%20b", {}
    )
    assert fields.keys() == {"Authorization", "X-Amz-Date", "X-Amz-Content-SHA256"}


async def test_writes_sign_their_object_fields() -> None:
    fields = await Signer("us-east-1", GivenCredentials("AKID", "secret")).sign_write(
        "PUT",
        "http://127.0.0.1:9000/videos/a?partNumber=1&uploadId=u",
        {"x-amz-meta-title": "film"},
        "UNSIGNED-PAYLOAD",
    )
    assert fields["x-amz-meta-title"] == "film"
    assert fields["X-Amz-Content-SHA256"] == "UNSIGNED-PAYLOAD"
    signed = "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-meta-title,"
    assert signed in fields["Authorization"]


async def test_chain_is_searched_once() -> None:
    renewals = Renewals(timedelta(hours=1))
    chain = CredentialChain(renewals.search)
    keys = await asyncio.gather(*(key_of(chain) for _ in range(10)))
    assert keys == ["k1"] * 10
    assert await key_of(chain) == "k1"
    assert renewals.count == 1


async def test_keys_that_end_soon_serve_while_new_ones_are_fetched() -> None:
    renewals = Renewals(timedelta(minutes=12))  # between botocore's 15 and its urgent 10
    chain = CredentialChain(renewals.search)
    assert await key_of(chain) in ("k1", "k2")  # botocore itself may have renewed at once
    renewals.go_on.clear()
    renewals.life = timedelta(hours=1)
    before = renewals.count
    assert await key_of(chain) == f"k{before}"
    assert await key_of(chain) == f"k{before}"
    renewals.go_on.set()
    await asyncio.gather(*(task for task in asyncio.all_tasks() if "s3-cred" in task.get_name()))
    assert await key_of(chain) == f"k{before + 1}"
    assert renewals.count == before + 1


async def test_cancelled_waiter_does_not_cancel_the_credential_search() -> None:
    renewals = Renewals(timedelta(hours=1))
    renewals.go_on.clear()
    chain = CredentialChain(renewals.search)
    leaving, staying = (asyncio.create_task(key_of(chain)) for _ in range(2))
    await asyncio.to_thread(renewals.requested.wait, 10)
    leaving.cancel()
    renewals.go_on.set()
    assert await staying == "k1"
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_missing_credentials_are_forbidden_and_searched_again() -> None:
    results: list[Credentials | None] = [None, Credentials("k", "s")]
    chain = CredentialChain(lambda: results.pop(0))
    with pytest.raises(OriginError) as caught:
        await chain.current()
    assert caught.value.failure is OriginFailure.FORBIDDEN
    assert await key_of(chain) == "k"


async def test_failed_search_is_unavailable_and_keeps_its_cause() -> None:
    renewals = Renewals(timedelta(hours=1))
    renewals.fails = True
    chain = CredentialChain(renewals.search)
    with pytest.raises(OriginError) as caught:
        await chain.current()
    assert caught.value.failure is OriginFailure.UNAVAILABLE
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value.__cause__, CredentialRetrievalError)
    renewals.fails = False
    assert await key_of(chain) == "k1"

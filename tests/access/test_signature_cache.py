"""The signature cache: no second verification, and no use of entries of other keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import cast

from streamedge.access.admission import Denied, Grant, SignatureCache, verify
from streamedge.access.keys import HashName, PublicKey
from tests.support.http.signers import Signer, custom_policy, rsa_signer

NOW_S = 1_700_000_000
UNTIL_S = NOW_S + 60
SIGNER = rsa_signer("K1")


@dataclass(eq=False)
class CountingKey:
    """A public key that records the messages that it verifies."""

    key: PublicKey
    messages: list[bytes] = field(default_factory=list)

    @property
    def key_id(self) -> str:
        return self.key.key_id

    @property
    def fingerprint(self) -> str:
        return self.key.fingerprint

    def verifies(self, signature: bytes, message: bytes, hash_name: HashName) -> bool:
        self.messages.append(message)
        return self.key.verifies(signature, message, hash_name)


def _decide(
    key: object, signed: str, signatures: SignatureCache, cookies: str = ""
) -> Grant | Denied:
    name, _, query = signed.partition("?")
    keys = {"K1": cast("PublicKey", key)}
    return verify(keys, query, cookies, [name], ip_address("::1"), NOW_S, signatures)


def test_canned_policy_is_verified_once() -> None:
    key, signatures = CountingKey(SIGNER.public), SignatureCache()
    signed = SIGNER.url("dir/film", expires_s=UNTIL_S)
    grants = [_decide(key, signed, signatures) for _ in range(3)]
    assert grants[0] is grants[1] is grants[2]
    assert isinstance(grants[0], Grant)
    assert len(key.messages) == 1


def test_custom_policy_is_verified_once_for_all_its_resources() -> None:
    key, signatures = CountingKey(SIGNER.public), SignatureCache()
    policy = custom_policy("dir/*", UNTIL_S)
    cookies = SIGNER.cookies(policy=policy)
    for number in range(3):
        assert isinstance(_decide(key, f"dir/{number}.ts", signatures, cookies), Grant)
        assert isinstance(
            _decide(key, SIGNER.url(f"dir/{number}", policy=policy), signatures), Grant
        )
    assert _decide(key, "elsewhere/3.ts", signatures, cookies) == Denied(
        "policy is for another resource"
    )
    assert len(key.messages) == 1


def test_refused_signature_is_not_cached() -> None:
    key, signatures = CountingKey(SIGNER.public), SignatureCache()
    for signed in (
        SIGNER.url("dir/film", expires_s=UNTIL_S).replace("dir/film", "dir/film2"),
        SIGNER.url("dir/film", policy="{"),
    ):
        for _ in range(2):
            assert isinstance(_decide(key, signed, signatures), Denied)
    assert len(signatures) == 0
    assert len(key.messages) == 4


def test_cached_canned_policy_is_valid_for_its_resource_only() -> None:
    signatures = SignatureCache()
    signed = SIGNER.url("dir/film", expires_s=UNTIL_S)
    assert isinstance(_decide(SIGNER.public, signed, signatures), Grant)
    assert _decide(SIGNER.public, signed.replace("dir/", "other/"), signatures) == Denied(
        "signature does not match"
    )


def test_cached_signature_of_a_removed_key_is_denied() -> None:
    signatures = SignatureCache()
    signed = SIGNER.url("dir/film", expires_s=UNTIL_S)
    assert isinstance(_decide(SIGNER.public, signed, signatures), Grant)
    query = signed.partition("?")[2]
    result = verify({}, query, "", ["dir/film"], ip_address("::1"), NOW_S, signatures)
    assert result == Denied("key is not trusted")


def test_cached_signature_is_not_valid_for_a_replaced_key() -> None:
    signatures = SignatureCache()
    replacement = Signer("K1", rsa_signer("K2").private)
    for signed in (
        SIGNER.url("dir/film", expires_s=UNTIL_S),
        SIGNER.url("dir/film", policy=custom_policy("*", UNTIL_S)),
    ):
        assert isinstance(_decide(SIGNER.public, signed, signatures), Grant)
        assert _decide(replacement.public, signed, signatures) == Denied("signature does not match")
        assert isinstance(_decide(SIGNER.public, signed, signatures), Grant)


def test_cached_signature_is_valid_for_a_reloaded_key() -> None:
    key, signatures = CountingKey(SIGNER.public), SignatureCache()
    signed = SIGNER.url("dir/film", expires_s=UNTIL_S)
    assert isinstance(_decide(SIGNER.public, signed, signatures), Grant)
    assert isinstance(_decide(key, signed, signatures), Grant)
    assert key.messages == []


def test_least_recently_used_entries_are_dropped_first() -> None:
    key, signatures = CountingKey(SIGNER.public), SignatureCache(limit=2)
    one, two, three = (SIGNER.url(f"dir/{n}", expires_s=UNTIL_S) for n in range(3))
    for signed in (one, two, one, three):
        _decide(key, signed, signatures)
    assert len(signatures) == 2
    assert len(key.messages) == 3
    _decide(key, one, signatures)
    assert len(key.messages) == 3
    _decide(key, two, signatures)
    assert len(key.messages) == 4

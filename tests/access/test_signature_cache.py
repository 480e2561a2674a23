"""What is remembered is not verified anew; what may no longer be used is not found."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import cast

from streamedge.access.admission import Denied, Grant, SignatureCache, verify
from streamedge.access.keys import HashName, PublicKey
from tests.support.signers import Signer, custom_policy, rsa_signer

NOW_S = 1_700_000_000
UNTIL_S = NOW_S + 60
SIGNER = rsa_signer("K1")


@dataclass(eq=False)
class CountingKey:
    """A public key that counts how often it is asked."""

    key: PublicKey
    asked: list[bytes] = field(default_factory=list)

    @property
    def key_id(self) -> str:
        return self.key.key_id

    @property
    def fingerprint(self) -> str:
        return self.key.fingerprint

    def verifies(self, signature: bytes, message: bytes, hash_name: HashName) -> bool:
        self.asked.append(message)
        return self.key.verifies(signature, message, hash_name)


def _ask(key: object, signed: str, remembered: SignatureCache, cookies: str = "") -> Grant | Denied:
    name, _, query = signed.partition("?")
    keys = {"K1": cast("PublicKey", key)}
    return verify(keys, query, cookies, [name], ip_address("::1"), NOW_S, remembered)


def test_a_canned_policy_is_verified_once() -> None:
    key, remembered = CountingKey(SIGNER.public), SignatureCache()
    signed = SIGNER.url("dir/film", expires_s=UNTIL_S)
    grants = [_ask(key, signed, remembered) for _ in range(3)]
    assert grants[0] is grants[1] is grants[2]
    assert isinstance(grants[0], Grant)
    assert len(key.asked) == 1


def test_a_custom_policy_is_verified_once_for_all_that_it_covers() -> None:
    key, remembered = CountingKey(SIGNER.public), SignatureCache()
    policy = custom_policy("dir/*", UNTIL_S)
    cookies = SIGNER.cookies(policy=policy)
    for number in range(3):
        assert isinstance(_ask(key, f"dir/{number}.ts", remembered, cookies), Grant)
        assert isinstance(_ask(key, SIGNER.url(f"dir/{number}", policy=policy), remembered), Grant)
    assert _ask(key, "elsewhere/3.ts", remembered, cookies) == Denied(
        "policy is for another resource"
    )
    assert len(key.asked) == 1


def test_what_was_refused_is_not_remembered() -> None:
    key, remembered = CountingKey(SIGNER.public), SignatureCache()
    for signed in (
        SIGNER.url("dir/film", expires_s=UNTIL_S).replace("dir/film", "dir/film2"),
        SIGNER.url("dir/film", policy="{"),
    ):
        for _ in range(2):
            assert isinstance(_ask(key, signed, remembered), Denied)
    assert len(remembered) == 0
    assert len(key.asked) == 4


def test_one_resource_s_signature_is_not_another_s() -> None:
    remembered = SignatureCache()
    signed = SIGNER.url("dir/film", expires_s=UNTIL_S)
    assert isinstance(_ask(SIGNER.public, signed, remembered), Grant)
    assert _ask(SIGNER.public, signed.replace("dir/", "other/"), remembered) == Denied(
        "signature does not match"
    )


def test_a_key_that_was_removed_is_not_found_again() -> None:
    remembered = SignatureCache()
    signed = SIGNER.url("dir/film", expires_s=UNTIL_S)
    assert isinstance(_ask(SIGNER.public, signed, remembered), Grant)
    query = signed.partition("?")[2]
    gone = verify({}, query, "", ["dir/film"], ip_address("::1"), NOW_S, remembered)
    assert gone == Denied("key is not trusted")


def test_another_key_under_the_same_id_is_another() -> None:
    remembered = SignatureCache()
    replaced = Signer("K1", rsa_signer("K2").private)
    for signed in (
        SIGNER.url("dir/film", expires_s=UNTIL_S),
        SIGNER.url("dir/film", policy=custom_policy("*", UNTIL_S)),
    ):
        assert isinstance(_ask(SIGNER.public, signed, remembered), Grant)
        assert _ask(replaced.public, signed, remembered) == Denied("signature does not match")
        assert isinstance(_ask(SIGNER.public, signed, remembered), Grant)


def test_a_key_that_was_read_again_keeps_what_is_remembered() -> None:
    key, remembered = CountingKey(SIGNER.public), SignatureCache()
    signed = SIGNER.url("dir/film", expires_s=UNTIL_S)
    assert isinstance(_ask(SIGNER.public, signed, remembered), Grant)
    assert isinstance(_ask(key, signed, remembered), Grant)
    assert key.asked == []


def test_those_unused_for_longest_go_first() -> None:
    key, remembered = CountingKey(SIGNER.public), SignatureCache(limit=2)
    one, two, three = (SIGNER.url(f"dir/{n}", expires_s=UNTIL_S) for n in range(3))
    for signed in (one, two, one, three):
        _ask(key, signed, remembered)
    assert len(remembered) == 2
    assert len(key.asked) == 3
    _ask(key, one, remembered)
    assert len(key.asked) == 3
    _ask(key, two, remembered)
    assert len(key.asked) == 4

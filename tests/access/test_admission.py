"""The access decision: valid signatures are granted, any change of them is denied."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.access.admission import (
    OPEN,
    RESOURCES_LIMIT,
    AccessRules,
    Authorized,
    CountryRule,
    Denied,
    Grant,
    SignatureCache,
    authorize,
    verify,
)
from streamedge.access.keys import HashName, PublicKey
from tests.support.http.signers import Signer, custom_policy, ecdsa_signer, rsa_signer, url_safe

URL = "https://d111111abcdef8.cloudfront.net/videos/film.mp4"
NOW_S = 1_700_000_000
UNTIL_S = NOW_S + 3_600
HERE = "192.0.2.7"

SIGNERS = pytest.mark.parametrize(
    "signer",
    [
        make("K1", hash_name)
        for make in (rsa_signer, ecdsa_signer)
        for hash_name in ("SHA1", "SHA256")
    ],
    ids=["RSA-SHA1", "RSA-SHA256", "ECDSA-SHA1", "ECDSA-SHA256"],
)
SIGNER = rsa_signer("K1")


def decide(
    signed: str,
    *,
    keys: Mapping[str, PublicKey] | None = SIGNER.keys,
    cookies: str = "",
    resources: Sequence[str] | None = None,
    address: str = HERE,
    now_s: float = NOW_S,
    signatures: SignatureCache | None = None,
) -> Grant | Denied:
    """The decision for a signed URL or stream name, or for cookies with a plain name."""
    name, _, query = signed.partition("?")
    return verify(
        keys,
        query,
        cookies,
        [name] if resources is None else resources,
        ip_address(address),
        now_s,
        SignatureCache() if signatures is None else signatures,
    )


def grant_until(until_s: float = UNTIL_S, from_s: float = 0, *networks: str) -> Grant:
    return Grant(until_s, from_s, tuple(map(ip_network, networks)), "K1")


@SIGNERS
@pytest.mark.parametrize("name", [URL, "dir/film"])
def test_url_signed_by_botocore_is_granted(signer: Signer, name: str) -> None:
    canned = signer.url(name, expires_s=UNTIL_S)
    custom = signer.url(name, policy=custom_policy(name, UNTIL_S, from_s=5, networks=f"{HERE}/32"))
    assert decide(canned, keys=signer.keys) == grant_until()
    assert decide(custom, keys=signer.keys) == grant_until(UNTIL_S, 5, f"{HERE}/32")


@SIGNERS
def test_signed_cookies_are_granted(signer: Signer) -> None:
    canned = signer.cookies(policy=canned_policy_text(URL), expires_s=UNTIL_S)
    custom = signer.cookies(policy=custom_policy("https://*/videos/*", UNTIL_S))
    for cookies in (canned, custom, f"a=b; {custom}; c=d"):
        assert decide(URL, keys=signer.keys, cookies=cookies) == grant_until()


def canned_policy_text(resource: str) -> str:
    """The text of a canned policy, as in the Developer Guide."""
    return (
        f'{{"Statement":[{{"Resource":"{resource}","Condition":{{"DateLessThan":'
        f'{{"AWS:EpochTime":{UNTIL_S}}}}}}}]}}'
    )


def test_url_with_its_own_query_is_granted() -> None:
    own = f"{URL}?size=large&license=yes"
    for signed in (
        SIGNER.url(own, expires_s=UNTIL_S),
        SIGNER.url(own, policy=custom_policy(own, UNTIL_S)),
        SIGNER.url(own, policy=custom_policy(own.replace("?", r"\?"), UNTIL_S)),
    ):
        assert decide(signed, resources=[own]) == grant_until()
        assert isinstance(decide(signed, resources=[f"{own}x", URL]), Denied)
    open_ended = SIGNER.url(own, policy=custom_policy(f"{URL}*", UNTIL_S))
    assert decide(open_ended, resources=[f"{own}x"]) == grant_until()


@pytest.mark.parametrize("resource", ["*", None, "", "https://*", "http*://*/videos/*.mp4"])
def test_policy_for_many_resources_is_granted(resource: str | None) -> None:
    assert decide(SIGNER.url(URL, policy=custom_policy(resource, UNTIL_S))) == grant_until()


def test_any_form_of_the_resource_may_be_signed_within_the_limit() -> None:
    signed = SIGNER.url("dir/film", expires_s=UNTIL_S)
    forms = ["dir/film.mp4", "/dir/film.mp4", "/dir/film", "dir/film"]
    assert decide(signed, resources=forms) == grant_until()
    assert decide(signed, resources=forms[:3]) == Denied("signature does not match")
    many = [f"film{number}" for number in range(RESOURCES_LIMIT)]
    assert decide(signed, resources=[*many[1:], "dir/film"]) == grant_until()
    assert decide(signed, resources=[*many, "dir/film"]) == Denied("signature does not match")
    assert decide(signed, resources=[]) == Denied("signature does not match")


def test_authorize_returns_the_resources_of_the_signature() -> None:
    address = ip_address("192.0.2.7")
    names = ["a.mp4", "b.mp4", "b.flv"]
    for signed, expected in (
        (SIGNER.url("b.mp4", expires_s=UNTIL_S), ("b.mp4",)),
        (SIGNER.url("x", policy=custom_policy("*.mp4", UNTIL_S)), ("a.mp4", "b.mp4")),
    ):
        query = signed.partition("?")[2]
        signatures = SignatureCache()
        for _ in range(2):  # the second time from the cache
            result = authorize(SIGNER.keys, query, "", names, address, UNTIL_S - 1, signatures)
            assert isinstance(result, Authorized)
            assert result.resources == expected
            assert result.grant.until_s == UNTIL_S


def test_non_ascii_name_costs_two_verifications() -> None:
    signed = SIGNER.url("dir/film", expires_s=UNTIL_S)
    many = [f"fílm{number}" for number in range(RESOURCES_LIMIT // 2)]
    assert decide(signed, resources=[*many[1:], "dir/film"]) == grant_until()
    assert decide(signed, resources=[*many, "dir/film"]) == Denied("signature does not match")


def test_non_ascii_name_may_be_signed_escaped_or_as_utf_8() -> None:
    escaped = SIGNER.url("dir/fílm", expires_s=UNTIL_S)
    assert decide(escaped) == grant_until()
    plain = url_safe(SIGNER.sign(canned_policy_text("dir/fílm").encode()))
    assert decide(f"dir/fílm?Expires={UNTIL_S}&Signature={plain}&Key-Pair-Id=K1") == grant_until()
    assert decide(f"dir/film?Expires={UNTIL_S}&Signature={plain}&Key-Pair-Id=K1") == Denied(
        "signature does not match"
    )


def test_open_resource_needs_no_signature() -> None:
    assert AccessRules() == AccessRules(None, None)
    assert decide(URL, keys=None) is OPEN
    assert decide(f"{URL}?Signature=x", keys=None) is OPEN
    assert Grant(inf, 0, (), "") == OPEN


def test_empty_key_set_denies_everyone() -> None:
    assert decide(URL, keys={}) == Denied("not signed")
    assert decide(SIGNER.url(URL, expires_s=UNTIL_S), keys={}) == Denied("key is not trusted")


@pytest.mark.parametrize(
    ("now_s", "reason"),
    [
        (NOW_S - 0.5, "not yet valid"),
        (NOW_S, ""),
        (UNTIL_S - 0.5, ""),
        (UNTIL_S, "expired"),
        (UNTIL_S + 900_000, "expired"),
        (0, "not yet valid"),
    ],
)
def test_policy_is_valid_within_its_time(now_s: float, reason: str) -> None:
    custom = SIGNER.url(URL, policy=custom_policy(URL, UNTIL_S, from_s=NOW_S))
    signatures = SignatureCache()
    for _ in range(2):
        result = decide(custom, now_s=now_s, signatures=signatures)
        assert result == (Denied(reason) if reason else grant_until(UNTIL_S, NOW_S))
    if reason == "expired":
        assert decide(SIGNER.url(URL, expires_s=UNTIL_S), now_s=now_s) == Denied("expired")


def test_cached_signature_expires_too() -> None:
    signed, signatures = SIGNER.url(URL, expires_s=UNTIL_S), SignatureCache()
    assert decide(signed, signatures=signatures) == grant_until()
    assert decide(signed, signatures=signatures, now_s=UNTIL_S) == Denied("expired")


@pytest.mark.parametrize(
    ("networks", "address", "is_allowed"),
    [
        ("192.0.2.0/24", "192.0.2.255", True),
        ("192.0.2.0/24", "192.0.3.0", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.0/24", "::ffff:192.0.2.7", True),
        ("192.0.2.0/24", "2001:db8::1", False),
        ("2001:db8::/32", "2001:db8::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("2001:db8::/32", "192.0.2.7", False),
        (["198.51.100.0/24", "2001:db8::/32", "192.0.2.0/24"], "192.0.2.7", True),
        (["198.51.100.0/24", "2001:db8::/32"], "192.0.2.7", False),
        ("0.0.0.0/0", "2001:db8::1", True),
    ],
)
def test_policy_is_valid_for_its_networks(networks: object, address: str, is_allowed: bool) -> None:
    signed = SIGNER.url(URL, policy=custom_policy(URL, UNTIL_S, networks=networks))
    result = decide(signed, address=address)
    if is_allowed:
        assert isinstance(result, Grant)
        assert result.holds(ip_address(address), NOW_S)
    else:
        assert result == Denied("address is not allowed")


def test_grant_holds_for_its_time_and_networks() -> None:
    grant = grant_until(UNTIL_S, NOW_S, "192.0.2.0/24")
    assert grant.holds(ip_address(HERE), NOW_S)
    assert not grant.holds(ip_address(HERE), NOW_S - 1)
    assert not grant.holds(ip_address(HERE), UNTIL_S)
    assert not grant.holds(ip_address("10.0.0.1"), NOW_S)
    assert OPEN.holds(ip_address("::1"), 0)


def test_signed_url_takes_precedence_over_cookies() -> None:
    good = SIGNER.cookies(policy=custom_policy("*", UNTIL_S))
    bad = SIGNER.cookies(policy=custom_policy("*", NOW_S))
    expired = SIGNER.url(URL, expires_s=NOW_S)
    assert decide(expired, cookies=good) == Denied("expired")
    assert decide(f"{URL}?Key-Pair-Id=K1", cookies=good) == Denied("Signature is missing")
    assert decide(SIGNER.url(URL, expires_s=UNTIL_S), cookies=bad) == grant_until()
    assert decide(f"{URL}?Expires=1", cookies=good) == grant_until()
    assert decide(URL, cookies=bad) == Denied("expired")


def test_signature_by_another_key_is_denied() -> None:
    other = rsa_signer("K2")
    renamed = Signer("K1", other.private)
    for policy in (None, custom_policy(URL, UNTIL_S)):
        expires_s = UNTIL_S if policy is None else None
        signed = other.url(URL, expires_s=expires_s, policy=policy)
        assert decide(signed) == Denied("key is not trusted")
        assert decide(signed, keys={**SIGNER.keys, **other.keys}) == Grant(UNTIL_S, 0, (), "K2")
        signed = renamed.url(URL, expires_s=expires_s, policy=policy)
        assert decide(signed) == Denied("signature does not match")


def test_signature_for_another_resource_is_denied() -> None:
    canned = SIGNER.url(URL, expires_s=UNTIL_S)
    custom = SIGNER.url(URL, policy=custom_policy(URL, UNTIL_S))
    assert decide(canned, resources=[f"{URL}x"]) == Denied("signature does not match")
    assert decide(custom, resources=[f"{URL}x"]) == Denied("policy is for another resource")


def test_signature_of_a_custom_policy_is_not_valid_for_a_canned_one() -> None:
    """The signature of a policy with a wildcard, sent with the parameters of a canned one."""
    policy = custom_policy("https://*", UNTIL_S)
    signature = url_safe(SIGNER.sign(policy.encode()))
    url = f"{URL}?Expires={UNTIL_S}&Signature={signature}&Key-Pair-Id=K1"
    assert decide(url) == Denied("signature does not match")
    assert decide(url.replace(str(UNTIL_S), str(UNTIL_S + 1))) == Denied("signature does not match")


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("{", "policy is not JSON"),
        ("[" * 3_000, "policy is nested too deeply"),
        (custom_policy(URL, float("nan")), "policy has a number that is not whole"),
        (custom_policy(URL, 10**30), "policy has a number that is too large"),
        (custom_policy(URL, NOW_S * 1_000), "DateLessThan is not a number of seconds since 1970"),
        (json.dumps({"Statement": []}), "policy does not have exactly one statement"),
    ],
)
def test_invalid_signed_policy_is_denied(policy: str, reason: str) -> None:
    assert decide(SIGNER.url(URL, policy=policy)) == Denied(reason)


def test_policy_is_not_parsed_before_its_signature_is_verified() -> None:
    signed = SIGNER.url(URL, policy="{").replace("K1", "K2")
    assert decide(signed, keys=rsa_signer("K2").keys) == Denied("signature does not match")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[:-1], "signature is malformed"),
        (lambda text: text[:-2], "signature is malformed"),
        (lambda text: text[:-4] + "____", "signature is malformed"),
        (lambda text: text.replace("_", "="), "signature is malformed"),
        (lambda text: text.replace("_", "%5F"), "signature is malformed"),
        (lambda text: text + "AAAA", "signature is malformed"),
        (lambda text: text[:100], "signature does not match"),
        (lambda text: text[4:], "signature does not match"),
        (lambda text: "AAAA" + text, "signature does not match"),
        (lambda text: text[:99].swapcase() + text[99:], "signature does not match"),
        (lambda text: url_safe(text.encode()), "signature does not match"),
        (lambda text: text + "A" * 9_000, "signature is too long"),
        (lambda text: "é" + text[1:], "signature is malformed"),
        (lambda text: "\ud800" + text[1:], "signature is malformed"),
    ],
)
def test_damaged_signature_is_denied(damage: Callable[[str], str], reason: str) -> None:
    for signed in (
        SIGNER.url(URL, expires_s=UNTIL_S),
        SIGNER.url(URL, policy=custom_policy(URL, UNTIL_S)),
    ):
        before, name, rest = signed.partition("Signature=")
        signature, mark, after = rest.partition("&")
        assert decide(f"{before}{name}{damage(signature)}{mark}{after}") == Denied(reason)


SIGNED_NAMES = [
    signer.url(name, **how)
    for name in (URL, f"{URL}?size=large", "dir/film.mp4")
    for signer in (rsa_signer("K1", "SHA256"), ecdsa_signer("K1", "SHA1"))
    for how in (
        {"expires_s": UNTIL_S},
        {"policy": custom_policy(name, UNTIL_S, from_s=5, networks=f"{HERE}/32")},
    )
]


SIGNATURE_PARAMETERS = {"Expires", "Policy", "Signature", "Key-Pair-Id", "Hash-Algorithm"}


def _without_signature(signed: str) -> str:
    """The name without its signature, computed without the code under test."""
    name, _, query = signed.partition("?")
    own = [part for part in query.split("&") if part.partition("=")[0] not in SIGNATURE_PARAMETERS]
    return f"{name}?{'&'.join(own)}" if own else name


@pytest.mark.parametrize("signed", SIGNED_NAMES)
@given(at=st.integers(0, 10_000), by=st.integers(1, 255))
def test_signed_url_with_one_byte_changed_is_denied(signed: str, at: int, by: int) -> None:
    index = at % len(signed)
    changed = signed[:index] + chr(ord(signed[index]) ^ by) + signed[index + 1 :]
    signer = rsa_signer("K1") if "SHA256" in signed else ecdsa_signer("K1")
    signatures = SignatureCache()
    for text, expected in ((signed, Grant), (changed, Denied), (signed, Grant)):
        resources = [_without_signature(text)]
        result = decide(text, keys=signer.keys, resources=resources, signatures=signatures)
        assert isinstance(result, expected), text


@given(query=st.text(max_size=200), cookies=st.text(max_size=200), resource=st.text(max_size=80))
def test_any_query_and_cookies_are_denied_without_an_error(
    query: str, cookies: str, resource: str
) -> None:
    assert isinstance(decide(f"{URL}?{query}", cookies=cookies, resources=[resource]), Denied)


@given(
    st.dictionaries(
        st.sampled_from(["Policy", "Expires", "Signature", "Key-Pair-Id", "Hash-Algorithm"]),
        st.sampled_from(["", "K1", "SHA1", "QQ__", "1", str(UNTIL_S)])
        | st.text(max_size=20)
        | st.binary(max_size=300).map(url_safe),
    ),
    st.text(max_size=20),
)
def test_any_signature_parameters_are_denied_without_an_error(
    fields: dict[str, str], name: str
) -> None:
    query = "&".join(f"{field}={value}" for field, value in fields.items())
    assert isinstance(decide(f"{URL}?{query}", resources=[name]), Denied)
    cookies = "; ".join(f"CloudFront-{field}={value}" for field, value in fields.items())
    assert isinstance(decide(URL, cookies=cookies, resources=[name]), Denied)


@pytest.mark.parametrize(
    ("rule", "allowed", "refused"),
    [
        (CountryRule(frozenset({"DE", "FR"}), True, False), ["DE", "FR"], ["US", ""]),
        (CountryRule(frozenset({"DE", "FR"}), True, True), ["DE", ""], ["US"]),
        (CountryRule(frozenset({"DE"}), False, False), ["US"], ["DE", ""]),
        (CountryRule(frozenset({"DE"}), False, True), ["US", ""], ["DE"]),
    ],
)
def test_country_rule_allows_and_refuses_countries(
    rule: CountryRule, allowed: list[str], refused: list[str]
) -> None:
    assert all(rule.allows(country) for country in allowed)
    assert not any(rule.allows(country) for country in refused)


def test_hash_algorithm_is_sha1_or_sha256() -> None:
    signed = rsa_signer("K1", "SHA256").url(URL, expires_s=UNTIL_S)
    hash_names: list[HashName] = ["SHA1", "SHA256"]
    for hash_name in hash_names:
        url = signed.replace("SHA256", hash_name)
        assert isinstance(decide(url), Grant) is (hash_name == "SHA256")
    assert decide(signed.replace("&Hash-Algorithm=SHA256", "")) == Denied(
        "signature does not match"
    )

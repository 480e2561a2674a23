"""Policies: parsing, reasons of refusal, and the bytes of canned policies."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from ipaddress import ip_network

import pytest
from botocore.signers import CloudFrontSigner
from hypothesis import given
from hypothesis import strategies as st

from streamedge.access.policy import (
    DEPTH_LIMIT,
    EPOCH_MAX_S,
    NETWORKS_LIMIT,
    POLICY_LIMIT_BYTES,
    Policy,
    PolicyError,
    canned_messages,
    canned_policy,
    parse_policy,
)
from tests.support.http.signers import custom_policy

URL = "https://d111111abcdef8.cloudfront.net/film.mp4"
UNTIL_S = 1_357_034_400
MINIMAL = custom_policy(URL, UNTIL_S)


@pytest.mark.parametrize("as_list", [True, False])
def test_policy_with_all_members_parses(as_list: bool) -> None:
    text = custom_policy(URL, UNTIL_S, from_s=5, networks="192.0.2.0/24", as_list=as_list)
    assert parse_policy(text.encode()) == Policy(URL, UNTIL_S, 5, (ip_network("192.0.2.0/24"),))


def test_policy_with_required_members_parses() -> None:
    assert parse_policy(custom_policy(None, UNTIL_S).encode()) == Policy("", UNTIL_S, 0, ())


def test_white_space_and_escapes_of_json_are_accepted() -> None:
    formatted = json.dumps(json.loads(MINIMAL), indent=3).replace("/", r"\/")
    assert parse_policy(formatted.encode()) == parse_policy(MINIMAL.encode())


@pytest.mark.parametrize(
    ("source", "networks"),
    [
        ("192.0.2.7", ["192.0.2.7/32"]),
        ("192.0.2.7/32", ["192.0.2.7/32"]),
        ("192.168.0.1/24", ["192.168.0.0/24"]),  # as the Java SDK's example has it
        ("2001:db8::/32", ["2001:db8::/32"]),
        (["192.0.2.0/24", "2001:db8::1"], ["192.0.2.0/24", "2001:db8::1/128"]),
        ("0.0.0.0/0", []),  # what SDKs write for any address
        (["192.0.2.0/24", "0.0.0.0/0"], []),
    ],
)
def test_networks_are_parsed(source: object, networks: list[str]) -> None:
    parsed = parse_policy(custom_policy(URL, UNTIL_S, networks=source).encode())
    assert parsed.networks == tuple(map(ip_network, networks))


def test_brackets_inside_of_strings_and_beside_each_other_are_not_nested() -> None:
    resource = URL + r"?\"" + "[{" * DEPTH_LIMIT
    text = custom_policy(resource, UNTIL_S)
    assert parse_policy(text.encode()).resource == resource

    siblings = "[" + ",".join(["{}"] * 2 * DEPTH_LIMIT) + "]"
    with pytest.raises(PolicyError, match="exactly one statement"):
        parse_policy(f'{{"Statement":{siblings}}}'.encode())


def test_policy_at_its_limits_parses() -> None:
    networks = [f"192.0.2.{number}" for number in range(NETWORKS_LIMIT)]
    text = custom_policy(URL, EPOCH_MAX_S, from_s=0, networks=networks)
    policy = parse_policy(text.encode())
    assert (policy.until_s, policy.from_s, len(policy.networks)) == (EPOCH_MAX_S, 0, NETWORKS_LIMIT)

    deep = "[" * (DEPTH_LIMIT - 1) + "]" * (DEPTH_LIMIT - 1)
    with pytest.raises(PolicyError, match="statement is not a JSON object"):
        parse_policy(f'{{"Statement":[{deep[1:-1]}]}}'.encode())


def _statement(**members: object) -> str:
    return json.dumps({"Statement": [members]})


UNTIL = {"DateLessThan": {"AWS:EpochTime": UNTIL_S}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "policy is not JSON"),
        (b"{", "policy is not JSON"),
        (MINIMAL.encode()[:-1], "policy is not JSON"),
        (MINIMAL.encode() + b"x", "policy is not JSON"),
        (b'{"Statement":\0}', "policy is not JSON"),
        (b"\xef\xbb\xbf" + MINIMAL.encode(), "policy is not JSON"),
        (MINIMAL.encode().replace(b"film", b"f\xff"), "policy is not UTF-8"),
        (MINIMAL.encode("utf-16"), "policy is not UTF-8"),
        (b" " * POLICY_LIMIT_BYTES + b"{}", "policy has more than 8192 bytes"),
        (b"[" * POLICY_LIMIT_BYTES, "policy is nested too deeply"),
        (b'{"Statement":' * 600, "policy is nested too deeply"),
        (
            b'{"Statement":' + b"[" * DEPTH_LIMIT + b"]" * DEPTH_LIMIT + b"}",
            "policy is nested too deeply",
        ),
        (rb'{"\"' + b"[" * 50 + rb'":' + b"[" * 20, "policy is nested too deeply"),
        (b"null", "policy is not a JSON object"),
        (b"[]", "policy is not a JSON object"),
        (b"7", "policy is not a JSON object"),
        (b"{}", "policy has no Statement"),
        (b'{"Statement":[]}', "policy does not have exactly one statement"),
        (b'{"Statement":[{},{}]}', "policy does not have exactly one statement"),
        (b'{"Statement":"x"}', "statement is not a JSON object"),
        (b'{"Statement":[null]}', "statement is not a JSON object"),
        (b'{"Statement":{},"Statement":{}}', "policy has a member twice"),
        (b'{"Statement":{},"Version":"1"}', "policy has an unknown member"),
        (_statement(Resource=URL), "statement has no Condition"),
        (_statement(Resource=[URL], Condition=UNTIL), "Resource is not a string"),
        (_statement(Resource=None, Condition=UNTIL), "Resource is not a string"),
        (_statement(Resource=URL, Condition=UNTIL, Effect="Allow"), "statement has an unknown"),
        (_statement(Resource=URL, Condition=[UNTIL]), "Condition is not a JSON object"),
        (_statement(Resource=URL, Condition={}), "Condition has no DateLessThan"),
        (_statement(Condition={**UNTIL, "IPAddress": {}}), "Condition has an unknown member"),
        (_statement(Condition={"DateLessThan": 7}), "DateLessThan is not a JSON object"),
        (_statement(Condition={"DateLessThan": {}}), "DateLessThan has no AWS:EpochTime"),
        (custom_policy(URL, "1357034400"), "DateLessThan is not a number of seconds"),
        (custom_policy(URL, True), "DateLessThan is not a number of seconds"),
        (custom_policy(URL, -1), "DateLessThan is not a number of seconds"),
        (custom_policy(URL, EPOCH_MAX_S + 1), "DateLessThan is not a number of seconds"),
        (custom_policy(URL, 1_357_034_400_000), "DateLessThan is not a number of seconds"),
        (custom_policy(URL, 1.5), "policy has a number that is not whole"),
        (custom_policy(URL, float("nan")), "policy has a number that is not whole"),
        (custom_policy(URL, float("inf")), "policy has a number that is not whole"),
        (custom_policy(URL, 10**400), "policy has a number that is too large"),
        (MINIMAL.replace(str(UNTIL_S), "1e999"), "policy has a number that is not whole"),
        (MINIMAL.replace(str(UNTIL_S), "9" * 5_000), "policy has a number that is too large"),
        (custom_policy(URL, UNTIL_S, from_s="now"), "DateGreaterThan is not a number of seconds"),
        (custom_policy(URL, UNTIL_S, networks=7), "IpAddress is not a string"),
        (custom_policy(URL, UNTIL_S, networks=[]), "IpAddress does not have 1 to 64 networks"),
        (
            custom_policy(URL, UNTIL_S, networks=["::1"] * (NETWORKS_LIMIT + 1)),
            "IpAddress does not have 1 to 64 networks",
        ),
        (custom_policy(URL, UNTIL_S, networks="1.2.3.4/33"), "IpAddress is neither an address nor"),
        (custom_policy(URL, UNTIL_S, networks="any"), "IpAddress is neither an address nor"),
    ],
)
def test_invalid_policy_is_refused_with_a_reason(content: bytes | str, reason: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(content if isinstance(content, bytes) else content.encode())
    assert str(caught.value).startswith(reason)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["Statement", "Resource", "Condition", "DateLessThan", "AWS:EpochTime"])
            | st.sampled_from(["DateGreaterThan", "IpAddress", "AWS:SourceIp"])
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


def _parses_or_gives_a_reason(content: bytes) -> None:
    try:
        policy = parse_policy(content)
    except PolicyError as exc:
        reason = str(exc)
    else:
        reason = "it parses"
        assert min(policy.from_s, policy.until_s) >= 0
    assert 0 < len(reason) < 80


@given(st.binary(max_size=300))
def test_any_bytes_parse_or_are_refused(content: bytes) -> None:
    _parses_or_gives_a_reason(content)


@given(JSON)
def test_any_json_parses_or_is_refused(document: object) -> None:
    _parses_or_gives_a_reason(json.dumps(document).encode())


@given(resource=JSON, until=JSON, begin=JSON, networks=JSON)
def test_any_member_value_parses_or_is_refused(
    resource: object, until: object, begin: object, networks: object
) -> None:
    document = json.loads(custom_policy("", until, from_s=begin, networks=networks))
    document["Statement"][0]["Resource"] = resource
    _parses_or_gives_a_reason(json.dumps(document).encode())


@given(index=st.integers(0, 1_000), byte=st.integers(0, 255), doubled=st.booleans())
def test_damaged_policy_parses_or_is_refused(index: int, byte: int, doubled: bool) -> None:
    content = custom_policy(URL, UNTIL_S, from_s=1, networks=["10.0.0.0/8", "::1"]).encode()
    at = index % len(content)
    _parses_or_gives_a_reason(content[:at] + bytes([byte]) + content[at + (not doubled) :])


@given(st.text(max_size=60))
def test_canned_policy_equals_that_of_botocore(resource: str) -> None:
    signer = CloudFrontSigner("K", lambda message: message)
    expected = signer.build_policy(resource, datetime.fromtimestamp(UNTIL_S, UTC))
    assert canned_policy(resource, UNTIL_S) == expected.encode()
    assert canned_messages(resource, UNTIL_S)[0] == expected.encode()


def test_canned_policy_equals_that_of_the_developer_guide() -> None:
    assert canned_messages(URL, UNTIL_S) == (
        b'{"Statement":[{"Resource":"' + URL.encode() + b'","Condition":{"DateLessThan":'
        b'{"AWS:EpochTime":1357034400}}}]}',
    )


def test_canned_policy_of_a_non_ascii_name_has_two_forms() -> None:
    messages = canned_messages("dir/fílm", UNTIL_S)
    assert [b"f\\u00edlm" in message for message in messages] == [True, False]
    assert "fílm".encode() in messages[1]


def test_canned_policy_of_a_lone_surrogate_is_not_utf_8() -> None:
    for message in canned_messages("film\ud800", UNTIL_S)[1:]:
        with pytest.raises(UnicodeDecodeError):
            message.decode()

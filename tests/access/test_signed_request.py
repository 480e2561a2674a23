"""Signatures in queries and cookies: parameters, their form, and the rest of the query."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamedge.access.signed_request import (
    SignatureError,
    Signed,
    decode,
    encode,
    from_cookies,
    from_query,
)

CANNED = "Expires=1357034400&Signature=c2ln&Key-Pair-Id=K1"
CUSTOM = "Policy=cG9s&Signature=c2ln&Key-Pair-Id=K1"
SIGNED_CANNED = Signed("c2ln", "", 1_357_034_400, "K1", "SHA1")
SIGNED_CUSTOM = Signed("c2ln", "cG9s", 0, "K1", "SHA1")


def _as_cookies(query: str) -> str:
    return "; ".join(f"CloudFront-{part}" for part in query.split("&"))


@pytest.mark.parametrize(
    ("query", "signed", "rest"),
    [
        (CANNED, SIGNED_CANNED, ""),
        (CUSTOM, SIGNED_CUSTOM, ""),
        (f"color=red&size=%20a+b&{CANNED}", SIGNED_CANNED, "color=red&size=%20a+b"),
        (f"{CUSTOM}&size=large&", SIGNED_CUSTOM, "size=large&"),
        (f"b=2&a=1&a=1&=&&{CUSTOM}&x", SIGNED_CUSTOM, "b=2&a=1&a=1&=&&x"),
        ("Key-Pair-Id=K1&Signature=c2ln&a&Expires=1357034400", SIGNED_CANNED, "a"),
        (f"{CANNED}&Hash-Algorithm=SHA256", SIGNED_CANNED._replace(hash_name="SHA256"), ""),
        (f"Hash-Algorithm=SHA1&{CUSTOM}", SIGNED_CUSTOM, ""),
        # With a policy, Expires belongs to the publisher's own query.
        (f"Expires=soon&{CUSTOM}&Expires=later", SIGNED_CUSTOM, "Expires=soon&Expires=later"),
        # Similar names belong to the publisher's own query.
        (
            f"signature=1&XSignature=2&Signature&{CUSTOM}",
            SIGNED_CUSTOM,
            "signature=1&XSignature=2&Signature",
        ),
        (f"%50olicy=x&{CANNED}", SIGNED_CANNED, "%50olicy=x"),
    ],
)
def test_signature_is_taken_out_of_the_query(query: str, signed: Signed, rest: str) -> None:
    assert from_query(query) == (signed, rest)


@pytest.mark.parametrize(
    "query",
    ["", "a=b", "a=1&b=2&", "Expires=1357034400", "Hash-Algorithm=SHA1", "Signature", "policy=x"],
)
def test_unsigned_query_is_unchanged(query: str) -> None:
    assert from_query(query) == (None, query)


@pytest.mark.parametrize(
    ("cookies", "signed"),
    [
        (_as_cookies(CANNED), SIGNED_CANNED),
        (_as_cookies(CUSTOM), SIGNED_CUSTOM),
        (_as_cookies(CUSTOM).replace("; ", ";"), SIGNED_CUSTOM),
        (f"a=b; {_as_cookies(CUSTOM)}; Signature=x; c", SIGNED_CUSTOM),
        (
            _as_cookies(f"{CUSTOM}&Hash-Algorithm=SHA256"),
            SIGNED_CUSTOM._replace(hash_name="SHA256"),
        ),
        (_as_cookies(f"Expires=1&{CUSTOM}"), SIGNED_CUSTOM),
        (f"CloudFront-Other=1; {_as_cookies(CANNED)}", SIGNED_CANNED),
    ],
)
def test_signature_is_read_from_cookies(cookies: str, signed: Signed) -> None:
    assert from_cookies(cookies) == signed


@pytest.mark.parametrize(
    "cookies",
    [
        "",
        "a=b; c=d",
        CUSTOM.replace("&", "; "),
        _as_cookies(CUSTOM).lower(),
        _as_cookies("Expires=1"),
        "x-" + _as_cookies("Signature=c2ln"),
        _as_cookies("Signature=c2ln").replace("=", " ="),
    ],
)
def test_other_cookies_are_no_signature(cookies: str) -> None:
    assert from_cookies(cookies) is None


REPEATED = "a field of the signature is repeated"


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("Signature=c2ln&Key-Pair-Id=K1", "Policy or Expires is missing"),
        ("Expires=1&Key-Pair-Id=K1", "Signature is missing"),
        ("Policy=cG9s&Key-Pair-Id=K1", "Signature is missing"),
        ("Expires=1&Signature=c2ln", "Key-Pair-Id is missing"),
        ("Policy=cG9s&Signature=c2ln", "Key-Pair-Id is missing"),
        ("Policy=&Signature=c2ln&Key-Pair-Id=K1", "Policy is empty"),
        ("Expires=1&Policy=&Signature=c2ln&Key-Pair-Id=K1", "Policy is empty"),
        ("Expires=1&Signature=&Key-Pair-Id=K1", "Signature is missing"),
        ("Expires=1&Signature=c2ln&Key-Pair-Id=", "Key-Pair-Id is missing"),
        (f"{CANNED}&Expires=1357034400", REPEATED),
        (f"{CANNED}&Signature=c2ln", REPEATED),
        (f"{CANNED}&Key-Pair-Id=K1", REPEATED),
        (f"{CUSTOM}&Policy=cG9s", REPEATED),
        (f"{CUSTOM}&Hash-Algorithm=SHA1&Hash-Algorithm=SHA256", REPEATED),
        (f"{CUSTOM}&Hash-Algorithm=", "Hash-Algorithm is unknown"),
        (f"{CUSTOM}&Hash-Algorithm=MD5", "Hash-Algorithm is unknown"),
        (f"{CUSTOM}&Hash-Algorithm=sha256", "Hash-Algorithm is unknown"),
        *(
            (
                f"Expires={text}&Signature=c2ln&Key-Pair-Id=K1",
                "Expires is not a number of seconds",
            )
            for text in ("", "x", "-1", "+1", "01", "1.0", "1e9", " 1", "%31", "١", "9" * 13)
        ),
        (f"Policy={'x' * 8_190}&Signature=c2ln&Key-Pair-Id=K1", "signature is too long"),
        (f"Expires=1&Signature={'x' * 8_193}&Key-Pair-Id=K1", "signature is too long"),
    ],
)
def test_malformed_signature_is_an_error_with_a_reason(query: str, reason: str) -> None:
    expected = SignatureError(reason)
    assert from_query(query)[0] == expected
    assert from_cookies(_as_cookies(query)) == expected


def test_length_limit_is_a_parameter() -> None:
    assert from_query(CUSTOM, 8)[0] == SIGNED_CUSTOM
    assert from_query(CUSTOM, 7)[0] == SignatureError("signature is too long")
    assert from_cookies(_as_cookies(CUSTOM), 8) == SIGNED_CUSTOM
    assert from_cookies(_as_cookies(CUSTOM), 7) == SignatureError("signature is too long")


@given(st.binary(max_size=60))
@example(b"\xff\xef\xbe")
def test_url_safe_base64_is_that_of_cloudfront(content: bytes) -> None:
    text = encode(content)
    assert text == b64encode(content).decode().replace("+", "-").replace("=", "_").replace("/", "~")
    assert decode(text) == content


@given(st.text(max_size=12) | st.text(alphabet="AQgwx+/=-_~ \n%", max_size=12))
@example("QQ__")
@example("QR__")  # the same byte in another encoding
@example("QQ_")
@example("QQ")
@example("QQ==")
@example("QQ__QQ__")
def test_decoded_content_has_one_encoding(text: str) -> None:
    content = decode(text)
    assert content is None or encode(content) == text


PIECES = st.lists(
    st.sampled_from(
        ["Policy=", "Expires=", "Signature=", "Key-Pair-Id=", "Hash-Algorithm=", "CloudFront-"]
    )
    | st.sampled_from(["&", ";", "; ", "=", "1", "SHA256", "cG9s", "\0", "%26", "é"])
    | st.text(max_size=4),
    max_size=30,
).map("".join)


@given(PIECES)
@example("&" * 5_000)
@example("CloudFront-" + ";  " * 5_000 + "x")
def test_any_text_is_a_signature_an_error_or_none(text: str) -> None:
    signed, rest = from_query(text)
    assert signed is None or isinstance(signed, Signed | SignatureError)
    assert (rest == text) if signed is None else len(rest) < len(text)
    assert from_query(rest)[0] is None
    result = from_cookies(text)
    assert result is None or isinstance(result, Signed | SignatureError)

"""SigV4: signatures of botocore are verified, all others are refused with AWS's code."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import re
from urllib.parse import quote

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.utils import normalize_url_path
from hypothesis import given
from hypothesis import strategies as st

from streamedge.api.errors import ApiError
from streamedge.api.sigv4 import (
    AUTHORIZATION_MAX_CHARACTERS,
    SKEW_MAX_S,
    SignedRequest,
    normalized_path,
    parse_authorization,
)

KEYS = {"AKIAEDGE": "its/secret+of=characters", "AKIA/ODD": "another"}
PATH = "/2020-05-31/distribution/E1/config"
BODY = b"<DistributionConfig/>"


def signed(
    method: str = "PUT",
    path: str = PATH,
    query: str = "",
    body: bytes = BODY,
    fields: dict[str, str] | None = None,
    key_id: str = "AKIAEDGE",
    region: str = "eu-central-1",
    service: str = "cloudfront",
    token: str | None = None,
) -> tuple[SignedRequest, float]:
    """A request that botocore has signed, as it arrives, and the time of signing."""
    url = f"http://edge.example:9000{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method, url, data=body, headers=fields or {"If-Match": "E2"})
    credentials = Credentials(key_id, KEYS.get(key_id, "unknown"), token)
    SigV4Auth(credentials, service, region).add_auth(request)
    fields_sent = [(name.lower(), value) for name, value in request.headers.items()]
    if "host" not in dict(fields_sent):
        fields_sent.insert(0, ("host", "edge.example:9000"))
    signed_at = datetime.datetime.strptime(request.context["timestamp"], "%Y%m%dT%H%M%SZ")
    now_s = signed_at.replace(tzinfo=datetime.UTC).timestamp()
    return SignedRequest(method, path, query, tuple(fields_sent)), now_s


def verified(request: SignedRequest, now_s: float, body: bytes = BODY) -> str:
    """The id of the key that signed it. Raises ApiError."""
    header = parse_authorization(request, KEYS, now_s)
    error = header.verification_error(hashlib.sha256(body).hexdigest())
    if error is not None:
        raise error
    return header.key_id


def refused(request: SignedRequest, now_s: float, body: bytes = BODY) -> tuple[str, str]:
    with pytest.raises(ApiError) as raised:
        verified(request, now_s, body)
    error = raised.value
    assert error.status == (400 if error.code == "IncompleteSignature" else 403)
    assert not any(secret in error.message for secret in KEYS.values())
    return error.code, error.message


def changed(request: SignedRequest, name: str, *values: str) -> SignedRequest:
    """The request with other values of a field."""
    rest = tuple(pair for pair in request.fields if pair[0] != name)
    return dataclasses.replace(request, fields=(*rest, *((name, value) for value in values)))


def authorization(request: SignedRequest) -> str:
    [value] = request.values("authorization")
    return value


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "anything", "aws-global"])
@pytest.mark.parametrize("key_id", list(KEYS))
def test_request_signed_by_botocore_is_verified(region: str, key_id: str) -> None:
    request, now_s = signed(region=region, key_id=key_id)
    assert verified(request, now_s) == key_id


SEGMENTS = st.text("abcE1-._~%25 é/+&=:@", min_size=1).map(lambda text: quote(text, safe="+&=:@%"))
VALUES = st.text("aZ09-_.~", max_size=5) | st.sampled_from(["%2F", "%20a", "%C3%A9", "arn%3Aaws"])


@given(
    path=st.lists(SEGMENTS.filter(lambda segment: segment not in {".", ".."}), min_size=1),
    query=st.lists(st.tuples(VALUES.filter(bool), VALUES), max_size=4),
    body=st.binary(max_size=50),
    value=st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), min_size=1),
)
def test_any_request_signed_by_botocore_is_verified(
    path: list[str], query: list[tuple[str, str]], body: bytes, value: str
) -> None:
    request, now_s = signed(
        path="/2020-05-31/" + "/".join(path),
        query="&".join(f"{name}={text}" for name, text in query),
        body=body,
        fields={"X-Thing": value},
    )
    assert verified(request, now_s, body) == "AKIAEDGE"


def test_query_marker_without_a_value_is_signed_as_empty() -> None:
    request, now_s = signed("POST", "/2020-05-31/distribution", "WithTags")
    assert verified(request, now_s) == "AKIAEDGE"


def test_date_field_replaces_x_amz_date() -> None:
    request, now_s = signed(fields={"Date": "replaced by the signer"})
    assert not request.values("x-amz-date")
    assert verified(request, now_s) == "AKIAEDGE"


def test_digest_field_must_match_the_body() -> None:
    digest = hashlib.sha256(BODY).hexdigest()
    request, now_s = signed(fields={"X-Amz-Content-SHA256": digest})
    assert verified(request, now_s) == "AKIAEDGE"
    assert refused(request, now_s, b"<other/>")[0] == "SignatureDoesNotMatch"


@pytest.mark.parametrize("digest", ["UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "0"])
def test_unsigned_body_is_refused(digest: str) -> None:
    request, now_s = signed(fields={"X-Amz-Content-SHA256": digest})
    code, message = refused(request, now_s)
    assert (code, "x-amz-content-sha256" in message) == ("SignatureDoesNotMatch", True)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "DELETE"},
        {"path": PATH + "/"},
        {"path": PATH.replace("E1", "E2")},
        {"path": PATH.replace("E1", "%451")},
        {"query": "WithTags"},
    ],
)
def test_changed_request_is_refused(change: dict[str, str]) -> None:
    request, now_s = signed()
    code, _ = refused(dataclasses.replace(request, **change), now_s)  # type: ignore[arg-type]
    assert code == "SignatureDoesNotMatch"


def test_changed_body_or_field_is_refused() -> None:
    request, now_s = signed()
    assert refused(request, now_s, BODY + b" ")[0] == "SignatureDoesNotMatch"
    assert refused(changed(request, "if-match", "E3"), now_s)[0] == "SignatureDoesNotMatch"
    assert refused(changed(request, "if-match", "E2", "E3"), now_s)[0] == "SignatureDoesNotMatch"
    assert refused(changed(request, "if-match"), now_s)[0] == "SignatureDoesNotMatch"
    assert refused(changed(request, "host", "other.example"), now_s)[0] == "SignatureDoesNotMatch"


@given(st.data())
def test_header_with_one_character_changed_is_refused(data: st.DataObject) -> None:
    request, now_s = signed()
    header = authorization(request)
    position = data.draw(st.integers(0, len(header) - 1))
    other = data.draw(st.characters(min_codepoint=32, max_codepoint=255))
    damaged = header[:position] + other + header[position + 1 :]
    if damaged != header:
        code, _ = refused(changed(request, "authorization", damaged), now_s)
        assert code in {"IncompleteSignature", "InvalidClientTokenId", "SignatureDoesNotMatch"}


@given(st.text(max_size=100) | st.text("AWS4-HMCSHA256 Credential=/,;Signature0aH", max_size=200))
def test_any_other_header_is_refused(header: str) -> None:
    request, now_s = signed()
    code, _ = refused(changed(request, "authorization", header), now_s)
    assert code in {"IncompleteSignature", "InvalidClientTokenId", "SignatureDoesNotMatch"}


@pytest.mark.parametrize("cut", range(0, 200, 7))
def test_truncated_header_is_refused(cut: int) -> None:
    request, now_s = signed()
    code, _ = refused(changed(request, "authorization", authorization(request)[:cut]), now_s)
    assert code in {"IncompleteSignature", "InvalidClientTokenId", "SignatureDoesNotMatch"}


@pytest.mark.parametrize(
    ("pattern", "replacement", "code", "reason"),
    [
        ("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256", "IncompleteSignature", "algorithm"),
        ("AWS4-HMAC-SHA256", "Basic", "IncompleteSignature", "algorithm"),
        ("Credential=[^,]*, ", "", "IncompleteSignature", "'Credential'"),
        ("SignedHeaders=[^,]*, ", "", "IncompleteSignature", "'SignedHeaders'"),
        (", Signature=.*", "", "IncompleteSignature", "'Signature'"),
        ("Signature=.*", "Signature=", "IncompleteSignature", "'Signature'"),
        ("(Credential=[^,]*, )", r"\1\1", "IncompleteSignature", "Credential twice"),
        ("(Signature=.*)", r"\1, \1", "IncompleteSignature", "Signature twice"),
        ("Signature=", "Signatur=", "IncompleteSignature", "no parameter 'Signatur'"),
        ("Credential=[^,]*", "Credential=AKIAEDGE", "IncompleteSignature", "form KEYID"),
        ("AKIAEDGE", "AKIANOBODY", "InvalidClientTokenId", "invalid"),
        ("AKIAEDGE", "", "InvalidClientTokenId", "invalid"),
        ("/cloudfront/", "/s3/", "SignatureDoesNotMatch", "'cloudfront'"),
        ("aws4_request", "aws3_request", "SignatureDoesNotMatch", "'aws4_request'"),
        ("/eu-central-1/", "/eu-west-1/", "SignatureDoesNotMatch", "does not match"),
        (r"/\d{8}/", "/20200101/", "SignatureDoesNotMatch", "Credential scope"),
        ("host;if-match", "if-match;host", "SignatureDoesNotMatch", "sorted"),
        ("host;if-match", "host;host;if-match", "SignatureDoesNotMatch", "sorted"),
        ("host;if-match", "host;if-match;other", "SignatureDoesNotMatch", "'other'"),
        ("host;if-match", "if-match", "SignatureDoesNotMatch", "'host' must be"),
        (";x-amz-date", "", "SignatureDoesNotMatch", "'x-amz-date' must be"),
        (r"Signature=(.*)", r"Signature=\1\1", "SignatureDoesNotMatch", "Secret Access Key"),
        ("Signature=.*", "Signature=" + "0" * 64, "SignatureDoesNotMatch", "Secret Access Key"),
        ("Signature=.*", "Signature=0", "SignatureDoesNotMatch", "Secret Access Key"),
    ],
)
def test_wrong_header_is_refused_with_a_reason(
    pattern: str, replacement: str, code: str, reason: str
) -> None:
    request, now_s = signed()
    header = re.sub(pattern, replacement, authorization(request))
    actual, message = refused(changed(request, "authorization", header), now_s)
    assert (actual, reason in message) == (code, True)


def test_missing_repeated_or_long_header_is_refused() -> None:
    request, now_s = signed()
    assert refused(changed(request, "authorization"), now_s)[0] == "MissingAuthenticationToken"
    header = authorization(request)
    repeated = changed(request, "authorization", header, header)
    assert refused(repeated, now_s)[0] == "IncompleteSignature"
    long = changed(request, "authorization", header + "," * AUTHORIZATION_MAX_CHARACTERS)
    assert refused(long, now_s) == ("IncompleteSignature", "The Authorization header is too long.")


def test_x_amz_field_must_be_signed() -> None:
    request, now_s = signed()
    code, message = refused(changed(request, "x-amz-meta", "1"), now_s)
    assert (code, "'x-amz-meta'" in message) == ("SignatureDoesNotMatch", True)


def test_session_token_is_refused() -> None:
    request, now_s = signed(token="of-another-kind")
    assert refused(request, now_s)[0] == "InvalidClientTokenId"


def test_presigned_query_is_refused_with_a_reason() -> None:
    request = AWSRequest("GET", f"http://edge.example{PATH}")
    SigV4QueryAuth(Credentials("AKIAEDGE", KEYS["AKIAEDGE"]), "cloudfront", "x").add_auth(request)
    query = str(request.url).partition("?")[2]
    received = SignedRequest("GET", PATH, query, (("host", "edge.example"),))
    code, message = refused(received, 0.0, b"")
    assert (code, "in its query" in message) == ("IncompleteSignature", True)


@pytest.mark.parametrize(
    ("skew_s", "problem"),
    [
        (SKEW_MAX_S, None),
        (-SKEW_MAX_S, None),
        (SKEW_MAX_S + 1, "Signature expired"),
        (-SKEW_MAX_S - 1, "Signature not yet current"),
        (86_400, "Signature expired"),
    ],
)
def test_clock_skew_of_five_minutes_is_accepted(skew_s: float, problem: str | None) -> None:
    request, signed_s = signed()
    if problem is None:
        assert verified(request, signed_s + skew_s) == "AKIAEDGE"
    else:
        code, message = refused(request, signed_s + skew_s)
        assert code == "SignatureDoesNotMatch"
        assert message.startswith(problem)
        assert message.endswith("5 min.")


@pytest.mark.parametrize(
    "date", ["", "20260131", "2026-01-31T00:00:00Z", "20260231T000000Z", "00000101T000000Z"]
)
def test_invalid_date_is_refused(date: str) -> None:
    request, now_s = signed()
    wrong = changed(request, "x-amz-date", date)
    header = re.sub(r"/\d{8}/", f"/{date[:8]}/", authorization(request))
    assert refused(changed(wrong, "authorization", header), now_s)[0] == "IncompleteSignature"


def test_missing_or_repeated_date_is_refused() -> None:
    request, now_s = signed()
    assert refused(changed(request, "x-amz-date"), now_s)[0] == "IncompleteSignature"
    [date] = request.values("x-amz-date")
    assert refused(changed(request, "x-amz-date", date, date), now_s)[0] == "IncompleteSignature"
    other = changed(changed(request, "x-amz-date"), "date", "yesterday")
    assert refused(other, now_s)[0] == "IncompleteSignature"


def test_repr_does_not_show_the_secret() -> None:
    request, now_s = signed()
    assert KEYS["AKIAEDGE"] not in repr(parse_authorization(request, KEYS, now_s))


@pytest.mark.parametrize("path", ["//2020-05-31//distribution", "/2020-05-31/./distribution/x/.."])
def test_path_with_empty_or_dot_segments_is_verified_as_sent_and_as_normalized(path: str) -> None:
    request, now_s = signed(path=path)  # botocore signs it without them
    assert verified(request, now_s) == "AKIAEDGE"
    plain, now_s = signed(path="/2020-05-31/distribution")
    as_sent = dataclasses.replace(plain, path=path)
    assert verified(as_sent, now_s) == "AKIAEDGE"
    other = dataclasses.replace(plain, path="/2020-05-31/distribution/E1")
    with pytest.raises(ApiError, match="SignatureDoesNotMatch"):
        verified(other, now_s)


@given(st.lists(st.sampled_from(["a", "", ".", "..", "%2E", "b"]), max_size=6))
def test_path_is_normalized_like_in_botocore(segments: list[str]) -> None:
    path = "/" + "/".join(segments)
    assert normalized_path(path) == normalize_url_path(path)

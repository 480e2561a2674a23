"""AWS Signature Version 4: parses and verifies the signature of a request.

Verification has two steps, so that the body of an unauthenticated request is not read.
``parse_authorization`` refuses a request by its header alone. When the digest of the body is known,
``Authorization.verification_error`` verifies the signature. Pure: the caller passes the time and
the keys.

Accepted are:
- the algorithm AWS4-HMAC-SHA256 in the header; a presigned query is refused, and the error says so;
- any region, the service ``cloudfront``, a date within five minutes of the edge's clock;
- signatures that cover ``host`` and every ``x-amz-*`` field;
- signatures that cover the body: UNSIGNED-PAYLOAD is refused, because nothing else protects a body
  on plain HTTP;
- requests without a session token: keys of the configuration have none.

Source: AWS IAM User Guide, "Create a signed AWS API request" and "Elements of an AWS API request
signature"; codes: CloudFront API Reference, "Common Errors".
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote_to_bytes

from streamedge.api.errors import ApiError
from streamedge.http_date import parse_http_date_s

ALGORITHM = "AWS4-HMAC-SHA256"
SERVICE = "cloudfront"
SKEW_MAX_S = 300.0
AUTHORIZATION_MAX_CHARACTERS = 4096
UNRESERVED = "-_.~"  # RFC 3986 §2.3, beside letters and digits

_TIMESTAMP = "%Y%m%dT%H%M%SZ"
_TIMESTAMP_FORM = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_SIGNATURE_FORM = re.compile(r"[0-9a-f]{64}")
_PARAMETER_NAMES = ("Credential", "SignedHeaders", "Signature")

_WRONG_SIGNATURE = (
    "The request signature we calculated does not match the signature you provided. Check your AWS"
    " Secret Access Key and signing method."
)


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """The parts of a request that its signature covers.

    ``path`` and ``query`` are as they were sent, still percent-encoded; ``fields`` has every
    header field in order, with names in lower case.
    """

    method: str
    path: str
    query: str
    fields: Sequence[tuple[str, str]]

    def values(self, name: str) -> list[str]:
        """All values of a field."""
        return [value for each, value in self.fields if each == name]


@dataclass(frozen=True, slots=True)
class Authorization:
    """A parsed Authorization header whose signature is not verified yet."""

    request: SignedRequest
    key_id: str
    secret: str = field(repr=False)
    timestamp: str
    region: str
    signed_names: tuple[str, ...]
    signature: str

    def verification_error(self, body_digest: str) -> ApiError | None:
        """The error of a wrong signature; None if it is right.

        ``body_digest`` is the body's SHA-256 in lower-case hex.
        """
        for header_digest in self.request.values("x-amz-content-sha256"):
            if header_digest != body_digest:
                return _mismatch("The provided 'x-amz-content-sha256' header is not the body's.")
        path = self.request.path
        # Some AWS signers sign the path as it is sent, others without empty and dot segments.
        for signed_path in dict.fromkeys((path, normalized_path(path))):
            if hmac.compare_digest(self._signature(signed_path, body_digest), self.signature):
                return None
        return _mismatch(_WRONG_SIGNATURE)

    def _signature(self, path: str, body_digest: str) -> str:
        canonical = hashlib.sha256(self._canonical_request(path, body_digest).encode()).hexdigest()
        date = self.timestamp[:8]
        scope = f"{date}/{self.region}/{SERVICE}/aws4_request"
        key = f"AWS4{self.secret}".encode()
        for part in (date, self.region, SERVICE, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        to_sign = "\n".join((ALGORITHM, self.timestamp, scope, canonical))
        return hmac.digest(key, to_sign.encode(), "sha256").hex()

    def _canonical_request(self, path: str, body_digest: str) -> str:
        request = self.request
        fields = [
            f"{name}:{','.join(' '.join(value.split()) for value in request.values(name))}\n"
            for name in self.signed_names
        ]
        return "\n".join(
            (
                request.method,
                # The path is encoded a second time, as for every service but S3.
                quote(path, safe="/" + UNRESERVED),
                _canonical_query(request.query),
                "".join(fields),
                ";".join(self.signed_names),
                body_digest,
            )
        )


def parse_authorization(
    request: SignedRequest, keys: Mapping[str, str], now_s: float
) -> Authorization:
    """Parses the Authorization header and checks its form. Raises ApiError with AWS's codes.

    ``keys`` has the secret of each access key id; ``now_s`` is in seconds since the epoch.
    """
    parameters = _parameters(_authorization(request))
    key_id, date, region = _scope(parameters["Credential"])
    secret = keys.get(key_id)
    if secret is None or request.values("x-amz-security-token"):
        raise ApiError(
            "InvalidClientTokenId", "The security token included in the request is invalid."
        )
    timestamp = _timestamp(request, now_s)
    if date != timestamp[:8]:
        raise _mismatch(
            f"Date in Credential scope does not match YYYYMMDD from the request's: {date!a} is not"
            f" {timestamp[:8]!a}."
        )
    _check_skew(timestamp, now_s)
    signed_names = _signed_names(parameters["SignedHeaders"], request)
    signature = parameters["Signature"]
    if _SIGNATURE_FORM.fullmatch(signature) is None:
        raise _mismatch(_WRONG_SIGNATURE)
    return Authorization(request, key_id, secret, timestamp, region, signed_names, signature)


def normalized_path(path: str) -> str:
    """A path without empty segments and dot segments, as AWS signers write it."""
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            segments = segments[:-1]
        elif segment not in {"", "."}:
            segments.append(segment)
    end = "/" if segments and path.endswith("/") else ""
    return "/" + "/".join(segments) + end


def _authorization(request: SignedRequest) -> str:
    match request.values("authorization"):
        case [value]:
            pass
        case []:
            if "X-Amz-Signature=" in request.query or "X-Amz-Algorithm=" in request.query:
                raise _incomplete(
                    "The request is signed in its query, which this edge does not support: sign it"
                    " in the Authorization header."
                )
            raise ApiError(
                "MissingAuthenticationToken", "The request is missing an Authorization header."
            )
        case _:
            raise _incomplete("The request has several Authorization headers.")
    if len(value) > AUTHORIZATION_MAX_CHARACTERS:
        raise _incomplete("The Authorization header is too long.")
    return value


def _parameters(authorization: str) -> dict[str, str]:
    """``AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…``, each exactly once."""
    algorithm, _, rest = authorization.strip().partition(" ")
    if algorithm != ALGORITHM:
        raise _incomplete(f"The Authorization header's algorithm has to be {ALGORITHM}.")
    parameters: dict[str, str] = {}
    for part in rest.split(","):
        name, separator, value = part.strip().partition("=")
        if not separator or name not in _PARAMETER_NAMES:
            raise _incomplete(f"The Authorization header has no parameter {name[:40]!a}.")
        if name in parameters:
            raise _incomplete(f"The Authorization header has the parameter {name} twice.")
        parameters[name] = value
    for name in _PARAMETER_NAMES:
        if not parameters.get(name):
            raise _incomplete(f"Authorization header requires '{name}' parameter.")
    return parameters


def _scope(credential: str) -> tuple[str, str, str]:
    """Access key id, date and region of ``KEYID/DATE/REGION/cloudfront/aws4_request``."""
    parts = credential.rsplit("/", 4)
    if len(parts) != 5:
        raise _incomplete("Credential must have the form KEYID/DATE/REGION/SERVICE/aws4_request.")
    key_id, date, region, service, terminator = parts
    if service != SERVICE:
        raise _mismatch(f"Credential should be scoped to correct service: '{SERVICE}'.")
    if terminator != "aws4_request":
        raise _mismatch("Credential should be scoped with a valid terminator: 'aws4_request'.")
    return key_id, date, region


def _timestamp(request: SignedRequest, now_s: float) -> str:
    """The time of signing in ISO 8601's basic form, from ``X-Amz-Date`` or else ``Date``."""
    match request.values("x-amz-date"), request.values("date"):
        case [text], _ if _TIMESTAMP_FORM.fullmatch(text):
            return text
        case [], [text] if (time_s := _date_s(text, now_s)) is not None:
            return _iso_text(time_s)
        case [], []:
            raise _incomplete("The request has neither 'X-Amz-Date' nor 'Date'.")
    raise _incomplete("Date must be in ISO-8601 'basic format', once: '20260131T000000Z'.")


def _date_s(text: str, now_s: float) -> int | None:
    # Some signers write UTC as in e-mail, which HTTP dates do not allow.
    return parse_http_date_s(re.sub("[+-]0000$", "GMT", text), now_s)


def _iso_text(time_s: float) -> str:
    return datetime.datetime.fromtimestamp(time_s, datetime.UTC).strftime(_TIMESTAMP)


def _check_skew(timestamp: str, now_s: float) -> None:
    try:
        signed = datetime.datetime.strptime(timestamp, _TIMESTAMP).replace(tzinfo=datetime.UTC)
    except ValueError as exc:
        raise _incomplete(f"There is no such time as {timestamp}.") from exc
    ahead_s = signed.timestamp() - now_s
    now, minutes = _iso_text(now_s), f"{SKEW_MAX_S / 60:.0f} min."
    if ahead_s < -SKEW_MAX_S:
        raise _mismatch(f"Signature expired: {timestamp} is earlier than {now} - {minutes}")
    if ahead_s > SKEW_MAX_S:
        raise _mismatch(f"Signature not yet current: {timestamp} is later than {now} + {minutes}")


def _signed_names(text: str, request: SignedRequest) -> tuple[str, ...]:
    names = tuple(text.split(";"))
    if list(names) != sorted(set(names)):
        raise _mismatch("SignedHeaders must be sorted, each name once.")
    field_names = {name for name, _ in request.fields}
    for name in names:
        if name not in field_names:
            raise _mismatch(f"SignedHeaders names {name[:100]!a}, which the request does not have.")
    for name in sorted(field_names | {"host"}):
        if (name == "host" or name.startswith("x-amz-")) and name not in names:
            raise _mismatch(f"'{name}' must be a 'SignedHeader' in the Authorization header.")
    return names


def _canonical_query(query: str) -> str:
    """The sorted parameters, each name and value in the encoding of the algorithm."""
    pairs = []
    for part in query.split("&"):
        if part:
            name, _, value = part.partition("=")
            pairs.append((_canonical_encoding(name), _canonical_encoding(value)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _canonical_encoding(text: str) -> str:
    return quote(unquote_to_bytes(text), safe=UNRESERVED)


def _incomplete(message: str) -> ApiError:
    return ApiError("IncompleteSignature", message)


def _mismatch(message: str) -> ApiError:
    return ApiError("SignatureDoesNotMatch", message)
